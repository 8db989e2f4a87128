"""Many runs, one after another or several at a time; what is finished is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from flower_kd import folders, results, unused
from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.folders import Marker
from flower_kd.sim import processes as worker_processes
from flower_kd.sim import progress, seeds
from flower_kd.sim.job import Job, Outcome, attempt, problem, state
from flower_kd.sim.logs import warnings_to
from flower_kd.sim.progress import Display
from flower_kd.sim.signals import held

# Where results go is said once for all runs, and a seed is one of several.
NOT_IN_CONFIG = {"output-dir": "--output-dir", "overwrite": "--overwrite", "resume": "--resume"}


def jobs(runs: Mapping[str, Mapping[str, Any]], seed_text: str, num_nodes: int, folder: Path) -> list[Job]:
    """Return a job a run a seed.

    Parameters
    ----------
    runs : mapping
        Run configs by label; without `baseline`, nodes are not trained alone as well.
    seed_text : str
        See `seeds.parse`.
    num_nodes : int
        Number of nodes.
    folder : Path
        That of the batch.

    Raises
    ------
    InputError
        If the seeds are none, or a config says what only the command line does.
    """
    found = []
    for label, config in runs.items():
        for key, option in NOT_IN_CONFIG.items():
            if key in config:
                raise InputError(f"{key} = {config[key]!r} is no key of one run among several: use {option}")
        if config.get("num-nodes", 0) not in (0, num_nodes):
            raise InputError(f"num-nodes = {config['num-nodes']!r} and --num-nodes {num_nodes} differ")
        first = config.get("seed", RunConfig.seed)
        if type(first) is not int:
            raise InputError(f"seed = {first!r} must be a whole number")
        for seed in seeds.parse(seed_text, first):
            name = folders.name_of(f"{label}-seed{seed}")
            of_batch = {"baseline": "none", **config, "seed": seed, "resume": True}
            found.append(Job(label, of_batch, num_nodes, folder / folders.RUNS / name))
    return found


def problems(jobs: Sequence[Job]) -> dict[str, list[str]]:
    """Return what keeps jobs from running, and the labels that it keeps."""
    found: dict[str, list[str]] = {}
    for job in jobs:
        words = problem(job)
        if words and job.label not in found.setdefault(words, []):
            found[words].append(job.label)
    return found


@contextmanager
def claimed(folder: Path, jobs: Sequence[Job], kind: str, *, overwrite: bool, resume: bool) -> Iterator[None]:
    """Make a folder that of a batch, and keep other processes from writing in it until the end of the block.

    Parameters
    ----------
    folder : Path
        That of the batch.
    jobs : sequence of Job
        What the batch is.
    kind : {"comparison", "sweep"}
        What it is called.
    overwrite : bool
        Whether earlier results are replaced.
    resume : bool
        Whether runs that are there and are none of these jobs may stay or, where their folder is needed, be replaced.

    Raises
    ------
    InputError
        If nothing can be written there, other results or files that are not ours are there, or another process writes
        there. Nothing is changed then.
    """
    folders.check_writable(folder)
    folders.check_ours(folder)
    with folders.locked(folder):
        marker = folders.read_marker(folder)
        if marker is not None and not overwrite:
            _keep_runs(folder, jobs, marker, kind, resume=resume)
        content = {folders.MARKER: Marker(kind).to_bytes()}
        folders.write(folder, content, replace_results=overwrite)
        yield


def _keep_runs(folder: Path, jobs: Sequence[Job], marker: Marker, kind: str, *, resume: bool) -> None:
    """Refuse a folder whose runs are of another batch; with `resume`, remove those that are in the way instead."""
    if marker.kind != kind:
        raise folders.refusal(folder, f"a {marker.kind}")
    by_folder = {job.folder: job for job in jobs}
    runs = [path.parent for path in sorted((folder / folders.RUNS).glob(f"*/{folders.MARKER}"))]
    others = [run for run in runs if run not in by_folder or state(by_folder[run]) == "other"]
    if others and not resume:
        raise folders.refusal(folder, f"other runs, such as {others[0].name!r}")
    replaced = [run for run in others if run in by_folder]
    if replaced:
        folders.remove_index(folder)  # which tells of them
    for run in replaced:
        folders.clear(run)


def run_all(
    jobs: Sequence[Job],
    *,
    processes: int = 1,
    workers: int = 1,
    tensorboard: bool = False,
    ended: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Run jobs, but for those that are finished in their folder, and show how far they are.

    Ctrl-C and SIGTERM end all of them: finished folders stay, and runs that are stopped leave their history.

    Parameters
    ----------
    jobs : sequence of Job
        What to run; their folders differ.
    processes : int
        How many run at a time; with 1, in this process.
    workers : int
        Processes over which the nodes of one run are spread.
    tensorboard : bool
        Whether each run writes scalars for TensorBoard.
    ended : callable
        Called in this process with each Outcome as it comes; Ctrl-C waits until it returns.

    Returns
    -------
    list of Outcome
        In the order of the jobs.
    """
    outcomes: dict[Path, Outcome] = {}

    def take(outcome: Outcome) -> None:
        with held():
            outcomes[outcome.job.folder] = outcome
            ended(outcome)

    def take_finished(job: Job) -> bool:
        done = state(job) == "finished"
        if done:
            take(Outcome(job, results.read(job.folder).summary))
        return done

    todo = [job for job in jobs if not take_finished(job)]
    if not todo:
        return [outcomes[job.folder] for job in jobs]
    options: dict[str, Any] = {"workers": workers, "tensorboard": tensorboard}
    with progress.display(len(jobs), len(jobs) - len(todo)) as display:
        try:
            if processes > 1:
                worker_processes.run(todo, processes, **options, display=display, ended=take)
            else:
                _one_by_one(todo, **options, display=display, ended=take)
        except KeyboardInterrupt:
            for job in todo:
                if job.folder not in outcomes:
                    take_finished(job)  # between its last file and its report
            raise
    return [outcomes[job.folder] for job in jobs]


def _one_by_one(
    jobs: Sequence[Job], *, workers: int, tensorboard: bool, display: Display, ended: Callable[[Outcome], None]
) -> None:
    for job in jobs:
        display.begin(job.name)
        with warnings_to(partial(display.said, job.name), known=(unused.WARNING,)):
            outcome = attempt(job, partial(display.moved, job.name), workers=workers, tensorboard=tensorboard)
        display.end(job.name)
        ended(outcome)
