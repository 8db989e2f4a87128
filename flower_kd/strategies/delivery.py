"""Messages to nodes and their replies, without waiting for nodes that were silent before."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from logging import WARNING

from flwr.app import Error, Message
from flwr.common.logger import log
from flwr.serverapp import Grid
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
        self._aside: dict[str, Message] = {}  # unanswered messages that nobody ever waits for
        self._one_by_one = False  # fetch replies one by one, after an unreadable one

    @property
    def has_unawaited(self) -> bool:
        """Whether a message of `unawaited` is not answered yet."""
        return bool(self._aside)

    def reset(self) -> None:
        """Forget all messages, at the start of a run."""
        self._unanswered.clear()
        self._aside.clear()

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
        for reply in self._pull(self._aside) if self._aside else []:
            message = self._aside.pop(reply.metadata.reply_to_message_id, None)
            if message is not None:
                yield message, reply

    def _polled(self, messages: Iterable[Message], timeout: float) -> Iterator[tuple[Message, Message]]:
        """Send messages, wait for the replies of all nodes that replied in time before, and yield the replies.

        A node that did not is still sent messages, but not waited for, so that a silent node costs only one timeout. It
        gets one message per timeout, not one per exchange, or it would have too many to catch up with. If it replies to
        an old one, it is back: it is sent the current message and waited for. If all nodes were silent, all are
        waited for.
        """
        started = self._clock()
        awaited: list[Message] = []
        unawaited: list[Message] = []
        held_back: dict[str, Message] = {}
        for message in messages:
            earlier, since = self._unanswered.get(message.metadata.dst_node_id, ("", -math.inf))
            if not earlier:
                awaited.append(message)
            elif started - since >= timeout:
                unawaited.append(message)
            else:
                held_back[earlier] = message
        everyone = not awaited
        waiting, others = self._push(awaited), self._push(unawaited)
        pause = POLL_SECONDS[0]
        while waiting or (everyone and (others or held_back)):
            asked = self._clock()
            for reply in self._pull(waiting | others | held_back):
                answered = reply.metadata.reply_to_message_id
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

    def _pull(self, asked: dict[str, Message]) -> list[Message]:
        """Fetch the replies that have arrived; one that Flower cannot read becomes an error of its sender.

        Flower fetches many at a time, and those fetched with an unreadable one are lost. After the first, which costs
        the others an exchange, replies are fetched one by one.
        """
        if not self._one_by_one:
            try:
                return list(self._grid.pull_messages(list(asked)))
            except UNREADABLE as error:
                log(WARNING, "replies were lost: one of them cannot be read (%s)", one_line(str(error)))
                self._one_by_one = True
        replies: list[Message] = []
        for message_id, message in asked.items():
            try:
                replies += self._grid.pull_messages([message_id])
            except UNREADABLE as error:
                replies.append(Message(Error(0, f"a reply that cannot be read: {error}"), reply_to=message))
        return replies

    def _noted(self, messages: Iterable[Message]) -> Iterator[Message]:
        for message in messages:
            self._on_sent(message)
            yield message
