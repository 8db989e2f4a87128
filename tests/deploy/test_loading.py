"""A run's models, loaded by somebody who has only its folder."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import flower_kd
from flower_kd import data, sim
from flower_kd.errors import InputError
from flower_kd.runs import results
from flower_kd.study.compare import Comparison

SHORT = {"strategy": "silo", "num-server-rounds": 1, "local-steps": 1, "samples-per-node": 10, "reference-size": 10}


def accuracies(folder: Path, nodes: int) -> list[float]:
    """Return the accuracy of each loaded model on the run's test set."""
    inputs, labels = data.load(results.read(folder).config.data_spec(nodes)).test
    found = []
    for node in range(nodes):
        with torch.inference_mode():
            predicted = flower_kd.load_model(folder, node=node)(inputs).argmax(-1)
        found.append((predicted == labels).double().mean().item())
    return found


def test_loaded_models_are_those_that_the_run_evaluated(trained) -> None:
    folder, summary = trained
    assert accuracies(folder, 4) == pytest.approx(summary.accuracy["per_node"], abs=1e-9)
    assert len(set(summary.accuracy["per_node"])) > 1
    model = flower_kd.load_model(str(folder), node=1)
    assert not model.training
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("strategy", "options"),
    [("fedavg", {}), ("d-sgd", {"exchange-every": 2}), ("d-dist", {"baseline": "silo"}), ("silo", {})],
)
def test_every_strategy_leaves_the_models_that_it_evaluated_last(strategy: str, options: dict, tmp_path: Path) -> None:
    config = SHORT | {"strategy": strategy, "num-server-rounds": 2, "local-steps": 4, "momentum": 0.9} | options
    summary = sim.run(config | {"evaluate-every": 2}, 3, tmp_path)
    assert accuracies(tmp_path, 3) == pytest.approx(summary.accuracy["per_node"], abs=1e-9)


def test_a_card_says_what_goes_in_and_what_comes_out(trained) -> None:
    card = flower_kd.load_card(trained[0], node="1")
    assert (card.factory, card.classes, card.shape) == ("resnet2", 3, (3, 8, 8))
    assert card.labels == ("blue fish", "cat", "dog")
    reference = data.load(results.read(trained[0]).config.data_spec(4)).normalization
    assert (card.mean, card.std) == (reference.mean, reference.std)


def test_two_files_are_enough_on_another_machine(trained, tmp_path: Path) -> None:
    for name in ("model.toml", "node-1.safetensors"):
        shutil.copy(trained[0] / "models" / name, tmp_path)
    inputs = torch.rand(2, 3, 8, 8)
    assert torch.equal(flower_kd.load_model(tmp_path, node=1)(inputs), flower_kd.load_model(trained[0], node=1)(inputs))
    with pytest.raises(InputError, match=r"node-0.safetensors' cannot be read: No such file"):
        flower_kd.load_model(tmp_path, node=0)


def test_nodes_with_names(tmp_path: Path) -> None:
    (tmp_path / "graph.txt").write_text("kitchen hall\nhall attic\n")
    sim.run(SHORT | {"topology": str(tmp_path / "graph.txt")}, 3, tmp_path / "run")
    loaded, expected = (flower_kd.load_model(tmp_path / "run", node).state_dict() for node in ("hall", 1))
    torch.testing.assert_close(loaded, expected, rtol=0, atol=0)
    with pytest.raises(InputError, match=r"has no model of node garden \(allowed: 0 to 2, attic, hall, kitchen\)"):
        flower_kd.load_model(tmp_path / "run", node="garden")


def test_a_run_without_validation_has_no_best_models(trained) -> None:
    with pytest.raises(InputError, match=r"no best model of node 1: nodes keep one if validation-share is above 0$"):
        flower_kd.load_model(trained[0], node=1, best=True)
    with pytest.raises(InputError, match=r"has no model of node 9 \(allowed: 0 to 3\)"):
        flower_kd.load_model(trained[0], node=9, best=True)


