"""A node's data, kept in a file so that each message finds them prepared."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flower_kd.data import DataSpec, NodeData, node_data
from flower_kd.data.node_data import FILE, kept_in, of_node


@pytest.fixture
def own(pictures: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pictures / "train" / "cat", tmp_path / "own" / "cat")).parent


@pytest.fixture
def spec(pictures: Path, tmp_path: Path) -> DataSpec:
    folder = shutil.copytree(pictures, tmp_path / "run")
    return DataSpec(str(folder), num_partitions=2, reference_size=20, image_size=8, validation_share=0.2)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets an entry whenever data are made, not read."""
    calls: list[int] = []

    def counted(*arguments: object) -> NodeData:
        calls.append(1)
        return of_node(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(node_data, "of_node", counted)
    return calls


def assert_equal(one: NodeData, other: NodeData) -> None:
    assert torch.equal(one.reference, other.reference)
    for ours, theirs in zip((*one.private, *one.test), (*other.private, *other.test), strict=True):
        assert torch.equal(ours, theirs)
    assert (one.validation is None) == (other.validation is None)
    for ours, theirs in zip(one.validation or (), other.validation or (), strict=True):
        assert torch.equal(ours, theirs)
    facts = [(each.fingerprint, each.label_names, each.normalization, each.shape) for each in (one, other)]
    assert facts[0] == facts[1]


@pytest.mark.parametrize("with_own", [False, True])
@pytest.mark.parametrize("validation_share", [0.0, 0.2])
def test_the_second_message_finds_the_same_data(
    with_own: bool, validation_share: float, spec: DataSpec, own: Path, home: Path, made: list[int]
) -> None:
    wanted = replace(spec, validation_share=validation_share), 1, str(own) if with_own else ""
    expected = of_node(*wanted)
    for _ in range(3):
        assert_equal(kept_in(home, 5, *wanted), expected)
    assert len(made) == 1


def test_a_changed_file_another_run_and_other_settings_are_noticed(
    spec: DataSpec, own: Path, home: Path, made: list[int]
) -> None:
    def times(run_id: int = 5, vertex: int = 0, spec: DataSpec = spec) -> int:
        before = len(made)
        for _ in range(2):
            found = kept_in(home, run_id, spec, vertex, str(own))
        assert_equal(found, of_node(spec, vertex, str(own)))
        return len(made) - before

    assert times() == 1
    assert times() == 0
    first = own / "cat" / "0.png"
    first.rename(own / "cat" / "99.png")
    assert times() == 1
    shutil.copy(own / "cat" / "1.png", own / "cat" / "100.png")
    assert times() == 1
    os.utime(own / "cat" / "1.png", ns=(1, 1))
    assert times() == 1
    (own / "cat" / "2.png").unlink()
    assert times() == 1
    os.utime(next(Path(spec.dataset).rglob("*.png")), ns=(1, 1))
    assert times() == 1
    assert times(run_id=6) == 1
    assert times(run_id=6, vertex=1) == 1
    assert times(run_id=6, vertex=1, spec=replace(spec, reference_size=10)) == 1
    assert [path for path in home.rglob("*") if path.is_file()] == [home / FILE]
    assert (home / FILE).parent.stat().st_mode & 0o777 == 0o700


def test_a_data_dir_inside_the_state_dir_is_left_alone(spec: DataSpec, own: Path, home: Path, made: list[int]) -> None:
    """The first name for it that comes to mind."""
    inside = own.rename(home / "data")
    before = sorted(inside.rglob("*"))
    for _ in range(3):
        kept_in(home, 5, spec, 0, str(inside))
    assert len(made) == 1
    assert sorted(inside.rglob("*")) == before


def test_a_damaged_file_is_written_again(spec: DataSpec, home: Path, made: list[int]) -> None:
    kept_in(home, 5, spec, 0)
    whole = (home / FILE).read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], b"\xff" * 100):
        (home / FILE).write_bytes(damaged)
        assert_equal(kept_in(home, 5, spec, 0), of_node(spec, 0))
        kept_in(home, 5, spec, 0)
    assert len(made) == 5


def test_a_disk_without_room_is_left_alone(
    spec: DataSpec, home: Path, made: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(node_data, "LEFT_FREE", 10**18)
    for _ in range(2):
        assert_equal(kept_in(home, 5, spec, 0), of_node(spec, 0))
    assert len(made) == 2
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert "data are prepared again for each message" in caplog.text
