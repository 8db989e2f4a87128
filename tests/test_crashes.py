"""A process that is killed between any two operations on files leaves no stale figure and no torn file."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from flower_kd import folders, load_model, sim
from flower_kd.errors import InputError
from flower_kd.report import report
from flower_kd.runs import results
from flower_kd.study import grid
from flower_kd.study.compare import Comparison
from flower_kd.study.sweep import Sweep

SHORT: dict[str, Any] = {
    "strategy": "silo", "num-server-rounds": 2, "local-steps": 1, "samples-per-node": 20, "reference-size": 10,
    "model": "mlp", "momentum": 0.9,
}  # fmt: skip
BOTH = {"a": SHORT, "b": SHORT | {"strategy": "neighbor-kd"}}
NODES = 2
MODELS = {"model.toml", *(f"node-{node}{kind}.safetensors" for node in range(NODES) for kind in ("", "-best"))}
SLOW = pytest.mark.slow


class KilledError(BaseException):
    """Ends a process like kill -9: nothing is written after it."""


class Disk:
    """Counts file operations below a folder, and kills the process at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.root = root
        self.count = 0
        self.last: int | None = None
        for module, name in ((os, "replace"), (os, "unlink"), (os, "rmdir"), (folders, "append")):
            monkeypatch.setattr(module, name, self._counted(getattr(module, name)))
        write_bytes = Path.write_bytes

        def torn(path: Path, content: bytes) -> int:
            if self._is_last():
                write_bytes(path, content[: len(content) // 2])
                raise KilledError
            return write_bytes(path, content)

        monkeypatch.setattr(Path, "write_bytes", torn)

    def start(self, last: int | None) -> None:
        self.count, self.last = 0, last

    def _is_last(self) -> bool:
        self.count += 1
        if self.last is not None and self.count > self.last:
            raise KilledError
        return self.count == self.last

    def _counted(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(path: Any, *more: Any, **options: Any) -> Any:
            below = "dir_fd" in options or Path(path).is_relative_to(self.root)
            if below and self._is_last():
                raise KilledError
            return operation(path, *more, **options)

        return counted


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Disk:
    return Disk(monkeypatch, tmp_path)


# Each operation on a file is a crash point; by default some of them are tried, `-m slow` tries all.
few_or_all = pytest.mark.parametrize("step", [pytest.param(29, id="few"), pytest.param(1, id="all", marks=SLOW)])
some_or_all = pytest.mark.parametrize("step", [pytest.param(7, id="some"), pytest.param(1, id="all", marks=SLOW)])


def crash_points(disk: Disk, prepare: Callable[[], None], command: Callable[[], object], step: int) -> Iterator[int]:
    """Run a command repeatedly, each time killed at another of its operations; yield after each run."""
    prepare()
    disk.start(None)
    command()
    operations = disk.count
    assert operations > 10
    for last in range(1, operations + 1, step):
        prepare()
        disk.start(last)
        with pytest.raises(KilledError):
            command()
        disk.start(None)
        yield last
    print(f"{len(range(1, operations + 1, step))} of {operations} crash points tried")


def whole(folder: Path) -> None:
    """Assert that every file except partial ones can be read, and that a finished run has its models."""
    readers: dict[str, Callable[[Path], object]] = {
        ".json": lambda path: json.loads(path.read_text()),
        ".toml": lambda path: tomllib.loads(path.read_text()),
        ".csv": pd.read_csv,
        ".safetensors": load_file,
        ".png": lambda path: path.read_bytes().index(b"\x89PNG"),
    }
    for path in folder.rglob("summary.json"):
        assert len(load_models(path.parent)) == NODES
    for path in folder.rglob("*"):
        if path.suffix in readers and not path.name.endswith(".partial"):
            readers[path.suffix](path)


def load_models(folder: Path, *, best: bool = False) -> list[dict[str, torch.Tensor]]:
    """Return the weights of each node's final model, or of its best."""
    return [load_model(folder, node, best=best).state_dict() for node in range(NODES)]


def same_file(name: str, folder: Path, other: Path) -> bool:
    return (folder / name).read_bytes() == (other / name).read_bytes()


def attempt(command: Callable[[], Any]) -> tuple[Any, str]:
    """Return the result of a command, and the error message if it is refused."""
    try:
        return command(), ""
    except InputError as error:
        return None, str(error)


def figures(summary: sim.Summary) -> tuple[Any, ...]:
    return summary.strategy, summary.accuracy, summary.bytes


def run(folder: Path, **options: Any) -> sim.Summary:
    keys = {name.replace("_", "-"): value for name, value in options.items()}
    return sim.run(SHORT | {"baseline": "none"} | keys, NODES, folder)


@some_or_all
@pytest.mark.parametrize("strategy", ["d-dist", "silo"])
def test_a_killed_run_can_be_resumed(step: int, strategy: str, disk: Disk, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    keys = {"strategy": strategy, "validation_share": 0.2, "learning_rate": 1.0}  # a node's best model is not its last
    keys |= {"wire": "labels", "wire_coding": "delta"} if strategy == "d-dist" else {}
    expected = run(tmp_path / "reference", **keys)
    assert "[best.1]\nround = 1\n" in (tmp_path / "reference" / "models" / "model.toml").read_text()

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)

    for _ in crash_points(disk, prepare, lambda: run(folder, **keys), step):
        whole(folder)
        if (folder / "summary.json").exists():
            assert figures(results.read(folder).summary) == figures(expected)
        assert figures(run(folder, **keys, resume=True)) == figures(expected)
        for best in (False, True):
            before, now = load_models(tmp_path / "reference", best=best), load_models(folder, best=best)
            torch.testing.assert_close(now, before, rtol=0, atol=0)
        assert {path.name for path in (folder / "models").iterdir()} == MODELS
        assert same_file("models/model.toml", folder, tmp_path / "reference")
        pd.testing.assert_frame_equal(
            results.read(folder).history.drop(columns="seconds"),
            results.read(tmp_path / "reference").history.drop(columns="seconds"),
        )


@some_or_all
def test_a_run_that_replaces_another_is_never_mixed_with_it(step: int, disk: Disk, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    old = run(tmp_path / "old")
    new = run(tmp_path / "new", seed=1)

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "old", folder)

    refused = 0
    for _ in crash_points(disk, prepare, lambda: run(folder, seed=1, overwrite=True), step):
        whole(folder)
        found, sentence = attempt(lambda: results.read(folder))
        if sentence:
            assert "does not contain a finished run" in sentence
        else:
            assert figures(found.summary) == figures(old if found.config.seed == 0 else new)
        resumed, sentence = attempt(lambda: run(folder, seed=1, resume=True))
        if sentence:
            assert "contains another run" in sentence
            refused += 1
            assert figures(run(folder, resume=True)) == figures(old)
        else:
            assert figures(resumed) == figures(new)
    assert refused > 1  # until the folder is that of the new run


@some_or_all
def test_a_killed_resumed_run_can_be_resumed_again(step: int, disk: Disk, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    expected = run(tmp_path / "reference")
    with pytest.raises(KilledError):
        sim.run(SHORT | {"baseline": "none"}, NODES, tmp_path / "interrupted", listener=Kills(server_round=2))
    assert (tmp_path / "interrupted" / "checkpoint" / "server.safetensors").exists()

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "interrupted", folder)
        (folder / "checkpoint").exists()

    for _ in crash_points(disk, prepare, lambda: run(folder, resume=True), step):
        whole(folder)
        assert figures(run(folder, resume=True)) == figures(expected)


class Kills:
    """A listener that kills the process in a round."""

    def __init__(self, server_round: int) -> None:
        self.server_round = server_round

    def on_stage(self, stage: str) -> None:
        pass

    def on_exchange(self, server_round: int, kind: str, metrics: dict) -> None:
        if server_round == self.server_round:
            raise KilledError


def compare(folder: Path, runs: dict[str, Any] = BOTH, **options: Any) -> list[dict[str, Any]]:
    comparison = Comparison(runs, "1", NODES, folder)
    comparison.run(**options)
    return entries(folder)


def entries(folder: Path) -> list[dict[str, Any]]:
    """Return the content of comparison.json without measured times."""
    found = json.loads((folder / "comparison.json").read_text())
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in found]


def agrees(folder: Path) -> None:
    """Assert that an index agrees with the folder of each run."""
    if (folder / "comparison.json").exists():
        for entry in entries(folder):
            assert entry["accuracy"] == results.read(folder / entry["folder"]).summary.accuracy
    _, sentence = attempt(lambda: report.write(folder))
    assert not sentence or "contains nothing to report" in sentence


@few_or_all
@pytest.mark.parametrize("leave", [{}, {"overwrite": True}, {"resume": True}])
def test_a_killed_comparison_can_be_resumed(step: int, leave: dict[str, bool], disk: Disk, tmp_path: Path) -> None:
    folder = tmp_path / "compared"
    old = compare(tmp_path / "old") if leave else []
    runs = {label: config | {"momentum": 0.5} for label, config in BOTH.items()} if leave else BOTH
    new = compare(tmp_path / "new", runs)
    assert old != new

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if leave:
            shutil.copytree(tmp_path / "old", folder)

    for _ in crash_points(disk, prepare, lambda: compare(folder, runs, **leave), step):
        whole(folder)
        agrees(folder)
        compared, sentence = attempt(lambda: compare(folder, runs))
        if sentence:
            assert leave
            assert "already contains other runs" in sentence
            compared = compare(folder, runs, **leave)
        assert compared == new


@few_or_all
@pytest.mark.parametrize("leave", [{}, {"overwrite": True}])
def test_a_killed_sweep_can_be_resumed(step: int, leave: dict[str, bool], disk: Disk, tmp_path: Path) -> None:
    folder = tmp_path / "swept"

    def sweep(folder: Path, momenta: str = "0,0.9", **options: Any) -> pd.DataFrame:
        swept = Sweep(SHORT, grid.parse([f"momentum={momenta}"]), "1", NODES, folder)
        swept.run(**options)
        return pd.read_csv(folder / "sweep.csv").drop(columns="seconds")

    if leave:
        sweep(tmp_path / "old")
    new = sweep(tmp_path / "new", "0.5,0.9")

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if leave:
            shutil.copytree(tmp_path / "old", folder)

    for _ in crash_points(disk, prepare, lambda: sweep(folder, "0.5,0.9", **leave), step):
        whole(folder)
        swept, sentence = attempt(lambda: sweep(folder, "0.5,0.9"))
        if sentence:
            assert leave
            assert "already contains other runs" in sentence
            swept = sweep(folder, "0.5,0.9", **leave)
        pd.testing.assert_frame_equal(swept, new)
    assert np.isfinite(new["accuracy"]).all()
