import csv
import json
import tomllib
from pathlib import Path

import pytest

from flower_kd import sim
from flower_kd.config import RunConfig
from flower_kd.errors import InputError

SHORT = {"num-server-rounds": 3, "local-steps": 2, "samples-per-node": 20, "reference-size": 40, "model": "mlp"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[sim.Summary, Path]:
    folder = tmp_path_factory.mktemp("results") / "run"
    return sim.run(SHORT | {"strategy": "neighbor-kd", "evaluate-every": 2}, 4, folder), folder


def test_the_summary_is_that_of_the_contract(finished: tuple[sim.Summary, Path]) -> None:
    summary, folder = finished
    written = json.loads((folder / "summary.json").read_text())
    assert written["strategy"] == summary.strategy == "neighbor-kd"
    assert (written["num_nodes"], written["rounds"], written["seed"]) == (4, 3, 0)
    assert set(written["accuracy"]) == {"mean", "std", "per_node"}
    assert len(written["accuracy"]["per_node"]) == 4
    assert written["accuracy"]["mean"] == pytest.approx(sum(written["accuracy"]["per_node"]) / 4)
    assert {"total", "per_edge", "uplink_per_node"} <= set(written["bytes"])
    assert 3 * 40 * 10 * 4 < written["bytes"]["per_edge"] < written["bytes"]["uplink_per_node"]
    assert 8 * written["bytes"]["uplink_per_node"] > written["bytes"]["total"]
    assert written["seconds"]["per_round"] == pytest.approx(written["seconds"]["total"] / 3)
    assert len(written["baseline"]["per_node"]) == 4


def test_the_history_has_a_row_a_node_a_round(finished: tuple[sim.Summary, Path]) -> None:
    summary, folder = finished
    for name in ("history.csv", "history-silo.csv"):
        rows = list(csv.DictReader((folder / name).open()))
        assert [(row["round"], row["vertex"]) for row in rows] == [
            (str(r), str(v)) for r in (1, 2, 3) for v in range(4)
        ]
        assert all(float(row["train-loss"]) > 0 for row in rows)
        assert [bool(row["test-accuracy"]) for row in rows] == [False] * 4 + [True] * 8
    last = [
        float(row["test-accuracy"]) for row in csv.DictReader((folder / "history.csv").open()) if row["round"] == "3"
    ]
    assert last == summary.accuracy["per_node"]


def test_the_config_can_be_run_again(finished: tuple[sim.Summary, Path], tmp_path: Path) -> None:
    summary, folder = finished
    config = tomllib.loads((folder / "config.toml").read_text())
    assert set(config) == set(RunConfig().to_dict())
    again = sim.run(config, 4, tmp_path / "again")
    assert again.accuracy == summary.accuracy
    assert again.bytes == summary.bytes
    assert again.baseline == summary.baseline


def test_there_is_a_picture(finished: tuple[sim.Summary, Path]) -> None:
    assert (finished[1] / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert not list(finished[1].glob(".*"))  # no partial file is left


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"output-dir .* cannot be written"):
        sim.run(SHORT | {"strategy": "silo"}, 2, tmp_path / "file")


@pytest.mark.parametrize(
    ("config", "nodes", "words"),
    [
        ({"topology": "torus"}, 7, "torus.*7"),
        ({"model": "mlp*3,lenet5*4"}, 8, "is for 7 nodes, but there are 8"),
        ({"strategy": "x", "pooling": "y"}, 8, "2 problems: unknown strategy 'x'"),
        ({"reference-size": 1437, "exchange-rows": 0}, 8, "too few for reference-size = 1437 and 8 nodes"),
        ({"dataset": "./nowhere"}, 4, "node 0 cannot take part: dataset './nowhere': there is no such folder"),
        ({"partition": "pathological", "labels-per-node": 12}, 4, "labels-per-node = 12 is above the 10 labels"),
    ],
)
def test_mistakes_end_before_anything_trains(config: dict, nodes: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as refusal:
        sim.run(SHORT | config, nodes, tmp_path / "run")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("strategy", ["neighbor-kd", "d-dist"])
def test_distilling_beats_training_alone_on_skewed_digits(strategy: str, tmp_path: Path) -> None:
    short = {"model": "mlp", "num-server-rounds": 10, "evaluate-every": 10, "consensus": "tracking"}
    summary = sim.run(short | {"strategy": strategy}, 8, tmp_path / "run")
    assert summary.baseline is not None
    assert summary.accuracy["mean"] > summary.baseline["mean"] + 0.03
    assert summary.bytes["per_edge"] < summary.bytes["d_sgd_per_edge"] / 20
