"""The ServerApp that Flower loads: handshake, baseline, strategy, results."""

from __future__ import annotations

import time
from logging import ERROR, INFO

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from flower_kd import data, models, results
from flower_kd.config import RunConfig
from flower_kd.errors import InputError, RunRefusedError
from flower_kd.protocol import Hello
from flower_kd.results import RunRecord
from flower_kd.seeding import derive
from flower_kd.strategies import Network, Silo

SUMMARY = "flower-kd.summary"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what the run config asks for; leave the results folder and, in the context's state, the summary."""
    try:
        config = RunConfig.parse(context.run_config)
        folder = results.folder_for(config)
        record, baseline = run(grid, config)
        summary = results.summarize(record, baseline)
        results.write(folder, record, baseline, summary)
    except InputError as error:
        log(ERROR, "flower-kd: %s", error)
        raise RunRefusedError(str(error)) from None
    results.show(record, baseline, summary)
    log(INFO, "results: %s", folder)
    context.state[SUMMARY] = ConfigRecord({"json": results.to_json(summary), "folder": str(folder)})


def run(grid: Grid, config: RunConfig) -> tuple[RunRecord, RunRecord | None]:
    """Return what happened, and the same nodes trained alone where the config asks for that baseline.

    Raises
    ------
    InputError
        If anything in the config, the graph or the nodes does not fit, before anything is trained.
    """
    num_nodes = config.num_nodes or len(list(grid.get_node_ids()))
    models.assign(config.model, num_nodes)
    graph = config.graph(num_nodes)
    strategy = config.build_strategy(graph)
    baseline = None
    if config.baseline == "silo" and config.strategy != "silo":
        log(INFO, "first each node alone, for comparison (baseline = 'silo')")
        alone = Silo(graph, seed=config.seed, local_steps=config.local_steps, evaluate_every=config.evaluate_every)
        # The alone run sees the same nodes, and so fails where the main run would.
        baseline = _record(alone, alone.network(grid), ArrayRecord(), config, graph)
    network = strategy.network(grid)
    return _record(strategy, network, _initial_arrays(config, strategy, num_nodes), config, graph), baseline


def _record(strategy: object, network: Network, arrays: ArrayRecord, config: RunConfig, graph: object) -> RunRecord:
    started = time.perf_counter()
    strategy.start(network, arrays, num_rounds=config.num_server_rounds, timeout=config.timeout)  # type: ignore[attr-defined]
    seconds = time.perf_counter() - started
    hellos: dict[int, Hello] = network.hellos
    return RunRecord(config, graph, hellos, network.metrics, network.traffic, seconds)


def _initial_arrays(config: RunConfig, strategy: object, num_nodes: int) -> ArrayRecord:
    """Return common initial weights for strategies that average weights, nothing for the others."""
    if not getattr(strategy, "same_model", False):
        return ArrayRecord()
    corpus = data.load(config.data_spec(num_nodes))
    seed = derive(config.seed, "initial weights", 0)
    name = config.model_of(0, num_nodes)
    model = models.build(name, corpus.num_classes, corpus.shape, seed=seed, weights_file=config.weights_file)
    return ArrayRecord(model.state_dict())
