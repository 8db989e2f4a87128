"""The in-process engine and what researchers do with it."""

from flower_kd.sim.engine import InProcessGrid, run, run_apps

__all__ = ["InProcessGrid", "run", "run_apps"]
