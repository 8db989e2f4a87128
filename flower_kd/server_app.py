"""The ServerApp that Flower loads: handshake, baseline, strategy, results."""

from __future__ import annotations

import time
from dataclasses import replace
from logging import ERROR, INFO, WARNING
from typing import Any

import networkx as nx
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from flower_kd import log_colors, models, unused
from flower_kd.config import RunConfig
from flower_kd.errors import InputError, RunRefusedError
from flower_kd.protocol import ALONE
from flower_kd.report import run_pictures, run_table
from flower_kd.runs import results, run_folder, shortfalls
from flower_kd.runs.identity import identity
from flower_kd.runs.results import RunRecord
from flower_kd.runs.run_folder import RunFolder
from flower_kd.strategies import DistillationStrategy, GraphStrategy, Network, Silo
from flower_kd.strategies.resumable import Resumable

SUMMARY = "flower-kd.summary"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run as the run config says; write the results folder and put the summary into the context's state."""
    log_colors.only_on_terminals()
    try:
        config = RunConfig.parse(context.run_config)
        path = run_folder.path_of(config)
        num_nodes = config.num_nodes or len(list(grid.get_node_ids()))
        if line := unused.warning([config]):
            log(WARNING, "%s", line)
        with RunFolder(path, config, identity(config, num_nodes), run_pictures.draw) as folder:
            summary = folder.finished
            if summary is None:
                record, baseline = run(grid, config, num_nodes, folder)
                summary = replace(results.summarize(record, baseline), identity=folder.identity)
                _keep(folder, record, baseline, summary)
            else:
                log(INFO, "this run is already finished\n%s", run_table.text(summary))
    except InputError as error:
        log(ERROR, "flower-kd: %s", error)
        raise RunRefusedError(str(error)) from None
    log(INFO, "results: %s", path)
    context.state[SUMMARY] = ConfigRecord({"json": results.to_json(summary), "folder": str(path)})


def _keep(folder: RunFolder, record: RunRecord, baseline: RunRecord | None, summary: results.Summary) -> None:
    """Write and log the results of a run; if they cannot be written, log them as a warning."""
    level = WARNING
    try:
        folder.finish(record, baseline, summary)
        level = INFO
    finally:
        log(level, "\n%s", run_table.text(summary))


def run(grid: Grid, config: RunConfig, num_nodes: int, folder: RunFolder) -> tuple[RunRecord, RunRecord | None]:
    """Return the record of the run, and that of the same nodes trained alone if the config asks for this baseline.

    The folder is claimed for this run when training begins, and is up to date after each round.

    Raises
    ------
    InputError
        If the config, the graph or the nodes do not fit together, before any training; or if nodes stop
        answering.
    """
    graph, strategy = plan(config, num_nodes)
    if isinstance(strategy, DistillationStrategy):  # now, as the nodes may be trained alone first
        strategy.warn_if_untaught(config.num_server_rounds, config.reference_size)
    stages = {config.strategy: strategy}
    if results.has_baseline(config):
        log(INFO, "training each node alone first, for comparison (baseline = 'silo')")
        shared = ("seed", "local_steps", "evaluate_every", "patience", "participation")
        alone = Silo(graph, **{name: getattr(config, name) for name in shared})
        # It runs on the same nodes, and so fails where the run itself would.
        stages = {ALONE: alone, **stages}
    records: dict[str, RunRecord] = {}
    if isinstance(strategy, GraphStrategy):  # what nodes must be able to build depends on it, and is asked before Silo
        strategy.phases = strategy.phases_of(config.num_server_rounds, vars(strategy))
    try:
        networks = {stage: each.network(grid) for stage, each in stages.items()}
        for stage, each in stages.items():
            network = networks[stage]
            if stage == ALONE and folder.stage == config.strategy:  # it was finished before the run was interrupted
                hellos, metrics, seconds = networks[folder.stage].hellos, folder.metrics(stage), folder.seconds(stage)
                records[stage] = RunRecord(config, graph, hellos, metrics, network.traffic, seconds)
                continue
            started = time.perf_counter() - folder.seconds(stage)
            # Always the strategy's parts: a node that lacks one should not train alone first.
            network.greeting = folder.greeting(stage, networks[config.strategy].greeting)
            network.try_parts = networks[config.strategy].try_parts
            network.must_build = networks[config.strategy].must_build
            _record_rounds(stage, each, network, graph, folder, started)
            try:
                each.start(network, ArrayRecord(), num_rounds=config.num_server_rounds, timeout=config.timeout)
            finally:
                seconds = time.perf_counter() - started
                records[stage] = RunRecord(
                    config,
                    graph,
                    network.hellos,
                    network.metrics,
                    network.traffic,
                    seconds,
                    network.participation,
                    network.saved_rounds,
                    network.early_stopping.stopped,
                    getattr(each, "head_1_round", 0),
                    next(iter(network.early_stopping.stopped_before), ()),
                    network.noised_messages,
                )
        shortfalls.check(records[config.strategy])
    except BaseException:
        _keep_unfinished(folder, records.get(config.strategy), records.get(ALONE))
        raise
    return records[config.strategy], records.get(ALONE)


def _record_rounds(
    stage: str, strategy: Resumable, network: Network, graph: nx.Graph, folder: RunFolder, started: float
) -> None:
    """Resume a stage where the folder says, and have the folder save each of its rounds."""
    network.on_join = lambda: folder.begin(graph, stage, network)
    if folder.rounds_done(stage):
        strategy.resume_after(folder.rounds_done(stage), folder.strategy_state())
        log(INFO, "resuming after round %d of %s", folder.rounds_done(stage), stage)

    def save_round(server_round: int) -> None:
        seconds = time.perf_counter() - started
        folder.save_round(stage, server_round, network, strategy.saved_state(), seconds)

    strategy.on_round = save_round


def plan(config: RunConfig, num_nodes: int) -> tuple[nx.Graph, Any]:
    """Return the graph and the strategy of a run; raises InputError if they, or the models, do not fit the nodes.

    The graph is the union over all exchanges if it varies.
    """
    models.assign(config.model, num_nodes)
    graphs = config.graphs(num_nodes)
    return graphs.union, config.build_strategy(graphs)


def _keep_unfinished(folder: RunFolder, record: RunRecord | None, baseline: RunRecord | None) -> None:
    try:
        folder.leave_unfinished(record, baseline)
    except InputError as error:  # the error that ended the run matters more
        log(WARNING, "%s", error)
