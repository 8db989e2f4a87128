"""The overhead of distillation over plain training, and Distributed Distillation at its published scale."""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord

from flower_kd import topology
from flower_kd.bench.apps import NODES
from flower_kd.bench.figure import Clock, Figure
from flower_kd.bench.nodes import LENET5_ON_MNIST
from flower_kd.clients import make_client_app
from flower_kd.dissimilarity import squared_error
from flower_kd.sim.grids import InProcessGrid, LocalGrid
from flower_kd.sim.workers import WorkerGrid
from flower_kd.strategies import DDist

EXCHANGED_ROWS = 25
RHO = 5.0
PUBLISHED_EXCHANGES = 20_000
REPETITIONS, STEPS = 12, 12


def framework_tax() -> Figure:
    """Return the wall time of d-dist, one exchange per step, over that of a bare loop of the same steps."""
    build = LENET5_ON_MNIST.factory(NODES)
    app = make_client_app(build)
    pairs = [(_exchanges(InProcessGrid(app, NODES, {}), STEPS), _bare_loop(STEPS)) for _ in range(REPETITIONS)]
    ours, bare = (float(np.median(seconds)) for seconds in zip(*pairs, strict=True))
    ratio = float(np.median([mine / loop for mine, loop in pairs]))
    parts = {"ms per exchange of 16 LeNet5": 1e3 * ours, "ms per step of the bare loop": 1e3 * bare}
    return Figure("framework tax: d-dist over a bare loop", ratio, 1.15, at_most=True, parts=parts)


def published_scale(*, full: bool) -> Figure:
    """Return the minutes that 20,000 exchanges take on two processes, projected from 200 unless `full`."""
    exchanges = PUBLISHED_EXCHANGES if full else 200
    grid = WorkerGrid("flower_kd.bench.apps:lenet5", NODES, {}, workers=2)
    try:
        started = time.perf_counter()
        seconds = _exchanges(grid, exchanges)
        wall = time.perf_counter() - started
    finally:
        grid.close()
    minutes = (wall if full else seconds * PUBLISHED_EXCHANGES) / 60
    name = f"published scale: 20,000 exchanges of 16 LeNet5, {'measured' if full else f'projected from {exchanges}'}"
    return Figure(name, minutes, 25.0, at_most=True, unit="min", parts={"ms per exchange": 1e3 * seconds})


def _exchanges(grid: LocalGrid, exchanges: int) -> float:
    """Return the median seconds per exchange of d-dist."""
    strategy = DDist(
        topology.build("ring", num_nodes=NODES),
        rho=RHO,
        dissimilarity="squared-error",
        temperature=1.0,
        exchange_rows=EXCHANGED_ROWS,
        local_steps=exchanges,
        exchange_every=1,
    )
    grid.listener = clock = Clock()
    strategy.start(grid, ArrayRecord(), num_rounds=1)
    return clock.seconds()


def _bare_loop(steps: int) -> float:
    """Return the median seconds per step of all nodes in plain PyTorch: the same losses, no exchange, one teacher."""
    work = LENET5_ON_MNIST
    images, labels = work.draw(NODES * work.samples, seed=0)
    reference, _ = work.draw(EXCHANGED_ROWS, seed=1)
    teacher = torch.full((EXCHANGED_ROWS, 10), 0.1).log()
    networks = [work.build_model(vertex).train() for vertex in range(NODES)]
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.01) for network in networks]
    orders = [torch.randperm(work.samples) + vertex * work.samples for vertex in range(NODES)]
    seconds = []
    for step in range(steps):
        started = time.perf_counter()
        for network, optimizer, order in zip(networks, optimizers, orders, strict=True):
            rows = order[step * work.batch_size % work.samples :][: work.batch_size]
            optimizer.zero_grad()
            logits = network(torch.cat([images[rows], reference]))
            apart = squared_error(F.log_softmax(logits[work.batch_size :], dim=-1), teacher)
            loss = F.cross_entropy(logits[: work.batch_size], labels[rows]) + RHO * apart
            loss.backward()
            optimizer.step()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[1:]))
