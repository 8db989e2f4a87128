"""The ServerApp that Flower loads: handshake, baseline, strategy, results."""

from __future__ import annotations

import time
from logging import ERROR, INFO, WARNING
from pathlib import Path
from typing import Any

import networkx as nx
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from flower_kd import data, models, results, run_table, shortfalls, unused
from flower_kd.config import RunConfig
from flower_kd.errors import InputError, RunRefusedError
from flower_kd.results import RunRecord
from flower_kd.seeding import derive
from flower_kd.strategies import Silo

SUMMARY = "flower-kd.summary"
ALONE = "alone"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what the run config asks for; leave the results folder and, in the context's state, the summary."""
    try:
        config = RunConfig.parse(context.run_config)
        folder = results.folder_for(config)
        if line := unused.warning([config]):
            log(WARNING, "%s", line)
        record, baseline = run(grid, config, folder)
        summary = results.summarize(record, baseline)
        _keep(folder, record, baseline, summary)
    except InputError as error:
        log(ERROR, "flower-kd: %s", error)
        raise RunRefusedError(str(error)) from None
    log(INFO, "results: %s", folder)
    context.state[SUMMARY] = ConfigRecord({"json": results.to_json(summary), "folder": str(folder)})


def _keep(folder: Path, record: RunRecord, baseline: RunRecord | None, summary: results.Summary) -> None:
    """Write and show what came of a run; what cannot be written is shown all the more."""
    level = WARNING
    try:
        results.write(folder, record, baseline, summary)
        level = INFO
    finally:
        log(level, "\n%s", run_table.text(summary))


def run(grid: Grid, config: RunConfig, folder: Path) -> tuple[RunRecord, RunRecord | None]:
    """Return what happened, and the same nodes trained alone where the config asks for that baseline.

    The folder becomes that of this run when training begins, and holds what happened so far if it ends early.

    Raises
    ------
    InputError
        If anything in the config, the graph or the nodes does not fit, before anything is trained; or if no node
        answers any more.
    """
    num_nodes = config.num_nodes or len(list(grid.get_node_ids()))
    graph, strategy = plan(config, num_nodes)
    stages = {config.strategy: (strategy, _initial_arrays(config, strategy, num_nodes))}
    if results.has_baseline(config):
        log(INFO, "first each node alone, for comparison (baseline = 'silo')")
        alone = Silo(graph, seed=config.seed, local_steps=config.local_steps, evaluate_every=config.evaluate_every)
        # It sees the same nodes, and so fails where the main run would.
        stages = {ALONE: (alone, ArrayRecord()), **stages}
    records: dict[str, RunRecord] = {}
    begun = False

    def begin() -> None:
        nonlocal begun
        if not begun:
            results.begin(folder, config)
        begun = True

    try:
        for stage, (each, arrays) in stages.items():
            network, started = each.network(grid), time.perf_counter()
            network.on_join = begin
            try:
                each.start(network, arrays, num_rounds=config.num_server_rounds, timeout=config.timeout)
            finally:
                seconds = time.perf_counter() - started
                records[stage] = RunRecord(
                    config, graph, network.hellos, network.metrics, network.traffic, seconds, network.participation
                )
        shortfalls.check(records[config.strategy])
    except BaseException:
        if begun:
            _keep_unfinished(folder, records.get(config.strategy), records.get(ALONE))
        raise
    return records[config.strategy], records.get(ALONE)


def plan(config: RunConfig, num_nodes: int) -> tuple[nx.Graph, Any]:
    """Return the graph and the strategy of a run; raises InputError if they, or the models, do not fit the nodes."""
    models.assign(config.model, num_nodes)
    graph = config.graph(num_nodes)
    return graph, config.build_strategy(graph)


def _keep_unfinished(folder: Path, record: RunRecord | None, baseline: RunRecord | None) -> None:
    try:
        results.write_unfinished(folder, record, baseline)
    except InputError as error:  # what ended the run matters more
        log(WARNING, "%s", error)


def _initial_arrays(config: RunConfig, strategy: object, num_nodes: int) -> ArrayRecord:
    """Return common initial weights for strategies that average weights, nothing for the others."""
    if not getattr(strategy, "same_model", False):
        return ArrayRecord()
    corpus = data.load(config.data_spec(num_nodes))
    seed = derive(config.seed, "initial weights", 0)
    name = config.model_of(0, num_nodes)
    model = models.build(name, corpus.num_classes, corpus.shape, seed=seed, weights_file=config.weights_file)
    return ArrayRecord(model.state_dict())
