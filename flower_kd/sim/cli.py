"""The command line: `flower-kd`.

Commands import what they need when they are called: torch takes seconds, which `--help` should not.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from rich.console import Console
from typer.core import TyperGroup

from flower_kd.errors import InputError
from flower_kd.registry import unknown
from flower_kd.sim.signals import as_interruption

if TYPE_CHECKING:
    from flower_kd.sim.job import Outcome

MISTAKE, FAILED, INTERRUPTED = 2, 1, 130
DEFAULT_NODES = 8
PIPE_WIDTH = 120
DEFAULT_STRATEGIES = "silo,fedavg,d-sgd,d-dist,neighbor-kd"


class _Commands(TyperGroup):
    """Ends a command that meets a user's mistake with one sentence."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Read what stands before the command."""
        with _usage_in_one_sentence():
            return super().make_context(*args, **options)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that was asked for; raises InputError if there is none of that name."""
        if args and args[0] not in self.commands:
            raise InputError(unknown("command", args[0], list(self.commands)))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for; SIGTERM and a closed terminal end it as Ctrl-C does."""
        try:
            with as_interruption(), _usage_in_one_sentence():
                return super().invoke(ctx)
        except InputError as error:
            _say(str(error))
            raise typer.Exit(MISTAKE) from None
        except KeyboardInterrupt:
            _say("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            _write_nowhere()  # the terminal was closed while a bar moved
            raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _usage_in_one_sentence() -> Iterator[None]:
    """End the program with one sentence if options or arguments in a block are wrong."""
    try:
        yield
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # which is no error
            raise
        seen = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
        _say(f"{error.format_message().rstrip('.')}{seen}")
        raise typer.Exit(MISTAKE) from None


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Config = Annotated[
    list[str] | None,
    typer.Option("--run-config", "-c", help="What `flwr run -c` takes: 'key=value key=value', or a TOML file."),
]
Nodes = Annotated[
    int | None,
    typer.Option("--num-nodes", min=1, help=f"Number of nodes (default: num-nodes of the config, or {DEFAULT_NODES})."),
]
Workers = Annotated[int, typer.Option(min=1, help="Processes over which the nodes of one run are spread.")]
Jobs = Annotated[int, typer.Option(min=1, help="Runs at a time, each in a process of its own.")]
Seeds = Annotated[str, typer.Option(help="How many seeds, from that of the config on, or a list such as 0,4,7.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the results that are in the folder.")]
Resume = Annotated[bool, typer.Option("--resume", help="Keep what is finished and fits, run the rest.")]
Tensorboard = Annotated[bool, typer.Option("--tensorboard", help="Also write scalars for TensorBoard.")]


@app.callback(invoke_without_command=True)
def main(
    show_version: Annotated[bool, typer.Option("--version", help="Show the version and end.", is_eager=True)] = False,
) -> None:
    """Federated and decentralized knowledge distillation, in process: runs, comparisons, sweeps."""
    if show_version:
        typer.echo(f"flower-kd {version('flower-kd')}")
        raise typer.Exit


@app.command()
def run(
    config: Config = None,
    num_nodes: Nodes = None,
    output_dir: Annotated[Path | None, typer.Option(help="Where results go (default: in ~/flower-kd-results).")] = None,
    workers: Workers = 1,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run; show one that is finished.")
    ] = False,
    tensorboard: Tensorboard = False,
) -> None:
    """Run what `flwr run` runs, without Flower's engine."""
    _prepare(workers)
    from flower_kd import run_folder, run_table
    from flower_kd.config import RunConfig
    from flower_kd.sim import job, progress, run_config
    from flower_kd.sim.logs import warnings_to

    _not_both(overwrite, resume)
    if tensorboard:
        _check_tensorboard()
    settings = run_config.parse(config)
    nodes = _num_nodes(num_nodes, settings)
    if output_dir is not None:
        settings["output-dir"] = str(output_dir)
    if resume and not settings.get("output-dir"):
        raise InputError("--resume needs the folder of the run: --output-dir")
    settings |= {key: True for key, asked in (("overwrite", overwrite), ("resume", resume)) if asked}
    folder = run_folder.path_of(RunConfig.parse(settings))
    this = job.Job("run", settings, nodes, folder)
    with (
        _interruptible(lambda: _left_by_run(folder)),
        progress.display() as display,
        warnings_to(lambda line: display.said(this.name, line)),
    ):
        display.begin(this.name)
        summary = job.execute(
            this, lambda moment: display.moved(this.name, moment), workers=workers, tensorboard=tensorboard
        )
        display.end(this.name)
    console = _console()
    console.print(run_table.table(summary))
    _say_where(console, folder)


