"""Base of all strategies on a graph: rounds, exchanges, messages, absent nodes, metrics."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from logging import INFO
from typing import Any

import networkx as nx
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from flower_kd import wire
from flower_kd.errors import InputError, of_type
from flower_kd.protocol import ARRAYS, BEST, CONFIG, LAST, NO_BASE, VALIDATION_LOSS, Hello, Order, Reply
from flower_kd.ranges import Count, LossProbability, PositiveShare, Whole, require_number, require_whole
from flower_kd.strategies.early_stopping import EarlyStopping
from flower_kd.strategies.network import Network
from flower_kd.strategies.node_records import TEST, VALIDATION, missed_exchanges
from flower_kd.strategies.registry import NamedArguments, Recipient, links, sends_to
from flower_kd.strategies.resumable import Resumable
from flower_kd.topology import Contacts, GraphSequence


class GraphStrategy(NamedArguments, Resumable, Strategy):
    """Base of strategies in which each node receives from its neighbors only.

    A round is `local_steps` SGD steps on each node, in exchanges of `exchange_every` steps. In an exchange each node
    gets one message (with what its neighbors sent in the previous exchange, mixed for it) and replies with one. A
    subclass defines what is sent to a vertex (`payload`), what to request (`reply` of the order), and what to do with
    the replies (`absorb`).

    Parameters
    ----------
    graph : networkx graph or GraphSequence
        Vertices 0, 1, ...; see `flower_kd.topology.build` and, for another graph in each exchange, `sequence`.
    order : Order
        What each node should do in one exchange; the strategy fills in `server_round`, `num_steps`, `step`,
        `exchange`, `keep`, `total_steps` and, for replies that leave out what is known, `base`.
    local_steps : int
        SGD steps per round.
    exchange_every : int
        SGD steps per exchange; must divide `local_steps`. 0 stands for `local_steps`.
    evaluate_every : int
        Rounds between two evaluations; the last round of each phase is always evaluated.
    patience : int
        A node whose validation loss has not improved in so many evaluations stops: it takes its best weights back,
        trains no more, and still answers. At the end of the run, every node has its best weights. Each phase of a run
        stops by itself. 0 for no stopping.
    participation : float
        Share of the nodes that take part in an exchange, drawn anew for each; the others neither train nor send.
    message_loss : float
        Probability that a message over an edge is lost, drawn anew for each message.

    Attributes
    ----------
    graphs : GraphSequence
        The graph of each exchange.
    contacts : Contacts
        Who takes part in an exchange, and which messages arrive.

    Raises
    ------
    InputError
        If an argument is unknown, of another type, or out of range, or nodes should stop that cannot (`no_patience`).
    """

    same_reference = False
    """Whether all nodes need the same reference set."""
    same_model = False
    """Whether all nodes must train the same model, because weights are averaged."""
    sends_to: Recipient = "neighbors"
    """Who is meant to receive what a node sends: "neighbors", "server" or "none"."""
    two_heads = False
    """Whether nodes train networks with two heads (`flower_kd.TwoHeads`)."""
    fewest_rounds = 1
    """The least number of rounds of a run."""
    pipeline: int = 0
    """How many messages are sent to a node before it has answered the one that it works on."""

    def __init__(
        self,
        graph: nx.Graph | GraphSequence,
        order: Order,
        *,
        local_steps: Count = 25,
        exchange_every: Whole = 0,
        evaluate_every: Count = 1,
        patience: Whole = 0,
        participation: PositiveShare = 1.0,
        message_loss: LossProbability = 0.0,
    ) -> None:
        require_whole("seed", order.seed, 0)
        if why := no_patience(type(self), patience, type(self).__name__):
            raise InputError(why)
        self.patience = patience
        self.graphs = GraphSequence.of(graph)
        self.contacts = Contacts(self.graphs, order.seed, participation, message_loss)
        self.num_nodes = self.graphs.num_nodes
        self.local_steps = local_steps
        self.exchange_every = exchange_every or local_steps
        self.evaluate_every = evaluate_every
        if local_steps % self.exchange_every:
            raise InputError(f"exchange_every = {exchange_every} does not divide local_steps = {local_steps}")
        self.order = replace(order, num_steps=self.exchange_every)
        self.phases: list[int] = []  # rounds of each, in a run
        self._exchange = 0
        self._tests_in_training = False
        self._composed: dict[int, list[Message]] = {}  # train messages that were sent ahead, by exchange
        self._round_ends = -1, np.zeros(0)  # a round, and the last exchange of it for which each node is drawn
        self._num_rounds = 0
        self._network: Network | None = None
        self._weights_at_start = ArrayRecord()
        self._initial: dict[int, ArrayRecord] = {}  # of nodes that have not received them yet

    @property
    def graph(self) -> nx.Graph:
        """Who receives from whom in the current exchange, without nodes that are not drawn and without lost messages.

        A node that takes part but fails is still in it.
        """
        return self.contacts.graph(self._exchange)

    def require_every_message(self, setting: str, instead: str) -> None:
        """Raise InputError, with a setting and what to use instead, if a node may miss a message of a neighbor.

        What a node sends may refer to what it sent before only if all that receive it have that too.
        """
        contacts = self.contacts
        if self.graphs.varies:
            why = "a topology with another graph in each exchange"
        elif contacts.message_loss:
            why = f"message-loss = {contacts.message_loss}"
        elif contacts.participation < 1:
            why = f"participation = {contacts.participation}"
        else:
            return
        raise InputError(f"{setting} needs neighbors that get every message, which {why} does not allow: use {instead}")

    # -- to be overridden ----------------------------------------------------------------------------------------------

    def try_parts(self, hellos: dict[int, Hello]) -> None:
        """Raise InputError if a part cannot be used with the nodes that joined; called in the handshake.

        It must leave the strategy and torch's random generators as they are.
        """

    def begin(self, hellos: dict[int, Hello]) -> None:
        """Prepare for a run with the nodes that joined; called once after the handshake.

        Parameters
        ----------
        hellos : dict
            What each node said in the handshake, by vertex.
        """

    @classmethod
    def phases_of(cls, num_rounds: int, settings: Mapping[str, Any]) -> list[int]:
        """Return the number of rounds of each phase of a run; a learning-rate schedule runs over each by itself.

        Parameters
        ----------
        num_rounds : int
            Rounds of the run.
        settings : mapping
            The strategy's own settings by name, as far as they are given.

        Raises
        ------
        InputError
            If the run is too short for them.
        """
        return [num_rounds]

    @classmethod
    def without_effect(cls, settings: Mapping[str, Any]) -> dict[str, str]:
        """Return the arguments without effect beside such settings of the strategy, each with the reason."""
        return {}

    def ordered(self, order: Order) -> Order:
        """Return the order of the current exchange for all nodes; unless overridden, as it is."""
        return order

    def fields(self, vertex: int) -> dict[str, list[str]]:
        """Return more fields of a vertex's order in the current exchange, by kebab-case key."""
        return {}

    def reply(self) -> Reply:
        """Return what nodes must reply with in the current exchange: unless overridden, what the order says."""
        return self.order.reply

    def base(self, vertex: int) -> int:
        """Return the `base` of a vertex's order in the current exchange: of what its reply may leave out."""
        return NO_BASE

    def taught(self, vertex: int) -> int:
        """Return the `taught` of a vertex's order in the current exchange: which one its teacher is of."""
        return LAST

    def payload(self, vertex: int) -> dict[str, ArrayRecord]:
        """Return the records for a vertex in the next train message, beside the order.

        A node uses two names: `arrays`, weights that it loads before it trains, as it sends them itself; and `teacher`,
        soft labels in the order's wire format (with `teacher-weights` for several teachers).

        Parameters
        ----------
        vertex : int
            The recipient.

        Returns
        -------
        dict
            An ArrayRecord by name; empty to send the order only.
        """
        return {}

    def absorb(self, replies: Iterable[tuple[int, RecordDict]]) -> dict[int, str]:
        """Process the replies of one exchange.

        Parameters
        ----------
        replies : iterable of (int, RecordDict)
            Each node's vertex and reply: `arrays`, its weights, if the order has `reply="weights"`; `logits`, in the
            order's wire format, if it has `reply="logits"`. They arrive one by one, so that few are in memory at a
            time; nodes that failed or stayed silent have none.

        Returns
        -------
        dict
            Why a vertex's reply cannot be used, in a few words, by vertex; those nodes are left out of the exchange.
        """
        return {}

    def node_returned(self, vertex: int, hello: Hello) -> None:
        """Called when a node returns under a new id; `hello.fresh` says whether it lost its weights."""
        if hello.fresh and self._weights_at_start:
            self._initial[vertex] = self._weights_at_start

    # -- the run ------------------------------------------------------------------------------------------------------

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
        """Run the handshake and `num_rounds` rounds.

        Parameters
        ----------
        grid : Grid
            Flower's grid, or a Network around it.
        initial_arrays : ArrayRecord, optional
            Initial weights of every node; if omitted, each starts from its own.
        num_rounds : int
            Number of rounds.
        timeout : float
            Seconds to wait for the replies of one exchange.
        train_config : ConfigRecord, optional
            More keys for train messages.
        evaluate_config : ConfigRecord, optional
            More keys for evaluate messages.
        evaluate_fn : callable, optional
            Must be None: there is no global model to evaluate.

        Returns
        -------
        Result
            Metrics by round: means over nodes, and a list `<name>-per-node` in the order of vertices.

        Raises
        ------
        InputError
            If the nodes do not match (see Network.join).
        """
        if evaluate_fn is not None:
            raise InputError(f"{type(self).__name__} takes no evaluate_fn: every node has a model of its own")
        check_run(num_rounds, timeout)
        network = grid if isinstance(grid, Network) else self.network(grid)
        exchanges = self._exchanges_in(1)
        self.phases = self.phases_of(num_rounds, vars(self))
        self._network, self._num_rounds, self._exchange = network, num_rounds, self.last_round * exchanges
        self._composed = {}
        self.order = replace(self.order, total_steps=num_rounds * self.local_steps)
        steps = [rounds * self.local_steps for rounds in self.phases]
        network.greeting = replace(
            network.greeting,
            total_steps=self.order.total_steps,
            phase_steps=steps if len(steps) > 1 else [],
            patience=self.patience,
        )
        network.early_stopping = EarlyStopping(self.num_nodes, self.patience)
        self._tests_in_training = not evaluate_config and _tests_what_is_trained(type(self))
        network.on_return = self._return
        hellos = network.join()
        self._weights_at_start = wire.canonical(initial_arrays) if initial_arrays else ArrayRecord()
        begins = initial_arrays and not self.last_round
        self._initial = dict.fromkeys(range(self.num_nodes), self._weights_at_start) if begins else {}
        with self._named("begin"):
            self.begin(hellos)
        self._restore()
        self.summary()
        result, arrays, started = Result(), ArrayRecord(), time.monotonic()
        for server_round in self._rounds(network):
            self._exchange = (server_round - 1) * exchanges
            network.tested.clear()
            for _ in range(exchanges):
                messages = self._messages(arrays, train_config or ConfigRecord(), network)
                _, metrics = self.aggregate_train(server_round, network.exchange(messages, timeout=timeout))
            if metrics is not None:
                result.train_metrics_clientapp[server_round] = metrics
            config = evaluate_config or ConfigRecord()
            tested = self._evaluated(server_round, arrays, config, network, timeout)
            self._stop(server_round, tested)
            if self._ends(server_round, network):
                network.tested.clear()
                tested = self._evaluated(server_round, arrays, ConfigRecord({**config, BEST: True}), network, timeout)
            if tested is not None:
                result.evaluate_metrics_clientapp[server_round] = tested
                log(INFO, "[ROUND %d/%d] accuracy %.4f", server_round, num_rounds, tested["accuracy"])
            if server_round in self._phase_ends[:-1]:
                network.early_stopping.begin_phase()
            self._finish_round(server_round)
        for sentence in missed_exchanges([network.participation[vertex] for vertex in range(self.num_nodes)]):
            log(INFO, "%s", sentence)
        log(INFO, "%s finished in %.1f s", type(self).__name__, time.monotonic() - started)
        return result

    def network(self, grid: Grid) -> Network:
        """Return the grid as a Network for this strategy's graph."""
        names = nx.get_node_attributes(self.graphs.at(0), "name")
        network = Network(
            grid,
            self.num_nodes,
            vertex_names=[str(names[vertex]) for vertex in range(self.num_nodes)] if names else None,
            same_reference=self.same_reference,
            same_model=self.same_model,
            links=links(type(self), self.graphs.at(0)),
        )
        network.try_parts = self.try_parts
        return network

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Yield one message per node that takes part, with its order and what its neighbors sent."""
        network = self._joined(grid)
        step = self._exchange * self.exchange_every
        drawn, ends = self.contacts.taking_part(self._exchange), self._last_drawn() == self._exchange
        keep = bool(ends.all())
        evaluate = self._tests_in_training and self.is_evaluated(server_round)
        phase_start, total_steps = self._phase(server_round)
        order = replace(
            self.order,
            server_round=server_round,
            step=step,
            exchange=self._exchange,
            keep=keep,
            evaluate=keep and evaluate,
            reply=self.reply(),
            phase_start=phase_start,
            total_steps=total_steps,
        )
        with self._named("ordered"):
            order = self.ordered(order)
        record = order.to_record()
        record.update(config)
        for vertex, node in enumerate(network.get_node_ids()):
            if not drawn[vertex]:
                continue
            fields: dict[str, Any] = {"vertex": vertex} if network.hellos[vertex].vertex != vertex else {}
            fields |= self.fields(vertex)
            if base := self.base(vertex):
                fields["base"] = base
            if (taught := self.taught(vertex)) != LAST:
                fields["taught"] = taught
            if ends[vertex] and not keep:
                fields |= {"keep": True, "evaluate": evaluate}
            if network.early_stopping.stopped[vertex]:
                fields["stopped"] = True
            own = ConfigRecord({**record, **fields}) if fields else record
            content = RecordDict({CONFIG: own, **self._records_for(vertex)})
            yield Message(content, dst_node_id=node, message_type=MessageType.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Pass the replies to `absorb`, leave out those it refuses; return metrics after a round's last exchange."""
        network = self._joined(None)
        if sends_to(type(self)) == "neighbors":
            network.links = self.contacts.receivers(self._exchange)
        answered: list[int] = []
        of_engine: list[Exception] = []
        incoming = self._incoming(replies, answered, of_engine)
        try:
            with self._named("absorb"):
                refused = self.absorb(incoming)
        except InputError:
            if of_engine:  # the strategy is not to blame
                raise of_engine[0] from None
            raise
        if not isinstance(refused, dict):
            raise InputError(f"{self._method('absorb')} returns {of_type(refused)}, not a dict of reasons by vertex")
        deque(incoming, maxlen=0)  # a strategy that requests nothing may not have consumed them
        for vertex, why in refused.items():
            network.leave_out(server_round, vertex, why)
        last = self._is_last_exchange(self._exchange)
        self._exchange += 1
        return None, over_nodes(network, server_round, answered, evaluation=False) if last else None

    @property
    def ends_run(self) -> bool:
        """Whether what nodes reply in the current exchange is not sent to any other node before the run ends."""
        return self._exchange + 1 >= self._exchanges_in(self._num_rounds)

    def _exchanges_in(self, num_rounds: int) -> int:
        return num_rounds * (self.local_steps // self.exchange_every)

    @property
    def _phase_ends(self) -> list[int]:
        """The last round of each phase."""
        return list(accumulate(self.phases))

    def _rounds(self, network: Network) -> Iterator[int]:
        """Yield the rounds of the run; when all nodes have stopped, only the last one of their phase is left.

        That round has what later phases need. In the last phase there is nothing of the kind, and the run ends.
        """
        server_round = self.last_round
        while server_round < self._num_rounds:
            server_round += 1
            if network.early_stopping.everyone:
                end = next(end for end in self._phase_ends if server_round <= end)
                if end == self._num_rounds:
                    log(INFO, "all nodes have stopped: the run ends after round %d", server_round - 1)
                    self._check_exchanged()
                    return
                if end > server_round:
                    log(INFO, "all nodes have stopped: round %d, the last of this phase, is next", end)
                server_round = end
            yield server_round

    def _ends(self, server_round: int, network: Network) -> bool:
        """Return whether nodes that can stop take back their best weights after a round, which ends the run."""
        in_last_phase = server_round > self._num_rounds - self.phases[-1]
        everyone = in_last_phase and network.early_stopping.everyone
        return bool(self.patience) and (everyone or server_round == self._num_rounds)

    def _phase(self, server_round: int) -> tuple[int, int]:
        """Return the number of steps before the phase of a round, and in it."""
        for rounds, end in zip(self.phases, accumulate(self.phases), strict=True):
            if server_round <= end:
                return (end - rounds) * self.local_steps, rounds * self.local_steps
        return 0, self.order.total_steps

    def is_evaluated(self, server_round: int) -> bool:
        """Return whether nodes are evaluated after a round: each `evaluate_every`-th, and the last of each phase."""
        return due(server_round, self.evaluate_every, self._num_rounds) or server_round in self._phase_ends

    def waits(self, exchange: int) -> bool:
        """Return whether the messages of an exchange cannot be sent before all replies of the previous one are in."""
        return not self.pipeline or bool(self._initial)

    def _messages(self, arrays: ArrayRecord, config: ConfigRecord, network: Network) -> Iterable[Message]:
        """Return the train messages of the current exchange; if they need not wait, those of the next are sent too."""
        now, following = self._exchange, self._exchange + 1
        messages: Iterable[Message] = self._composed.pop(now, [])
        if not messages:
            messages = self.configure_train(self._round_of(now), arrays, config, network)
        if self.pipeline and network.sends_ahead:
            messages = list(messages)
            network.send_ahead(messages)
            if following < self._exchanges_in(self._num_rounds) and not self.waits(following):
                untested = set(self._untested().tolist())
                with self._at(following):
                    ahead = list(self.configure_train(self._round_of(following), arrays, config, network))
                network.send_ahead(m for m in ahead if network.vertex(m.metadata.dst_node_id) not in untested)
                self._composed[following] = ahead
        return messages

    def _untested(self) -> np.ndarray:
        """Return the vertices that are evaluated by another message in a round that ends now.

        Those are all, or the ones that are not drawn in this round.
        """
        ends_round = self._is_last_exchange(self._exchange)
        if not (ends_round and self.is_evaluated(self._round_of(self._exchange))):
            return np.empty(0, dtype=int)
        return np.flatnonzero(self._last_drawn() < 0) if self._tests_in_training else np.arange(self.num_nodes)

    @contextmanager
    def _at(self, exchange: int) -> Iterator[None]:
        """Take another exchange for the current one, to compose its messages."""
        current, self._exchange = self._exchange, exchange
        try:
            yield
        finally:
            self._exchange = current

    def _round_of(self, exchange: int) -> int:
        return exchange // self._exchanges_in(1) + 1

    def _is_last_exchange(self, exchange: int) -> bool:
        """Return whether an exchange is the last one of its round."""
        return (exchange + 1) % self._exchanges_in(1) == 0

    def _last_drawn(self) -> np.ndarray:
        """Return the last exchange of the current round for which each node is drawn, -1 for none, [nodes]."""
        exchanges = self._exchanges_in(1)
        this_round = self._exchange // exchanges
        if self.contacts.participation == 1:
            return np.full(self.num_nodes, (this_round + 1) * exchanges - 1)
        if self._round_ends[0] != this_round:
            ends = np.full(self.num_nodes, -1)
            for exchange in range(this_round * exchanges, (this_round + 1) * exchanges):
                ends[self.contacts.taking_part(exchange)] = exchange
            self._round_ends = this_round, ends
        return self._round_ends[1]

    def _incoming(
        self, replies: Iterable[Message], answered: list[int], of_engine: list[Exception]
    ) -> Iterator[tuple[int, RecordDict]]:
        """Yield each reply's vertex and content; note who answered, and what error ended the replies."""
        network = self._joined(None)
        iterator = iter(replies)
        while True:
            try:
                reply = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                of_engine.append(error)
                raise
            vertex = network.vertex(reply.metadata.src_node_id)
            self._initial.pop(vertex, None)  # a node that did not answer is sent its initial weights again
            answered.append(vertex)
            yield vertex, reply.content

    def _evaluated(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, network: Network, timeout: float
    ) -> MetricRecord | None:
        """Evaluate the nodes if a round has an evaluation, and return the metrics over nodes."""
        messages = self.configure_evaluate(server_round, arrays, config, network)
        return self.aggregate_evaluate(server_round, network.exchange(messages, timeout=timeout))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Yield one message per node that has not been evaluated in training, in rounds with an evaluation."""
        if not self.is_evaluated(server_round):
            return
        network = self._joined(grid)
        in_training, ahead = set(network.tested), network.ahead
        record = ConfigRecord({"server-round": server_round, **config})
        for vertex, node in enumerate(network.get_node_ids()):
            if vertex in in_training or vertex in ahead:  # it would be evaluated after later steps
                continue
            if in_training and network.is_silent(vertex):  # if only silent nodes were asked, they would be waited for
                continue
            content = RecordDict({CONFIG: record, **self._records("evaluation_payload", vertex)})
            yield Message(content, dst_node_id=node, message_type=MessageType.EVALUATE)

    def evaluation_payload(self, vertex: int) -> dict[str, ArrayRecord]:
        """Return the records that a vertex needs before it is evaluated, such as weights under the name `arrays`.

        Nodes of a strategy that overrides this are evaluated by messages of their own, others when they have trained.
        """
        return {}

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return the metrics over nodes, those included that have been evaluated in training."""
        deque(replies, maxlen=0)
        network = self._joined(None)
        return over_nodes(network, server_round, sorted(network.tested), evaluation=True)

    def _stop(self, server_round: int, tested: MetricRecord | None) -> None:
        """Stop the nodes whose patience is at its end, by what they reported in an evaluation."""
        network = self._joined(None)
        losses: dict[int, float] = {}
        for vertex in tested["vertices"] if tested is not None else []:  # type: ignore[union-attr]
            values = network.metrics[server_round, int(vertex)].values
            if VALIDATION_LOSS in values:
                losses[int(vertex)] = values[VALIDATION_LOSS]
        for vertex in network.early_stopping.observe(server_round, losses):
            words = "round %d: node %d stops, its validation loss has not improved in %d evaluations"
            log(INFO, words, server_round, vertex, self.patience)

    def _check_exchanged(self) -> None:
        """Raise InputError if a run that ends shows nothing of the strategy."""

    def summary(self) -> None:
        """Log the strategy, its graph and its schedule."""
        log(
            INFO,
            "%s: %s, %s, %s per round, one exchange every %s",
            type(self).__name__,
            _counted(self.num_nodes, "node"),
            _counted(self.graphs.union.number_of_edges(), "edge"),
            _counted(self.local_steps, "local step"),
            _counted(self.exchange_every, "step"),
        )

    def _records_for(self, vertex: int) -> dict[str, ArrayRecord]:
        start = {ARRAYS: self._initial[vertex]} if vertex in self._initial else {}
        if self._joined(None).early_stopping.stopped[vertex] and not self.order.logit_adjustment:
            return start  # it learns no more; corrected logits depend on the teacher too
        return start | self._records("payload", vertex)

    def _records(self, method: str, vertex: int) -> dict[str, ArrayRecord]:
        """Return what `payload` or `evaluation_payload` returns; raises InputError if it cannot be sent."""
        with self._named(method):
            records = getattr(self, method)(vertex)
        if not isinstance(records, dict):
            raise InputError(f"{self._method(method)} returns {of_type(records)}, not a dict of ArrayRecords by name")
        for name, record in records.items():
            if not isinstance(record, ArrayRecord):
                kind = type(record).__name__
                raise InputError(f"{self._method(method)} must return a dict of ArrayRecords: {name!r} is a {kind}")
        return records

    def _return(self, vertex: int, hello: Hello) -> None:
        if hello.fresh or self._joined(None).is_behind(vertex):
            self._joined(None).early_stopping.forget(vertex)
        with self._named("node_returned"):
            self.node_returned(vertex, hello)

    def _joined(self, grid: Grid | None) -> Network:
        network = grid if isinstance(grid, Network) else self._network
        if network is None:
            raise RuntimeError("start() runs the handshake first")
        return network


def _tests_what_is_trained(strategy: type[GraphStrategy]) -> bool:
    """Return whether nodes are evaluated as they have trained, so that no message of its own is needed."""
    names = ("evaluation_payload", "configure_evaluate", "aggregate_evaluate")
    return all(getattr(strategy, name) is getattr(GraphStrategy, name) for name in names)


def check_run(num_rounds: int, timeout: float) -> None:
    """Raise InputError unless the number of rounds and the timeout are valid."""
    require_whole("num_rounds", num_rounds, 1)
    require_number("timeout", timeout, above=0)


def no_patience(strategy: type, patience: int, name: str) -> str:
    """Return why nodes of a strategy, known by a name, cannot stop; empty if they can, or need not."""
    if patience and getattr(strategy, "same_model", False):
        return (
            f"patience = {patience}: {name} averages weights, so that no node can stop and keep its own best (use "
            "patience = 0, or a strategy that distills)"
        )
    return ""


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def due(server_round: int, every: int, num_rounds: int) -> bool:
    """Return whether a round is evaluated: each `every`-th one, and the last."""
    return server_round == num_rounds or server_round % every == 0


def over_nodes(network: Network, server_round: int, vertices: list[int], *, evaluation: bool) -> MetricRecord | None:
    """Return the mean and spread over nodes of each metric of training or evaluation, and its list by vertex."""
    if not vertices:
        return None
    vertices = sorted(vertices)
    reported = [network.metrics[server_round, vertex].values for vertex in vertices]
    merged = MetricRecord({"vertices": vertices})
    for name in reported[0]:
        own = name.removeprefix(TEST)
        # Validation metrics belong to the evaluation, unless a node reports some when none was asked for.
        of_evaluation = own != name or (name.startswith(VALIDATION) and (evaluation or bool(network.tested)))
        if of_evaluation == evaluation and all(name in values for values in reported):
            values = [values[name] for values in reported]
            merged[own] = float(np.mean(values))
            merged[f"{own}-std"] = float(np.std(values))
            merged[f"{own}-per-node"] = values
    return merged
