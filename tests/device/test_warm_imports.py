"""What messages need is imported once, by the warm process."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import importlib, sys
from flower_kd.device import warm

importlib.import_module(warm.ENTRY.partition(":")[0])
for name in warm.MODULES:
    importlib.import_module(name)
known = set(sys.modules)

from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from flower_kd.client_app import app
from flower_kd.protocol import Greeting, Order

TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
config = {"strategy": "neighbor-kd", "model": "mlp", "dataset": "digits", "samples-per-node": 40, "reference-size": 60}
context = Context(1, 5, {"partition-id": 0, "num-partitions": 2, "state-dir": sys.argv[1]}, RecordDict(), config)
greeting = Greeting(stage="neighbor-kd", dissimilarity="kl", wire="labels", wire_coding="entropy", total_steps=2)
order = Order(1, 2, reply="logits", keep=True, evaluate=True, wire="labels", wire_coding="entropy")
for kind, record in (("query.join", greeting), ("train", order)):
    reply = app(Message(RecordDict({"config": record.to_record()}), dst_node_id=5, message_type=kind), context)
    assert reply.has_content(), reply.error
print(*sorted(set(sys.modules) - known))
"""


def test_a_message_imports_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [name for name in done.stdout.split() if name.startswith(("flower_kd", "torch.", "flwr"))] == []
