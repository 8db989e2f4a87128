"""For `test_many_supernodes.py`: Flower's commands in forks of one process, and rounds of messages to all nodes."""

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from flower_kd.device import warm

COMMANDS = {
    "flower-supernode": "flwr.supernode.cli:flower_supernode",
    "flower-superexec": "flwr.supercore.cli:flower_superexec",
    "flwr-clientapp": "flwr.supernode.cli:flwr_clientapp",
}
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Write for each round its seconds, and the number of nodes that answered."""
    seconds, answers = [], []
    for _ in range(int(context.run_config["rounds"])):
        started = time.perf_counter()
        to_all = [
            Message(RecordDict(), dst_node_id=node, message_type="train", group_id="") for node in grid.get_node_ids()
        ]
        answers.append(sum(not reply.has_error() for reply in grid.send_and_receive(to_all, timeout=600)))
        seconds.append(time.perf_counter() - started)
    Path(str(context.run_config["output"])).write_text(json.dumps({"seconds": seconds, "answers": answers}))


def fork_commands(folder: str) -> None:
    """Run Flower's commands in forks of this process, for launchers in a folder, until its standard input ends."""
    entries = {name: entry.split(":") for name, entry in COMMANDS.items()}
    calls = {name: getattr(import_module(module), function) for name, (module, function) in entries.items()}
    import_module("flower_kd.bench.apps")
    request = warm.Server(Path(folder), most_messages=10**9, most_growth=10**12).serve()
    if request is None:
        os._exit(0)
    request.adopt()
    warm._run(calls[Path(sys.argv[0]).name])
