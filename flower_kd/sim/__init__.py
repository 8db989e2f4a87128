"""The in-process engine: grids on this machine, and runs over them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flower_kd.runs.results import Summary
    from flower_kd.sim.engine import Finished, run, run_apps
    from flower_kd.sim.grids import InProcessGrid

__all__ = ["Finished", "InProcessGrid", "Summary", "run", "run_apps"]


def __getattr__(name: str) -> Any:
    """Import the engine on first access: `flower-kd --help` should not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("flower_kd.sim.engine"), name)
