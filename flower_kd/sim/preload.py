"""New processes are forked from a server that has imported all they need."""

from __future__ import annotations

import os
from collections.abc import Sequence
from multiprocessing import forkserver, get_context, resource_tracker
from multiprocessing.context import ForkServerContext
from multiprocessing.util import get_temp_dir

from flower_kd.sim import orphans
from flower_kd.sim.signals import blocked_in_children

# What nodes of this package import, of which the last three only when they have data to load and begin to train:
# torch's optimizers import torch._dynamo at their first use.
NODES = ["flower_kd.client_app", "flower_kd.data.federated", "flwr_datasets", "torch._dynamo"]


def context(modules: Sequence[str]) -> ForkServerContext:
    """Return the multiprocessing context for new processes, which begin with Ctrl-C and SIGTERM blocked.

    The first call starts the server: a command that needs processes calls this before its own imports.

    Parameters
    ----------
    modules : sequence of str
        What the server imports at its start, so that no process has to: imports take seconds. They must not compute
        anything, as forks of a process that has used torch's threads can hang.
    """
    found = get_context("forkserver")
    found.set_forkserver_preload([orphans.__name__, *modules])
    resource_tracker.ensure_running()  # otherwise the server starts it, which unblocks the signals
    # Ctrl-C is sent to all processes of a terminal; only the first one handles it.
    with blocked_in_children():
        variables = {orphans.PARENT: str(os.getpid()), orphans.SOCKETS: get_temp_dir()}
        os.environ.update(variables)
        forkserver.ensure_running()
        for name in variables:
            del os.environ[name]
    return found
