"""Runs in worker processes, several at the same time."""

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
from flower_kd.sim.signals import deferred_signals, not_lost_in_destructors
from flower_kd.study import PRELOADED
from flower_kd.study.job import Job, Outcome, attempt
from flower_kd.study.logs import warnings_to
from flower_kd.study.progress import Display, ProgressEvent

POLL_SECONDS = 0.2
REPORT_SECONDS = 0.5
# An interrupted run writes its history before it ends, and a new process has to finish its imports.
GRACE_SECONDS = 20.0

# What a worker sends while it runs a job: the job's name, with a progress event or a warning.
Message = tuple[str, ProgressEvent | str]


def run(
    jobs: Sequence[Job],
    processes: int,
    *,
    workers: int,
    tensorboard: bool,
    display: Display,
    on_outcome: Callable[[Outcome], None],
) -> None:
    """Run jobs in worker processes, each job in one of them; see `batch.run_all`.

    Each process is its own pool, so that a killed process fails only its own job.
    """
    context = preload.context(PRELOADED)
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
            for name, message in _pending_messages(messages):
                if isinstance(message, str):
                    display.warn(name, message)
                elif name in {job.name for _, job in running.values()}:
                    display.update(name, message)
            for future in done:
                pool, job = running.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    outcome = Outcome(job, None, "its process was killed")
                    pools.remove(pool)
                    pool = _pool(context, messages)
                    pools.append(pool)
                idle.append(pool)
                display.end(job.name)
                on_outcome(outcome)
    except BaseException:
        with deferred_signals():
            _stop(pools, set(multiprocessing.active_children()) - others)
        raise
    for pool in pools:
        pool.shutdown()


def _pool(context: ForkServerContext, messages: Queue[Message]) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=context, initializer=_initialize, initargs=(messages,))


def _stop(pools: Iterable[ProcessPoolExecutor], processes: Iterable[BaseProcess]) -> None:
    """Stop workers: their jobs are interrupted and keep their history."""
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


def _pending_messages(messages: Queue[Message]) -> Iterator[Message]:
    while True:
        try:
            yield messages.get_nowait()
        except queue.Empty:
            return


# -- in the worker -----------------------------------------------------------------------------------------------------


class _Interruption:
    """Handler of SIGTERM: interrupts the running job and those that follow.

    A worker that was terminated during imports or while waiting would leave semaphores behind and print a traceback.
    """

    def __init__(self) -> None:
        self.requested = False
        self.working = False

    def __call__(self, *_: object) -> None:
        self.requested = True
        if self.working:
            raise KeyboardInterrupt


_interruption = _Interruption()
_messages: Queue[Message]


def _initialize(messages: Queue[Message]) -> None:
    global _messages
    _messages = messages
    messages.cancel_join_thread()  # the reader may be gone
    orphans.end_with_parent()
    signal.signal(signal.SIGTERM, _interruption)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _work(job: Job, workers: int, tensorboard: bool) -> Outcome:
    reported = -REPORT_SECONDS

    def report(event: ProgressEvent) -> None:
        nonlocal reported
        if time.monotonic() - reported >= REPORT_SECONDS:
            reported = time.monotonic()
            _messages.put((job.name, event))

    try:
        _interruption.working = True
        if not _interruption.requested:
            with (
                not_lost_in_destructors(signal.SIGTERM),
                warnings_to(lambda line: _messages.put((job.name, line)), known=(unused.WARNING,)),
            ):
                return attempt(job, report, workers=workers, tensorboard=tensorboard)
    except KeyboardInterrupt:
        pass  # the main process does not wait for this outcome
    finally:
        _interruption.working = False
    return Outcome(job, None, "it was interrupted")
