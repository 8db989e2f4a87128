"""The in-process engine: Flower's apps over a Grid that calls the ClientApp directly."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterable, Iterator, Mapping
from logging import DEBUG
from pathlib import Path
from typing import Any, Protocol

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.logger import log
from flwr.serverapp import ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from flower_kd.clients.state import LiveState
from flower_kd.results import Summary
from flower_kd.seeding import derive
from flower_kd.strategies.network import StreamingGrid

RUN_ID = 1


class Listener(Protocol):
    """Hears what nodes report while a run goes on, for progress bars and logs."""

    def begin(self) -> None:
        """Note that a run begins with its handshake; `baseline = "silo"` makes two runs of one."""

    def heard(self, server_round: int, kind: str, metrics: dict[int, dict[str, float]]) -> None:
        """Take the metrics of one exchange by vertex; `kind` is "train" or "evaluate"."""


class InProcessGrid(StreamingGrid):
    """A Grid whose nodes are contexts in this process; a message is a function call.

    Parameters
    ----------
    client_app : ClientApp
        Called once a message.
    num_nodes : int
        Number of nodes; their ids are as random as Flower's.
    run_config : mapping
        What every node's context holds.
    """

    def __init__(self, client_app: ClientApp, num_nodes: int, run_config: Mapping[str, Any]) -> None:
        self.client_app = client_app
        self.contexts = {
            node_id: Context(
                run_id=RUN_ID,
                node_id=node_id,
                node_config={"partition-id": vertex, "num-partitions": num_nodes},
                state=LiveState(),
                run_config=dict(run_config),
            )
            for vertex, node_id in enumerate(derive(0, "node id", vertex) for vertex in range(num_nodes))
        }
        self._replies: dict[str, Message] = {}
        self._sent = 0
        # Flower's Message asks its runtime who sends it; here nobody else has said so.
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN_ID, RUN_ID, SUPERLINK_NODE_ID

    def get_node_ids(self) -> list[int]:
        """Return all node ids."""
        return list(self.contexts)

    def stream(self, messages: Iterable[Message]) -> Iterator[tuple[Message, Message]]:
        """Have each message answered, and yield it with its reply."""
        for message in messages:
            self._sent += 1
            message.metadata.__dict__["_message_id"] = str(self._sent)
            yield message, self._call(message)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Have each message answered, and return the messages' ids."""
        ids = []
        for message, reply in self.stream(messages):
            ids.append(message.metadata.message_id)
            self._replies[ids[-1]] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to messages that were pushed, each once."""
        return [self._replies.pop(message_id) for message_id in message_ids if message_id in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Return the replies to all messages."""
        return [reply for _, reply in self.stream(messages)]

    def _call(self, message: Message) -> Message:
        """Return the app's reply, or the error reply that Flower's engines make of an exception."""
        try:
            return self.client_app(message, self.contexts[message.metadata.dst_node_id])
        except Exception as error:
            log(DEBUG, traceback.format_exc())
            reason = f"{type(error)}:<'{error}'>"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)

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


def run_apps(server_app: ServerApp, client_app: ClientApp, num_nodes: int, run_config: Mapping[str, Any]) -> Context:
    """Run any Flower ServerApp and ClientApp in this process and return the server's context."""
    grid = InProcessGrid(client_app, num_nodes, run_config)
    context = Context(
        run_id=RUN_ID, node_id=SUPERLINK_NODE_ID, node_config={}, state=RecordDict(), run_config=dict(run_config)
    )
    server_app(grid, context)
    return context


def run(run_config: Mapping[str, Any], num_nodes: int, output_dir: str | Path | None = None) -> Summary:
    """Run what `flwr run . -c "..."` runs, in this process.

    Parameters
    ----------
    run_config : mapping
        Kebab-case keys; those that are missing have their defaults.
    num_nodes : int
        Number of nodes.
    output_dir : path, optional
        Where the results folder goes; overrides `output-dir`.

    Raises
    ------
    InputError
        For every mistake in the config, the data or the graph, in one sentence.
    """
    from flower_kd import client_app, server_app

    config = dict(run_config) | ({"output-dir": str(output_dir)} if output_dir is not None else {})
    context = run_apps(server_app.app, client_app.app, num_nodes, config)
    record = context.state.config_records[server_app.SUMMARY]
    return Summary(**json.loads(str(record["json"])))
