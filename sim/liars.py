"""The effect of one lying node on the others, by strategy and setting, as a Markdown table.

Eight small networks train on digits. One of them trains as the others do, but lies in what it sends:

- wrong class: it is sure, on each row, of the class after the one that it predicts;
- one class: it is sure of class 0 on each row;
- negated: its logits (or weights) with the sign turned;
- random: noise, drawn anew in each exchange.

Under D-SGD, whose nodes send weights, the last layer tells the first two lies, and the noise is as long as the weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.common.logger import FLOWER_LOGGER

from flower_kd import client_app, server_app, wire
from flower_kd.config import RunConfig
from flower_kd.protocol import ARRAYS, LOGITS
from flower_kd.seeding import derive
from flower_kd.sim import run_apps
from flower_kd.topology import neighbors

NODES = 8
SURE = 20.0  # the logit of the class that a liar is sure of; the others' is 0
NOISE = 10.0  # standard deviation of random logits

COMMON: dict[str, Any] = {
    "dataset": "digits",
    "partition": "skew",
    "gamma": 15.0,
    "samples-per-node": 60,
    "model": "mlp",
    "batch-size": 32,
    "learning-rate": 0.1,
    "num-server-rounds": 20,
    "local-steps": 25,
    "reference-size": 400,
    "reference-batch": 100,
    "temperature": 2.0,
    "alpha": 0.8,
    "baseline": "none",
}
GRAPHS: dict[str, dict[str, Any]] = {
    "ring": {"topology": "ring"},
    "4-regular": {"topology": "regular(degree=4)"},
}
NEIGHBOR_KD = {"strategy": "neighbor-kd", "rho": 16.0}
D_DIST = {"strategy": "d-dist", "rho": 5.0}
D_SGD = {"strategy": "d-sgd", "exchange-every": 25}
SETTINGS: dict[str, dict[str, Any]] = {
    "neighbor-kd, mean": NEIGHBOR_KD,
    "neighbor-kd, median": NEIGHBOR_KD | {"pooling": "median"},
    "neighbor-kd, trimmed-mean": NEIGHBOR_KD | {"pooling": "trimmed-mean"},
    "neighbor-kd, geometric-median, rho 24": NEIGHBOR_KD | {"pooling": "geometric-median", "rho": 24.0},
    "d-dist, tracking": D_DIST | {"consensus": "tracking"},
    "d-dist, gradient": D_DIST | {"consensus": "gradient"},
    "d-dist, gradient, clip 0.07": D_DIST | {"consensus": "gradient", "clip": 0.07},
    "d-sgd, every 25 steps": D_SGD,
    "d-sgd, every 25 steps, clip 1": D_SGD | {"clip": 1.0},
}
ALONE = "alone"
HONEST = "honest"

Random = np.random.Generator


def wrong_class(rows: np.ndarray, random: Random) -> np.ndarray:
    """Return logits [rows, classes] that are sure of the class after the predicted one."""
    classes = rows.shape[1]
    return SURE * np.eye(classes)[(rows.argmax(axis=1) + 1) % classes]


def one_class(rows: np.ndarray, random: Random) -> np.ndarray:
    """Return logits [rows, classes] that are sure of class 0."""
    return SURE * np.eye(rows.shape[1])[np.zeros(len(rows), dtype=int)]


def negated(values: np.ndarray, random: Random) -> np.ndarray:
    """Return logits or weights with the sign turned."""
    return -values


def random_logits(rows: np.ndarray, random: Random) -> np.ndarray:
    """Return noise for logits [rows, classes]."""
    return NOISE * random.standard_normal(rows.shape)


def random_weights(weights: np.ndarray, random: Random) -> np.ndarray:
    """Return noise that is as long as the weights."""
    return random.standard_normal(weights.shape) * np.sqrt(np.mean(weights**2))


def shifted_outputs(layer: np.ndarray, random: Random) -> np.ndarray:
    """Return an output layer's weights or biases, of which each class has those of the class before, tenfold."""
    return 10 * np.roll(layer, 1, axis=0)


def one_output(layer: np.ndarray, random: Random) -> np.ndarray:
    """Return an output layer's weights or biases that make class 0 sure: zeros but for its bias."""
    values = np.zeros_like(layer)
    if layer.ndim == 1:
        values[0] = SURE
    return values


Lie = Callable[[np.ndarray, Random], np.ndarray]
# By name: what becomes of logits, of weights, and whether of the output layer's (the last two arrays) only.
LIES: dict[str, tuple[Lie, Lie, bool]] = {
    "wrong class": (wrong_class, shifted_outputs, True),
    "one class": (one_class, one_output, True),
    "negated": (negated, negated, False),
    "random": (random_logits, random_weights, False),
}


