"""Nodes spread over processes of this machine: the second core without a second engine."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pkgutil import resolve_name
from typing import Any

from flwr.app import Message

from flower_kd.errors import InputError
from flower_kd.sim.engine import InProcessGrid, Listener, LocalGrid

MESSAGES_A_TURN = 64


class WorkerGrid(LocalGrid):
    """A Grid whose nodes live in worker processes; which node is where changes no figure.

    Threads would do for torch, but a node's training starts torch's global generators from its own seed.

    Parameters
    ----------
    client_app : str
        `module:attribute` of the ClientApp.
    num_nodes, run_config, listener
        As in InProcessGrid.
    workers : int
        Number of processes.
    """

    def __init__(
        self,
        client_app: str,
        num_nodes: int,
        run_config: Mapping[str, Any],
        workers: int,
        listener: Listener | None = None,
    ) -> None:
        super().__init__(num_nodes, listener)
        processes = get_context("spawn")  # forks of a process that has used torch's threads can hang
        self._pipes: list[Connection] = []
        self._processes = []
        for index in range(min(workers, num_nodes)):
            ours, theirs = processes.Pipe()
            worker = processes.Process(
                target=_work,
                args=(theirs, client_app, num_nodes, dict(run_config)),
                name=f"flower-kd worker {index}",
                daemon=True,
            )
            worker.start()
            theirs.close()  # or the end of the worker would not be seen
            self._pipes.append(ours)
            self._processes.append(worker)
        for index in range(len(self._pipes)):
            self._receive(index)  # imports take seconds, which are not the run's

    def answer(self, messages: Iterable[Message]) -> Iterator[tuple[Message, Message]]:
        """Yield each message with its reply; a turn of messages is answered by all workers at the same time."""
        messages = iter(messages)
        while turn := list(islice(messages, MESSAGES_A_TURN * len(self._pipes))):
            workers = [self._worker(message) for message in turn]
            busy = sorted(set(workers))
            for index in busy:
                self._send(index, [message for message, own in zip(turn, workers, strict=True) if own == index])
            replies = {index: iter(self._receive(index)) for index in busy}
            for message, index in zip(turn, workers, strict=True):
                yield message, next(replies[index])

    def close(self) -> None:
        """End the workers."""
        for pipe in self._pipes:
            pipe.close()
        for worker in self._processes:
            worker.join(timeout=5)
            if worker.is_alive():  # in the middle of a long step
                worker.terminate()
                worker.join()

    def _worker(self, message: Message) -> int:
        """Return which worker has a message's node; networks that take turns by vertex are spread evenly too."""
        vertex, workers = self._vertex_of[message.metadata.dst_node_id], len(self._pipes)
        return (vertex + vertex // workers) % workers

    def _send(self, index: int, messages: list[Message]) -> None:
        try:
            self._pipes[index].send(messages)
        except OSError:
            raise self._ended(index) from None

    def _receive(self, index: int) -> list[Message]:
        try:
            return self._pipes[index].recv()
        except (EOFError, OSError):
            raise self._ended(index) from None

    def _ended(self, index: int) -> InputError:
        worker = self._processes[index]
        worker.join(timeout=5)
        return InputError(f"{worker.name} ended with exit code {worker.exitcode}, with all its nodes: out of memory?")


def _work(pipe: Connection, client_app: str, num_nodes: int, run_config: dict[str, Any]) -> None:
    """Answer lists of messages until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the first process decides what to do about it
    grid = InProcessGrid(resolve_name(client_app), num_nodes, run_config)
    try:
        pipe.send([])
        while True:
            pipe.send([reply for _, reply in grid.answer(pipe.recv())])
    except (EOFError, OSError):
        return
