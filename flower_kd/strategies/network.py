"""A Flower Grid that knows the graph: handshake, vertices for node ids, traffic, metrics, absent nodes."""

from __future__ import annotations

import json
import math
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from logging import INFO, WARNING
from typing import TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from flower_kd.errors import InputError
from flower_kd.protocol import CONFIG, HELLO, JOIN, METRICS, Greeting, Hello
from flower_kd.strategies.resumable import State
from flower_kd.wire import message_bytes

T = TypeVar("T", bound=Hashable)

POLL_SECONDS = 0.5
GREETING_SECONDS = 60.0


@dataclass
class Traffic:
    """Bytes of serialized Flower messages, by vertex.

    Parameters
    ----------
    up, down : ndarray
        All that a node sent and received, handshake, metrics and evaluation included, [nodes].
    shared, messages : ndarray
        What a node sent that is meant for its neighbors (replies that carry arrays), and in how many messages, [nodes].
    """

    up: np.ndarray
    down: np.ndarray
    shared: np.ndarray
    messages: np.ndarray

    @classmethod
    def none(cls, num_nodes: int) -> Traffic:
        """Return zero bytes for each vertex."""
        return cls(*(np.zeros(num_nodes, dtype=np.int64) for _ in range(4)))


@dataclass
class NodeMetrics:
    """What one node reported in one round, by metric."""

    server_round: int
    vertex: int
    values: dict[str, float] = field(default_factory=dict)


@dataclass
class Participation:
    """In how many train exchanges a node should have taken part, in how many it did, and why not in the others.

    Parameters
    ----------
    due, taken : int
        Train messages that went to the node; those whose replies were used.
    reasons : dict
        How often each reason left the node out; they sum to `due - taken` when an exchange is over.
    """

    due: int = 0
    taken: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


class StreamingGrid(Grid):
    """A Grid that has each message answered before it takes the next ones, so that few are in memory at a time."""

    @abstractmethod
    def stream(self, messages: Iterable[Message]) -> Iterator[tuple[Message, Message]]:
        """Take messages as they are needed, and yield each with its reply."""


