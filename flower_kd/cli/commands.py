"""The command line: `flower-kd`.

Commands import what they need when they are called: importing torch takes seconds, which `--help` should not wait for.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from rich.console import Console
from typer.core import TyperGroup

from flower_kd.cli import device_commands, gradient_command, model_commands
from flower_kd.cli.terminal import console as _console
from flower_kd.errors import InputError, unknown
from flower_kd.sim.signals import as_interruption

if TYPE_CHECKING:
    from flower_kd.study.job import Outcome

MISTAKE, FAILED, INTERRUPTED = 2, 1, 130
DEFAULT_NODES = 8
DEFAULT_EXPERIMENT = "preset:digits"


class _Commands(TyperGroup):
    """Ends a command with one sentence where the user made a mistake."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Parse the options before the command."""
        with _usage_in_one_sentence():
            return super().make_context(*args, **options)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the requested command; raises InputError if there is no command of that name."""
        if args and args[0] not in self.commands:
            raise InputError(unknown("command", args[0], list(self.commands)))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the requested command; SIGTERM and a closed terminal end it as Ctrl-C does."""
        try:
            with as_interruption(), _usage_in_one_sentence():
                return super().invoke(ctx)
        except InputError as error:
            _print_error(str(error))
            raise typer.Exit(MISTAKE) from None
        except KeyboardInterrupt as interruption:
            _print_error("; ".join(["interrupted", *map(str, interruption.args)]))  # and what goes on, if it says so
            raise typer.Exit(INTERRUPTED) from None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                _print_error(f"{error.filename!r} cannot be used: {error.strerror}")
                raise typer.Exit(MISTAKE) from None
            if error.errno != errno.EIO:
                raise
            _discard_output()  # the terminal was closed while a progress bar was drawn
            raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _usage_in_one_sentence() -> Iterator[None]:
    """End the program with one sentence if options or arguments in a block are wrong."""
    try:
        yield
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # this is not an error
            raise
        hint = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
        _print_error(f"{error.format_message().rstrip('.')}{hint}")
        raise typer.Exit(MISTAKE) from None


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Config = Annotated[
    list[str] | None,
    typer.Option(
        "--run-config", "-c", help="What `flwr run -c` takes: 'key=value key=value', or a TOML file; or preset:NAME."
    ),
]
Nodes = Annotated[
    int | None,
    typer.Option(
        "--num-nodes",
        min=1,
        help=f"Number of nodes (default: num-nodes of the config or experiment, or {DEFAULT_NODES}).",
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Number of processes over which the nodes of one run are spread.")]
Jobs = Annotated[int, typer.Option(min=1, help="How many runs to execute at the same time, each in its own process.")]
Scale = Annotated[str, typer.Option(help="A smaller or larger version that a file has: its table `scale.NAME`.")]
Seeds = Annotated[str, typer.Option(help="How many seeds, from that of the config on, or a list: 0,4,7.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the results in the folder.")]
Resume = Annotated[bool, typer.Option("--resume", help="Keep finished runs that belong to this batch.")]
Tensorboard = Annotated[bool, typer.Option("--tensorboard", help="Also write scalars for TensorBoard.")]


@app.callback(invoke_without_command=True)
def main(
    show_version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    """Federated and decentralized knowledge distillation, in process: runs, comparisons, sweeps."""
    _find_modules_in_current_folder()
    if show_version:
        import flower_kd

        typer.echo(f"flower-kd {flower_kd.__version__}")
        raise typer.Exit


@app.command()
def run(
    config: Config = None,
    scale: Scale = "",
    num_nodes: Nodes = None,
    output_dir: Annotated[Path | None, typer.Option(help="Where results go (default: in ~/flower-kd-results).")] = None,
    workers: Workers = 1,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run; show the results of a finished one.")
    ] = False,
    tensorboard: Tensorboard = False,
) -> None:
    """Run the same apps as `flwr run`, without Flower's engine."""
    _not_both(overwrite, resume)
    settings = _settings(config, scale)
    nodes = _num_nodes(num_nodes, settings)
    if output_dir is not None:
        settings["output-dir"] = str(output_dir)
    if resume and not settings.get("output-dir"):
        raise InputError("--resume needs --output-dir, the folder of the run to continue")
    _prepare(workers)
    from flower_kd.config import RunConfig
    from flower_kd.report import run_table
    from flower_kd.runs import run_folder
    from flower_kd.study import job, progress
    from flower_kd.study.logs import warnings_to

    if tensorboard:
        _check_tensorboard()
    settings |= {key: True for key, asked in (("overwrite", overwrite), ("resume", resume)) if asked}
    folder = run_folder.path_of(RunConfig.parse(settings))
    this_run = job.Job("run", settings, nodes, folder)
    with (
        _interruptible(lambda: _kept_of_run(folder)),
        progress.display() as display,
        warnings_to(lambda line: display.warn(folder.name, line)),
    ):
        display.begin(folder.name)
        summary = job.execute(
            this_run, lambda event: display.update(folder.name, event), workers=workers, tensorboard=tensorboard
        )
        display.end(folder.name)
    console = _console()
    console.print(run_table.table(summary))
    _print_location(console, folder)


@app.command()
def compare(
    experiment: Annotated[
        str | None,
        typer.Argument(
            help="A TOML file with [common] and [runs.NAME] tables, or preset:NAME "
            f"(default, without --strategies: {DEFAULT_EXPERIMENT}).",
            show_default=False,
        ),
    ] = None,
    strategies: Annotated[str, typer.Option(help="Comma-separated strategies, instead of an experiment.")] = "",
    only: Annotated[str, typer.Option(help="Comma-separated runs of the experiment.")] = "",
    scale: Scale = "",
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
    """Run strategies, or the runs of an experiment file, on the same data and seeds. Repeat the command to continue."""
    from flower_kd import folders
    from flower_kd.cli import presets
    from flower_kd.study import experiment as experiments

    _not_both(overwrite, resume)
    settings = _settings(config)
    if strategies and experiment is not None:
        raise InputError(f"--strategies {strategies!r} and the experiment {experiment!r} cannot be used together")
    if strategies and only:
        raise InputError(f"--only {only!r} selects runs of an experiment, and cannot be used with --strategies")
    if strategies and scale:
        raise InputError(f"--scale {scale!r} is one of an experiment, and cannot be used with --strategies")
    runs = None
    if not strategies:
        path = presets.path_of(experiment or DEFAULT_EXPERIMENT, experiment=True)
        runs = experiments.read(path, settings, only, scale)
    nodes = _num_nodes(num_nodes, settings, experiments.num_nodes(runs) if runs else 0)
    _prepare(max(jobs, workers))
    from flower_kd.study.compare import Comparison, screen

    if tensorboard:
        _check_tensorboard()
    if runs is None:
        runs = experiments.of_strategies(strategies, settings)
    comparison = Comparison(runs, seeds, nodes, folders.expanded(output_dir).absolute())
    _warn(comparison.warning)
    console = _console()
    try:
        with _interruptible(lambda: _kept_of_batch(comparison.folder, comparison.outcomes, len(comparison.jobs))):
            comparison.run(processes=jobs, workers=workers, tensorboard=tensorboard, overwrite=overwrite, resume=resume)
    finally:
        if comparison.outcomes:
            console.print(screen(comparison))
    _end_batch(console, comparison.folder, comparison.failed)


@app.command()
def sweep(
    grid: Annotated[list[str] | None, typer.Option(help="key=value,value,... (repeat for each key).")] = None,
    seeds: Seeds = "1",
    config: Config = None,
    num_nodes: Nodes = None,
    output_dir: Annotated[Path, typer.Option(help="Where results go.")] = Path("results/sweep"),
    jobs: Jobs = 1,
    workers: Workers = 1,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Run every combination of the values of some keys. Repeat the command to continue."""
    from flower_kd import folders
    from flower_kd.study import grid as grids

    _not_both(overwrite, resume)
    settings = _settings(config)
    nodes = _num_nodes(num_nodes, settings)
    parsed = grids.parse(grid or [])
    _prepare(max(jobs, workers))
    from flower_kd.study.sweep import Sweep

    swept = Sweep(settings, parsed, seeds, nodes, folders.expanded(output_dir).absolute())
    _warn(swept.warning)
    console = _console()
    try:
        with _interruptible(lambda: _kept_of_batch(swept.folder, swept.outcomes, len(swept.jobs))):
            swept.run(processes=jobs, workers=workers, overwrite=overwrite, resume=resume)
    finally:
        if len(swept.failed) < len(swept.outcomes):
            console.print(swept.best())
    _end_batch(console, swept.folder, swept.failed)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Results folder of run, compare or sweep.", show_default=False)],
) -> None:
    """Make one web page of a run, a comparison or a sweep."""
    from flower_kd import folders

    path = folders.expanded(folder)
    if not path.is_dir():
        raise InputError(f"{str(folder)!r} is not a folder")
    from flower_kd.report import report as reports

    typer.echo(reports.write(path))


@app.command()
def topology(
    name: Annotated[
        str | None, typer.Argument(help="A topology or a graph file (default: the config's).", show_default=False)
    ] = None,
    config: Config = None,
    num_nodes: Nodes = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="Where to draw it: one file, or, without .png, .pdf or .svg, all three formats."),
    ] = None,
) -> None:
    """Draw a communication graph; show degree, diameter, spectral gap, and the bytes of a round."""
    settings = _settings(config)
    nodes = _num_nodes(num_nodes, settings)
    if name is not None:
        settings["topology"] = name
    from flower_kd import folders
    from flower_kd.config import RunConfig
    from flower_kd.report import pictures, topology_card

    parsed = RunConfig.parse(settings)
    shown = topology_card.shown_name(parsed.topology)
    default = Path("results/topology") / folders.file_name_of(f"{shown}-{nodes}")
    path = folders.expanded(picture or default).absolute()
    if path.is_dir():
        raise InputError(f"--picture {str(picture)!r} is a directory, but must be a file")
    folders.check_writable(path.parent, "the folder of --picture")
    card = topology_card.card(parsed, nodes)
    console = _console()
    console.print(topology_card.table(card, shown))
    one = path.suffix in folders.PICTURE_SUFFIXES
    stem, suffixes = (path.stem, (path.suffix,)) if one else (path.name, folders.PICTURE_SUFFIXES)
    files = pictures.files(topology_card.picture(card, shown), stem, suffixes)
    folders.write(path.parent, files)
    for name in files:
        console.print(f"drawn: {path.parent / name}", markup=False, highlight=False, soft_wrap=True)


@app.command(name="settings")
def list_settings(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY]...", help="Only these.", show_default=False)
    ] = None,
) -> None:
    """List the keys of a run config: default, allowed values, and what they mean."""
    from flower_kd.config import check_keys

    check_keys(keys or [])
    from flower_kd.cli import settings_table
    from flower_kd.keys import keys as every_key

    _console().print(settings_table.table(key for key in every_key() if not keys or key.name in keys))


@app.command()
def parts(
    kind: Annotated[
        str | None, typer.Argument(help="Only those of one kind, such as topology.", show_default=False)
    ] = None,
) -> None:
    """List every part that a run config can name: where it comes from, its settings, and what it does."""
    from flower_kd.catalog import REGISTRIES
    from flower_kd.cli import parts_table

    if kind is not None and kind not in REGISTRIES:
        raise InputError(unknown("kind of part", kind, REGISTRIES))
    for name in [kind] if kind else REGISTRIES:
        _console().print(parts_table.table(name, REGISTRIES[name]))


@app.command()
def table1(
    models: Annotated[
        str, typer.Option(help="Comma-separated networks (default: the report's, and pruned ones).", show_default=False)
    ] = "",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the private data.")] = 800,
    batches: Annotated[int, typer.Option(min=1, help="Exchanges in an epoch: one per batch.")] = 37,
    rows: Annotated[int, typer.Option(min=1, help="Reference rows in an exchange of D-Dist.")] = 1,
    output_dir: Annotated[Path, typer.Option(help="Where the tables go.")] = Path("results/table1"),
) -> None:
    """Show what two peers send under D-Dist and D-SGD by network: Table I of Wang, Wang and Ma (2020)."""
    from flower_kd import folders
    from flower_kd.report import table1 as tables

    folder = folders.expanded(output_dir).absolute()
    folders.check_writable(folder)
    exchanges = tables.Exchanges(epochs, batches, rows)
    found = tables.rows(models or tables.MODELS, exchanges)
    console = _console()
    console.print(tables.screen(found, exchanges))
    folders.write(folder, tables.files(found, exchanges))
    console.print(f"tables: {folder}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def bench(
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Which figures to measure (repeat for each).")] = None,
) -> None:
    """Measure how fast this machine runs."""
    from flower_kd import bench as benches

    benches.run(json_file, only or [], _console())


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="Print only the path of this one.", show_default=False)] = None,
) -> None:
    """List the run configs and experiments that come with the package."""
    from flower_kd.cli import presets as files

    if name is not None:
        typer.echo(files.get(name.removeprefix(files.PREFIX)).path)
        return
    for preset in files.presets():
        scales = f" [--scale {'|'.join(preset.scales)}]" if preset.scales else ""
        typer.echo(f"{preset.usage}{scales}\n    {preset.description}\n    {preset.path}")


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove them.")] = False,
) -> None:
    """Show where decoded images are kept, so that each is decoded only once, and how large they are."""
    from flower_kd.data import pixel_cache

    folder = pixel_cache.folder()
    if folder is None:
        typer.echo(f"switched off: {pixel_cache.FOLDER} = {os.environ[pixel_cache.FOLDER]}")
        return
    if clear:
        try:
            pixel_cache.clear(folder)
        except OSError as error:
            raise InputError(f"{str(error.filename or folder)!r} cannot be removed: {error.strerror}") from None
    megabytes, most = pixel_cache.size(folder) / 1e6, pixel_cache.LARGEST / 1e9
    typer.echo(f"{folder}\n{megabytes:,.1f} MB of at most {most:.1f} GB ({pixel_cache.FOLDER} moves it, or is 'off')")


app.command()(gradient_command.gradients)
app.command()(model_commands.predict)
app.command()(model_commands.export)
app.command()(device_commands.node)
app.command()(device_commands.keys)
app.add_typer(device_commands.federation, name="federation")


def _find_modules_in_current_folder() -> None:
    """Let parts be named `module:attribute` after a file in the current folder, as Python's own -m option does.

    It comes last, so that no file there hides a module of Python or of an installed package. Worker processes get the
    same path.
    """
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)


def _settings(config: list[str] | None, scale: str = "") -> dict[str, Any]:
    """Return the run config of a command line; a wrong key or value ends the command before anything slow begins."""
    from flower_kd.cli import run_config
    from flower_kd.config import RunConfig

    settings = run_config.parse(config, scale)
    RunConfig.read(settings)
    return settings


def _prepare(processes: int) -> None:
    """Start preparing the worker processes in the background, if there will be any."""
    if processes > 1:
        from flower_kd import study
        from flower_kd.sim import preload

        preload.context(study.PRELOADED)


def _print_error(sentence: str) -> None:
    try:
        typer.echo(f"flower-kd: {' '.join(sentence.split())}", err=True)
    except OSError:  # the terminal is closed
        _discard_output()


def _discard_output() -> None:
    """Discard all further output to a closed terminal: Python would fail to flush it at exit."""
    sink = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            os.dup2(sink, stream.fileno())


def _warn(line: str) -> None:
    """Print a warning before the runs begin, if there is one."""
    if line:
        _print_error(line)


def _not_both(overwrite: bool, resume: bool) -> None:
    if overwrite and resume:
        raise InputError("--overwrite and --resume cannot be used together")


def _check_tensorboard() -> None:
    from flower_kd.study.tensorboard import summary_writer

    summary_writer()


def _num_nodes(option: int | None, settings: dict[str, Any], of_experiment: int = 0) -> int:
    """Return the number of nodes from the command line, the config, the experiment, or the default."""
    in_config = settings.get("num-nodes") or of_experiment or None
    if option is not None and in_config not in (None, option):
        raise InputError(f"num-nodes = {in_config!r} and --num-nodes {option} are different")
    nodes = option or in_config or DEFAULT_NODES
    if not isinstance(nodes, int) or nodes < 1:
        raise InputError(f"num-nodes = {nodes!r} must be a whole number, at least 1")
    return nodes


@contextmanager
def _interruptible(describe_kept: Callable[[], str]) -> Iterator[None]:
    """On Ctrl-C, end with a line that says what has been kept."""
    try:
        yield
    except KeyboardInterrupt:
        _print_error(f"interrupted; {describe_kept()}")
        raise typer.Exit(INTERRUPTED) from None


def _kept_of_run(folder: Path) -> str:
    if not any(folder.glob("history*.csv")):
        return "no round was finished"
    return f"the history so far is in {folder}; to continue, repeat the command with --resume"


def _kept_of_batch(folder: Path, outcomes: list[Outcome], jobs: int) -> str:
    finished = sum(outcome.summary is not None for outcome in outcomes)
    return f"{finished} of {jobs} runs are finished in {folder}; to continue, repeat the command"


def _end_batch(console: Console, folder: Path, failed: list[Outcome]) -> None:
    """Print where the results are and what failed."""
    by_error: dict[str, list[str]] = {}
    for outcome in failed:
        by_error.setdefault(outcome.error, []).append(outcome.job.name)
    for error, names in by_error.items():
        _print_error(f"{', '.join(names)} failed: {error}")
    _print_location(console, folder)
    if failed:
        raise typer.Exit(FAILED)


def _print_location(console: Console, folder: Path) -> None:
    lines = f"results: {folder}\nto make a web page of them: flower-kd report {shlex.quote(str(folder))}"
    console.print(lines, markup=False, highlight=False, soft_wrap=True)
