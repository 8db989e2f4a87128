"""What nodes remember between messages survives workers, resumption and restarts: the figures are the same."""

from pathlib import Path

import pytest
from conftest import killed_after
from flwr.app import Message

from flower_kd import sim
from flower_kd.clients.state import LiveState
from flower_kd.protocol import Order
from flower_kd.sim import InProcessGrid, engine

SHORT = {
    "baseline": "none", "num-server-rounds": 3, "local-steps": 3, "momentum": 0.9, "samples-per-node": 30,
    "reference-size": 40, "reference-batch": 20, "learning-rate": 0.05, "temperature": 1.0,
}  # fmt: skip
RUNS = {
    "adjusted labels": {"strategy": "neighbor-kd", "wire": "labels", "wire-coding": "delta", "logit-adjustment": 1.0},
    "joint labels": {
        "strategy": "d-dist", "wire": "labels", "wire-coding": "delta", "exchange-every": 1, "exchange-rows": 20,
        "logit-adjustment": 0.5,
    },
    "top-k": {"strategy": "d-sgd", "compression": "top-k(share=0.1)"},
    "head 2, when all nodes have a teacher": {"strategy": "multi-head(local_rounds=1)", "learning-rate": 0.4},
    "head 2, when no node has one yet": {"strategy": "multi-head(local_rounds=2)", "schedule": "cosine"},
    "head 2, with networks of neighbors": {
        "strategy": "multi-head(local_rounds=1,teachers=private)", "model": "mlp,resnet2", "dissimilarity": "msed",
        "pooling": "pairwise", "reference-size": 0,
    },
    "head 2, when networks are about to be sent": {
        "strategy": "multi-head(local_rounds=2,teachers=private,teacher_mode=train)", "model": "mlp*1,resnet2*2",
    },
    # Nodes that are not drawn in the last exchange of a round; teachers that wait for theirs.
    "some nodes": {
        "strategy": "neighbor-kd", "exchange-every": 1, "exchange-rows": 20, "participation": 0.6, "momentum": 0.5,
    },
    "another graph, some nodes, lost messages": {
        "strategy": "d-sgd", "exchange-every": 1, "topology": "varying(graph='erdos-renyi(edge_probability=0.5)')",
        "participation": 0.6, "message-loss": 0.3,
    },
    "tracking, lost messages": {
        "strategy": "d-dist", "consensus": "tracking", "exchange-every": 1, "exchange-rows": 20, "message-loss": 0.3,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_workers_and_a_resumed_run_have_the_same_figures(name: str, tmp_path: Path) -> None:
    config = SHORT | RUNS[name]
    whole = sim.run(config, 3, tmp_path / "whole")
    with killed_after(2):
        sim.run(config, 3, tmp_path / "resumed", workers=2)
    resumed = sim.run(config | {"resume": True}, 3, tmp_path / "resumed")
    assert resumed.accuracy == whole.accuracy
    assert resumed.bytes["per_edge"] == whole.bytes["per_edge"]
    assert len(set(whole.accuracy["per_node"])) > 1


class RestartedGrid(InProcessGrid):
    """A grid whose nodes lose all that is in memory before each round and each evaluation."""

    folder = Path()
    restarts = 0

    def _call(self, message: Message) -> Message:
        context = self.contexts[message.metadata.dst_node_id]
        own = self.folder / str(context.node_config["partition-id"])
        own.mkdir(exist_ok=True)
        context.node_config["state-dir"] = str(own)
        kind, config = message.metadata.message_type, message.content["config"]
        first = Order.from_record(config).first_step if kind == "train" else 1
        if kind == "evaluate" or (kind == "train" and first > 0 and first % SHORT["local-steps"] == 0):
            context.state = LiveState()
            type(self).restarts += 1
        return super()._call(message)


@pytest.mark.parametrize("name", [*RUNS, "early stopping", "fedavg"])
def test_restarted_nodes_have_the_same_figures(name: str, tmp_path: Path, monkeypatch, caplog) -> None:
    more = {
        "early stopping": {
            "strategy": "neighbor-kd", "validation-share": 0.2, "patience": 1, "learning-rate": 0.9,
            "num-server-rounds": 5, "augment": "noise(std=0.1)", "schedule": "cosine",
        },
        "fedavg": {"strategy": "fedavg", "compression": "top-k(share=0.1)"},
    }  # fmt: skip
    config = SHORT | (RUNS | more)[name]
    whole = sim.run(config, 3, tmp_path / "whole")
    monkeypatch.setattr(RestartedGrid, "folder", tmp_path)
    monkeypatch.setattr(RestartedGrid, "restarts", 0)
    monkeypatch.setattr(engine, "InProcessGrid", RestartedGrid)
    restarted = sim.run(config, 3, tmp_path / "restarted")
    assert RestartedGrid.restarts >= 4
    assert "continues without" not in caplog.text
    assert restarted.accuracy == whole.accuracy
    assert restarted.bytes == whole.bytes
    assert getattr(restarted, "stopped", None) == getattr(whole, "stopped", None)
