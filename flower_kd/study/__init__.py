"""Many runs: experiments, comparisons, sweeps, and their progress."""

from flower_kd.sim.preload import NODES

# What a process that executes runs imports; here, so that it can be handed on without importing any of it.
PRELOADED = ["flower_kd.study.job", *NODES]
