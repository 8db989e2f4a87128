"""The cost of a round as networks grow: time by nodes and by neighbors, memory by nodes."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import numpy as np
from flwr.app import ArrayRecord

from flower_kd import topology
from flower_kd.bench.figure import Clock, Figure
from flower_kd.bench.nodes import CLASSES, MLP_ON_DIGITS
from flower_kd.clients import make_client_app
from flower_kd.models import num_parameters
from flower_kd.sim.grids import InProcessGrid
from flower_kd.strategies import NeighborKD

STEPS = 5
SIZES = (10, 100, 1_000, 10_000)
NODE_EXCHANGES = 1_000
DEGREES = (2, 8, 32, 255)
NODES_OF_DEGREES = 256


def nodes_and_memory() -> list[Figure]:
    """Return the growth of the time per node and round from 10 to 10,000 nodes, and the memory per node at 10,000."""
    largest = SIZES[-1]
    milliseconds: dict[int, list[float]] = {nodes: [] for nodes in SIZES}

    def measure(nodes: int) -> None:
        milliseconds[nodes].append(1e3 * _round(nodes, degree=4).seconds() / nodes)

    for nodes in SIZES[:-1]:  # before and after the long one, as the machine's speed may drift
        measure(nodes)
    models = _in_new_process(_peak_of_models, largest)
    seconds, peak = _in_new_process(_peak_of_run, largest)
    milliseconds[largest].append(1e3 * seconds / largest)
    for nodes in SIZES[:-1]:
        measure(nodes)
    times = {nodes: float(np.mean(values)) for nodes, values in milliseconds.items()}
    time = Figure(
        f"growth with nodes: time per node and round, {largest:,} nodes over {SIZES[0]}",
        times[largest] / times[SIZES[0]],
        1.3,
        at_most=True,
        parts={f"ms per node, {nodes:,} nodes": value for nodes, value in times.items()},
    )
    numbers = num_parameters(MLP_ON_DIGITS.build_model(0)) + MLP_ON_DIGITS.reference_rows * CLASSES
    memory = Figure(
        f"memory per node at {largest:,} beyond its model, over parameters + reference logits",
        (peak - models) / largest / (4 * numbers),
        1.5,
        at_most=True,
        parts={
            "kB per node beyond its model": (peak - models) / largest / 1e3,
            "kB of parameters + reference logits": 4 * numbers / 1e3,
            "peak, MB": peak / 1e6,
        },
    )
    return [time, memory]


def neighbors() -> list[Figure]:
    """Return the growth with the degree: of the exchange, at most like the edges, and of the training, none."""
    exchange, training = {}, {}
    for degree in DEGREES:
        clock = _round(NODES_OF_DEGREES, degree)
        training[degree] = clock.seconds_of_training()
        exchange[degree] = clock.seconds() - training[degree]
    first, last = DEGREES[0], DEGREES[-1]
    return [
        Figure(
            f"growth with neighbors: training, degree {last} over {first}",
            training[last] / training[first],
            1.15,
            at_most=True,
            parts={f"s of training, degree {degree}": value for degree, value in training.items()},
        ),
        Figure(
            f"growth with neighbors: exchange, degree {last} over {first} ({last / first:g} times the edges)",
            exchange[last] / exchange[first],
            last / first,
            at_most=True,
            parts={f"s per exchange, degree {degree}": value for degree, value in exchange.items()},
        ),
    ]


def _round(nodes: int, degree: int) -> Clock:
    """Return the clock of a run on a regular graph, long enough for a median."""
    graph = topology.build("regular", num_nodes=nodes, degree=degree)
    strategy = NeighborKD(graph, temperature=2.0, reference_batch=100, local_steps=STEPS, evaluate_every=NODE_EXCHANGES)
    clock = Clock()
    grid = InProcessGrid(make_client_app(MLP_ON_DIGITS.factory(nodes)), nodes, {}, clock)
    # Teachers exist from the second round on, so measuring starts at the end of the first.
    strategy.start(grid, ArrayRecord(), num_rounds=1 + max(2, min(NODE_EXCHANGES // nodes, 40)))
    return clock


def _peak_of_models(nodes: int) -> int:
    build_nodes = MLP_ON_DIGITS.factory(nodes)  # includes the data, as in a run
    models = [MLP_ON_DIGITS.build_model(vertex) for vertex in range(nodes)]
    peak = _peak_bytes()
    del build_nodes, models
    return peak


def _peak_of_run(nodes: int) -> tuple[float, int]:
    return _round(nodes, degree=4).seconds(), _peak_bytes()


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _in_new_process(measure: Callable[[int], Any], nodes: int) -> Any:
    """Run a measurement in a new process, whose memory contains nothing else."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (nodes,))
