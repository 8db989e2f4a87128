"""Logits corrected for the classes that a node was trained on."""

from dataclasses import replace

import pytest
import torch
from conftest import build_blob_node
from flwr.app import Context, RecordDict

from flower_kd import sim
from flower_kd.clients import Node, ShuffledBatches
from flower_kd.clients.adjustment import adjusted, class_shares
from flower_kd.errors import InputError, RunRefusedError
from flower_kd.protocol import Order
from flower_kd.teacher import Teacher

LABELS = torch.tensor([0, 0, 0, 0, 1, 1])  # of three classes: shares (5, 3, 1) / 9 with one more of each
ORDER = Order(server_round=1, num_steps=1, logit_adjustment=1.0, label_weight=0.5, kd_weight=1.5)


@pytest.fixture
def node() -> Node:
    found = build_blob_node(Context(1, 0, {"partition-id": 0}, RecordDict(), {}))
    private = ShuffledBatches(torch.zeros(6, 4), LABELS, batch_size=2, seed=0, vertex=0)
    return replace(found, private=private, classes=3)


def test_the_shares_of_a_node_without_a_teacher_are_those_of_its_labels(node: Node) -> None:
    assert class_shares(node, ORDER, None).tolist() == pytest.approx([5 / 9, 3 / 9, 1 / 9])


@pytest.mark.parametrize("separate", [False, True])
def test_labels_and_teachers_count_by_their_weights_in_the_loss(node: Node, separate: bool) -> None:
    soft_labels = torch.tensor([[0.0, 0.0, 1.0]] * 7)
    teacher = Teacher(soft_labels.expand(2, 7, 3) if separate else soft_labels)
    taught = [1 / 17, 1 / 17, 15 / 17] if separate else [1 / 10, 1 / 10, 8 / 10]
    expected = [(own + 3 * other) / 4 for own, other in zip([5 / 9, 3 / 9, 1 / 9], taught, strict=True)]
    assert class_shares(node, ORDER, teacher).tolist() == pytest.approx(expected)


def test_labels_alone_count_without_a_distillation_term(node: Node) -> None:
    order = replace(ORDER, kd_weight=0.0)
    assert class_shares(node, order, Teacher(torch.eye(3))).tolist() == pytest.approx([5 / 9, 3 / 9, 1 / 9])


def test_shares_are_above_0_for_a_class_that_nobody_has(node: Node) -> None:
    order = replace(ORDER, label_weight=0.0)
    assert class_shares(node, order, Teacher(torch.tensor([[1.0, 0.0, 0.0]] * 1000))).min() > 0


def test_logits_are_lowered_by_the_logarithm_of_the_shares(node: Node) -> None:
    logits = torch.tensor([[2.0, 1.5, 0.5]])
    whole = adjusted(logits, node, ORDER, None)
    assert whole.tolist()[0] == pytest.approx((logits[0] - torch.tensor([5 / 9, 3 / 9, 1 / 9]).log()).tolist())
    half = adjusted(logits, node, replace(ORDER, logit_adjustment=0.5), None)
    assert half.tolist()[0] == pytest.approx(((logits + whole) / 2)[0].tolist())
    assert adjusted(logits, node, replace(ORDER, logit_adjustment=0.0), None) is logits


SETTINGS = {
    "strategy": "neighbor-kd",
    "baseline": "none",
    "num-server-rounds": 3,
    "local-steps": 4,
    "samples-per-node": 20,
    "reference-size": 60,
    "wire": "labels",
}


def test_a_negative_factor_is_refused(tmp_path) -> None:
    with pytest.raises((InputError, RunRefusedError), match="logit-adjustment = -1"):
        sim.run(SETTINGS | {"logit-adjustment": -1.0}, num_nodes=3, output_dir=tmp_path)