def test_the_best_model_of_a_node_with_a_name(tmp_path: Path) -> None:
    (tmp_path / "graph.txt").write_text("kitchen hall\nhall attic\n")
    config = SHORT | {"topology": str(tmp_path / "graph.txt"), "validation-share": 0.1}
    sim.run(config, 3, tmp_path / "run")
    best, final = (flower_kd.load_model(tmp_path / "run", "hall", best=best).state_dict() for best in (True, False))
    torch.testing.assert_close(best, final, rtol=0, atol=0)  # it was evaluated once
    (tmp_path / "run" / "models" / "node-1-best.safetensors").unlink()
    with pytest.raises(InputError, match=r"node-1-best.safetensors' cannot be read: No such file"):
        flower_kd.load_model(tmp_path / "run", "hall", best=True)


def test_what_cannot_be_loaded_is_named(trained, tmp_path: Path, monkeypatch) -> None:
    def refused(folder: Path, node: int | str, words: str) -> None:
        with pytest.raises(InputError, match=words) as caught:
            flower_kd.load_model(folder, node=node)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "none", 0, "none' is not a folder, but must be the results folder of a run")
    refused(tmp_path, 0, "does not contain a run")
    for node in (4, -1, "x", "²"):
        refused(trained[0], node, r"has no model of node .+ \(allowed: 0 to 3\)")

    copy = tmp_path / "copy"
    shutil.copytree(trained[0], copy)
    weights = copy / "models" / "node-2.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-5])
    refused(copy, 2, r"node-2.safetensors' cannot be read: ")
    shutil.copy(copy / "models" / "node-1.safetensors", weights)
    refused(copy, 2, r"do not fit model 'mlp', which may have changed since: .*[Mm]issing")
    card = copy / "models" / "model.toml"
    text = card.read_text()
    card.write_text(text.replace('"mlp"', '"no_such_module:net"'))
    refused(copy, 0, "model 'no_such_module:net' cannot be imported: ModuleNotFoundError")
    card.write_text(text[: len(text) // 2])
    refused(copy, 0, r"model.toml' cannot be read: ")
    card.unlink()
    refused(copy, 0, "contains no models: they are on the run's nodes")
    (copy / "summary.json").unlink()
    refused(copy, 0, "contains an unfinished run: models are kept when it is finished")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda weights: weights.double(), r"is torch.float64, not torch.float32"),
        (lambda weights: weights * torch.nan, "has NaN or Inf"),
    ],
)
def test_weights_that_torch_would_take_silently_are_refused(trained, damage, words: str, tmp_path: Path) -> None:
    shutil.copy(trained[0] / "models" / "model.toml", tmp_path)
    weights = load_file(trained[0] / "models" / "node-1.safetensors")
    first = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    save_file(weights | {first: damage(weights[first])}, tmp_path / "node-1.safetensors")
    with pytest.raises(InputError, match=words):
        flower_kd.load_model(tmp_path, node=1)


def test_a_card_without_a_usable_std_is_refused(trained, tmp_path: Path) -> None:
    card = (trained[0] / "models" / "model.toml").read_text()
    start = card.index("std = [")
    spoiled = f"{card[:start]}std = [0.0, 1.0, nan]{card[card.index(']', start) + 1 :]}"
    (tmp_path / "model.toml").write_text(spoiled)
    with pytest.raises(InputError, match="std above 0"):
        flower_kd.load_card(tmp_path, node=1)
    with pytest.raises(InputError, match="no model of node 9999"):
        flower_kd.load_card(trained[0], node="9" * 5000)


def test_a_run_of_a_comparison_is_named(tmp_path: Path) -> None:
    comparison = Comparison({"a": SHORT}, "1", 2, tmp_path / "compared")
    comparison.run()
    with pytest.raises(InputError, match=r"contains a comparison: name one of its runs, such as '(.*)'") as caught:
        flower_kd.load_model(tmp_path / "compared", node=0)
    assert flower_kd.load_model(str(caught.value).split("such as '")[1].rstrip("'"), node=0)


def test_a_model_of_ones_own(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\n\ndef net(*, num_classes, shape, width: int = 4):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    sim.run(SHORT | {"model": "own_net:net,own_net:net(width=7)"}, 2, tmp_path / "run")
    model = flower_kd.load_model(tmp_path / "run", node=1)
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert model[1].out_features == 7
