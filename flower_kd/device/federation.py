"""A whole federation on this machine's loopback interface, in one folder: a SuperLink, and nodes as on devices.

The folder has `federation.json` (what it consists of, ids of processes), `keys`, `superlink`, `node-0`, ..., each
with its own log and Flower folder, `app`, and `runs`.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w

from flower_kd import folders
from flower_kd.device import keys, loopback, processes
from flower_kd.device.processes import Identity
from flower_kd.device.superlink import KnownNode, SuperLink, connected, public_key
from flower_kd.errors import InputError

FILE = "federation.json"
CONNECTION = "federation"  # what `flwr run` calls the SuperLink
SUPERLINK = "superlink"
ONLINE_SECONDS = 120.0, 15.0  # and for each node: they all import torch, and killed ones are let in after 60 s
CONNECTED = "SuperNode ID:"  # in the log of a node that was taken in
MARK = "FLOWER_KD_FEDERATION"  # in the environment of its processes, and of all that these start: its folder
LOST_HEARTBEATS = 2  # of which Flower waits for the next before a node counts as offline

_APP = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "federation"
version = "1.0.0"
description = "flower-kd's apps in a federation on one machine"
license = "Apache-2.0"
dependencies = ["flower-kd"]

[tool.flwr.app]
publisher = "flower-kd"

[tool.flwr.app.components]
serverapp = "flower_kd.server_app:app"
clientapp = "flower_kd.client_app:app"
"""


@dataclass
class Federation:
    """A federation, as its folder remembers it.

    Parameters
    ----------
    folder : Path
        Where it is.
    nodes : int
        Number of nodes.
    tls : bool
        Whether connections are encrypted, and nodes authenticated.
    port : int
        The SuperLink's.
    cold : bool
        Whether nodes start a new process for each message.
    processes : dict
        By name: superlink, node-0, ...
    last_run : str
        The results folder of the last run.
    """

    folder: Path
    nodes: int
    tls: bool
    port: int
    cold: bool = False
    processes: dict[str, Identity] = field(default_factory=dict)
    last_run: str = ""

    @classmethod
    def read(cls, folder: Path) -> Federation:
        """Return the federation in a folder; raises InputError if there is none."""
        path = folders.expanded(folder).absolute()
        try:
            kept = json.loads((path / FILE).read_text())
            found = {name: Identity(**identity) for name, identity in kept.pop("processes").items()}
            return cls(path, **kept, processes=found)
        except FileNotFoundError:
            raise InputError(
                f"{str(folder)!r} is not the folder of a federation: `flower-kd federation up` makes one"
            ) from None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            raise InputError(f"{str(path / FILE)!r} cannot be read as a federation's") from None

    def write(self) -> None:
        """Remember the federation in its folder."""
        kept = asdict(self)
        del kept["folder"]
        folders.replace_file(self.folder / FILE, json.dumps(kept, indent=2).encode())

    @property
    def address(self) -> str:
        """The SuperLink's address."""
        return f"127.0.0.1:{self.port}"

    @property
    def keys(self) -> keys.Keys:
        """Its certificates and keys."""
        return keys.Keys(self.folder / "keys")

    @property
    def certificate(self) -> Path | None:
        """The certificate by which the SuperLink is known; None without TLS."""
        return self.keys.authority if self.tls else None

    def node_folder(self, vertex: int) -> Path:
        """Return the folder of a node."""
        return self.folder / f"node-{vertex}"

    def log_of(self, name: str) -> Path:
        """Return where the output of a process goes."""
        return self.folder / name / f"{name}.log"

    def runs(self, name: str) -> bool:
        """Return whether one of its processes is running."""
        return name in self.processes and self.processes[name].running

    def left_behind(self) -> list[Identity]:
        """Return what goes on of processes that were killed: Flower's ServerApp outlives its SuperLink."""
        families = processes.families(identity for name, identity in self.processes.items() if self.runs(name))
        return [each for each in processes.with_variable(MARK, str(self.folder)) if each not in families]

    def environment(self) -> dict[str, str]:
        """Return the environment in which `flwr run APP federation` reaches it."""
        home = self.folder / "flwr"
        env = loopback.environment(home)
        connection: dict[str, object] = {"address": self.address}
        connection |= {"root-certificates": str(self.certificate)} if self.tls else {"insecure": True}
        config = {"superlink": {"default": CONNECTION, CONNECTION: connection}}
        folders.replace_file(home / "config.toml", tomli_w.dumps(config).encode())
        return env


