"""Runs with shortfalls: how they are reported, and which are refused."""

import logging
from pathlib import Path

import networkx as nx
import pytest
import torch
from conftest import FaultyGrid, build_blob_node, build_same_model_node, replace_evaluation
from flwr.app import ArrayRecord, Error, Message, RecordDict

from flower_kd import sim, wire
from flower_kd.clients import make_client_app
from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.report import run_table
from flower_kd.runs import results, shortfalls
from flower_kd.strategies import DSGD, FedAvg, NeighborKD, Silo

ROUNDS = 3
STRATEGIES = {"neighbor-kd": NeighborKD, "d-sgd": DSGD, "fedavg": FedAvg, "silo": Silo}
SHORT = {"num-server-rounds": 2, "local-steps": 2, "samples-per-node": 20, "reference-size": 40, "baseline": "none"}


def record_of(name: str, interfere, rounds: int = ROUNDS) -> results.RunRecord:
    """Return the record of some rounds on a ring of four nodes whose replies may be changed."""
    graph = nx.cycle_graph(4)
    weights = name in ("d-sgd", "fedavg")
    grid = FaultyGrid(make_client_app(build_same_model_node if weights else build_blob_node), 4, {})
    grid.interfere = interfere
    strategy = STRATEGIES[name](graph, local_steps=2)
    network = strategy.network(grid)
    start = ArrayRecord({"weight": torch.zeros(3, 6), "bias": torch.zeros(3)} if weights else {})
    strategy.start(network, start, num_rounds=rounds, timeout=1.0)
    config = RunConfig(strategy=name, num_server_rounds=rounds, local_steps=2)
    return results.RunRecord(
        config, graph, network.hellos, network.metrics, network.traffic, 1.0, network.participation
    )


def without_payload(vertices: tuple[int, ...]):
    """Return an interference that takes the arrays out of what some nodes send."""

    def interfere(vertex: int, reply: Message) -> Message:
        if vertex in vertices and reply.metadata.message_type == "train":
            reply.content = RecordDict({"metrics": reply.content["metrics"]})
        return reply

    return interfere


def with_evaluation(vertices: tuple[int, ...], **changed: float):
    """Return an interference that changes some metrics in the evaluations of some nodes."""

    def interfere(vertex: int, reply: Message) -> Message:
        if vertex in vertices:
            replace_evaluation(reply, lambda metrics: metrics | changed)
        return reply

    return interfere


def test_a_complete_run_has_no_remarks() -> None:
    record = record_of("neighbor-kd", None)
    shortfalls.check(record)
    summary = results.summarize(record, None)
    assert shortfalls.remarks(summary) == []
    assert shortfalls.missed(summary) == (0, 4 * ROUNDS)
    assert summary.participation == [{"due": ROUNDS, "taken": ROUNDS, "reasons": {}}] * 4
    assert summary.diverged == []
    history = record.history()
    assert (history["bytes-all-edges"] == 2 * history["bytes-shared"]).all()  # a ring
    assert history["bytes-shared"].iloc[-1] > 0
    by_server = record_of("fedavg", None).history()
    assert by_server["bytes-all-edges"].equals(by_server["bytes-shared"])


def test_a_node_that_missed_exchanges_is_named_with_the_reasons() -> None:
    record = record_of("neighbor-kd", without_payload((2,)))
    shortfalls.check(record)
    summary = results.summarize(record, None)
    assert summary.participation[2] == {"due": 3, "taken": 1, "reasons": {"its reply has no logits": 2}}
    assert shortfalls.missed(summary) == (2, 12)
    assert shortfalls.remarks(summary) == ["node 2 missed 2 of 3 exchanges: its reply has no logits (2 times)"]
    text = run_table.text(summary)
    assert "note: node 2 missed 2 of 3 exchanges" in text
    assert "exchanges" in text
    assert "1 of 3" in text


def test_many_nodes_that_missed_exchanges_are_counted() -> None:
    part = {"due": 5, "taken": 3, "reasons": {"a [b] c": 1, "late": 1}}
    summary = results.Summary(
        "silo", 12, 5, 0, {"mean": 0.5, "std": 0.0, "per_node": [0.5] * 12}, {}, {}, participation=[part] * 12
    )
    remarks = shortfalls.remarks(summary)
    assert len(remarks) == shortfalls.MAX_NAMED + 1
    assert remarks[0] == "node 0 missed 2 of 5 exchanges: a [b] c (1 time); late (1 time)"
    assert remarks[-1] == "4 more nodes missed 8 exchanges: a [b] c (4 times); late (4 times)"


