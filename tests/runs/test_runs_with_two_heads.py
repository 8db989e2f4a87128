"""What a run with two heads leaves: the accuracy of both, and networks that can be used."""

import tomllib
from pathlib import Path

import pytest
import torch

from flower_kd import TwoHeads, data, load_card, load_model, sim
from flower_kd.config import RunConfig
from flower_kd.deploy.export import FORMATS, export
from flower_kd.models import pruning
from flower_kd.report import report, run_table
from flower_kd.runs import results

CONFIG = {
    "strategy": "multi-head(local_rounds=1)", "model": "mlp,resnet2", "baseline": "silo", "num-server-rounds": 3,
    "local-steps": 4, "evaluate-every": 3, "samples-per-node": 30, "reference-size": 40, "learning-rate": 0.05,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "two-heads"
    sim.run(CONFIG, 3, path)
    return path


def test_the_summary_has_the_accuracy_of_head_1(folder: Path) -> None:
    run = results.read(folder)
    by_round = run.history.pivot_table(index="round", columns="vertex", values="test-accuracy")
    assert list(by_round.index) == [1, 3]
    assert run.summary.head_1 is not None
    assert run.summary.head_1["per_node"] == by_round.loc[1].tolist()
    assert run.summary.head_1["mean"] == pytest.approx(by_round.loc[1].mean())
    assert run.summary.accuracy["per_node"] == by_round.loc[3].tolist()
    assert run.alone is not None
    # Trained alone, the same network takes the same first steps.
    first = run.alone[run.alone["round"] == 1]["train-loss"].tolist()
    assert first == run.history[run.history["round"] == 1]["train-loss"].tolist()


def test_the_tables_show_both_heads(folder: Path) -> None:
    table = run_table.text(results.read(folder).summary)
    head = next(line for line in table.splitlines() if "alone" in line)
    assert [cell.strip() for cell in head.split("┃")[3:6]] == ["multi-head(local_rounds=1)", "head 1", "alone"]
    html = report.write(folder).read_text()
    assert "head 1, %" in html
    assert "points by head 2, which learned from neighbors" in html


def test_trained_networks_have_both_heads(folder: Path) -> None:
    run = results.read(folder)
    inputs, labels = data.load(RunConfig.parse(CONFIG).data_spec(3)).test
    for vertex in range(3):
        model = load_model(folder, node=vertex)
        assert isinstance(model, TwoHeads)
        for network, summary in ((model, run.summary.accuracy), (model.local, run.summary.head_1)):
            assert summary is not None
            with torch.inference_mode():
                found = (network(inputs).argmax(-1) == labels).double().mean().item()
            assert found == pytest.approx(summary["per_node"][vertex], abs=1e-6)


@pytest.mark.parametrize("name", FORMATS)
def test_an_exported_model_is_the_network_in_use(name: str, folder: Path) -> None:
    model, card = load_model(folder, node=1), load_card(folder, node=1)
    content = export(model, card, name)  # which compares it with the model
    weights = sum(value.numel() for value in model.distilled.parameters())
    assert 4 * weights < len(content) < 4 * weights + 120_000


def test_all_that_nodes_report_and_keep_goes_with_two_heads(tmp_path: Path) -> None:
    config = CONFIG | {
        "strategy": "multi-head(local_rounds=2, teachers=private, frozen_backbone=true)", "baseline": "none",
        "model": "mlp(prune=0.5),resnet2(prune=0.2)", "pooling": "nearness", "record-gradients": True,
        "validation-share": 0.2, "local-steps": 20, "evaluate-every": 1, "samples-per-node": 60,
    }  # fmt: skip
    sim.run(config, 3, tmp_path / "run")
    run = results.read(tmp_path / "run")
    by_round = run.history.groupby("round")[["label-gradient", "kd-gradient"]].min()
    assert (by_round["label-gradient"] > 0).all()
    assert by_round["kd-gradient"].notna().tolist() == [False, False, True]
    losses = run.history.pivot_table(index="round", columns="vertex", values="validation-loss")
    assert (losses.idxmin() < 3).any()  # that of a first phase is no candidate
    best = tomllib.loads((tmp_path / "run" / "models" / "model.toml").read_text())["best"]
    assert {vertex: score["round"] for vertex, score in best.items()} == {"0": 3, "1": 3, "2": 3}
    pruned = {vertex: network["parameters"] - network["kept"] for network in run.summary.networks
              for vertex in network["nodes"]}  # fmt: skip
    assert pruned[0] == round(0.5 * 64 * 64) + round(0.5 * 640)
    for vertex in range(3):
        model = load_model(tmp_path / "run", node=vertex, best=True)
        assert model.in_use is model.distilled
        assert pruning.num_pruned(model.local) == pruned[vertex]
        masks = [pruning.fingerprint(network.backbone) for network in (model.local, model.distilled)]
        assert masks[0] == masks[1] != ""
        assert pruning.num_pruned(model.distilled.head) == 0
    content = export(load_model(tmp_path / "run", node=1), load_card(tmp_path / "run", node=1), "torchscript")
    assert len(content) > 0


def test_nodes_are_trained_alone_before_networks_are_sent(tmp_path: Path) -> None:
    sim.run(CONFIG | {"strategy": "multi-head(local_rounds=1, teachers=private)"}, 3, tmp_path / "run")
    run = results.read(tmp_path / "run")
    assert run.alone is not None
    first = run.alone[run.alone["round"] == 1]["train-loss"].tolist()
    assert first == run.history[run.history["round"] == 1]["train-loss"].tolist()
