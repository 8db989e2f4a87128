"""Messages to nodes and their replies, without waiting for nodes that were silent before."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from logging import WARNING

from flwr.app import Error, Message
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.superlink.grid import InMemoryGrid
from google.protobuf.message import DecodeError

from flower_kd.failures import one_line

POLL_SECONDS = (0.05, 1.0)  # between polls for replies: at first, as in process, and at most, as on devices
# What Flower raises for bytes that are not a valid message (its own objects, JSON, protocol buffers).
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, DecodeError)


class StreamingGrid(Grid):
    """A Grid that answers messages as they are generated, so that few are in memory at a time."""

    @abstractmethod
    def stream(self, messages: Iterable[Message]) -> Iterator[tuple[Message, Message]]:
        """Consume messages as needed, and yield each with its reply."""


class Delivery:
    """Sends messages over a Grid, and yields each answered one with its reply.

    An error that the SuperLink writes on behalf of a disconnected node does not have the node's id: what was answered
    is known from the id of the message.

    Parameters
    ----------
    grid : Grid
        Flower's, or that of the in-process engine.
    clock, sleep : callable
        As `time.monotonic` and `time.sleep`, in seconds.
    on_sent : callable (Message)
        Called for each message that is sent.
    """

    def __init__(
        self,
        grid: Grid,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        on_sent: Callable[[Message], None],
    ) -> None:
        self._grid = grid
        self._clock = clock
        self._sleep = sleep
        self._on_sent = on_sent
        self._unanswered: dict[int, tuple[str, float]] = {}  # by node: a message not answered in time, and when sent
        self._ahead: dict[str, int] = {}  # messages sent before their exchange, by id, and to which node
        self._aside: dict[str, Message] = {}  # unanswered messages that nobody ever waits for
        self._one_by_one = False  # fetch replies one by one, after an unreadable one

    @property
    def has_unawaited(self) -> bool:
        """Whether a message of `unawaited` is not answered yet."""
        return bool(self._aside)

    def reset(self) -> None:
        """Forget all messages, at the start of a run."""
        self._unanswered.clear()
        self._ahead.clear()
        self._aside.clear()

    @property
    def queues(self) -> bool:
        """Whether messages wait for their node, which answers them in order.

        In process, messages are answered as they are sent, and Flower's simulation engine may answer two at once.
        """
        return not isinstance(self._grid, StreamingGrid | InMemoryGrid)

    def send_ahead(self, messages: Iterable[Message]) -> None:
        """Send messages before `answers` is called with them, except to nodes that were silent; each once."""
        sent = [
            message
            for message in messages
            if message.metadata.dst_node_id not in self._unanswered and message.metadata.message_id not in self._ahead
        ]
        self._ahead |= {name: message.metadata.dst_node_id for name, message in self._push(sent).items()}

    def give_up(self, message: Message) -> None:
        """Forget a message that was sent ahead, as its answer is of no use any more."""
        self._ahead.pop(message.metadata.message_id, None)

    @property
    def ahead(self) -> set[int]:
        """The nodes with a message that was sent before its exchange."""
        return set(self._ahead.values())

    def is_silent(self, node: int) -> bool:
        """Return whether a node has not answered its last message in time, nor since."""
        return node in self._unanswered

    def forget(self, node: int) -> None:
        """Forget that a node has not answered: it is there no more."""
        self._unanswered.pop(node, None)

    def answers(self, messages: Iterable[Message], timeout: float | None) -> Iterator[tuple[Message, Message]]:
        """Send messages, and yield each answered one with its reply; `timeout` is in seconds."""
        if isinstance(self._grid, StreamingGrid):
            yield from self._grid.stream(self._noted(messages))
        else:
            yield from self._polled(messages, math.inf if timeout is None else timeout)

    def unawaited(self, messages: Iterable[Message]) -> Iterator[tuple[Message, Message]]:
        """Send messages without waiting, and yield those of this and earlier calls whose replies have arrived."""
        if isinstance(self._grid, StreamingGrid):
            yield from self._grid.stream(self._noted(messages))
            return
        self._aside |= self._push(list(messages))
        for answered, reply in self._pull(self._aside) if self._aside else []:
            message = self._aside.pop(answered, None)
            if message is not None:
                yield message, reply

    def _polled(self, messages: Iterable[Message], timeout: float) -> Iterator[tuple[Message, Message]]:
        """Send messages, wait for the replies of all nodes that replied in time before, and yield the replies.

        A node that did not is still sent messages, but not waited for, so that a silent node costs only one timeout. It
        gets one message per timeout, not one per exchange, or it would have too many to catch up with. If it replies to
        an old one, it is back: it is sent the current message and waited for. If all nodes were silent, all are
        waited for. Messages that were sent ahead are not sent again.
        """
        started = self._clock()
        awaited: list[Message] = []
        unawaited: list[Message] = []
        held_back: dict[str, Message] = {}
        ahead: tuple[dict[str, Message], dict[str, Message]] = {}, {}  # of nodes that are waited for, and of others
        for message in messages:
            earlier, since = self._unanswered.get(message.metadata.dst_node_id, ("", -math.inf))
            if self._ahead.pop(message.metadata.message_id, None) is not None:
                ahead[bool(earlier)][message.metadata.message_id] = message
            elif not earlier:
                awaited.append(message)
            elif started - since >= timeout:
                unawaited.append(message)
            else:
                held_back[earlier] = message
        everyone = not awaited and not ahead[0]
        waiting, others = self._push(awaited) | ahead[0], self._push(unawaited) | ahead[1]
        pause = POLL_SECONDS[0]
        while waiting or (everyone and (others or held_back)):
            asked = self._clock()
            for answered, reply in self._pull(waiting | others | held_back):
                if answered in held_back:
                    waiting |= self._push([held_back.pop(answered)])
                elif answered in waiting or answered in others:
                    message = (waiting if answered in waiting else others).pop(answered)
                    self._unanswered.pop(message.metadata.dst_node_id, None)
                    yield message, reply
            # Flower may wait minutes for the rest of a reply: what came meanwhile is fetched once more.
            if asked >= started + timeout:
                break
            if waiting or everyone:
                self._sleep(max(min(pause, started + timeout - self._clock()), 0.0))
                pause = min(2 * pause, POLL_SECONDS[1])
        for message_id, message in (waiting | others).items():
            self._unanswered[message.metadata.dst_node_id] = (message_id, started)

    def _push(self, messages: list[Message]) -> dict[str, Message]:
        """Send messages, and return them by id."""
        if messages:
            self._grid.push_messages(list(self._noted(messages)))
        return {message.metadata.message_id: message for message in messages}

    def _pull(self, asked: dict[str, Message]) -> list[tuple[str, Message]]:
        """Fetch the replies that have arrived, each with the id of the message that it answers.

        One that Flower cannot read becomes an error of its sender.

        Flower fetches many at a time, and those fetched with an unreadable one are lost. After the first, which costs
        the others an exchange, replies are fetched one by one.
        """
        if not self._one_by_one:
            try:
                replies = self._grid.pull_messages(list(asked))
                return [(reply.metadata.reply_to_message_id, reply) for reply in replies]
            except UNREADABLE as error:
                log(WARNING, "replies were lost: one of them cannot be read (%s)", one_line(str(error)))
                self._one_by_one = True
        found: list[tuple[str, Message]] = []
        for message_id, message in asked.items():
            try:
                found += [(message_id, reply) for reply in self._grid.pull_messages([message_id])]
            except UNREADABLE as error:
                found.append((message_id, Message(Error(0, f"a reply that cannot be read: {error}"), reply_to=message)))
        return found

    def _noted(self, messages: Iterable[Message]) -> Iterator[Message]:
        for message in messages:
            self._on_sent(message)
            yield message
