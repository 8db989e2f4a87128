"""A grid whose nodes are spread over worker processes, to use several cores."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from multiprocessing.connection import Connection, wait
from pkgutil import resolve_name
from typing import Any

import torch
from flwr.app import Message, RecordDict

from flower_kd.errors import InputError
from flower_kd.failures import describe
from flower_kd.sim import orphans, preload
from flower_kd.sim.grids import InProcessGrid, Listener, LocalGrid

MESSAGES_AHEAD = 64


class WorkerGrid(LocalGrid):
    """A Grid whose nodes live in worker processes; their placement does not change the figures.

    Not threads: each node's training seeds torch's global generators, which threads share.

    Parameters
    ----------
    client_app : str
        `module:attribute` of the ClientApp.
    num_nodes, run_config, listener, num_threads
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
        num_threads: int | None = None,
    ) -> None:
        super().__init__(num_nodes, listener)
        torch.set_num_threads(1)  # more threads would compete with the workers for cores
        processes = preload.context(preload.NODES)
        self._pipes: list[Connection] = []
        self._processes = []
        for index in range(min(workers, num_nodes)):
            own_end, worker_end = processes.Pipe()
            worker = processes.Process(
                target=_work,
                args=(worker_end, client_app, num_nodes, dict(run_config), num_threads),
                name=f"flower-kd worker {index}",
                daemon=True,
            )
            worker.start()
            worker_end.close()  # otherwise the end of the worker would not be noticed
            self._pipes.append(own_end)
            self._processes.append(worker)
        for index in range(len(self._pipes)):
            problem = self._receive(index)  # so that import time does not count as the run's
            if problem:
                self.close()
                raise InputError(f"client app {client_app!r} cannot be imported: {problem}")

    def answer(self, messages: Iterable[Message]) -> Iterator[tuple[Message, Message]]:
        """Yield each message with its reply, in the order of replies.

        A worker gets its next message before its reply is processed, but never two at a time: if both sides wrote large
        messages to a full pipe, they would deadlock.
        """
        messages = iter(messages)
        queues: list[deque[Message]] = [deque() for _ in self._pipes]
        busy: dict[int, Message] = {}

        def dispatch(index: int) -> None:
            if queues[index]:
                busy[index] = queues[index].popleft()
                self._send(index, busy[index])

        while True:
            ahead = MESSAGES_AHEAD - sum(len(queue) for queue in queues)
            for message in islice(messages, ahead):
                index = self._worker(self._vertex_of[message.metadata.dst_node_id])
                queues[index].append(message)
                if index not in busy:
                    dispatch(index)
            if not busy:
                return
            ready = wait([self._pipes[index] for index in busy])
            for index in [index for index in busy if self._pipes[index] in ready]:
                message, reply = busy.pop(index), self._receive(index)
                dispatch(index)
                yield message, reply

    def states(self) -> list[RecordDict]:
        """Return each node's state, by vertex."""
        found = []
        for vertex in self._vertex_of.values():
            index = self._worker(vertex)
            self._send(index, vertex)
            found.append(self._receive(index))
        return found

    def close(self) -> None:
        """Stop the workers; see LocalGrid.close."""
        super().close()
        for pipe in self._pipes:
            pipe.close()
        for worker in self._processes:
            worker.join(timeout=5)
            if worker.is_alive():  # in the middle of a long step
                worker.terminate()
                worker.join()

    def _worker(self, vertex: int) -> int:
        """Return the worker of a node; models assigned to vertices in turns are spread evenly too."""
        workers = len(self._pipes)
        return (vertex + vertex // workers) % workers

    def _send(self, index: int, request: Message | int) -> None:
        try:
            self._pipes[index].send(request)
        except OSError:
            raise self._ended(index) from None

    def _receive(self, index: int) -> Any:
        try:
            return self._pipes[index].recv()
        except (EOFError, OSError):
            raise self._ended(index) from None

    def _ended(self, index: int) -> InputError:
        worker = self._processes[index]
        worker.join(timeout=5)
        code = worker.exitcode
        how = f"exit code {code}" if code is None or code >= 0 else f"signal {signal.Signals(-code).name}"
        why = ": out of memory?" if code == -signal.SIGKILL else ""
        return InputError(f"{worker.name} ended with {how} and took all its nodes with it{why}")


def _work(
    pipe: Connection, client_app: str, num_nodes: int, run_config: dict[str, Any], num_threads: int | None
) -> None:
    """Send an import error or an empty string; then answer messages, and vertices with their node's state.

    It ends when the other end of the pipe is closed.
    """
    orphans.end_with_parent()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # `close` may send it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        try:
            app = resolve_name(client_app)
        except Exception as error:  # importing runs the user's code
            pipe.send(describe(error))
            return
        grid = InProcessGrid(app, num_nodes, run_config, num_threads=num_threads)
        pipe.send("")
        while True:
            request = pipe.recv()
            if isinstance(request, int):
                pipe.send(grid.state(request))
                continue
            [(_, reply)] = grid.answer([request])
            pipe.send(reply)
    except (EOFError, OSError):
        return