@pytest.mark.parametrize("name", ["neighbor-kd", "d-sgd"])
def test_a_run_in_which_nothing_was_exchanged_is_refused(name: str) -> None:
    words = r"nothing was exchanged: no.* could be used \(its reply has no \w+ \([48] times\)\)"
    with pytest.raises(InputError, match=words):
        shortfalls.check(record_of(name, without_payload((0, 1, 2, 3)), rounds=2))  # a third would end it at once


def test_a_run_whose_logits_cannot_be_decoded_is_refused() -> None:
    def interfere(vertex: int, reply: Message) -> Message:
        if "logits" in reply.content:
            reply.content["logits"] = wire.encode(torch.zeros(1, 1))
        return reply

    with pytest.raises(InputError, match=r"^nothing was exchanged: no node's logits could be used \(rows that are not"):
        record_of("neighbor-kd", interfere, rounds=3)
    record_of("neighbor-kd", interfere, rounds=1)  # no logits are asked for at all


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_run_in_which_every_node_diverged_is_refused(name: str) -> None:
    shortfalls.check(record_of(name, with_evaluation((0, 1, 2), loss=1e20)))
    with pytest.raises(InputError, match="every node diverged"):
        shortfalls.check(record_of(name, with_evaluation((0, 1, 2, 3), loss=1e20)))


def test_nodes_that_diverged_or_have_no_accuracy_are_named() -> None:
    def interfere(vertex: int, reply: Message) -> Message:
        return with_evaluation((3,), loss=float("inf"))(vertex, with_evaluation((0, 1), loss=1e9)(vertex, reply))

    record = record_of("silo", interfere)
    shortfalls.check(record)
    summary = results.summarize(record, None)
    assert summary.diverged == [0, 1]
    diverged, missing = shortfalls.remarks(summary)
    assert diverged.startswith("nodes 0, 1 diverged: ")
    assert missing == "node 3 could not be evaluated at the end: means are over the others"
    with pytest.raises(InputError, match="every node diverged"):  # whichever way each of them shows it
        shortfalls.check(record_of("silo", lambda v, reply: with_evaluation((2,), loss=1e9)(v, interfere(v, reply))))


def test_a_high_loss_alone_is_not_divergence() -> None:
    record = record_of("silo", with_evaluation((0, 1, 2, 3), loss=50.0))
    shortfalls.check(record)
    assert results.summarize(record, None).diverged == []


def test_a_run_whose_last_round_no_node_trained_in_is_refused() -> None:
    record = record_of("silo", None)
    for vertex in range(4):
        values = record.metrics[ROUNDS, vertex].values
        record.metrics[ROUNDS, vertex].values = {k: v for k, v in values.items() if k.startswith("test-")}
        record.participation[vertex].taken -= 1
        record.participation[vertex].reasons = {"late": 1}
    with pytest.raises(InputError, match=r"no node trained in round 3, the last: late \(4 times\)"):
        shortfalls.check(record)


def test_a_run_in_which_no_node_could_be_evaluated_is_refused() -> None:
    record = record_of("silo", None)
    for metrics in record.metrics.values():
        metrics.values = {k: v for k, v in metrics.values.items() if not k.startswith("test-")}
    with pytest.raises(InputError, match="no node could be evaluated at the end"):
        shortfalls.check(record)


def test_a_run_that_is_refused_leaves_its_history_and_no_summary(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="every node diverged"):
        sim.run(SHORT | {"strategy": "fedavg", "learning-rate": 100.0}, 4, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "history.csv" in names
    assert "summary.json" not in names


def test_errors_of_nodes_are_reasons(caplog: pytest.LogCaptureFixture) -> None:
    def interfere(vertex: int, reply: Message) -> Message:
        if vertex == 1 and reply.metadata.message_type == "train":
            return Message(Error(0, "<class 'OSError'>:<'disk full'>"), reply_to=reply)
        return reply

    with caplog.at_level(logging.ERROR):
        record = record_of("d-sgd", interfere)
    [reason] = record.participation[1].reasons
    assert "disk full" in reason
    assert "disk full" in shortfalls.remarks(results.summarize(record, None))[0]
