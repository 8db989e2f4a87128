"""The same apps in this process and in Flower's simulation engine."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from flower_kd.bench import apps
from flower_kd.bench.figure import Figure
from flower_kd.device.loopback import end_of, flwr_run, simulation
from flower_kd.errors import InputError
from flower_kd.sim.engine import run_apps

CLIENTS = {"lenet5": "16 LeNet5, d-dist", "idle": "16 clients that do nothing"}
BOUNDS = {"lenet5": 2.0, "idle": 20.0}
EXCHANGES_HERE = {"lenet5": 20, "idle": 500}
EXCHANGES_THERE = {"lenet5": 10, "idle": 50}

PYPROJECT = """
[project]
name = "flower-kd-bench"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "flower-kd"

[tool.flwr.app.components]
serverapp = "benchapp.server:app"
clientapp = "benchapp.client:app"

[tool.flwr.app.config]
clients = "{clients}"
exchanges = {exchanges}
output = "{output}"
"""


def against_flower() -> list[Figure]:
    """Return rounds per second here over those of `flwr run`: with 16 LeNet5, and with clients that do nothing.

    Raises
    ------
    InputError
        If Flower's engine does not start, or writes no figure.
    """
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        here = {clients: _seconds_here(clients, folder / f"{clients}.json") for clients in CLIENTS}
        with simulation(folder) as env:
            there = {clients: _seconds_there(clients, folder / clients, env) for clients in CLIENTS}
    return [
        Figure(
            f"rounds per second over flwr run: {words}",
            there[clients] / here[clients],
            BOUNDS[clients],
            at_most=False,
            parts={"rounds per second here": 1 / here[clients], "rounds per second, flwr run": 1 / there[clients]},
        )
        for clients, words in CLIENTS.items()
    ]


def _seconds_here(clients: str, output: Path) -> float:
    """Return the seconds per exchange in this process."""
    config = {"clients": clients, "exchanges": EXCHANGES_HERE[clients], "output": str(output)}
    run_apps(apps.server, getattr(apps, clients), apps.NODES, config)
    return float(json.loads(output.read_text()))


def _seconds_there(clients: str, folder: Path, env: dict[str, str]) -> float:
    """Return the seconds per exchange in Flower's engine, with an app that imports from `apps`."""
    package, output = folder / "benchapp", folder / "seconds.json"
    package.mkdir(parents=True)
    settings = {"clients": clients, "exchanges": EXCHANGES_THERE[clients], "output": output}
    (folder / "pyproject.toml").write_text(PYPROJECT.format(**settings))
    (package / "__init__.py").write_text("")
    (package / "server.py").write_text("from flower_kd.bench import apps\n\napp = apps.server\n")
    (package / "client.py").write_text(f"from flower_kd.bench import apps\n\napp = apps.{clients}\n")
    printed = flwr_run(folder, env, "--federation-config", f"num-supernodes={apps.NODES}", timeout=600)
    if not output.exists():
        raise InputError(f"flwr run wrote no figure: {end_of(printed)}")
    return float(json.loads(output.read_text()))
