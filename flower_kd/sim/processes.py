"""Runs in processes of their own, so many at a time."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue

from flower_kd import unused
from flower_kd.sim import orphans, preload
from flower_kd.sim.job import Job, Outcome, attempt
from flower_kd.sim.logs import warnings_to
from flower_kd.sim.progress import Display, Moment
from flower_kd.sim.signals import held

POLL_SECONDS = 0.2
TELL_SECONDS = 0.5
# An interrupted run writes its history before it ends, and a process that starts has its imports to finish.
GRACE_SECONDS = 20.0

# What a worker sends while it runs a job: the job's name, and a moment of it or a warning.
Message = tuple[str, Moment | str]


def run(
    jobs: Sequence[Job],
    processes: int,
    *,
    workers: int,
    tensorboard: bool,
    display: Display,
    ended: Callable[[Outcome], None],
) -> None:
    """Run jobs in worker processes, each job whole in one; see `batch.run_all`.

    Each process is a pool of its own: one that is killed takes its job with it and no other.
    """
    context = preload.context()
    messages: Queue[Message] = context.Queue()
    others = set(multiprocessing.active_children())
    pools = [_pool(context, messages) for _ in range(min(processes, len(jobs)))]
    idle, waiting = list(pools), deque(jobs)
    running: dict[Future[Outcome], tuple[ProcessPoolExecutor, Job]] = {}
    try:
        while waiting or running:
            while waiting and idle:
                pool, job = idle.pop(), waiting.popleft()
                future = pool.submit(_work, job, workers, tensorboard)
                running[future] = pool, job
                display.begin(job.name)
            done, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for name, message in _arrived(messages):
                if isinstance(message, str):
                    display.said(name, message)
                elif name in {job.name for _, job in running.values()}:
                    display.moved(name, message)
            for future in done:
                pool, job = running.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    outcome = Outcome(job, None, "the process that ran it was killed")
                    pools.remove(pool)
                    pool = _pool(context, messages)
                    pools.append(pool)
                idle.append(pool)
                display.end(job.name)
                ended(outcome)
    except BaseException:
        with held():
            _stop(pools, set(multiprocessing.active_children()) - others)
        raise
    for pool in pools:
        pool.shutdown()


def _pool(context: ForkServerContext, messages: Queue[Message]) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=context, initializer=_initialize, initargs=(messages,))


def _stop(pools: Iterable[ProcessPoolExecutor], processes: Iterable[BaseProcess]) -> None:
    """End workers: their jobs are interrupted and leave what they have so far."""
    for pool in pools:
        pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _arrived(messages: Queue[Message]) -> Iterator[Message]:
    while True:
        try:
            yield messages.get_nowait()
        except queue.Empty:
            return


# -- in the worker -----------------------------------------------------------------------------------------------------


class _Interruption:
    """What SIGTERM does: it ends the job that runs, and those that would come.

    A worker that is ended while it imports or waits would leave semaphores behind, and a traceback.
    """

    def __init__(self) -> None:
        self.asked = False
        self.working = False

    def __call__(self, *_: object) -> None:
        self.asked = True
        if self.working:
            raise KeyboardInterrupt


_interruption = _Interruption()
_messages: Queue[Message]


def _initialize(messages: Queue[Message]) -> None:
    global _messages
    _messages = messages
    messages.cancel_join_thread()  # whoever reads may be gone
    orphans.end_with_parent()
    signal.signal(signal.SIGTERM, _interruption)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _work(job: Job, workers: int, tensorboard: bool) -> Outcome:
    told = -TELL_SECONDS

    def tell(moment: Moment) -> None:
        nonlocal told
        if time.monotonic() - told >= TELL_SECONDS:
            told = time.monotonic()
            _messages.put((job.name, moment))

    try:
        _interruption.working = True
        if not _interruption.asked:
            with warnings_to(lambda line: _messages.put((job.name, line)), known=(unused.WARNING,)):
                return attempt(job, tell, workers=workers, tensorboard=tensorboard)
    except KeyboardInterrupt:
        pass  # the main process asks for no outcome then, and anybody else may kill a worker
    finally:
        _interruption.working = False
    return Outcome(job, None, "it was interrupted")
