"""Where new processes come from: a server that has imported all they need, while this process still imports it."""

from __future__ import annotations

import os
from multiprocessing import forkserver, get_context, resource_tracker
from multiprocessing.context import ForkServerContext
from multiprocessing.util import get_temp_dir

from flower_kd.sim import orphans
from flower_kd.sim.signals import unheard_by_children

# Imports take seconds of a process; each process that is forked after them has them for nothing. The server computes
# nothing itself, as forks of a process that has used torch's threads can hang.
MODULES = ["flower_kd.sim.orphans", "flower_kd.sim.job", "flower_kd.client_app"]


def context() -> ForkServerContext:
    """Return the context in which to make processes; they begin with Ctrl-C and SIGTERM blocked.

    The first call starts the server: a command that will need processes calls this before its own imports.
    """
    found = get_context("forkserver")
    found.set_forkserver_preload(MODULES)
    resource_tracker.ensure_running()  # or the server starts it, which unblocks the signals
    # Ctrl-C goes to all processes of a terminal; the first one decides what to do about it.
    with unheard_by_children():
        told = {orphans.PARENT: str(os.getpid()), orphans.SOCKETS: get_temp_dir()}
        os.environ.update(told)
        forkserver.ensure_running()
        for name in told:
            del os.environ[name]
    return found
