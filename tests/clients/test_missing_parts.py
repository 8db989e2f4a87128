"""A node that lacks a part says so in the handshake, before any training."""

import sys
from pathlib import Path

import networkx as nx
import pytest
from conftest import FaultyGrid
from flwr.app import Message
from outside_parts import module

from flower_kd import dissimilarity, sim, wire
from flower_kd.clients import training
from flower_kd.errors import InputError
from flower_kd.protocol import ALONE, JOIN, Greeting
from flower_kd.strategies import DSGD, DDist, FedAvg, NeighborKD


class WithoutModule(FaultyGrid):
    """A grid whose node 2 lacks a module: its path does not lead to it."""

    lacking = ""
    trained = False

    def _call(self, message: Message) -> Message:
        vertex = int(self.contexts[message.metadata.dst_node_id].node_config["partition-id"])
        self.trained |= message.metadata.message_type != JOIN
        with pytest.MonkeyPatch.context() as patch:
            if vertex == 2:
                patch.setitem(sys.modules, self.lacking, None)
                wire.get.cache_clear()
                wire.compression.get.cache_clear()
            return super()._call(message)


@pytest.mark.parametrize("strategy", [NeighborKD, DDist])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"dissimilarity": "outside_of_node:powered(order=1.5)"},
            "dissimilarity 'outside_of_node:powered' cannot be im",
        ),
        ({"wire": "outside_of_node:Tenth"}, "wire format 'outside_of_node:Tenth' cannot be imported: ModuleNotFound"),
    ],
)
def test_the_handshake_names_node_part_and_reason(
    grid: FaultyGrid, strategy: type, settings: dict, words: str, tmp_path: Path
) -> None:
    with module(tmp_path, "outside_of_node"):
        lacking = WithoutModule(grid.client_app, 4, {})
        lacking.lacking = "outside_of_node"
        with pytest.raises(InputError, match=f"node 2 cannot take part: {words}"):
            strategy(nx.cycle_graph(4), local_steps=2, **settings).start(lacking, num_rounds=1)
        assert not lacking.trained
        complete = strategy(nx.cycle_graph(4), local_steps=2, **settings).start(grid, num_rounds=1)
        assert complete.train_metrics_clientapp


def test_nodes_do_not_train_alone_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    greetings = []

    def lacks(greeting: Greeting) -> None:
        greetings.append(greeting)
        raise InputError("a part is not here")

    monkeypatch.setattr("flower_kd.clients.app.check_parts", lacks)
    short = {"strategy": "neighbor-kd", "wire": "uint8", "local-steps": 2, "samples-per-node": 20, "reference-size": 40}
    with pytest.raises(InputError, match="node 0 cannot take part: a part is not here"):
        sim.run(short | {"baseline": "silo"}, 2, tmp_path / "run")
    assert greetings[0].stage == ALONE
    assert (greetings[0].dissimilarity, greetings[0].wire) == ("kl", "uint8")
    assert not (tmp_path / "run").exists()


def test_a_dissimilarity_is_bound_once_for_all_messages() -> None:
    assert training.measure_of("js") is training.measure_of("js")
    assert isinstance(training.measure_of("js"), dissimilarity.JS)


@pytest.mark.parametrize("strategy", [DSGD, FedAvg])
def test_the_handshake_names_a_compression_that_a_node_lacks(
    same_model_grid: FaultyGrid, strategy: type, tmp_path: Path
) -> None:
    with module(tmp_path, "outside_of_node") as name:
        lacking = WithoutModule(same_model_grid.client_app, 4, {})
        lacking.lacking = name
        words = "node 2 cannot take part: compression 'outside_of_node:Halves' cannot be imported: ModuleNotFound"
        made = strategy(nx.cycle_graph(4), local_steps=2, compression=f"{name}:Halves")
        with pytest.raises(InputError, match=words):
            made.start(made.network(lacking), num_rounds=1)
        assert not lacking.trained