class Network(Grid):
    """Wraps a Grid so that any strategy sees the nodes in the order of their vertices.

    It counts bytes, keeps every node's metrics, names the nodes that fail or stay silent and leaves them out. Flower's
    own strategies run on it unchanged.

    Parameters
    ----------
    grid : Grid
        Flower's, or that of the in-process engine.
    num_nodes : int
        Vertices of the graph.
    vertex_names : list of str, optional
        Names of the vertices 0, 1, ... where the graph has names; nodes then say theirs in the node config.
    same_reference : bool
        Whether all nodes must hold the same reference set.
    same_model : bool
        Whether all nodes must train the same model.
    links : sequence of int, optional
        Over how many links each vertex sends what it has for others; one without it.
    connect_seconds : float
        How long to wait for all nodes before the run is given up.
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
        self.on_join: Callable[[], None] = lambda: None  # called when all nodes fit, before anything is trained
        self.greeting = Greeting()  # of a run with a folder: what nodes need to keep their states there
        self.hellos: dict[int, Hello] = {}
        self.traffic = Traffic.none(num_nodes)
        self.metrics: dict[tuple[int, int], NodeMetrics] = {}
        self.participation: dict[int, Participation] = {}
        self._training: set[int] = set()  # who takes part in the train exchange that is going on
        self.absent: set[int] = set()
        self._vertex_of: dict[int, int] = {}
        self._node_of: dict[int, int] = {}
        self._strangers: set[int] = set()

    # -- handshake ----------------------------------------------------------------------------------------------------

    def join(self) -> dict[int, Hello]:
        """Ask every node who it is, make it begin anew, and check that all fit together.

        Returns
        -------
        dict
            Each vertex's Hello.

        Raises
        ------
        InputError
            If vertices are missing or claimed twice, or nodes differ in classes, reference set or (where it matters)
            model. Nothing has been trained then.
        """
        self.hellos.clear()
        self._vertex_of.clear()
        self._node_of.clear()
        self.traffic = Traffic.none(self.num_nodes)
        self.metrics.clear()
        self.participation = {vertex: Participation() for vertex in range(self.num_nodes)}
        self.absent.clear()
        self._strangers.clear()
        deadline = time.monotonic() + self.connect_seconds
        asked: set[int] = set()
        while len(self.hellos) < self.num_nodes:
            new = [node for node in self._grid.get_node_ids() if node not in asked]
            asked.update(new)
            self._greet(new, self.greeting, timeout=max(deadline - time.monotonic(), 1.0))
            if len(self.hellos) == self.num_nodes:
                break
            if len(asked) > len(self.hellos) or time.monotonic() > deadline:
                missing = [self._label(v) for v in range(self.num_nodes) if v not in self.hellos]
                raise InputError(
                    f"{len(missing)} of {self.num_nodes} nodes did not join: {', '.join(missing[:8])}"
                    f"{', ...' if len(missing) > 8 else ''} ({len(asked)} nodes are connected)"
                )
            time.sleep(POLL_SECONDS)
        self._check_alike(self.hellos)
        self.on_join()
        return self.hellos

    def _greet(self, nodes: list[int], greeting: Greeting, timeout: float) -> None:
        """Ask nodes who they are, and take them in at their vertices."""
        messages = [
            Message(RecordDict({CONFIG: greeting.to_record()}), dst_node_id=node, message_type=JOIN) for node in nodes
        ]
        sizes = {message.metadata.dst_node_id: message_bytes(message) for message in messages}
        for node, reply in self._answers(messages, timeout):
            if reply.has_error():
                raise InputError(f"a node failed in the handshake: {_last_line(reply.error.reason)}")
            record = reply.content.get(HELLO)
            if not isinstance(record, ConfigRecord):
                raise InputError("a node answers the handshake without saying who it is: is its app of another kind?")
            hello = Hello.from_record(record)
            vertex = self._vertex_by(hello)
            if vertex in self.hellos and vertex not in self.absent:
                raise InputError(f"two nodes both say they are vertex {self._label(vertex)}: partition-id must differ")
            if vertex in self.absent:
                self._check_alike({**self.hellos, vertex: hello})
                self._vertex_of.pop(self._node_of[vertex], None)
            self.hellos[vertex] = hello
            self._vertex_of[node], self._node_of[vertex] = vertex, node
            self.traffic.down[vertex] += sizes[node]
            self.traffic.up[vertex] += message_bytes(reply)

    def _answers(self, messages: Iterable[Message], timeout: float | None) -> Iterator[tuple[int, Message]]:
        """Send messages, and yield each reply with the node to which the message went that it answers.

        An error that the SuperLink writes on behalf of a node that is gone does not carry the node's id.
        """
        if isinstance(self._grid, StreamingGrid):
            for message, reply in self._grid.stream(messages):
                yield message.metadata.dst_node_id, reply
            return
        sent = list(messages)
        replies = self._grid.send_and_receive(sent, timeout=timeout) if sent else []
        nodes = {message.metadata.message_id: message.metadata.dst_node_id for message in sent}
        for reply in replies:
            node = nodes.pop(reply.metadata.reply_to_message_id, None)
            if node is not None:
                yield node, reply

    def _vertex_by(self, hello: Hello) -> int:
        if hello.error:
            raise InputError(f"node {hello.name or hello.vertex} cannot take part: {hello.error}")
        if hello.partitions and hello.partitions != self.num_nodes:
            raise InputError(
                f"node {hello.name or hello.vertex} says num-partitions={hello.partitions}, but the graph has "
                f"{self.num_nodes} vertices"
            )
        if self.vertex_names is None or not hello.name:
            if not 0 <= hello.vertex < self.num_nodes:
                raise InputError(
                    f"a node says partition-id={hello.vertex}, the graph has vertices 0 to {self.num_nodes - 1}"
                )
            return hello.vertex
        if hello.name not in self._vertex_of_name:
            names = ", ".join(self.vertex_names[:8])
            raise InputError(f"node {hello.name!r} is no vertex of the graph, whose vertices are named {names}")
        vertex = self._vertex_of_name[hello.name]
        if hello.vertex not in (-1, vertex):
            raise InputError(
                f"node {hello.name!r} says partition-id={hello.vertex}, but its name is vertex {vertex} of the graph"
            )
        return vertex

    def _check_alike(self, hellos: dict[int, Hello]) -> None:
        checks = [("classes", "class count"), ("reference_rows", "number of reference rows")]
        if self.same_reference:
            checks.append(("fingerprint", "reference set (SHA-256)"))
        if self.same_model:
            checks.append(("parameters", "number of parameters"))
            checks.append(("model", "model"))
        most = {field: most_common(getattr(h, field) for h in hellos.values()) for field, _ in checks}
        for vertex, hello in sorted(hellos.items()):
            for name, words in checks:
                if getattr(hello, name) != most[name]:
                    raise InputError(
                        f"node {self._label(vertex)} has another {words} than the others: "
                        f"{getattr(hello, name)} where they have {most[name]}"
                    )

    def _label(self, vertex: int) -> str:
        return str(vertex) if self.vertex_names is None else self.vertex_names[vertex]

    # -- a run that goes on -------------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """Return what has travelled so far, who took part, and which nodes are absent."""
        absent = np.array(sorted(self.absent), dtype=np.int64)
        parts = json.dumps({vertex: vars(part) for vertex, part in self.participation.items()})
        return {
            **vars(self.traffic),
            "participation": np.frombuffer(parts.encode(), dtype=np.uint8),
            "absent": absent,
        }

    def load_state_dict(self, state: State) -> None:
        """Take what `state_dict` returned, in a network whose nodes have joined."""
        self.traffic = Traffic(state["up"], state["down"], state["shared"], state["messages"])
        parts = json.loads(state["participation"].tobytes())
        self.participation = {int(vertex): Participation(**part) for vertex, part in parts.items()}
        self.absent = set(state["absent"].tolist())

    # -- what a strategy uses -----------------------------------------------------------------------------------------

    def node_id(self, vertex: int) -> int:
        """Return Flower's id of the node at a vertex."""
        return self._node_of[vertex]

    def vertex(self, node_id: int) -> int:
        """Return the vertex of a node."""
        return self._vertex_of[node_id]

    def get_node_ids(self) -> list[int]:
        """Return the ids of the nodes that joined, in the order of their vertices."""
        self._welcome_back()
        return [self._node_of[vertex] for vertex in sorted(self._node_of)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages, and return the replies that are no errors, in the order of vertices."""
        replies = self.exchange(messages, timeout=timeout)
        return sorted(replies, key=lambda reply: self._vertex_of[reply.metadata.src_node_id])

    def exchange(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Send messages, and yield the replies that are no errors, as they come."""
        server_round = 0
        silent: dict[int, str] = {}
        self._training.clear()

        def counted() -> Iterator[Message]:
            nonlocal server_round
            for message in messages:
                vertex = self._vertex_of[message.metadata.dst_node_id]
                silent[vertex] = f"no reply within {timeout} s"
                self.traffic.down[vertex] += message_bytes(message)
                if message.metadata.message_type == MessageType.TRAIN:
                    self.participation[vertex].due += 1
                    self._training.add(vertex)
                server_round = int(message.content[CONFIG].get("server-round", 0))  # type: ignore[arg-type]
                yield message

        answered = 0
        for node, reply in self._answers(counted(), timeout):
            vertex, size = self._vertex_of[node], message_bytes(reply)
            self.traffic.up[vertex] += size
            problem = _problem(reply)
            if problem:
                silent[vertex] = problem
                continue
            del silent[vertex]
            answered += 1
            if vertex in self._training:
                self.participation[vertex].taken += 1
            if any(isinstance(record, ArrayRecord) for record in reply.content.values()):
                self.traffic.shared[vertex] += size
                self.traffic.messages[vertex] += 1
            self._keep(server_round, vertex, reply)
            yield reply
        self.greeting = replace(self.greeting, server_round=server_round)  # for nodes that come back later
        for vertex in sorted(silent):
            if vertex in self._training:
                self.participation[vertex].taken += 1  # which leave_out takes back
            self.leave_out(server_round, vertex, silent[vertex])
        if silent and not answered:
            raise InputError(f"no node answered in round {server_round}: {silent[min(silent)]}")

    def leave_out(self, server_round: int, vertex: int, why: str) -> None:
        """Warn that a node takes no part in this exchange."""
        self.absent.add(vertex)
        if vertex in self._training:
            self._training.remove(vertex)
            part = self.participation[vertex]
            part.taken -= 1
            part.reasons[why] = part.reasons.get(why, 0) + 1
        log(WARNING, "round %d goes on without node %s: %s", server_round, self._label(vertex), why)

    def _keep(self, server_round: int, vertex: int, reply: Message) -> None:
        if vertex in self.absent:
            self.absent.discard(vertex)
            log(INFO, "node %s is back in round %d", self._label(vertex), server_round)
        record = reply.content[METRICS]
        prefix = "test-" if reply.metadata.message_type == MessageType.EVALUATE else ""
        kept = self.metrics.setdefault((server_round, vertex), NodeMetrics(server_round, vertex))
        kept.values.update({f"{prefix}{name}": float(value) for name, value in record.items()})  # type: ignore[arg-type]
        kept.values["bytes-shared"] = float(self.traffic.shared[vertex])
        kept.values["bytes-all-edges"] = float(self.traffic.shared[vertex] * self.links[vertex])

    def _welcome_back(self) -> None:
        """Give absent vertices to nodes that connected under a new id (a device that was started again)."""
        if not self.absent:
            return
        for node in self._grid.get_node_ids():
            if node in self._vertex_of or node in self._strangers:
                continue
            # Whatever comes of it, a node is asked once: waiting for a mute one each round would stop the others.
            self._strangers.add(node)
            try:
                self._greet([node], replace(self.greeting, fresh=False), timeout=GREETING_SECONDS)
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


def _last_line(reason: str | None) -> str:
    lines = (reason or "").strip().splitlines()
    return lines[-1] if lines else "no reason given"


def most_common(values: Iterable[T]) -> T:
    """Return the value that comes most often, the first of them in a tie."""
    return Counter(values).most_common(1)[0][0]


def _problem(reply: Message) -> str:
    """Return why a reply cannot be used at all; empty if it can."""
    if reply.has_error():
        return f"it failed with {_last_line(reply.error.reason)}"
    record = reply.content.get(METRICS)
    if not isinstance(record, MetricRecord):
        return "its reply has no metrics"
    odd = [name for name, value in record.items() if isinstance(value, list) or not math.isfinite(value)]
    if odd:
        return f"its metric {odd[0]!r} is no finite number"
    wanted = "accuracy" if reply.metadata.message_type == MessageType.EVALUATE else "num-examples"
    return "" if wanted in record else f"its metrics lack {wanted!r}"