@app.command()
def compare(
    experiment: Annotated[
        Path | None, typer.Argument(help="A TOML file with [common] and [runs.NAME] tables.", show_default=False)
    ] = None,
    strategies: Annotated[
        str, typer.Option(help=f"Which ones, with commas between them (default: {DEFAULT_STRATEGIES}).")
    ] = "",
    only: Annotated[str, typer.Option(help="Which runs of the experiment, with commas between them.")] = "",
    seeds: Seeds = "1",
    config: Config = None,
    num_nodes: Nodes = None,
    output_dir: Annotated[Path, typer.Option(help="Where results go.")] = Path("results/compare"),
    jobs: Jobs = 1,
    workers: Workers = 1,
    overwrite: Overwrite = False,
    resume: Resume = False,
    tensorboard: Tensorboard = False,
) -> None:
    """Run strategies, or the runs of an experiment file, on the same data and seeds. Given again, it goes on."""
    _prepare(max(jobs, workers))
    from flower_kd.sim import experiment as experiments
    from flower_kd.sim import run_config
    from flower_kd.sim.compare import Comparison, screen

    _not_both(overwrite, resume)
    if tensorboard:
        _check_tensorboard()
    settings = run_config.parse(config)
    if experiment is None and only:
        raise InputError(f"--only {only!r} picks runs of an experiment file, and none is given")
    if experiment is not None and strategies:
        raise InputError(f"--strategies {strategies!r} and the experiment {str(experiment)!r} exclude each other")
    runs = (
        experiments.of_strategies(strategies or DEFAULT_STRATEGIES, settings)
        if experiment is None
        else experiments.read(experiment, settings, only)
    )
    comparison = Comparison(runs, seeds, _num_nodes(num_nodes, settings), output_dir.expanduser().absolute())
    _warn(comparison.warning)
    console = _console()
    try:
        with _interruptible(lambda: _left_by_batch(comparison.folder, comparison.outcomes, len(comparison.jobs))):
            comparison.run(processes=jobs, workers=workers, tensorboard=tensorboard, overwrite=overwrite, resume=resume)
    finally:
        if comparison.outcomes:
            console.print(screen(comparison))
    _end_batch(console, comparison.folder, comparison.failed)


