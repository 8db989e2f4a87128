"""What files of results do to a folder: which are removed, which stay, and what is refused."""

import os
from pathlib import Path

import pytest

from flower_kd import folders
from flower_kd.errors import InputError

MARK = folders.Marker("run", "identity", "token")
BY_NAME = {folders.MARKER: MARK.to_bytes()}


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def fill(folder: Path) -> None:
    """Make a folder of ours with every kind of file of ours, and three of somebody else's."""
    folders.write(folder, BY_NAME | dict.fromkeys(folders._OURS, b"old"))
    own = ["tensorboard/events.out.tfevents.1", "tensorboard/alone/events.out.tfevents.2", "checkpoint/server"]
    for name in [*own, ".summary.json.0.partial", "notes.txt", "tensorboard/mine", ".hidden", folders.LOCK]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


FOREIGN = {"notes.txt", "tensorboard/mine", ".hidden"}


def test_what_is_ours_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path)
    fill(tmp_path / "runs" / "one")
    folders.write(tmp_path / "runs" / "two", BY_NAME | {"summary.json": b"{}"})
    (tmp_path / "runs" / "foreign").mkdir()
    (tmp_path / "runs" / "foreign" / "summary.json").write_text("somebody else's")
    folders.clear(tmp_path)
    left = FOREIGN | {f"runs/one/{name}" for name in FOREIGN} | {"runs/foreign/summary.json"}
    assert names_in(tmp_path) == left
    assert not (tmp_path / "runs" / "two").exists()
    folders.clear(tmp_path)  # not ours any more
    assert names_in(tmp_path) == left


def test_new_results_take_the_place_of_all_earlier_ones(tmp_path: Path) -> None:
    fill(tmp_path)
    folders.write(tmp_path, BY_NAME | {"config.toml": b"new"}, replace_results=True)
    # The process that writes keeps its lock.
    assert names_in(tmp_path) == FOREIGN | {folders.MARKER, "config.toml", folders.LOCK}
    assert (tmp_path / "config.toml").read_bytes() == b"new"
    assert folders.read_marker(tmp_path) == MARK


def test_one_more_file_leaves_the_others(tmp_path: Path) -> None:
    folders.write(tmp_path / "new" / "folder", BY_NAME | {"config.toml": b"1"})
    folders.write(tmp_path / "new" / "folder", {"summary.json": b"2"})
    assert names_in(tmp_path / "new" / "folder") == {folders.MARKER, "config.toml", "summary.json"}


@pytest.mark.parametrize("replace_results", [False, True])
def test_a_write_that_fails_leaves_no_partial_file_and_the_earlier_results(
    replace_results: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders.write(tmp_path, BY_NAME | {"summary.json": b"old"})
    write_bytes = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        written = write_bytes(self, content[:1])
        if self.name.startswith(".summary.json"):
            raise OSError(28, "No space left on device")
        return written

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        folders.write(tmp_path, {"summary.json": b"new"}, replace_results=replace_results)
    assert names_in(tmp_path) == {folders.MARKER, "summary.json"}
    assert (tmp_path / "summary.json").read_bytes() == b"old"


@pytest.mark.parametrize("name", [*folders._OURS, folders.CHECKPOINT])
def test_a_file_of_one_of_our_names_in_a_folder_that_is_not_ours_is_refused(name: str, tmp_path: Path) -> None:
    folders.check_ours(tmp_path)
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"has {name!r}, which flower-kd did not write"):
        folders.check_ours(tmp_path)
    folders.write(tmp_path, BY_NAME)
    folders.check_ours(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"kind": "run", "more": 1}', b"\xff"])
def test_a_marker_that_is_none_makes_no_folder_ours(content: bytes, tmp_path: Path) -> None:
    (tmp_path / folders.MARKER).write_bytes(content)
    assert folders.read_marker(tmp_path) is None


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    folders.check_writable(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"file/b' cannot be written: .*file' is not a folder"):
        folders.check_writable(tmp_path / "file" / "b")
    lock = folders.locked(tmp_path / "file" / "b")
    with pytest.raises(InputError, match=r"file/b' cannot be written: Not a directory"):
        lock.__enter__()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="no permission to write in"):
        folders.check_writable(tmp_path / "a")


def test_a_lock_is_free_again_after_its_block(tmp_path: Path) -> None:
    with folders.locked(tmp_path / "new"):
        second = folders.locked(tmp_path / "new")
        with pytest.raises(InputError, match="is in use by another flower-kd process"):
            second.__enter__()
    with folders.locked(tmp_path / "new"):
        pass


def test_what_follows_the_size_of_worth_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history.csv"
    assert folders.append(path, b"one\n", 0) == 4
    path.write_bytes(b"one\ntorn")
    assert folders.append(path, b"two\n", 4) == 8
    assert path.read_bytes() == b"one\ntwo\n"


def test_indexes_are_removed_alone(tmp_path: Path) -> None:
    folders.remove_index(tmp_path)
    fill(tmp_path)
    before = names_in(tmp_path)
    folders.remove_index(tmp_path)
    assert before - names_in(tmp_path) == {"comparison.json", "sweep.json"}
