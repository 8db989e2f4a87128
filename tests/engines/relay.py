"""A TCP relay on loopback between a node and its SuperLink: it records what passes, and fails as links do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

HOST = "127.0.0.1"
CHUNK = 1 << 16


@dataclass
class Conversation:
    """The bytes of one connection."""

    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)


class Relay:
    """Passes on what it gets at a port of its own, until the end of the block.

    Parameters
    ----------
    target : int
        The port to which connections go.
    delay : float
        Seconds after which each byte arrives, in both directions.
    """

    def __init__(self, target: int, delay: float = 0.0) -> None:
        self.conversations: list[Conversation] = []
        self.delay = delay
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._passing = asyncio.Event()
        self._passing.set()
        self._last_words: bytes | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Relay:
        self._thread.start()
        self.port = self._call(self._listen(0))
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def up(self) -> int:
        """Bytes that have gone to the target."""
        return sum(len(conversation.up) for conversation in self.conversations)

    @property
    def down(self) -> int:
        """Bytes that have come from the target."""
        return sum(len(conversation.down) for conversation in self.conversations)

    def cut(self) -> None:
        """Close all connections, and refuse new ones."""
        self._call(self._cut())

    def stall(self) -> None:
        """Let nothing pass, and leave connections open: what is sent arrives once the link is mended."""
        self._loop.call_soon_threadsafe(self._passing.clear)

    def stall_after(self, words: bytes) -> None:
        """Let nothing pass once these words have gone to the target."""
        self._last_words = words

    @property
    def stalled(self) -> bool:
        """Whether nothing passes."""
        return not self._passing.is_set()

    def mend(self) -> None:
        """Let everything pass again."""
        self._call(self._mend())

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _listen(self, port: int) -> int:
        self._server = await asyncio.start_server(self._accept, HOST, port)
        return int(self._server.sockets[0].getsockname()[1])

    async def _cut(self) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _mend(self) -> None:
        self._passing.set()
        if not self._server.is_serving():
            await self._listen(self.port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        ends = [writer]
        try:
            there, back = await asyncio.open_connection(HOST, self._target)
            ends.append(back)
            passed = Conversation()
            self.conversations.append(passed)
            await asyncio.gather(self._pass_on(reader, back, passed.up), self._pass_on(there, writer, passed.down))
        except (OSError, asyncio.CancelledError):
            for end in ends:
                end.transport.abort()
        finally:
            for end in ends:
                end.close()
            self._connections.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passed: bytearray) -> None:
        """Pass on what is read, in its order, each piece after the delay."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def read() -> None:
            data = b"first"
            while data:
                data = await reader.read(CHUNK)
                under_way.put_nowait((self._loop.time() + self.delay, data))

        async def write() -> None:
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(due - self._loop.time())
                await self._passing.wait()
                if not data:
                    writer.write_eof()
                    return
                passed.extend(data)
                writer.write(data)
                await writer.drain()
                if self._last_words is not None and self._last_words in data:
                    self._last_words = None
                    self._passing.clear()

        await asyncio.gather(read(), write())
