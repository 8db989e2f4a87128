"""The in-process engine: Flower's apps on this machine, without Flower's own processes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import ServerApp

from flower_kd.errors import InputError
from flower_kd.runs.results import Summary
from flower_kd.sim.grids import RUN_ID, InProcessGrid, Listener, LocalGrid
from flower_kd.sim.workers import WorkerGrid


def run_apps(
    server_app: ServerApp,
    client_app: ClientApp | str,
    num_nodes: int,
    run_config: Mapping[str, Any],
    *,
    workers: int = 1,
    listener: Listener | None = None,
) -> Context:
    """Run any Flower ServerApp and ClientApp on this machine, and return the server's context.

    Parameters
    ----------
    server_app : ServerApp
        Runs in this process.
    client_app : ClientApp or str
        The app, or its `module:attribute`, which workers need.
    num_nodes : int
        Number of nodes.
    run_config : mapping
        The run config in the server's and every node's context.
    workers : int
        Number of processes over which the nodes are spread; with 1, all are in this process.
    listener : Listener, optional
        Receives what the nodes report.

    Raises
    ------
    InputError
        If there are several workers and the client app is not given by name.
    """
    grid: LocalGrid
    if workers > 1:
        if isinstance(client_app, ClientApp):
            raise InputError(f"workers = {workers}: the client app must be given as a string, 'module:attribute'")
        grid = WorkerGrid(client_app, num_nodes, run_config, workers, listener)
    else:
        app = resolve_name(client_app) if isinstance(client_app, str) else client_app
        grid = InProcessGrid(app, num_nodes, run_config, listener)
    context = Context(
        run_id=RUN_ID, node_id=SUPERLINK_NODE_ID, node_config={}, state=RecordDict(), run_config=dict(run_config)
    )
    with closing(grid):
        server_app(grid, context)
    return context


def run(
    run_config: Mapping[str, Any],
    num_nodes: int,
    output_dir: str | Path | None = None,
    *,
    workers: int = 1,
    listener: Listener | None = None,
) -> Summary:
    """Run the same apps as `flwr run . -c "..."`, on this machine and without Flower's engine.

    Parameters
    ----------
    run_config : mapping
        Kebab-case keys; missing ones have their defaults.
    num_nodes : int
        Number of nodes.
    output_dir : path, optional
        Results folder; overrides `output-dir`.
    workers : int
        Number of processes over which the nodes are spread; it does not change the figures. If it is above 1, a script
        must call this under `if __name__ == "__main__":`, as always with multiprocessing.
    listener : Listener, optional
        Receives what the nodes report.

    Raises
    ------
    InputError
        If the config, the data or the graph is invalid; all mistakes in one sentence.
    """
    from flower_kd import server_app

    config = dict(run_config) | ({"output-dir": str(output_dir)} if output_dir is not None else {})
    context = run_apps(
        server_app.app, "flower_kd.client_app:app", num_nodes, config, workers=workers, listener=listener
    )
    record = context.state.config_records[server_app.SUMMARY]
    return Summary(**json.loads(str(record["json"])))
