"""Runs one strategy after another, and saves the figures of each."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from flower_kd import server_app
from flower_kd.config import RunConfig
from flower_kd.runs import results
from flower_kd.runs.identity import identity
from flower_kd.runs.run_folder import RunFolder

RUNS = {
    "silo": {"strategy": "silo"},
    "fedavg": {"strategy": "fedavg"},
    "fedavg, the largest differences": {"strategy": "fedavg", "compression": "top-k(share=0.1)"},
    "d-sgd": {"strategy": "d-sgd", "exchange_every": 2},
    "d-sgd, a compression of a plugin": {"strategy": "d-sgd", "compression": "signs", "exchange_every": 2},
    "neighbor-kd": {"strategy": "neighbor-kd", "exchange_rows": 20, "reference_batch": 10, "wire": "uint8"},
    "neighbor-kd, labels as deltas": {
        "strategy": "neighbor-kd",
        "pooling": "class-share",
        "wire": "labels",
        "wire_coding": "delta",
        "exchange_every": 2,
        "logit_adjustment": 1.0,
    },
    "neighbor-kd, pairwise": {"strategy": "neighbor-kd", "pooling": "pairwise", "dissimilarity": "js"},
    "multi-head": {"strategy": "multi-head", "wire": "uint8", "exchange_rows": 20, "schedule": "cosine"},
    "multi-head, networks of neighbors": {
        "strategy": "multi-head(teachers=private,teacher_mode=train)",
        "pooling": "median",
    },
    "d-dist": {"strategy": "d-dist", "exchange_every": 1, "exchange_rows": 20, "reference_batch": 0},
    "d-dist, a consensus of a plugin": {"strategy": "d-dist", "consensus": "recent(share=0.3)", "exchange_every": 2},
    "d-dist, tracking": {"strategy": "d-dist", "consensus": "tracking", "exchange_every": 2},
    "neighbor-kd, one peer, half of the nodes": {
        "strategy": "neighbor-kd",
        "topology": "one-peer-exponential",
        "participation": 0.5,
        "exchange_every": 1,
        "exchange_rows": 20,
    },
    "d-sgd, another graph in each exchange, lost messages": {
        "strategy": "d-sgd",
        "topology": "varying(graph=erdos-renyi)",
        "message_loss": 0.3,
        "exchange_every": 1,
    },
}

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config, figures = RunConfig.parse(context.run_config), {}
    folder, num_nodes = Path(config.output_dir), len(list(grid.get_node_ids()))
    for name, keys in RUNS.items():
        of_run = replace(config, **keys)
        with RunFolder(folder / name, of_run, identity(of_run, num_nodes)) as run_folder:
            record, _ = server_app.run(grid, of_run, num_nodes, run_folder)
        summary = asdict(results.summarize(record, None))
        figures[name] = {"accuracy": summary["accuracy"]["per_node"], "bytes": summary["bytes"]}
    (folder / "figures.json").write_text(json.dumps(figures))
