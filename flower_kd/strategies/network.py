"""A Flower Grid that knows the graph: handshake, vertices for node ids, traffic, metrics, absent nodes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from logging import DEBUG, WARNING

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from flower_kd.errors import InputError
from flower_kd.protocol import (
    ARRAYS,
    BUILD,
    CONFIG,
    EVALUATION,
    JOIN,
    LOGITS,
    NOT_JOINED,
    START_WEIGHTS,
    BuildRequest,
    Greeting,
    Hello,
)
from flower_kd.strategies import inbox
from flower_kd.strategies.delivery import Delivery
from flower_kd.strategies.early_stopping import EarlyStopping
from flower_kd.strategies.handshake import check_alike, check_class_counts, check_masks, vertex_of
from flower_kd.strategies.node_records import NodeMetrics, Participation, Traffic, named
from flower_kd.strategies.resumable import State
from flower_kd.wire import Arrays, content_bytes, message_bytes

JOIN_SECONDS = 0.5  # between polls for newly connected nodes
GIVE_UP_AFTER = 3  # consecutive train exchanges without any node
MOST_ASKED = 3  # nodes, one after the other, for the weights with which they start


class Network(Grid):
    """Wraps a Grid so that any strategy sees the nodes in the order of their vertices.

    It counts bytes, keeps every node's metrics, and reports and leaves out nodes that fail or stay silent. Flower's
    own strategies run on it unchanged.

    Parameters
    ----------
    grid : Grid
        Flower's, or that of the in-process engine.
    num_nodes : int
        Vertices of the graph.
    vertex_names : list of str, optional
        Names of the vertices 0, 1, ... if the graph has names; nodes then state theirs in the node config.
    same_reference : bool
        Whether all nodes must have the same reference set.
    same_model : bool
        Whether all nodes must train the same model.
    links : sequence of int, optional
        Number of links over which each vertex sends to others, until a strategy sets it for an exchange; by default
        one.
    connect_seconds : float
        How long to wait for all nodes to connect.
    """

    def __init__(
        self,
        grid: Grid,
        num_nodes: int,
        *,
        vertex_names: list[str] | None = None,
        same_reference: bool = True,
        same_model: bool = False,
        links: Sequence[int] | np.ndarray | None = None,
        connect_seconds: float = 300.0,
    ) -> None:
        self._grid = grid
        self.num_nodes = num_nodes
        self.vertex_names = vertex_names
        self._vertex_of_name = {name: vertex for vertex, name in enumerate(vertex_names or [])}
        self.same_reference = same_reference
        self.same_model = same_model
        self.links = np.ones(num_nodes, dtype=np.int64) if links is None else np.asarray(links)
        self.connect_seconds = connect_seconds
        self.try_parts: Callable[[dict[int, Hello]], None] = lambda hellos: None  # the server's, when all nodes fit
        # For each vertex, the others whose networks it must be able to build.
        self.must_build: Callable[[dict[int, Hello]], dict[int, list[int]]] = lambda hellos: {}
        self.on_join: Callable[[], None] = lambda: None  # called after that, before anything is trained
        self.greeting = Greeting()  # what nodes need to keep their states, and to check that they have all parts
        self.on_return: Callable[[int, Hello], None] = lambda vertex, hello: None  # called for a node with a new id
        self.hellos: dict[int, Hello] = {}
        self.traffic = Traffic.none(num_nodes)
        self.metrics: dict[tuple[int, int], NodeMetrics] = {}
        self.tested: set[int] = set()  # vertices evaluated since a strategy emptied this set
        self.participation: dict[int, Participation] = {}
        self.saved_rounds = np.zeros(num_nodes, dtype=np.int64)  # the last round whose end state each node was to save
        # Messages with noise that each node was asked for, or says that it has sent, if these are more.
        self.noised_messages = np.zeros(num_nodes, dtype=np.int64)
        self.early_stopping = EarlyStopping(num_nodes, patience=0)
        self.clock: Callable[[], float] = time.monotonic
        self.sleep: Callable[[float], None] = time.sleep
        self._delivery = Delivery(
            grid, lambda: self.clock(), lambda seconds: self.sleep(seconds), on_sent=self._count_sent
        )
        self._training: set[int] = set()  # vertices in the current train exchange
        self._returning: dict[int, str] = {}  # replied after an absence, unless the strategy refuses the reply
        self._last_round: dict[int, int] = {}  # the last round in which a node took part
        self._rejoined: set[int] = set()  # under another id, and without a reply since
        self._metric_names: dict[int, set[str]] = {}  # all that a node has reported in this run
        self._empty_exchanges = 0
        self.absent: dict[int, str] = {}  # by vertex: in which kind of exchange, train or evaluate, it can return
        self._vertex_of: dict[int, int] = {}
        self._node_of: dict[int, int] = {}
        self._formerly: dict[int, int] = {}  # vertices of nodes that returned under another id, by their old one
        self._late_nodes: set[int] = set()
        self._in_line: dict[int, int] = {}  # nodes that are not used, as another one had their vertex
        self._unjoined: dict[int, bool] = {}  # nodes that lost their state under the same id; whether they are asked

    # -- handshake ----------------------------------------------------------------------------------------------------

    def join(self) -> dict[int, Hello]:
        """Run the handshake: ask every node for its Hello, reset it, and check that all nodes match.

        Returns
        -------
        dict
            Each vertex's Hello.

        Raises
        ------
        InputError
            If vertices are missing or claimed twice, or nodes differ in classes, reference set or (if it matters)
            model. Nothing has been trained in that case.
        """
        self.hellos.clear()
        self._vertex_of.clear()
        self._node_of.clear()
        self.traffic = Traffic.none(self.num_nodes)
        self.metrics.clear()
        self.tested.clear()
        self.participation = {vertex: Participation() for vertex in range(self.num_nodes)}
        self.saved_rounds[:] = 0
        self.noised_messages[:] = 0
        self._metric_names.clear()
        self.absent.clear()
        self._formerly.clear()
        self._late_nodes.clear()
        self._in_line.clear()
        self._unjoined.clear()
        self._returning.clear()
        self._last_round.clear()
        self._rejoined.clear()
        self._delivery.reset()
        self._empty_exchanges = 0
        deadline = self.clock() + self.connect_seconds
        asked: set[int] = set()
        while len(self.hellos) < self.num_nodes:
            new = [node for node in self._grid.get_node_ids() if node not in asked]
            asked.update(new)
            for message, reply in self._delivery.answers(
                _greetings(new, self.greeting), max(deadline - self.clock(), 1.0)
            ):
                self._admit(message, reply)
            if len(self.hellos) == self.num_nodes:
                break
            if len(asked) > len(self.hellos) or self.clock() > deadline:
                missing = [self._label(v) for v in range(self.num_nodes) if v not in self.hellos]
                raise InputError(
                    f"{len(missing)} of {self.num_nodes} nodes did not join: {', '.join(missing[:8])}"
                    f"{', ...' if len(missing) > 8 else ''} ({len(asked)} nodes are connected)"
                )
            self.sleep(JOIN_SECONDS)
        self._check_fit(self.hellos)
        self.try_parts(self.hellos)
        self._check_building()
        self.on_join()
        return self.hellos

    def _admit(self, message: Message, reply: Message) -> None:
        """Assign a node to the vertex it claims; raises InputError if this is impossible."""
        node = message.metadata.dst_node_id
        try:
            hello = inbox.hello(message, reply)
        except InputError as error:
            raise InputError(f"the node with Flower's id {node}: {error}") from None
        vertex = vertex_of(hello, self.num_nodes, self._vertex_of_name)
        if vertex in self.hellos and vertex not in self.absent:
            self._in_line[node] = vertex
            raise InputError(f"two nodes both claim vertex {self._label(vertex)}: each needs a place of its own")
        returning = vertex in self.absent
        if returning:
            self._check_fit({**self.hellos, vertex: hello})
            old = self._node_of[vertex]
            self._vertex_of.pop(old, None)
            if old != node:
                self._formerly[old] = vertex
            self._delivery.forget(old)
            self._rejoined.add(vertex)
        self.hellos[vertex] = hello
        self._vertex_of[node], self._node_of[vertex] = vertex, node
        self._formerly.pop(node, None)
        self.traffic.down[vertex] += message_bytes(message)
        self.traffic.up[vertex] += message_bytes(reply)
        self.noised_messages[vertex] = max(self.noised_messages[vertex], hello.noised_messages)
        if returning:
            if self.is_behind(vertex) and not hello.fresh:
                words = "node %s returns with an older state, of round %d instead of %d: a backup, or a full disk"
                log(WARNING, words, self._label(vertex), hello.restored_round, self.saved_rounds[vertex])
            self.on_return(vertex, hello)
            self.saved_rounds[vertex] = min(self.saved_rounds[vertex], hello.restored_round)

    def is_behind(self, vertex: int) -> bool:
        """Return whether a node joined with an older state than it has had in this run, or with none."""
        return self.hellos[vertex].restored_round < int(self.saved_rounds[vertex])

    def _count_sent(self, message: Message) -> None:
        """Count a message to a node that has joined: its bytes, and the noise of the reply, which may be lost."""
        vertex = self._vertex_of.get(message.metadata.dst_node_id)
        if vertex is not None:
            self.traffic.down[vertex] += message_bytes(message)
            config = message.content[CONFIG]
            if "wire-noise" in config and config.get("reply") == LOGITS:
                self.noised_messages[vertex] += 1

    def _check_fit(self, hellos: dict[int, Hello]) -> None:
        check_alike(hellos, self._label, reference=self.same_reference, model=self.same_model)
        if self.same_model:
            check_masks(hellos, self._label)
        if self.greeting.class_counts:
            check_class_counts(hellos, self._label)

    def _check_building(self) -> None:
        """Ask nodes whether they can build their neighbors' networks; raises InputError for the first that cannot."""
        others = {vertex: found for vertex, found in self.must_build(self.hellos).items() if found}
        requests = []
        for vertex, found in others.items():
            hellos = [self.hellos[other] for other in found]
            wanted = BuildRequest(
                [hello.model for hello in hellos],
                [hello.parameters for hello in hellos],
                [hello.pruned for hello in hellos],
            )
            content = RecordDict({CONFIG: wanted.to_record()})
            requests.append(Message(content, dst_node_id=self._node_of[vertex], message_type=BUILD))
        answered: set[int] = set()
        for message, reply in self._delivery.answers(requests, self.connect_seconds):
            vertex = self._vertex_of[message.metadata.dst_node_id]
            self.traffic.up[vertex] += message_bytes(reply)
            try:
                built = inbox.built(message, reply)
            except InputError as error:
                raise InputError(f"node {self._label(vertex)}: {error}") from None
            if 0 <= built.failed < len(others[vertex]):
                other = others[vertex][built.failed]
                raise InputError(
                    f"node {self._label(vertex)} cannot build the network {self.hellos[other].model!r} of its neighbor "
                    f"{self._label(other)}: {built.error}"
                )
            answered.add(vertex)
        silent = sorted(others.keys() - answered)
        if silent:
            raise InputError(f"node {self._label(silent[0])} does not say whether it can build its neighbors' networks")

    def _label(self, vertex: int) -> str:
        return str(vertex) if self.vertex_names is None else self.vertex_names[vertex]

    def start_weights(self) -> Arrays:
        """Return the weights with which a node starts; empty if none of the first few vertices tells them.

        Where nodes start from equal weights, those linked directly know each other's. Only a server does not, so these
        bytes are not counted as shared.
        """
        for vertex in range(min(self.num_nodes, MOST_ASKED)):
            content = RecordDict({CONFIG: ConfigRecord()})
            request = Message(content, dst_node_id=self._node_of[vertex], message_type=START_WEIGHTS)
            for message, reply in self._delivery.answers([request], self.connect_seconds):
                self.traffic.up[vertex] += message_bytes(reply)
                try:
                    return inbox.start_weights(message, reply)
                except InputError as error:
                    log(WARNING, "node %s does not tell its weights: %s", self._label(vertex), error)
        return {}

    # -- resumption ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """Return the traffic so far, the participation, and which nodes are absent or have stopped."""
        absent = np.array(sorted(self.absent), dtype=np.int64)
        parts = json.dumps({vertex: vars(part) for vertex, part in self.participation.items()})
        return {
            **vars(self.traffic),
            "saved-rounds": self.saved_rounds,
            "noised-messages": self.noised_messages,
            "participation": np.frombuffer(parts.encode(), dtype=np.uint8),
            "absent": absent,
            **self.early_stopping.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned, in a network whose nodes have joined."""
        self.traffic = Traffic(**{name: state[name] for name in vars(self.traffic)})
        parts = json.loads(state["participation"].tobytes())
        self.participation = {int(vertex): Participation(**part) for vertex, part in parts.items()}
        self.saved_rounds = state["saved-rounds"]
        # A device may have sent more since, in a round that was not finished.
        self.noised_messages = np.maximum(state["noised-messages"], self.noised_messages)
        self.absent = dict.fromkeys(state["absent"].tolist(), MessageType.TRAIN)
        self.early_stopping.load_state_dict(state)

    # -- for strategies -----------------------------------------------------------------------------------------------

    def node_id(self, vertex: int) -> int:
        """Return Flower's id of the node at a vertex."""
        return self._node_of[vertex]

    def vertex(self, node_id: int) -> int:
        """Return the vertex of a node."""
        return self._vertex_of[node_id]

    @property
    def sends_ahead(self) -> bool:
        """Whether `send_ahead` is of use: messages wait for their node, which answers them in order."""
        return self._delivery.queues

    def send_ahead(self, messages: Iterable[Message]) -> None:
        """Send train messages that `exchange` will be called with later, except to nodes that are not sure to answer.

        Those to absent nodes, and all that are not sent here, are sent by `exchange`.
        """
        found = ((self._vertex_of.get(message.metadata.dst_node_id), message) for message in messages)
        self._delivery.send_ahead(
            message
            for vertex, message in found
            if vertex is not None and vertex not in self.absent and message.metadata.dst_node_id not in self._unjoined
        )

    @property
    def ahead(self) -> set[int]:
        """The vertices with a message of a later exchange."""
        return {self._vertex_of[node] for node in self._delivery.ahead if node in self._vertex_of}

    def is_silent(self, vertex: int) -> bool:
        """Return whether a node has not answered its last message in time, nor since."""
        return self._delivery.is_silent(self._node_of[vertex])

    def get_node_ids(self) -> list[int]:
        """Return the ids of the nodes that joined, in the order of their vertices."""
        self._readmit()
        return [self._node_of[vertex] for vertex in sorted(self._node_of)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages, and return the usable replies, in the order of vertices."""
        replies = self.exchange(messages, timeout=timeout)
        return sorted(replies, key=lambda reply: self._vertex_of[reply.metadata.src_node_id])

    def exchange(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Send train or evaluate messages, and yield the usable replies as they arrive.

        Nodes without one are left out of the exchange with a warning.

        Raises
        ------
        InputError
            If no node took part in three consecutive train exchanges.
        """
        self._announce_returns()
        self._training.clear()
        server_round, given_weights = 0, set()
        missing: dict[int, str] = {}

        def noted() -> Iterator[Message]:
            nonlocal server_round
            for message in messages:
                node = message.metadata.dst_node_id
                vertex = self._formerly[node] if node in self._formerly else self._vertex_of[node]
                missing[vertex] = "no reply" if timeout is None else f"no reply in time (timeout = {timeout:g} s)"
                server_round = int(message.content[CONFIG].get("server-round", 0))  # type: ignore[arg-type]
                if ARRAYS in message.content:
                    given_weights.add(vertex)
                if message.metadata.message_type == MessageType.TRAIN:
                    self.participation[vertex].due += 1
                    self._training.add(vertex)
                if node in self._unjoined:  # it would answer before it is known what it has
                    missing[vertex] = "it has not joined again yet"
                    self._delivery.give_up(message)
                elif node in self._formerly:  # the message was sent ahead
                    missing[vertex] = "it has returned under another id"
                    self._delivery.give_up(message)
                else:
                    yield message

        answered = 0
        for message, reply in self._delivery.answers(noted(), timeout):
            vertex = self._vertex_of[message.metadata.dst_node_id]
            if vertex not in missing:  # a duplicate reply
                continue
            try:
                metrics = inbox.metrics(message, reply)
                inbox.check_names(self._metric_names.setdefault(vertex, set()), metrics)
            except InputError as error:
                missing[vertex] = str(error)
                if reply.has_error() and reply.error.code == NOT_JOINED:
                    self._unjoined.setdefault(message.metadata.dst_node_id, False)  # or it is asked already
                continue
            del missing[vertex]
            answered += 1
            tested = self._tested(message, reply, vertex)
            self._record(server_round, vertex, reply, metrics, tested)
            if message.content[CONFIG].get("keep"):
                self.saved_rounds[vertex] = server_round
            kinds = {message.metadata.message_type, *([MessageType.EVALUATE] if tested else [])}
            if self.absent.get(vertex) in kinds:
                self._returning[vertex] = f"in round {server_round}, {self._weights(vertex, vertex in given_weights)}"
            if vertex not in self.absent or vertex in self._returning:
                self._last_round[vertex] = server_round
                self._rejoined.discard(vertex)
            yield reply
        training = bool(self._training)
        for vertex in sorted(missing):
            if training:
                self.participation[vertex].taken += 1  # reverted by leave_out
            self.leave_out(server_round, vertex, missing[vertex])
        if server_round:  # not in a round without an evaluation
            self.greeting = replace(self.greeting, server_round=server_round)  # for nodes that come back later
        if training:
            self._empty_exchanges = 0 if answered else self._empty_exchanges + 1
        else:
            self._announce_returns()  # no strategy refuses the replies of an evaluation
        if self._empty_exchanges == GIVE_UP_AFTER:
            raise InputError(
                f"no node took part in {GIVE_UP_AFTER} exchanges in a row, the last in round {server_round}; "
                f"node {self._label(min(missing))}: {missing[min(missing)]}"
            )

    def leave_out(self, server_round: int, vertex: int, why: str) -> None:
        """Record that a node takes no part in this exchange; warn if it did in the previous one."""
        training = vertex in self._training
        if training:
            self._training.remove(vertex)
            part = self.participation[vertex]
            part.taken -= 1
            part.reasons[why] = part.reasons.get(why, 0) + 1
        self._returning.pop(vertex, None)
        level = DEBUG if vertex in self.absent else WARNING
        if training or vertex not in self.absent:
            self.absent[vertex] = MessageType.TRAIN if training else MessageType.EVALUATE
        log(level, "round %d continues without node %s: %s", server_round, self._label(vertex), why)

    def _tested(self, message: Message, reply: Message, vertex: int) -> dict[str, float]:
        """Return the metrics of an evaluation in a usable reply to a train message; empty if there are none.

        Those that cannot be used are left out, not the reply: the node is asked for them again, alone, and named then.
        """
        try:
            tested = inbox.evaluation(message, reply)
            inbox.check_names(self._metric_names[vertex], tested)
        except InputError:
            del reply.content[EVALUATION]
            return {}
        return tested

    def _record(
        self, server_round: int, vertex: int, reply: Message, metrics: dict[str, float], tested: dict[str, float]
    ) -> None:
        """Record a reply's metrics, those of an evaluation in a reply to a train message, and its bytes."""
        self.traffic.up[vertex] += message_bytes(reply)
        if any(isinstance(record, ArrayRecord) for record in reply.content.values()):
            # Not the evaluation, which is for the researcher and not for the neighbors.
            size = content_bytes(RecordDict({k: v for k, v in reply.content.items() if k != EVALUATION}))
            self.traffic.shared[vertex] += size
            self.traffic.messages[vertex] += 1
            self.traffic.over_links[vertex] += size * self.links[vertex]
            self.traffic.messages_over_links[vertex] += self.links[vertex]
        if vertex in self._training:
            self.participation[vertex].taken += 1
        evaluation = reply.metadata.message_type == MessageType.EVALUATE
        kept = self.metrics.setdefault((server_round, vertex), NodeMetrics(server_round, vertex))
        kept.values.update(named(metrics, evaluation=evaluation) | named(tested, evaluation=True))
        if evaluation or tested:
            self.tested.add(vertex)
        kept.values["bytes-shared"] = float(self.traffic.shared[vertex])
        kept.values["bytes-all-edges"] = float(self.traffic.over_links[vertex])

    def _weights(self, vertex: int, given: bool) -> str:
        """Return, for the log, with which weights a node returns."""
        if given:
            return "with the weights it was sent"
        if vertex not in self._rejoined:
            last = self._last_round.get(vertex)
            return f"with its own weights (last reply in round {last})" if last else "with its own weights"
        kept = self.hellos[vertex].restored_round
        return f"with its own weights of round {kept}" if kept else "with fresh weights"

    def _announce_returns(self) -> None:
        """Log the nodes that are back: those whose first reply after an absence was usable."""
        for vertex in sorted(self._returning):
            del self.absent[vertex]
            log(WARNING, "node %s is back %s", self._label(vertex), self._returning[vertex])
        self._returning.clear()

    def _readmit(self) -> None:
        """Assign absent vertices to nodes that connected under a new id, or lost their state (a restarted device).

        Each is asked once, and again when the node whose vertex it claims is gone; its answer is not waited for but
        polled for each time.
        """
        if not self.absent and not self._delivery.has_unawaited:
            return
        connected = dict.fromkeys(self._grid.get_node_ids())
        new = [n for n in connected if n not in self._vertex_of and n not in self._late_nodes]
        self._late_nodes.update(new)
        for node, vertex in list(self._in_line.items()):
            if node in connected and vertex in self.absent and self._node_of[vertex] not in connected:
                del self._in_line[node]
                new.append(node)
        new += [node for node, asked in self._unjoined.items() if not asked]
        self._unjoined = dict.fromkeys(self._unjoined, True)
        for message, reply in self._delivery.unawaited(_greetings(new, replace(self.greeting, fresh=False))):
            self._unjoined.pop(message.metadata.dst_node_id, None)
            try:
                self._admit(message, reply)
            except InputError as error:
                log(WARNING, "a node that joined late is not used: %s", error)

    # -- the rest of Grid ---------------------------------------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """Set the run of the wrapped grid."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run of the wrapped grid."""
        return self._grid.run

    def create_message(self, *args: object, **kwargs: object) -> Message:
        """Create a message as the wrapped grid does."""
        return self._grid.create_message(*args, **kwargs)  # type: ignore[arg-type]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages to the wrapped grid, uncounted."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull messages from the wrapped grid, uncounted."""
        return self._grid.pull_messages(message_ids)


def _greetings(nodes: Iterable[int], greeting: Greeting) -> Iterator[Message]:
    """Yield one handshake message per node."""
    for node in nodes:
        yield Message(RecordDict({CONFIG: greeting.to_record()}), dst_node_id=node, message_type=JOIN)