def up(folder: Path, nodes: int, *, tls: bool, cold: bool = False) -> Federation:
    """Start what is not running of a federation, and return it when all nodes are connected.

    Its processes go on when this one ends. If it cannot be started, nothing that was started here goes on.

    Parameters
    ----------
    folder : Path
        Created if there is none. A federation in it is started again, with its keys and what its nodes keep.
    nodes : int
        Number of nodes.
    tls : bool
        Whether connections are encrypted, and nodes authenticated.
    cold : bool
        Whether nodes start a new process for each message.

    Raises
    ------
    InputError
        If the folder has another federation, or a process does not start.
    """
    path = folders.expanded(folder).absolute()
    folders.check_writable(path, "--folder")
    if (path / FILE).exists():
        federation = Federation.read(path)
        if (federation.nodes, federation.tls) != (nodes, tls):
            raise InputError(
                f"{str(folder)!r} has a federation of {federation.nodes} nodes {_with(federation.tls)} TLS: choose "
                f"another --folder for one of {nodes} {_with(tls)}"
            )
        federation.cold = cold
        processes.end_sessions(federation.left_behind())
    else:
        federation = Federation(path, nodes, tls, loopback.free_port(), cold)
    before = dict(federation.processes)
    logged = {name: _size(federation.log_of(name)) for name in _names(nodes) if not federation.runs(name)}
    try:
        path.mkdir(parents=True, exist_ok=True)
        if tls:
            keys.make(federation.keys.folder, nodes)
        if not federation.runs(SUPERLINK):
            _start_superlink(federation)
        with connected(federation.address, federation.certificate) as superlink:
            if tls:
                _register(federation, superlink)
            for vertex in range(nodes):
                if not federation.runs(f"node-{vertex}"):
                    _start_node(federation, vertex)
            _wait_until_online(federation, superlink, logged)
    except BaseException:
        started = [identity for name, identity in federation.processes.items() if before.get(name) != identity]
        processes.end_sessions(started)
        raise
    return federation


def down(federation: Federation) -> list[str]:
    """End all processes of a federation, and return the names of those that were running; of others, their ids."""
    running = [name for name in federation.processes if federation.runs(name)]
    left = federation.left_behind()
    processes.end_sessions(left)
    # Nodes first: they tell the SuperLink that they leave.
    processes.end_sessions(federation.processes[name] for name in running if name != SUPERLINK)
    processes.end_sessions(federation.processes[name] for name in running if name == SUPERLINK)
    federation.processes.clear()
    federation.write()
    return running + [f"process {each.pid}" for each in left]


@contextmanager
def temporary(folder: Path, nodes: int, *, tls: bool, cold: bool = False) -> Iterator[Federation]:
    """Run a federation until the end of the block."""
    federation = up(folder, nodes, tls=tls, cold=cold)
    try:
        yield federation
    finally:
        down(federation)


def run(
    federation: Federation, settings: Mapping[str, Any], app: Path | None = None, *, log: Path | None = None
) -> Path:
    """Submit an app with `flwr run`, show what it logs until it ends, and return its results folder.

    Parameters
    ----------
    federation : Federation
        Where to.
    settings : mapping
        A run config. Without an output-dir, results go into the federation's folder; without num-nodes, all nodes
        take part.
    app : Path, optional
        An app of one's own; flower-kd's apps by default.
    log : Path, optional
        A file for what it logs; shown by default.

    Raises
    ------
    InputError
        If the federation is not running, or the run did not finish.
    KeyboardInterrupt
        If the log is interrupted; it says that the run goes on, as after `flwr run --stream`, and what stops it.
    """
    if not federation.runs(SUPERLINK):
        raise InputError(
            f"the federation in {str(federation.folder)!r} is not running: `flower-kd federation up` starts it"
        )
    default = federation.folder / "runs" / time.strftime("%Y%m%d-%H%M%S")
    results = folders.expanded(settings.get("output-dir") or default).absolute()
    config = {"num-nodes": federation.nodes, **settings, "output-dir": str(results)}
    federation.last_run = str(results)
    federation.write()
    options: list[str] = []
    if app is None:
        app = write_app(federation.folder / "app", config)
    else:
        folders.replace_file(federation.folder / "run-config.toml", tomli_w.dumps(config).encode())
        options = ["--run-config", str(federation.folder / "run-config.toml")]
    summary = results / "summary.json"
    before = summary.stat().st_mtime_ns if summary.exists() else None
    command = ["flwr", "run", str(app), CONNECTION, *options, "--stream"]
    try:
        with nullcontext() if log is None else log.open("wb") as output:
            subprocess.run(command, env=federation.environment(), stdout=output, stderr=output, check=False)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(*_how_to_stop(federation)) from None
    if not summary.exists() or (summary.stat().st_mtime_ns == before and not settings.get("resume")):
        raise InputError(f"the run did not finish: there is no summary in {str(results)!r}")
    return results


