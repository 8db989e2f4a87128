"""Commands for devices: `flower-kd node`, `flower-kd keys` and `flower-kd federation`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flower_kd.cli.terminal import console
from flower_kd.errors import InputError

Nodes = Annotated[int, typer.Option("--nodes", min=1, help="Number of nodes.")]
Folder = Annotated[Path, typer.Option(help="Where everything that belongs to the federation is.")]
Warm = Annotated[
    bool,
    typer.Option("--warm/--cold", help="Fork each message from a process that has imported torch, or start a new one."),
]

FEDERATION = Path("federation")


def node(
    superlink: Annotated[str, typer.Option(help="HOST:PORT of the SuperLink.", show_default=False)],
    partition_id: Annotated[int | None, typer.Option(help="Vertex of the node, from 0.", show_default=False)] = None,
    num_partitions: Annotated[int | None, typer.Option(help="Number of nodes.", show_default=False)] = None,
    name: Annotated[str, typer.Option(help="Name of the node, as in a graph file.", show_default=False)] = "",
    data_dir: Annotated[Path | None, typer.Option(help="The device's own data.", show_default=False)] = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="Folder in which the node keeps its model over a restart.")
    ] = None,
    model: Annotated[str, typer.Option(help="The node's model (default: the run config's).", show_default=False)] = "",
    insecure: Annotated[bool, typer.Option("--insecure", help="Connect without TLS, for one machine.")] = False,
    root_certificates: Annotated[
        Path | None, typer.Option(help="ca.crt of `flower-kd keys`.", show_default=False)
    ] = None,
    auth_supernode_private_key: Annotated[
        Path | None, typer.Option(help="node-N.key of `flower-kd keys`.", show_default=False)
    ] = None,
    warm: Warm = True,
) -> None:
    """Run a node on a device: Flower's SuperNode, with a warm start for each message. Ctrl-C ends it."""
    from flower_kd.device import node as nodes
    from flower_kd.device.options import NodeOptions

    options = NodeOptions(
        superlink=superlink,
        partition_id=partition_id,
        num_partitions=num_partitions,
        name=name,
        data_dir=data_dir,
        state_dir=state_dir,
        model=model,
        insecure=insecure,
        root_certificates=root_certificates,
        private_key=auth_supernode_private_key,
    )
    raise typer.Exit(nodes.run(options, warm_start=warm))


def keys(
    folder: Annotated[Path, typer.Argument(help="Where to write them.", show_default=False)],
    nodes: Nodes,
    host: Annotated[
        list[str] | None,
        typer.Option(help="Name or address by which nodes reach the SuperLink (repeat for each).", show_default=False),
    ] = None,
) -> None:
    """Make certificates for a SuperLink and a key for each node. What is there is kept."""
    from flower_kd.device import keys as files

    made = files.make(folder, nodes, host or [])
    table = Table("file", "where it belongs")
    table.add_row(made.authority.name, "every node, and where `flwr run` is called")
    table.add_row(f"{made.certificate.name}, {made.key.name}", "the SuperLink alone")
    for vertex in range(nodes):
        table.add_row(made.of_node(vertex).name, f"device {vertex} alone")
        table.add_row(made.public_of_node(vertex).name, "`flwr supernode register`")
    console().print(table)
    console().print(f"keys: {made.folder}", markup=False, highlight=False, soft_wrap=True)


federation = typer.Typer(no_args_is_help=True, help="A whole federation on this machine: SuperLink and nodes.")


@federation.command()
def up(
    nodes: Nodes,
    tls: Annotated[bool, typer.Option("--tls", help="With TLS, and a registered key for each node.")] = False,
    folder: Folder = FEDERATION,
    warm: Warm = True,
) -> None:
    """Start it, or what has ended of it, in the background."""
    from flower_kd.device import federation as federations

    with console().status("starting the SuperLink and the nodes"):
        started = federations.up(folder, nodes, tls=tls, cold=not warm)
    option = "" if folder == FEDERATION else f" --folder {shlex.quote(str(folder))}"
    console().print(
        f"{nodes} nodes are connected to the SuperLink at {started.address}\n"
        f"to run: flower-kd federation run{option} -c \"strategy='neighbor-kd'\"\n"
        f"to end: flower-kd federation down{option}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


@federation.command()
def run(
    run_config: Annotated[
        list[str] | None, typer.Option("--run-config", "-c", help="As in `flower-kd run`.", show_default=False)
    ] = None,
    app: Annotated[
        Path | None, typer.Option(help="A Flower app of your own (default: flower-kd's apps).", show_default=False)
    ] = None,
    folder: Folder = FEDERATION,
) -> None:
    """Run an app on it with `flwr run`, and show its log."""
    from flower_kd.cli import run_config as configs
    from flower_kd.config import RunConfig
    from flower_kd.device import federation as federations

    settings = configs.parse(run_config)
    if app is None:
        RunConfig.read(settings)
    elif not (app / "pyproject.toml").is_file():
        raise InputError(f"--app {str(app)!r} is not the folder of a Flower app: it has no pyproject.toml")
    results = federations.run(federations.Federation.read(folder), settings, app)
    console().print(f"results: {results}", markup=False, highlight=False, soft_wrap=True)


@federation.command()
def status(folder: Folder = FEDERATION) -> None:
    """Show the nodes: process, connection, last round and accuracy."""
    from flower_kd.device import federation as federations

    found = federations.Federation.read(folder)
    table = Table("node", "process", "SuperLink says", "last seen", "round", "accuracy")
    for each in federations.status(found):
        table.add_row(
            each.name,
            "running" if each.running else "ended",
            each.connection,
            "never" if each.seen is None else f"{each.seen:.0f} s ago",
            "" if each.last_round is None else str(each.last_round),
            "" if each.accuracy is None else f"{each.accuracy:.1%}",
        )
    console().print(table)
    running = found.runs(federations.SUPERLINK)
    console().print(f"SuperLink at {found.address}: {'running' if running else 'ended'}", highlight=False)
    left = [str(each.pid) for each in found.left_behind()]
    if left:
        console().print(
            f"processes go on of what was killed: {', '.join(left)} (`flower-kd federation down` ends them)",
            highlight=False,
        )


@federation.command()
def down(folder: Folder = FEDERATION) -> None:
    """End all its processes. Its folder stays, and `up` starts it again."""
    from flower_kd.device import federation as federations

    ended = federations.down(federations.Federation.read(folder))
    console().print(f"ended: {', '.join(ended)}" if ended else "nothing was running", highlight=False)
