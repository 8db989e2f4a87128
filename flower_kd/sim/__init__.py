"""The in-process engine and what researchers do with it."""

from flower_kd.results import Summary
from flower_kd.sim.engine import InProcessGrid, run, run_apps

__all__ = ["InProcessGrid", "Summary", "run", "run_apps"]
