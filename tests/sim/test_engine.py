"""The in-process engine as users of Flower's apps see it."""

import networkx as nx
import pytest
import torch
from conftest import blobs, build_blob_node
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from flower_kd.clients import Node, make_client_app
from flower_kd.clients.training import evaluate
from flower_kd.errors import InputError
from flower_kd.sim import InProcessGrid, run_apps
from flower_kd.strategies import GraphStrategy, NeighborKD, Silo

CLIENT_APP, COUNTS_THREADS = make_client_app(build_blob_node), ClientApp()  # which workers find by this module's name
VALIDATED = make_client_app(lambda context: build_validated_node(context))


@COUNTS_THREADS.query()
def count_threads(message: Message, context: Context) -> Message:
    return Message(RecordDict({"threads": ConfigRecord({"count": torch.get_num_threads()})}), reply_to=message)


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


def serve(strategy: GraphStrategy) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        result = strategy.start(grid, ArrayRecord(), num_rounds=2)
        context.state["accuracy"] = ConfigRecord({"all": result.evaluate_metrics_clientapp[2]["accuracy-per-node"]})

    return app


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_of_own_apps_returns_the_trained_models(workers: int) -> None:
    client_app: ClientApp | str = "test_engine:CLIENT_APP" if workers > 1 else CLIENT_APP
    finished = run_apps(serve(NeighborKD(nx.cycle_graph(4), local_steps=3)), client_app, 4, {}, workers=workers)
    accuracy = finished.state["accuracy"]["all"]  # it is the server's context
    assert len(finished.nodes) == 4
    for vertex in range(4):
        node = build_blob_node(Context(1, 1, {"partition-id": vertex, "num-partitions": 4}, RecordDict(), {}))
        node.model.load_state_dict(finished.weights(vertex))
        assert evaluate(node.model, node.test)["accuracy"] == pytest.approx(accuracy[vertex])
    with pytest.raises(InputError, match=r"there is no node 4 \(allowed: 0 to 3\)"):
        finished.weights(4)


def build_validated_node(context: Context) -> Node:
    node = build_blob_node(context)
    node.validation = [blobs(3000 + int(context.node_config["partition-id"]), 15)]
    return node


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_of_own_apps_returns_the_best_models_too(workers: int) -> None:
    client_app: ClientApp | str = "test_engine:VALIDATED" if workers > 1 else VALIDATED
    finished = run_apps(serve(NeighborKD(nx.cycle_graph(4), local_steps=3)), client_app, 4, {}, workers=workers)
    for vertex in range(4):
        node = build_validated_node(Context(1, 1, {"partition-id": vertex, "num-partitions": 4}, RecordDict(), {}))
        losses = []
        for best in (True, False):
            node.model.load_state_dict(finished.weights(vertex, best=best))
            losses.append(evaluate(node.model, node.validation)["loss"])
        assert losses[0] == pytest.approx(finished.nodes[vertex]["flower-kd.best-score"]["loss"])
        assert losses[0] <= losses[1]
    plain = run_apps(serve(NeighborKD(nx.cycle_graph(4), local_steps=3)), CLIENT_APP, 4, {})
    with pytest.raises(InputError, match="node 2 has no best model: it was never evaluated on validation data"):
        plain.weights(2, best=True)


def test_a_node_of_another_app_has_its_records_but_no_model() -> None:
    client_app, server_app = ClientApp(), ServerApp()

    @client_app.query()
    def query(message: Message, context: Context) -> Message:
        context.state["mine"] = ConfigRecord({"vertex": context.node_config["partition-id"]})
        return Message(RecordDict(), reply_to=message)

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        grid.send_and_receive([Message(RecordDict(), node, "query") for node in grid.get_node_ids()])

    finished = run_apps(server_app, client_app, 3, {})
    assert [state["mine"]["vertex"] for state in finished.nodes] == [0, 1, 2]
    with pytest.raises(InputError, match="node 2 has no model: it was not trained by an app of make_client_app"):
        finished.weights(2)


@pytest.mark.parametrize("workers", [1, 2])
def test_own_apps_compute_with_the_requested_number_of_threads(workers: int) -> None:
    seen, server_app = [], ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        [reply] = grid.send_and_receive([Message(RecordDict(), next(iter(grid.get_node_ids())), "query")])
        seen.append(reply.content["threads"]["count"])

    before = torch.get_num_threads()
    for options, expected in (({}, 1), ({"num_threads": 2}, 2)):
        run_apps(server_app, "test_engine:COUNTS_THREADS", 2, {}, workers=workers, **options)
        assert seen.pop() == expected
        assert torch.get_num_threads() == before
    with pytest.raises(InputError, match="num_threads = 0 must be at least 1"):
        run_apps(server_app, "test_engine:COUNTS_THREADS", 2, {}, num_threads=0)


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