def write_app(folder: Path, config: Mapping[str, Any]) -> Path:
    """Make a folder that `flwr run` takes: flower-kd's apps, which are installed on the devices, with a run config."""
    folder.mkdir(exist_ok=True)
    folders.replace_file(folder / "LICENSE", b"Apache-2.0\n")  # without it, Flower does not build an app
    listed = tomli_w.dumps({"tool": {"flwr": {"app": {"config": dict(config)}}}})
    folders.replace_file(folder / "pyproject.toml", f"{_APP}\n{listed}".encode())
    return folder


def _how_to_stop(federation: Federation) -> list[str]:
    """Return for each run that goes on the command that stops it."""
    try:
        with connected(federation.address, federation.certificate) as superlink:
            runs = superlink.unfinished_runs()
    except InputError:  # the SuperLink was interrupted, too
        return []
    home = shlex.quote(str(federation.environment()["FLWR_HOME"]))
    return [f"run {run} goes on; to stop it: FLWR_HOME={home} flwr stop {run} {CONNECTION}" for run in runs]


@dataclass(frozen=True)
class NodeStatus:
    """What is known of a node.

    Parameters
    ----------
    name : str
        node-0, node-1, ...
    running : bool
        Whether its process runs.
    connection : str
        What the SuperLink says: online, offline, registered (never seen) or unknown.
    seen : float or None
        Seconds since it was last heard.
    last_round : int or None
        The last round of the last run in which it reported its accuracy.
    accuracy : float or None
        What it was.
    """

    name: str
    running: bool
    connection: str
    seen: float | None
    last_round: int | None
    accuracy: float | None


def status(federation: Federation) -> list[NodeStatus]:
    """Return what is known of each node."""
    known: dict[str, KnownNode] = {}
    if federation.runs(SUPERLINK):
        with connected(federation.address, federation.certificate) as superlink:
            known = _by_name(federation, superlink.nodes())
    accuracies = _last_accuracies(Path(federation.last_run)) if federation.last_run else {}
    found = []
    for vertex in range(federation.nodes):
        name = f"node-{vertex}"
        node, (last_round, accuracy) = known.get(name), accuracies.get(vertex, (None, None))
        connection = node.status if node is not None else "unknown"
        found.append(NodeStatus(name, federation.runs(name), connection, _seen(node), last_round, accuracy))
    return found


def _with(tls: bool) -> str:
    return "with" if tls else "without"


def _seen(node: KnownNode | None) -> float | None:
    """Return the seconds since the SuperLink last heard a node: it counts as online for a while after that."""
    if node is None or not node.online_until:
        return None
    patience = LOST_HEARTBEATS * node.heartbeat_seconds if node.status == "online" else 0.0
    return max(0.0, time.time() - (node.online_until - patience))


def _by_name(federation: Federation, nodes: list[KnownNode]) -> dict[str, KnownNode]:
    """Return the nodes that a SuperLink knows by their names here: by key, or by what they print of their number."""
    if federation.tls:
        by_key = {node.public_key: node for node in nodes}
        keyed = {f"node-{v}": public_key(federation.keys.public_of_node(v)) for v in range(federation.nodes)}
        return {name: by_key[key] for name, key in keyed.items() if key in by_key}
    by_id = {str(node.node_id): node for node in nodes}
    found = {}
    for name in _names(federation.nodes):
        log = federation.log_of(name)
        words = log.read_text(errors="replace").rpartition(CONNECTED)[2].split() if log.exists() else []
        if words and words[0] in by_id:
            found[name] = by_id[words[0]]
    return found


