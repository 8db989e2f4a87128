"""The node built from the run config: its initial weights."""

import pytest
import torch
from flwr.app import Context, RecordDict

from flower_kd.client_app import build_node


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