def app_with_liar(attack: str, liar: int, seed: int) -> ClientApp:
    """Return flower-kd's ClientApp, in which the node at vertex `liar` sends lies."""
    random = np.random.default_rng(derive(seed, "lies"))
    app = ClientApp()

    @app.query("join")
    @app.evaluate()
    def honest(message: Message, context: Context) -> Message:
        return client_app.app(message, context)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        reply = client_app.app(message, context)
        if attack == HONEST or context.node_config["partition-id"] != liar:
            return reply
        logit_lie, weight_lie, outputs_only = LIES[attack]
        if LOGITS in reply.content:
            logits = wire.decode(reply.content[LOGITS]).numpy()
            reply.content[LOGITS] = wire.encode(logit_lie(logits, random))
        else:
            weights = {name: array.numpy() for name, array in reply.content[ARRAYS].items()}
            for name in list(weights)[-2:] if outputs_only else list(weights):
                weights[name] = weight_lie(weights[name], random).astype(np.float32)
            reply.content[ARRAYS] = ArrayRecord({name: wire.as_array(values) for name, values in weights.items()})
        return reply

    return app


Run = tuple[str, str, str, int]  # setting, graph, attack, seed


def accuracies(run: Run, liar: int) -> list[float]:
    """Return the final accuracy of each node."""
    setting, graph, attack, seed = run
    own = {"strategy": "silo"} if setting == ALONE else SETTINGS[setting]
    config = COMMON | own | GRAPHS[graph] | {"seed": seed}
    FLOWER_LOGGER.setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        files = {"output-dir": f"{folder}/run", "evaluate-every": config["num-server-rounds"]}
        finished = run_apps(server_app.app, app_with_liar(attack, liar, seed), NODES, config | files)
    summary = json.loads(str(finished.state[server_app.SUMMARY]["json"]))
    return list(summary["accuracy"]["per_node"])


def parsed() -> argparse.Namespace:
    """Return the command-line arguments."""
    parser = argparse.ArgumentParser(description="What one liar of eight nodes does to the others: a Markdown table.")
    listed = partial(parser.add_argument, nargs="+", metavar="NAME")
    listed("--graphs", choices=list(GRAPHS), default=list(GRAPHS), help=f"of {', '.join(GRAPHS)}")
    listed("--settings", choices=list(SETTINGS), default=list(SETTINGS), help=f"of {'; '.join(SETTINGS)}")
    listed("--attacks", choices=list(LIES), default=list(LIES), help=f"of {', '.join(LIES)}")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default: 3)")
    parser.add_argument("--liar", type=int, choices=range(NODES), default=0, metavar="VERTEX", help="0 to 7")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="runs at a time (default: 2)")
    return parser.parse_args()


def main() -> None:
    """Run every setting under every attack, and print one cell per graph, setting and attack."""
    asked = parsed()
    attacks, seeds = [HONEST, *asked.attacks], range(asked.seeds)
    print("Accuracy of the liar's neighbors / of all honest nodes")
    with ProcessPoolExecutor(asked.jobs) as pool:
        plan = [run for graph in asked.graphs for run in _of_graph(graph, asked.settings, attacks, seeds)]
        found = {run: pool.submit(accuracies, run, asked.liar) for run in plan}

        def cell(setting: str, graph: str, attack: str) -> str:
            heard_liar, honest = [], []
            for seed in seeds:
                accuracy = np.array(found[setting, graph, attack, seed].result())
                vertices = neighbors(RunConfig.parse(GRAPHS[graph] | {"seed": seed}).graph(NODES), asked.liar)
                heard_liar.append(accuracy[vertices].mean())
                honest.append(np.delete(accuracy, asked.liar).mean())
            return f"{np.mean(heard_liar):.3f} / {np.mean(honest):.3f}"

        for graph in asked.graphs:
            print(f"\n| {graph} | {' | '.join(attacks)} |\n|{' --- |' * (len(attacks) + 1)}")
            print(f"| {ALONE} | {cell(ALONE, graph, HONEST)} |{' |' * (len(attacks) - 1)}", flush=True)
            for setting in asked.settings:
                cells = (cell(setting, graph, attack) for attack in attacks)
                print(f"| {setting} | {' | '.join(cells)} |", flush=True)


def _of_graph(graph: str, settings: list[str], attacks: list[str], seeds: range) -> list[Run]:
    alone = [(ALONE, graph, HONEST, seed) for seed in seeds]
    return alone + list(product(settings, [graph], attacks, seeds))


if __name__ == "__main__":
    main()