def _last_accuracies(folder: Path) -> dict[int, tuple[int, float]]:
    """Return by vertex the last round with a test accuracy, and what it was."""
    try:
        history = pd.read_csv(folder / "history.csv")
        reported = history.dropna(subset="test-accuracy").sort_values("round").groupby("vertex").last()
    except (OSError, KeyError, ValueError):  # before the first round has ended
        return {}
    return {int(v): (int(row["round"]), float(row["test-accuracy"])) for v, row in reported.iterrows()}


def _start_superlink(federation: Federation) -> None:
    folder = federation.folder / SUPERLINK
    env = loopback.environment(folder / "flwr", **loopback.QUICKLY)
    command = ["flower-superlink", "--host", "127.0.0.1", "--port", str(federation.port)]
    command += ["--database", str(folder / "superlink.db")]
    if federation.tls:
        made = federation.keys
        command += ["--ssl-ca-certfile", str(made.authority), "--ssl-certfile", str(made.certificate)]
        command += ["--ssl-keyfile", str(made.key), "--enable-supernode-auth"]
    else:
        command.append("--insecure")
    _start(federation, SUPERLINK, command, env)
    loopback.wait_for_superlink(
        federation.port, lambda: federation.runs(SUPERLINK), federation.log_of(SUPERLINK), federation.certificate
    )


def _start_node(federation: Federation, vertex: int) -> None:
    folder = federation.node_folder(vertex)
    (folder / "state").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "flower_kd", "node", "--superlink", federation.address]
    command += ["--partition-id", str(vertex), "--num-partitions", str(federation.nodes)]
    command += ["--state-dir", str(folder / "state"), "--cold" if federation.cold else "--warm"]
    if federation.tls:
        command += ["--root-certificates", str(federation.keys.authority)]
        command += ["--auth-supernode-private-key", str(federation.keys.of_node(vertex))]
    else:
        command.append("--insecure")
    _start(federation, f"node-{vertex}", command, loopback.environment(folder / "flwr"))


def _start(federation: Federation, name: str, command: list[str], env: dict[str, str]) -> None:
    """Start a process that goes on when this one ends, and remember it."""
    log = federation.log_of(name)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**env, MARK: str(federation.folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    identity = Identity.of(process.pid)
    if identity is None:
        raise InputError(f"{name} did not start: {loopback.end_of(log.read_text(errors='replace'))}")
    federation.processes[name] = identity
    federation.write()


def _register(federation: Federation, superlink: SuperLink) -> None:
    """Let the SuperLink know the keys that it does not know yet."""
    known = {node.public_key for node in superlink.nodes()}
    for vertex in range(federation.nodes):
        key = public_key(federation.keys.public_of_node(vertex))
        if key not in known:
            superlink.register(key, f"node-{vertex}")


def _names(nodes: int) -> list[str]:
    return [f"node-{vertex}" for vertex in range(nodes)]


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _wait_until_online(federation: Federation, superlink: SuperLink, logged: Mapping[str, int]) -> None:
    """Wait until all nodes are connected.

    Parameters
    ----------
    federation : Federation
        Whose nodes were started.
    superlink : SuperLink
        A connection to its SuperLink.
    logged : mapping
        Bytes in the log of each node that was just started, before that: the SuperLink counts a node that was killed as
        connected for a while.
    """
    deadline = time.monotonic() + ONLINE_SECONDS[0] + ONLINE_SECONDS[1] * federation.nodes
    names = _names(federation.nodes)
    while True:
        known = _by_name(federation, superlink.nodes())
        missing = [
            name
            for name in names
            if name not in known
            or known[name].status != "online"
            or CONNECTED.encode() not in federation.log_of(name).read_bytes()[logged.get(name, 0) :]
        ]
        if not missing:
            return
        ended = [name for name in names if not federation.runs(name)]
        if ended or time.monotonic() > deadline:
            name = (ended or missing)[0]
            log = federation.log_of(name).read_text(errors="replace")
            raise InputError(f"{name} did not connect: {loopback.end_of(log)}")
        time.sleep(0.3)
