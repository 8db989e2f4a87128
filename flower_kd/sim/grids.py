"""Grids on this machine: nodes answer messages directly, without Flower's engine."""

from __future__ import annotations

import traceback
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from logging import DEBUG
from typing import Any, Protocol

import torch
from flwr.app import ConfigRecord, Context, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.logger import log
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from flower_kd.clients.state import LiveState, to_records
from flower_kd.protocol import CONFIG, EVALUATION, JOIN, METRICS
from flower_kd.seeding import derive
from flower_kd.strategies.delivery import StreamingGrid

RUN_ID = 1


class Listener(Protocol):
    """Receives what nodes report during a run, for progress bars and logs."""

    def on_stage(self, stage: str) -> None:
        """Called when the handshake of a stage begins: "alone" for the silo baseline, else the strategy's name."""

    def on_exchange(self, server_round: int, kind: str, metrics: dict[int, dict[str, float]]) -> None:
        """Called after an exchange with its metrics by vertex; `kind` is "train" or "evaluate".

        After one in which nodes were trained and then evaluated, it is called once for each.
        """


class LocalGrid(StreamingGrid):
    """Base of grids whose nodes are on this machine; a subclass defines how messages are answered.

    Parameters
    ----------
    num_nodes : int
        Number of nodes; their ids are as random as Flower's.
    listener : Listener, optional
        Receives what the nodes report.
    num_threads : int, optional
        Torch's threads in each process until the grid is closed; by default, those it has.
    """

    def __init__(self, num_nodes: int, listener: Listener | None = None, num_threads: int | None = None) -> None:
        self.listener = listener
        self._vertex_of = {_node_id(vertex): vertex for vertex in range(num_nodes)}
        self._replies: dict[str, Message] = {}
        self._sent = 0
        self._threads = torch.get_num_threads()
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        # Flower's Message reads its sender from the runtime, which nobody else sets up here.
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN_ID, RUN_ID, SUPERLINK_NODE_ID

    @abstractmethod
    def answer(self, messages: Iterable[Message]) -> Iterator[tuple[Message, Message]]:
        """Yield each message with its reply, in order."""

    @abstractmethod
    def states(self) -> list[RecordDict]:
        """Return each node's state, by vertex."""

    def close(self) -> None:
        """Stop what the grid started, and restore torch's thread count, which nodes may have changed."""
        torch.set_num_threads(self._threads)

    def get_node_ids(self) -> list[int]:
        """Return all node ids."""
        return list(self._vertex_of)

    def stream(self, messages: Iterable[Message]) -> Iterator[tuple[Message, Message]]:
        """Yield each message with its reply, then notify the listener."""
        answered = self.answer(self._numbered(messages))
        yield from answered if self.listener is None else self._observed(answered, self.listener)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Answer each message, and return the ids of the messages."""
        ids = []
        for message, reply in self.stream(messages):
            ids.append(message.metadata.message_id)
            self._replies[ids[-1]] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to pushed messages, each reply once."""
        return [self._replies.pop(message_id) for message_id in message_ids if message_id in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Return the replies to all messages."""
        return [reply for _, reply in self.stream(messages)]

    def set_run(self, run: Run) -> None:
        """Do nothing: this grid has one run."""

    @property
    def run(self) -> Run:
        """The one run."""
        return Run.create_empty(RUN_ID)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def _numbered(self, messages: Iterable[Message]) -> Iterator[Message]:
        for message in messages:
            self._sent += 1
            message.metadata.__dict__["_message_id"] = str(self._sent)
            yield message

    def _observed(
        self, answered: Iterator[tuple[Message, Message]], listener: Listener
    ) -> Iterator[tuple[Message, Message]]:
        reported: dict[int, dict[str, float]] = {}
        tested: dict[int, dict[str, float]] = {}
        kind, server_round = "", 0
        for message, reply in answered:
            if not kind:
                kind = message.metadata.message_type
                server_round = _server_round(message)
                if kind == JOIN:
                    listener.on_stage(str(_config(message).get("stage", "")))
            for name, found in ((METRICS, reported), (EVALUATION, tested)):
                metrics = reply.content.get(name) if reply.has_content() else None
                if isinstance(metrics, MetricRecord):
                    found[self._vertex_of[message.metadata.dst_node_id]] = dict(metrics)  # type: ignore[arg-type]
            yield message, reply
        if kind in (MessageType.TRAIN, MessageType.EVALUATE):
            listener.on_exchange(server_round, kind, reported)
        if tested:
            listener.on_exchange(server_round, MessageType.EVALUATE, tested)


def _node_id(vertex: int) -> int:
    return derive(0, "node id", vertex)


def _server_round(message: Message) -> int:
    return int(_config(message).get("server-round", 0))  # type: ignore[arg-type]


def _config(message: Message) -> ConfigRecord:
    config = message.content.get(CONFIG)
    return config if isinstance(config, ConfigRecord) else ConfigRecord()


class InProcessGrid(LocalGrid):
    """A Grid whose nodes are contexts in this process; a message is a function call.

    Parameters
    ----------
    client_app : ClientApp
        Called once per message.
    num_nodes : int
        Number of nodes; their ids are as random as Flower's.
    run_config : mapping
        The run config in every node's context.
    listener : Listener, optional
        Receives what the nodes report.
    num_threads : int, optional
        Torch's threads in each process until the grid is closed; by default, those it has.
    """

    def __init__(
        self,
        client_app: ClientApp,
        num_nodes: int,
        run_config: Mapping[str, Any],
        listener: Listener | None = None,
        num_threads: int | None = None,
    ) -> None:
        super().__init__(num_nodes, listener, num_threads)
        self.client_app = client_app
        self.contexts = {
            node_id: Context(
                run_id=RUN_ID,
                node_id=node_id,
                node_config={"partition-id": vertex, "num-partitions": num_nodes},
                state=LiveState(),
                run_config=dict(run_config),
            )
            for node_id, vertex in self._vertex_of.items()
        }

    def get_node_ids(self) -> list[int]:
        """Return all node ids."""
        return list(self.contexts)

    def answer(self, messages: Iterable[Message]) -> Iterator[tuple[Message, Message]]:
        """Yield each message with its reply."""
        for message in messages:
            yield message, self._call(message)

    def states(self) -> list[RecordDict]:
        """Return each node's state, by vertex."""
        return [self.state(vertex) for vertex in self._vertex_of.values()]

    def state(self, vertex: int) -> RecordDict:
        """Return a node's state."""
        return to_records(self.contexts[_node_id(vertex)])

    def _call(self, message: Message) -> Message:
        """Return the app's reply, or the error reply that Flower's engines make of an exception."""
        try:
            return self.client_app(message, self.contexts[message.metadata.dst_node_id])
        except Exception as error:
            log(DEBUG, traceback.format_exc())
            reason = f"{type(error)}:<'{error}'>"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
