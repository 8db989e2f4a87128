"""The node built from the run config and the node config."""

from pathlib import Path

import pytest
import torch
from flwr.app import Context, RecordDict
from safetensors.torch import save_file

from flower_kd import server_app, sim
from flower_kd.client_app import build_node
from flower_kd.clients import Node, make_client_app
from flower_kd.data import node_data
from flower_kd.errors import InputError
from flower_kd.runs import results


def weights(vertex: int, **run_config: object) -> torch.Tensor:
    """Return all initial weights of a node of four, as one vector."""
    config = {key.replace("_", "-"): value for key, value in run_config.items()}
    context = Context(1, 5, {"partition-id": vertex, "num-partitions": 4}, RecordDict(), config)
    return torch.nn.utils.parameters_to_vector(build_node(context).model.parameters()).detach()


@pytest.mark.parametrize(
    ("run_config", "common"),
    [
        ({"strategy": "d-sgd"}, True),
        ({"strategy": "fedavg"}, True),
        ({"strategy": "d-dist"}, False),
        ({"strategy": "neighbor-kd"}, False),
        ({"strategy": "silo"}, False),
        ({"strategy": "d-sgd", "initial_weights": "separate"}, False),
        ({"strategy": "d-dist", "initial_weights": "common"}, True),
    ],
)
def test_nodes_begin_with_common_weights_where_weights_are_averaged(run_config: dict, common: bool) -> None:
    first, second = (weights(vertex, **run_config) for vertex in (0, 1))
    assert torch.equal(first, second) == common
    assert not torch.equal(first, weights(0, seed=1, **run_config))
    assert torch.equal(first, weights(0, strategy="silo"))  # those of vertex 0


def test_common_weights_are_those_of_nodes_with_one_model() -> None:
    mixed = {"strategy": "neighbor-kd", "model": "mlp,lenet5", "image_size": 28, "initial_weights": "common"}
    vertices = [weights(vertex, **mixed) for vertex in range(4)]
    assert torch.equal(vertices[0], vertices[2])
    assert torch.equal(vertices[1], vertices[3])
    assert vertices[0].shape != vertices[1].shape


def named(**node_config: object) -> str:
    """Return the sentence with which a node refuses its node config."""
    config = {key.replace("_", "-"): value for key, value in node_config.items()}
    context = Context(1, 5, {"partition-id": 0, "num-partitions": 4} | config, RecordDict(), {})
    with pytest.raises(InputError) as caught:
        build_node(context)
    return str(caught.value)


def test_a_mistake_in_a_node_config_is_one_sentence() -> None:
    assert named(model="lenet6").startswith("unknown model 'lenet6', did you mean 'lenet5'?")
    assert named(model="mlp,lenet5") == "model = 'mlp,lenet5' in the node config must be one model, without a count"
    assert named(model="mlp*2") == "model = 'mlp*2' in the node config must be one model, without a count"
    assert named(model=5) == "model = 5 in the node config must be a text: model='...'"
    assert named(data_dir="/nowhere") == "data-dir '/nowhere' is not a folder"


def test_a_node_with_a_folder_of_its_own_prepares_its_data_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(1, 5, {"partition-id": 0, "num-partitions": 4}, RecordDict(), {"validation-share": 0.2})
    expected = build_node(context)
    context.node_config["state-dir"] = str(tmp_path)
    build_node(context)
    monkeypatch.delattr(node_data, "of_node")
    found = build_node(context)
    assert torch.equal(found.reference, expected.reference)
    assert found.fingerprint == expected.fingerprint
    assert found.card == expected.card
    assert torch.equal(found.private.inputs, expected.private.inputs)
    assert torch.equal(found.private.labels, expected.private.labels)
    for batches in ("validation", "test"):
        for ours, theirs in zip(getattr(found, batches), getattr(expected, batches), strict=True):
            assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_a_nodes_own_model_has_weights_of_its_own(tmp_path: Path) -> None:
    """The file is of the run's models; a node config may also name one of these."""
    context = Context(1, 5, {"partition-id": 0, "num-partitions": 4}, RecordDict(), {})
    weights = {key: torch.zeros_like(value) for key, value in build_node(context).model.state_dict().items()}
    save_file(weights, tmp_path / "zeros.safetensors")
    context.run_config["weights-file"] = str(tmp_path / "zeros.safetensors")
    for own, zero in (("mlp", True), ("lenet5", False)):
        context.node_config["model"] = own
        node = build_node(context)
        assert node.name == node.card.factory == own
        assert (not any(parameter.any() for parameter in node.model.parameters())) == zero


@pytest.mark.parametrize(("strategy", "refused"), [("neighbor-kd", False), ("d-sgd", True), ("fedavg", True)])
def test_weights_of_different_models_are_not_averaged(strategy: str, refused: bool, tmp_path: Path) -> None:
    config = {
        "strategy": strategy, "num-server-rounds": 1, "local-steps": 1, "samples-per-node": 10, "reference-size": 10,
        "baseline": "none", "image-size": 28,
    }  # fmt: skip

    def own_model(context: Context) -> Node:
        if context.node_config["partition-id"] == 2:
            context.node_config["model"] = "lenet5"
        return build_node(context)

    app = make_client_app(own_model)
    config["output-dir"] = str(tmp_path / "run")
    if refused:
        with pytest.raises(InputError, match=r"node 2 has a different (number of parameters|model): "):
            sim.run_apps(server_app.app, app, 3, config)
    else:
        sim.run_apps(server_app.app, app, 3, config)
        assert results.read(tmp_path / "run").summary.models == ["mlp", "mlp", "lenet5"]
