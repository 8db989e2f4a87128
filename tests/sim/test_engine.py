"""The in-process engine as users of Flower's apps see it."""

import networkx as nx
import pytest
import torch
from conftest import build_blob_node
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from flower_kd.clients import make_client_app
from flower_kd.errors import InputError
from flower_kd.sim import InProcessGrid, run_apps
from flower_kd.strategies import NeighborKD, Silo


class Recorder:
    def __init__(self) -> None:
        self.calls: list[object] = []

    def on_stage(self, stage: str) -> None:
        self.calls.append("stage")

    def on_exchange(self, server_round: int, kind: str, metrics: dict[int, dict[str, float]]) -> None:
        self.calls.append((server_round, kind, sorted(metrics)))
        assert all("train-loss" in reported or "accuracy" in reported for reported in metrics.values())


def test_any_server_app_and_client_app() -> None:
    seen = {}
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        seen["nodes"], seen["config"] = len(list(grid.get_node_ids())), context.run_config["rounds"]
        result = NeighborKD(nx.cycle_graph(4), local_steps=2).start(grid, ArrayRecord(), num_rounds=2)
        seen["accuracy"] = result.evaluate_metrics_clientapp[2]["accuracy-per-node"]

    run_apps(server_app, make_client_app(build_blob_node), 4, {"rounds": 2})
    assert (seen["nodes"], seen["config"], len(seen["accuracy"])) == (4, 2, 4)


def test_a_run_leaves_the_number_of_threads_as_it_was() -> None:
    seen, server_app = [], ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        Silo(nx.cycle_graph(4), local_steps=1).start(grid, num_rounds=1)
        seen.append(torch.get_num_threads())
        raise InputError("enough")

    config = {"num-threads": 1, "samples-per-node": 5}
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(InputError, match="enough"):
            run_apps(server_app, "flower_kd.client_app:app", 4, config)
        assert seen == [1]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_listener_receives_each_exchange() -> None:
    recorder = Recorder()
    grid = InProcessGrid(make_client_app(build_blob_node), 4, {}, recorder)
    NeighborKD(nx.cycle_graph(4), local_steps=4, exchange_every=2, evaluate_every=2).start(grid, num_rounds=2)
    nodes = [0, 1, 2, 3]
    exchanges = [(server_round, "train", nodes) for server_round in (1, 1, 2, 2)]
    assert recorder.calls == ["stage", *exchanges, (2, "evaluate", nodes)]


def test_messages_are_answered_one_by_one() -> None:
    """No more than one node's message is in memory, however many nodes there are."""
    grid = InProcessGrid(make_client_app(build_blob_node), 6, {})
    strategy = NeighborKD(nx.cycle_graph(6), local_steps=1)
    network = strategy.network(grid)
    strategy.start(network, ArrayRecord(), num_rounds=1)
    made = []

    def messages():
        for message in list(strategy.configure_train(2, ArrayRecord(), {}, network)):
            made.append(message)
            yield message

    for number, _ in enumerate(network.exchange(messages(), timeout=1.0), start=1):
        assert len(made) == number
    assert len(made) == 6
