"""The in-process engine: Flower's apps on this machine, without Flower's own processes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from flwr.app import ArrayRecord, Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import ServerApp
from torch import Tensor

from flower_kd.clients.state import BEST, MODEL
from flower_kd.errors import InputError
from flower_kd.runs.results import Summary
from flower_kd.sim.grids import RUN_ID, InProcessGrid, Listener, LocalGrid
from flower_kd.sim.workers import WorkerGrid


class Finished(Context):
    """The server's context at the end of a run, with the nodes' states.

    Parameters
    ----------
    server : Context
        The server's context.
    nodes : list of RecordDict
        What `context.state` contains at each node, by vertex.
    """

    def __init__(self, server: Context, nodes: list[RecordDict]) -> None:
        super().__init__(
            server.run_id, server.node_id, server.node_config, server.state, server.run_config, server.series_id
        )
        self.nodes = nodes

    def weights(self, vertex: int, *, best: bool = False) -> dict[str, Tensor]:
        """Return the weights of a node's model, for `load_state_dict`.

        Parameters
        ----------
        vertex : int
            The node's.
        best : bool
            The model with the lowest loss on the node's validation data, instead of the final one.

        Raises
        ------
        InputError
            If there is no such node, its app is not one of `make_client_app`, or it has no validation data.
        """
        if not 0 <= vertex < len(self.nodes):
            raise InputError(f"there is no node {vertex} (allowed: 0 to {len(self.nodes) - 1})")
        record = self.nodes[vertex].get(BEST if best else MODEL)
        if not isinstance(record, ArrayRecord):
            if best and MODEL in self.nodes[vertex]:
                raise InputError(f"node {vertex} has no best model: it was never evaluated on validation data")
            raise InputError(f"node {vertex} has no model: it was not trained by an app of make_client_app")
        return dict(record.to_torch_state_dict())


def run_apps(
    server_app: ServerApp,
    client_app: ClientApp | str,
    num_nodes: int,
    run_config: Mapping[str, Any],
    *,
    workers: int = 1,
    listener: Listener | None = None,
    num_threads: int = 1,
) -> Finished:
    """Run any Flower ServerApp and ClientApp on this machine, and return the server's context and the nodes' states.

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
    num_threads : int
        Torch's threads in each process during the run, which affect float sums; more than one slow small models down.

    Raises
    ------
    InputError
        If there are several workers and the client app is not given by name, or there are no threads.
    """
    if num_threads < 1:
        raise InputError(f"num_threads = {num_threads} must be at least 1")
    with closing(_grid(client_app, num_nodes, run_config, workers, listener, num_threads)) as grid:
        server = _serve(server_app, grid, run_config)
        return Finished(server, grid.states())


def _grid(
    client_app: ClientApp | str,
    num_nodes: int,
    run_config: Mapping[str, Any],
    workers: int,
    listener: Listener | None,
    num_threads: int | None = None,
) -> LocalGrid:
    """Return a grid in this process, or in several workers."""
    if workers > 1:
        if isinstance(client_app, ClientApp):
            raise InputError(f"workers = {workers}: the client app must be given as a string, 'module:attribute'")
        return WorkerGrid(client_app, num_nodes, run_config, workers, listener, num_threads)
    app = resolve_name(client_app) if isinstance(client_app, str) else client_app
    return InProcessGrid(app, num_nodes, run_config, listener, num_threads)


def _serve(server_app: ServerApp, grid: LocalGrid, run_config: Mapping[str, Any]) -> Context:
    """Run the server's app on a grid, and return its context."""
    context = Context(
        run_id=RUN_ID, node_id=SUPERLINK_NODE_ID, node_config={}, state=RecordDict(), run_config=dict(run_config)
    )
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
        If the config, the data or the graph is invalid: for unknown keys, wrong types and values out of range, all in
        one message; then for parts that are unknown or have wrong settings; then for values that do not fit together.
    """
    from flower_kd import server_app

    config = dict(run_config) | ({"output-dir": str(output_dir)} if output_dir is not None else {})
    # Its nodes set their own number of threads, and keep their models in the folder.
    with closing(_grid("flower_kd.client_app:app", num_nodes, config, workers, listener)) as grid:
        context = _serve(server_app.app, grid, config)
    record = context.state.config_records[server_app.SUMMARY]
    return Summary(**json.loads(str(record["json"])))
