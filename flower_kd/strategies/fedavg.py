"""Federated averaging: Flower's own strategy as the baseline with a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from statistics import median_low

import flwr.serverapp.strategy as flower
import networkx as nx
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from flower_kd import wire
from flower_kd.protocol import ARRAYS, METRICS, Greeting, Order
from flower_kd.ranges import Count, PositiveShare, Whole
from flower_kd.strategies.base import check_run, due, over_nodes
from flower_kd.strategies.bases import Bases, compressor, start_weights
from flower_kd.strategies.network import Network
from flower_kd.strategies.registry import STRATEGIES, NamedArguments, Recipient
from flower_kd.strategies.resumable import Resumable, State
from flower_kd.strategies.weights import usable_weights
from flower_kd.topology import Contacts, GraphSequence

NUM_EXAMPLES = "num-examples"
LARGEST_SHARE = 3  # times the median (of an even number of nodes, the lower of the middle two)


@STRATEGIES.register("fedavg")
class FedAvg(NamedArguments, Resumable, flower.FedAvg):
    """Flower's FedAvg on all nodes of a Network, with a handshake (McMahan et al., AISTATS 2017).

    A node's weight is the number of samples it reports, but at most 3 times the median of the round: the number cannot
    be verified, and a large one would let a node dominate the model. With a compression, nodes send the compressed
    difference from the model they were sent, with error feedback (Seide et al., Interspeech 2014; Karimireddy et al.,
    ICML 2019).

    Parameters
    ----------
    graph : networkx graph or GraphSequence
        Its vertices are the nodes; its edges are not used.
    compression : str
        Of the weights that nodes send; "none" for all of them in full.
    seed : int
        The run's seed.
    local_steps : int
        SGD steps per round.
    evaluate_every : int
        Rounds between two evaluations; the last round is always evaluated.
    participation : float
        Share of the nodes that take part in a round, drawn anew for each: `fraction_train` of Flower's FedAvg, but
        from the seed.
    """

    same_model = True
    sends_to: Recipient = "server"

    def __init__(
        self,
        graph: nx.Graph | GraphSequence,
        *,
        compression: str = "none",
        seed: Whole = 0,
        local_steps: Count = 25,
        evaluate_every: Count = 1,
        participation: PositiveShare = 1.0,
    ) -> None:
        self.contacts = Contacts(GraphSequence.of(graph), seed, participation)
        num_nodes = self.contacts.graphs.num_nodes
        super().__init__(min_train_nodes=num_nodes, min_evaluate_nodes=num_nodes, min_available_nodes=num_nodes)
        self.compressor = compressor(compression)
        order = Order(server_round=0, num_steps=local_steps, seed=seed, reply="weights", keep=True)
        self.order = replace(order, compression=compression)
        self.num_nodes = num_nodes
        self.evaluate_every = evaluate_every
        self._num_rounds = 0
        self._network: Network | None = None
        self._initial = ArrayRecord()
        self._arrays = ArrayRecord()
        self._bases = Bases()
        self._by_node: dict[int, MetricRecord | None] = {}  # of evaluations, by Flower's number of the round

    def state_dict(self) -> State:
        """Return the global model."""
        return {name: array.numpy() for name, array in self._arrays.items()}

    def load_state_dict(self, state: State) -> None:
        """Restore the global model."""
        self._arrays = ArrayRecord({name: wire.as_array(array) for name, array in state.items()})

    def network(self, grid: Grid) -> Network:
        """Return the grid as a Network that requires the same model, and the compression, on all nodes."""
        network = Network(grid, self.num_nodes, same_reference=False, same_model=True)
        network.greeting = Greeting(compression=self.order.compression if self.compressor else "")
        return network

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the handshake, then Flower's own loop, which counts rounds from 1 even in a resumed run.

        Without initial arrays each node starts from its own weights. Metrics of evaluations are Flower's means,
        weighted by the number of samples, with the spread over nodes and a list `<name>-per-node` by vertex.
        """
        check_run(num_rounds, timeout)
        network = grid if isinstance(grid, Network) else self.network(grid)
        self.order = replace(self.order, total_steps=num_rounds * self.order.num_steps)
        network.greeting = replace(network.greeting, total_steps=self.order.total_steps)
        network.join()
        self._initial = wire.canonical(initial_arrays or ArrayRecord())
        self._num_rounds, self._network, self._arrays = num_rounds, network, self._initial
        self._bases = Bases()
        self._restore()
        if self.compressor is not None:
            self._bases.set(range(self.num_nodes), start_weights(network, self._arrays))
        order = self.order.to_record()
        order.update(train_config or {})
        left = num_rounds - self.last_round
        self._by_node = {}
        result = super().start(network, self._arrays, left, timeout, order, evaluate_config, evaluate_fn)
        # Not in aggregate_evaluate: Flower logs what that returns.
        for number, metrics in result.evaluate_metrics_clientapp.items():
            metrics.update({**(self._by_node[number] or {}), **metrics})
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Number the rounds from the beginning of the run; tell nodes the digest of the base of their updates."""
        if self.compressor is not None:
            config["base"] = self._bases.digest(0)
        server_round += self.last_round
        drawn = self.contacts.taking_part(server_round - 1)
        messages = super().configure_train(server_round, arrays, config, grid)
        return [message for message in messages if drawn[self._joined().vertex(message.metadata.dst_node_id)]]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the weights with the model's layout; nodes that sent others are left out."""
        network = self._joined()
        server_round += self.last_round
        by_vertex = {network.vertex(reply.metadata.src_node_id): reply for reply in replies}
        contents = {vertex: reply.content for vertex, reply in by_vertex.items()}
        contents, refused = self._bases.expand(contents, self.compressor)
        usable, unusable = usable_weights(contents, self._initial)
        refused |= unusable
        for vertex in usable:
            by_vertex[vertex].content = contents[vertex]
        for vertex, why in refused.items():
            network.leave_out(server_round, vertex, why)
        arrays, metrics = super().aggregate_train(server_round, _comparable([by_vertex[v] for v in sorted(usable)]))
        if arrays is None:
            return None, metrics
        own = usable[min(usable)]
        # Flower's average turns integer counters into floats.
        averaged = {name: np.asarray(array.numpy(), dtype=own[name].dtype) for name, array in arrays.items()}
        self._arrays = ArrayRecord({name: wire.as_array(array) for name, array in averaged.items()})
        if self.compressor is not None:
            self._bases.set(range(self.num_nodes), averaged)
        return self._arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Evaluate in the rounds that are due."""
        server_round += self.last_round
        if not due(server_round, self.evaluate_every, self._num_rounds):
            return []
        return super().configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Average the metrics that all nodes report, and finish the round."""
        server_round += self.last_round
        replies = list(replies)
        answered = [self._joined().vertex(reply.metadata.src_node_id) for reply in replies]
        metrics = super().aggregate_evaluate(server_round, _comparable(replies))
        self._by_node[server_round - self.last_round] = over_nodes(
            self._joined(), server_round, answered, evaluation=True
        )
        self._finish_round(server_round)
        return metrics

    def _joined(self) -> Network:
        if self._network is None:
            raise RuntimeError("start() runs the handshake first")
        return self._network


def _comparable(replies: list[Message]) -> list[Message]:
    """Return replies with the metrics common to all, as Flower's average requires, and with bounded weights."""
    reports = [dict(reply.content.metric_records[METRICS]) for reply in replies]
    common = [name for name in reports[0] if all(name in report for report in reports)] if reports else []
    most = LARGEST_SHARE * median_low(report.get(NUM_EXAMPLES, 1) for report in reports) if reports else 0
    for reply, report in zip(replies, reports, strict=True):
        shared = {name: report[name] for name in common} | {NUM_EXAMPLES: min(report.get(NUM_EXAMPLES, 1), most)}
        content = RecordDict({METRICS: MetricRecord(shared)})
        if ARRAYS in reply.content:
            content[ARRAYS] = reply.content[ARRAYS]
        reply.content = content
    return replies
