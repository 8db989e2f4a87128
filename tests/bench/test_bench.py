"""Small runs of what `flower-kd bench` measures; no test asks how fast."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from flower_kd import bench
from flower_kd.bench import Figure, growth, tax
from flower_kd.errors import InputError


def test_a_figure_is_reached_on_its_side_of_the_bound() -> None:
    assert Figure("ratio", 1.1, 1.15, at_most=True).reached
    assert not Figure("ratio", 1.2, 1.15, at_most=True).reached
    assert Figure("ratio", 2.5, 2.0, at_most=False).reached
    assert not Figure("ratio", 1.5, 2.0, at_most=False).reached


def test_the_tax_is_a_ratio_of_two_measured_times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tax, "REPETITIONS", 1)
    monkeypatch.setattr(tax, "STEPS", 3)
    console = Console(record=True, width=140)
    bench.run(tmp_path / "bench.json", ["tax"], console)
    kept = json.loads((tmp_path / "bench.json").read_text())
    [figure] = kept["figures"]
    ours, bare = figure["parts"].values()
    assert figure["value"] == pytest.approx(ours / bare)
    assert 0.5 < figure["value"] < 10
    assert kept["machine"]["cores"] >= 1
    assert "framework tax" in console.export_text()


def test_growth_with_neighbors_tells_training_from_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "DEGREES", (2, 4))
    monkeypatch.setattr(growth, "NODES_OF_DEGREES", 6)
    monkeypatch.setattr(growth, "NODE_EXCHANGES", 12)
    training, exchange = growth.neighbors()
    assert all(seconds > 0 for figure in (training, exchange) for seconds in figure.parts.values())
    assert exchange.bound == 2


def test_growth_with_nodes_measures_memory_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "SIZES", (5, 8))
    monkeypatch.setattr(growth, "NODE_EXCHANGES", 10)
    in_new_process = growth._in_new_process

    def only_the_run(measure, nodes: int):  # a process takes seconds to import all
        return in_new_process(measure, nodes) if measure is growth._peak_of_run else measure(nodes)

    monkeypatch.setattr(growth, "_in_new_process", only_the_run)
    time, memory = growth.nodes_and_memory()
    assert list(time.parts) == ["ms per node, 5 nodes", "ms per node, 8 nodes"]
    assert memory.parts["peak, MB"] > 50


@pytest.mark.parametrize(
    ("only", "file", "words"),
    [
        (["taxes"], "a.json", r"unknown measurement 'taxes', did you mean 'tax'\? \(allowed: imports, tax"),
        (["tax"], "no/such/a.json", "cannot be written"),
    ],
)
def test_mistakes_end_before_anything_is_measured(only: list[str], file: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        bench.run(tmp_path / file, only, Console())