@app.command()
def sweep(
    grid: Annotated[list[str] | None, typer.Option(help="key=value,value,... (once for each key).")] = None,
    seeds: Seeds = "1",
    config: Config = None,
    num_nodes: Nodes = None,
    output_dir: Annotated[Path, typer.Option(help="Where results go.")] = Path("results/sweep"),
    jobs: Jobs = 1,
    workers: Workers = 1,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Run every combination of the values of some keys. Given again, it goes on."""
    _prepare(max(jobs, workers))
    from flower_kd.sim import grid as grids
    from flower_kd.sim import run_config
    from flower_kd.sim.sweep import Sweep

    _not_both(overwrite, resume)
    settings = run_config.parse(config)
    nodes = _num_nodes(num_nodes, settings)
    swept = Sweep(settings, grids.parse(grid or []), seeds, nodes, output_dir.expanduser().absolute())
    _warn(swept.warning)
    console = _console()
    try:
        with _interruptible(lambda: _left_by_batch(swept.folder, swept.outcomes, len(swept.jobs))):
            swept.run(processes=jobs, workers=workers, overwrite=overwrite, resume=resume)
    finally:
        if len(swept.failed) < len(swept.outcomes):
            console.print(swept.best())
    _end_batch(console, swept.folder, swept.failed)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="What run, compare or sweep left.", show_default=False)],
) -> None:
    """Make one web page of a run, a comparison or a sweep."""
    from flower_kd.sim import report as reports

    typer.echo(reports.write(folder.expanduser()))


@app.command()
def topology(
    name: Annotated[
        str | None, typer.Argument(help="A topology or a file (default: that of the config).", show_default=False)
    ] = None,
    config: Config = None,
    num_nodes: Nodes = None,
    picture: Annotated[
        Path | None, typer.Option(help="Where it is drawn (default: results/topology/NAME-NODES.png).")
    ] = None,
) -> None:
    """Draw a communication graph; show degree, diameter, spectral gap, and the bytes of a round."""
    from flower_kd import folders, pictures
    from flower_kd.config import RunConfig
    from flower_kd.sim import run_config, topology_card

    settings = run_config.parse(config)
    if name is not None:
        settings["topology"] = name
    parsed = RunConfig.parse(settings)
    nodes = _num_nodes(num_nodes, settings)
    shown = Path(parsed.topology).stem
    path = (picture or Path("results/topology") / f"{shown}-{nodes}.png").expanduser().absolute()
    if path.is_dir():
        raise InputError(f"--picture {str(picture)!r} is a directory, it must be a file to draw into")
    folders.check_writable(path.parent)
    card = topology_card.card(parsed, nodes)
    console = _console()
    console.print(topology_card.table(card, shown))
    folders.write(path.parent, {path.name: pictures.png(pictures.draw_graph(card.graph, f"{shown} of {nodes} nodes"))})
    console.print(f"drawn: {path}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def bench(
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Which figures to measure (once for each).")] = None,
) -> None:
    """Measure how fast this machine runs."""
    from flower_kd.sim import bench as benches

    benches.run(json_file, only or [], _console())


def _prepare(processes: int) -> None:
    """Begin to make ready what processes need, if there will be any."""
    if processes > 1:
        from flower_kd.sim import preload

        preload.context()


def _say(sentence: str) -> None:
    try:
        typer.echo(f"flower-kd: {' '.join(sentence.split())}", err=True)
    except OSError:  # nobody is there to read it
        _write_nowhere()


def _write_nowhere() -> None:
    """Drop what is still to be written to a terminal that is closed: Python would fail on it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())


def _warn(line: str) -> None:
    """Say what is to be known before runs begin, if there is anything."""
    if line:
        _say(line)


def _console() -> Console:
    """Return the screen; a file or a pipe is as wide as tables need."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPE_WIDTH)


def _not_both(overwrite: bool, resume: bool) -> None:
    if overwrite and resume:
        raise InputError("--overwrite and --resume exclude each other")


def _check_tensorboard() -> None:
    from flower_kd.sim.tensorboard import summary_writer

    summary_writer()


def _num_nodes(option: int | None, settings: dict[str, Any]) -> int:
    """Return the number of nodes of the command line, the config, or the default."""
    in_config = settings.get("num-nodes") or None
    if option is not None and in_config not in (None, option):
        raise InputError(f"num-nodes = {in_config!r} and --num-nodes {option} differ")
    nodes = option or in_config or DEFAULT_NODES
    if not isinstance(nodes, int) or nodes < 1:
        raise InputError(f"num-nodes = {nodes!r} must be a whole number, at least 1")
    return nodes


@contextmanager
def _interruptible(left: Callable[[], str]) -> Iterator[None]:
    """End on Ctrl-C with a line that says what is left."""
    try:
        yield
    except KeyboardInterrupt:
        _say(f"interrupted; {left()}")
        raise typer.Exit(INTERRUPTED) from None


def _left_by_run(folder: Path) -> str:
    if not any(folder.glob("history*.csv")):
        return "no round was done"
    return f"the history so far is in {folder}, the same command with --resume goes on from there"


def _left_by_batch(folder: Path, outcomes: list[Outcome], jobs: int) -> str:
    finished = sum(outcome.summary is not None for outcome in outcomes)
    return f"{finished} of {jobs} runs are finished in {folder}, the same command goes on from there"


def _end_batch(console: Console, folder: Path, failed: list[Outcome]) -> None:
    """Say where results are and what failed."""
    by_error: dict[str, list[str]] = {}
    for outcome in failed:
        by_error.setdefault(outcome.error, []).append(outcome.job.name)
    for error, names in by_error.items():
        _say(f"{', '.join(names)} failed: {error}")
    _say_where(console, folder)
    if failed:
        raise typer.Exit(FAILED)


def _say_where(console: Console, folder: Path) -> None:
    lines = f"results: {folder}\na page of them: flower-kd report {shlex.quote(str(folder))}"
    console.print(lines, markup=False, highlight=False, soft_wrap=True)
