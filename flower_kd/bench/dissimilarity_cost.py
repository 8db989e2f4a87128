"""What each dissimilarity costs in a step of training, forward and backward."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import product

import numpy as np
import torch

from flower_kd import dissimilarity
from flower_kd.bench.figure import Figure

CLASSES, ROWS = (10, 100, 1000), (32, 256)
REPETITIONS = 30
SECONDS = 2e-3  # of one measurement, at least
BASE = "ce"
# "Information Dissimilarity Measures in Decentralized Knowledge Distillation" (SISAP 2024) compares these, and finds
# td the cheapest.
COMPARED = ("kl", "ce", "js", "sed", "td")
CHEAPEST = "td"
TEMPERATURE = 2.0


def dissimilarity_costs() -> list[Figure]:
    """Return, for each number of classes and rows, the time of TD over that of the cheapest other of the slides.

    The CPU time is that of a step's softmax, dissimilarity and gradient at the student's logits. The parts of a figure
    are those of every registered dissimilarity over that of CE, medians of ratios in interleaved repetitions.
    """
    figures = []
    for classes, rows in product(CLASSES, ROWS):
        ratios, microseconds = cost(classes, rows)
        cheapest = min(ratios[name] for name in COMPARED if name != CHEAPEST)
        parts = {f"us, {BASE}": microseconds, **{f"{name} over {BASE}": ratio for name, ratio in ratios.items()}}
        words = f"{rows} rows of {classes:,} classes"
        name = f"dissimilarities: {CHEAPEST} over the cheapest other of {', '.join(COMPARED)}, {words}"
        figures.append(Figure(name, ratios[CHEAPEST] / cheapest, 1.0, at_most=True, parts=parts))
    return figures


def cost(classes: int, rows: int) -> tuple[dict[str, float], float]:
    """Return each dissimilarity's time over that of CE, and the microseconds of CE."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each node has
    try:
        steps = {name: _step(name, classes, rows) for name in dissimilarity.names()}
        times = max(1, round(SECONDS / _seconds(steps[BASE], 10)))
        found = {name: np.empty(REPETITIONS) for name in steps}
        for repetition in range(REPETITIONS):
            for name, step in steps.items():
                found[name][repetition] = _seconds(step, times)
    finally:
        torch.set_num_threads(threads)
    ratios = {name: float(np.median(seconds / found[BASE])) for name, seconds in found.items()}
    return ratios, 1e6 * float(np.median(found[BASE]))


def _step(name: str, classes: int, rows: int) -> Callable[[], object]:
    """Return a function that takes the gradient of one step."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator).requires_grad_()
    log_q = torch.randn(rows, classes, generator=generator).log_softmax(-1)
    measure = dissimilarity.get(name)
    return lambda: torch.autograd.grad(measure(dissimilarity.soften(logits, TEMPERATURE), log_q), logits)


def _seconds(step: Callable[[], object], times: int) -> float:
    """Return the mean seconds of a few steps, in CPU time: they take one thread, on a machine that may be busy."""
    started = time.thread_time()
    for _ in range(times):
        step()
    return (time.thread_time() - started) / times
