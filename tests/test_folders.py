"""What is removed and replaced in results folders, and above all what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flower_kd import folders, sim
from flower_kd.errors import InputError
from flower_kd.folders import Marker
from flower_kd.report import report
from flower_kd.runs import results
from flower_kd.study.compare import Comparison

SHORT: dict[str, Any] = {
    "strategy": "silo", "num-server-rounds": 1, "local-steps": 1, "samples-per-node": 20, "reference-size": 10,
}  # fmt: skip


def run(folder: Path, **options: Any) -> sim.Summary:
    return sim.run(SHORT | options, 2, folder)


def compare(folder: Path, seeds: str = "1", **options: bool) -> None:
    Comparison({"a": SHORT, "b": SHORT | {"momentum": 0.5}}, seeds, 2, folder).run(**options)


def test_other_runs_below_a_run_are_not_its_own(tmp_path: Path) -> None:
    run(tmp_path / "run" / "runs" / "a")
    run(tmp_path / "run")
    run(tmp_path / "run", seed=1, overwrite=True)
    assert results.read(tmp_path / "run" / "runs" / "a").summary.seed == 0


def test_a_comparison_removes_its_own_runs_only(tmp_path: Path) -> None:
    folder = tmp_path / "compared"
    run(tmp_path / "elsewhere")
    run(folder / "runs" / "mine")
    compare(folder)
    (folder / "runs" / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "runs" / "b-seed0" / "notes.txt").write_text("mine")
    compare(folder, "0,1", overwrite=True)
    assert {path.name for path in (folder / "runs").iterdir()} == {
        "mine", "link", "a-seed0", "a-seed1", "b-seed0", "b-seed1",
    }  # fmt: skip
    assert results.read(tmp_path / "elsewhere").summary.seed == 0
    assert results.read(folder / "runs" / "mine").summary.seed == 0
    assert (folder / "runs" / "b-seed0" / "notes.txt").exists()


def test_a_place_that_a_comparison_needs_is_not_taken_from_another_run(tmp_path: Path) -> None:
    run(tmp_path / "runs" / "a-seed0")
    with pytest.raises(InputError, match=r"has 'runs/a-seed0', which flower-kd did not write as part of these results"):
        compare(tmp_path, overwrite=True)
    assert not (tmp_path / folders.MARKER).exists()


def test_a_run_that_another_process_writes_is_not_removed(tmp_path: Path) -> None:
    compare(tmp_path)
    with folders.locked(tmp_path / "runs" / "b-seed0"), pytest.raises(InputError, match="b-seed0' is in use"):
        compare(tmp_path, overwrite=True)
    assert len(json.loads((tmp_path / "comparison.json").read_text())) == 2
    assert results.read(tmp_path / "runs" / "a-seed0").summary.seed == 0


@pytest.mark.parametrize("name", ["checkpoint/model.pt", "tensorboard/mine", ".thesis.partial", "sweep.csv", "runs/x"])
def test_files_added_by_others_survive_everything(name: str, tmp_path: Path) -> None:
    run(tmp_path)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    (path.parent / ".summary.json.0123456789abcdef0123456789abcdef.partial").write_text("left by a killed process")
    run(tmp_path, seed=1, overwrite=True)
    run(tmp_path, seed=1, resume=True)
    assert path.read_text() == "mine"
    assert not list(tmp_path.glob(".summary.json.*"))


@pytest.mark.parametrize("name", ["tensorboard", "checkpoint"])
def test_folders_of_others_are_not_used(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"has '{name}', which flower-kd did not write"):
        run(tmp_path, overwrite=True)


def test_a_report_page_of_others_is_neither_replaced_nor_removed(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "report.html").write_text("<p>mine")
    with pytest.raises(InputError, match=r"report.html' was not written by flower-kd"):
        report.write(tmp_path)
    run(tmp_path, overwrite=True)
    assert (tmp_path / "report.html").read_text() == "<p>mine"
    (tmp_path / "report.html").unlink()
    report.write(tmp_path)
    report.write(tmp_path)
    run(tmp_path, overwrite=True)
    assert not (tmp_path / "report.html").exists()  # the page of the earlier run


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"kind": "run"}', '{"kind": 5, "identity": "", "token": "", "runs": []}', "[" * 100_000, "\xff"],
)
def test_what_is_not_a_marker_makes_no_results_folder(content: str, tmp_path: Path) -> None:
    (tmp_path / folders.MARKER).write_text(content, "latin-1")
    (tmp_path / "config.toml").write_text("mine")
    assert folders.read_marker(tmp_path) is None
    with pytest.raises(InputError, match=r"has 'config.toml', which flower-kd did not write"):
        run(tmp_path, overwrite=True)


def test_a_marker_is_read_as_it_was_written(tmp_path: Path) -> None:
    marker = Marker("comparison", runs=("a-seed0", "b/c"))
    (tmp_path / folders.MARKER).write_bytes(marker.to_bytes())
    assert folders.read_marker(tmp_path) == marker


def test_a_crash_between_two_runs_leaves_nothing_behind(tmp_path: Path) -> None:
    """Partial files of a process killed after the old marker was removed and before the new one was there."""
    partial = tmp_path / f".{folders.MARKER}.{'0' * 32}.partial"
    partial.write_text("x")
    run(tmp_path)
    assert not partial.exists()


def test_names_that_are_too_long_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be created: File name too long"):
        run(tmp_path / ("x" * 300))


def test_nothing_is_appended_to_a_file_that_was_shortened(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert folders.append(path, b"abc", 0) == 3
    assert folders.append(path, b"de", 2) == 4
    assert path.read_bytes() == b"abde"
    with pytest.raises(InputError, match="is damaged: it has 4 bytes where 10 were written"):
        folders.append(path, b"f", 10)
    assert path.read_bytes() == b"abde"


@pytest.mark.parametrize("replace_results", [False, True])
def test_a_full_disk_leaves_the_earlier_results(
    replace_results: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders.write(tmp_path, {folders.MARKER: Marker("run", "identity", "token").to_bytes(), "summary.json": b"old"})
    write_bytes = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        written = write_bytes(path, content[:1])
        if path.name.startswith(".summary.json"):
            raise OSError(28, "No space left on device")
        return written

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        folders.write(tmp_path, {"summary.json": b"new"}, replace_results=replace_results)
    assert {path.name for path in tmp_path.iterdir()} == {folders.MARKER, "summary.json"}
    assert (tmp_path / "summary.json").read_bytes() == b"old"


def test_ctrl_c_while_a_file_is_written_leaves_no_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes = Path.write_bytes

    def interrupted(path: Path, content: bytes) -> int:
        write_bytes(path, content[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folders.write(tmp_path, {"summary.json": b"new"})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    folders.check_writable(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"file/b' cannot be created: .*file' is not a folder"):
        folders.check_writable(tmp_path / "file" / "b")
    with (
        pytest.raises(InputError, match=r"file/b' cannot be written: Not a directory"),
        folders.locked(tmp_path / "file" / "b"),
    ):
        pass


def test_a_lock_is_free_again_after_its_block(tmp_path: Path) -> None:
    in_use = pytest.raises(InputError, match="is in use by another flower-kd process")
    with folders.locked(tmp_path), in_use, folders.locked(tmp_path):
        pass
    with folders.locked(tmp_path):
        pass


def test_a_run_is_found_by_its_token(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    default = tmp_path / "flower-kd-results"
    for name, token in (("20260101-silo", "old"), ("20260102-silo", "new"), ("notes", "")):
        (default / name).mkdir(parents=True)
        if token:
            (default / name / folders.MARKER).write_bytes(Marker("run", token=token).to_bytes())
    assert folders.of_token("new", "") == default / "20260102-silo"
    assert folders.of_token("old", "") == folders.of_token("old", str(default / "20260101-silo"))
    assert folders.of_token("old", "~/flower-kd-results/20260101-silo") == default / "20260101-silo"
    for token, output_dir in (("other", ""), ("new", str(default / "20260101-silo")), ("new", "nowhere")):
        assert folders.of_token(token, output_dir) is None
