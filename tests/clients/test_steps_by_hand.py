"""Figures of training and evaluation, and what a message that fails leaves of the optimizer, against steps by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import blobs
from flwr.app import Context

from flower_kd.clients import Node, ShuffledBatches, state
from flower_kd.clients.training import evaluate, train
from flower_kd.pooling import Teacher
from flower_kd.protocol import Order

NO_ROWS = np.arange(0)


def linear_node() -> Node:
    model = torch.nn.Linear(6, 3)
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-1, 1, 18).reshape(3, 6)), model.bias.zero_()
    return Node(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9),
        private=ShuffledBatches(*blobs(0, 20), batch_size=8, seed=0, vertex=0),
        reference=blobs(1000, 24)[0],
        test=[blobs(2000, 50)],
        classes=3,
    )


def test_reported_losses_are_means_over_the_steps() -> None:
    node, by_hand = linear_node(), linear_node()
    soft = torch.softmax(torch.randn(24, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    order = Order(1, 3, kd_weight=0.5, label_weight=0.25, dissimilarity="kl", temperature=1.0)
    metrics, logits = train(node, order, Teacher(soft), np.arange(24), vertex=0)
    label_losses, kd_losses = [], []
    for inputs, labels in by_hand.private.batches(0, 3):
        label_loss = F.cross_entropy(by_hand.model(inputs), labels)
        kd_loss = F.kl_div(by_hand.model(by_hand.reference).log_softmax(-1), soft, reduction="batchmean")
        by_hand.optimizer.zero_grad()
        (0.25 * label_loss + 0.5 * kd_loss).backward()
        by_hand.optimizer.step()
        label_losses.append(label_loss.item())
        kd_losses.append(kd_loss.item())
    assert torch.allclose(node.model.weight, by_hand.model.weight, atol=1e-5)
    assert metrics["train-loss"] == pytest.approx(np.mean(label_losses), rel=1e-4)
    assert metrics["kd-loss"] == pytest.approx(np.mean(kd_losses), rel=1e-4)
    assert metrics["num-examples"] == 20
    assert 0 < metrics["seconds"] < 60
    assert logits is None  # the order is not joint
    assert all(parameter.grad is None for parameter in node.model.parameters())


def test_teachers_that_stay_apart_without_weights_count_in_full() -> None:
    soft = torch.softmax(torch.randn(2, 24, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    order = Order(1, 1, kd_weight=1.0, dissimilarity="kl", temperature=1.0)
    losses = [
        train(linear_node(), order, Teacher(labels), np.arange(24), vertex=0)[0]["kd-loss"]
        for labels in (soft[0], soft[1], soft)
    ]
    assert losses[2] == pytest.approx(losses[0] + losses[1], rel=1e-5)


def test_reference_batches_are_other_ones_for_another_vertex_seed_or_step() -> None:
    soft = torch.softmax(torch.randn(24, 3, generator=torch.Generator().manual_seed(0)), dim=-1)

    def first_rows(vertex: int, seed: int, step: int) -> torch.Tensor:
        node, seen = linear_node(), []
        forward = node.model.forward
        node.model.forward = lambda inputs: seen.append(inputs[-6:]) or forward(inputs)
        order = Order(1, 1, kd_weight=1.0, reference_batch=6, seed=seed, step=step)
        train(node, order, Teacher(soft), np.arange(24), vertex=vertex)
        return seen[0]

    same = first_rows(0, 0, 0)
    assert torch.equal(same, first_rows(0, 0, 0))
    assert not any(torch.equal(same, first_rows(*other)) for other in [(1, 0, 0), (0, 1, 0), (0, 0, 1)])


def test_the_test_loss_is_the_mean_over_samples_in_evaluation_mode() -> None:
    inputs, labels = blobs(2000, 50)
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), linear_node().model).train()
    metrics = evaluate(model, [(inputs[:40], labels[:40]), (inputs[40:], labels[40:])])
    with torch.no_grad():
        expected = F.cross_entropy(model.eval()(inputs), labels).item()
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_failed_message_gives_the_momentum_of_the_message_before_back() -> None:
    context = Context(1, 5, {"partition-id": 0, "num-partitions": 2}, state.LiveState(), {})
    node = linear_node()
    train(node, Order(1, 2), None, NO_ROWS, vertex=0)
    before = state.to_tensors(node)
    assert any(name.startswith("optimizer.") for name in before)

    def fails_after_two_steps() -> None:
        with state.restored_on_error(context, node):
            train(node, Order(1, 2, step=2), None, NO_ROWS, vertex=0)
            raise RuntimeError("too late")

    with pytest.raises(RuntimeError, match="too late"):
        fails_after_two_steps()
    after = state.to_tensors(node)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_tensors_of_a_node_are_copies_that_another_node_goes_on_with() -> None:
    node, other = linear_node(), linear_node()
    train(node, Order(1, 2), None, NO_ROWS, vertex=0)
    tensors = state.to_tensors(node)
    kept = {name: value.clone() for name, value in tensors.items()}
    train(node, Order(1, 1, step=2), None, NO_ROWS, vertex=0)
    assert all(torch.equal(tensors[name], value) for name, value in kept.items())
    state.from_tensors(other, tensors)
    train(other, Order(1, 1, step=2), None, NO_ROWS, vertex=0)
    assert all(torch.equal(value, state.to_tensors(other)[name]) for name, value in state.to_tensors(node).items())
