"""What a node's own app imports, over torch and Flower alone."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from flower_kd.bench.figure import Figure
from flower_kd.device.loopback import end_of
from flower_kd.errors import InputError

PAIRS = 7
FLOWER_ALONE = "import torch, flwr.app, flwr.clientapp"  # what any ClientApp with a model imports
OURS = "from flower_kd import Node, make_client_app"
_MEASURED = "import sys, time; {}; print(time.process_time(), len(sys.modules))"


def node_imports() -> Figure:
    """Return the CPU time of a process that imports this package's nodes, over that of torch and Flower alone.

    Raises
    ------
    InputError
        If an import fails.
    """
    _cost(OURS)  # the first import may compile bytecode
    pairs = [(_cost(OURS), _cost(FLOWER_ALONE)) for _ in range(PAIRS)]
    ratio = float(np.median([ours[0] / alone[0] for ours, alone in pairs]))
    ours, alone = (np.median(costs, axis=0) for costs in zip(*pairs, strict=True))
    parts = {
        "s of CPU, Node and make_client_app": float(ours[0]),
        "modules": float(ours[1]),
        "s of CPU, torch and Flower": float(alone[0]),
        "modules of torch and Flower": float(alone[1]),
    }
    return Figure("imports of a node: over torch and Flower alone", ratio, 1.15, at_most=True, parts=parts)


def _cost(statement: str) -> tuple[float, int]:
    """Return CPU seconds and number of modules of a Python process that runs an import statement."""
    done = subprocess.run([sys.executable, "-c", _MEASURED.format(statement)], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"the benchmark's {statement!r} failed: {end_of(done.stderr)}")
    seconds, modules = done.stdout.split()
    return float(seconds), int(modules)
