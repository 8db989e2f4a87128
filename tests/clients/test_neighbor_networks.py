"""Networks of neighbors on a node: which are refused, and what they answer on the node's own inputs."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, RecordDict
from scipy.sparse import csr_array
from torch import nn

from flower_kd import Node, TwoHeads, pooling, wire
from flower_kd.clients import ShuffledBatches, neighbor_networks
from flower_kd.clients.heads import set_head
from flower_kd.errors import InputError
from flower_kd.models import pruning
from flower_kd.models.two_heads import with_linear_head
from flower_kd.protocol import TEACHER_WEIGHTS, BuildRequest, Order, network_record
from flower_kd.seeding import torch_seeded

INPUTS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def network(name: str) -> nn.Module:
    if name not in ("a", "b"):
        raise ValueError(f"no such network: {name}")
    width = {"a": 3, "b": 5}[name]
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 2))


def pruned(name: str) -> nn.Module:
    model = network(name)
    pruning.prune_smallest(model, 0.5)
    return model


def node(name: str = "a", seed: int = 0, build: Callable[[str], nn.Module] = network) -> Node:
    with torch_seeded(seed):
        model = TwoHeads(build(name), classes=2)
    private = ShuffledBatches(INPUTS, torch.tensor([0, 1] * 3), batch_size=4, seed=0, vertex=0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return Node(model, optimizer, private, INPUTS, [], 2, name=name, build_model=build)


def trained(name: str, seed: int) -> nn.Module:
    """Return a neighbor's network with head 1, whose running statistics are not those of any batch."""
    with torch_seeded(seed):
        found = with_linear_head(network(name), 2)
    found.backbone[1].running_mean.add_(0.7)
    return found.eval()


def message(networks: list[nn.Module], weights: list[float]) -> RecordDict:
    records: dict[str, Any] = {
        network_record(place): wire.encode_weights(each.state_dict()) for place, each in enumerate(networks)
    }
    return RecordDict({**records, TEACHER_WEIGHTS: wire.encode(torch.tensor(weights))})


def order(**more: Any) -> Order:
    fields = {"head": 2, "networks": ["a", "b"], "pooling": "mean", "temperature": 2.0} | more
    return Order(server_round=2, num_steps=1, **fields)


def received(one: Node, content: RecordDict, **more: Any) -> Any:
    set_head(one, order(**more))
    neighbor_networks.receive(one, order(**more), content)
    return neighbor_networks.teachers(one, order(**more))


def test_the_teacher_is_the_pooled_answer_of_the_neighbors() -> None:
    one, two = trained("a", 1), trained("b", 2)
    ask = received(node(), message([one, two], [0.0, 0.25, 0.75]))
    expected = 0.25 * (one(INPUTS) / 2).softmax(-1) + 0.75 * (two(INPUTS) / 2).softmax(-1)
    teacher = ask(INPUTS)
    torch.testing.assert_close(teacher.soft_labels, expected.detach())
    assert not teacher.soft_labels.requires_grad


def test_in_training_mode_a_batch_is_normalized_by_its_own_statistics() -> None:
    student, one = node(), trained("a", 1)
    content, more = message([one], [0.0, 1.0]), {"networks": ["a"], "teacher_mode": "train"}
    found = received(student, content, **more)
    with torch.no_grad():
        evaluated = one(INPUTS[:4])
        expected = one.train()(INPUTS[:4])
    first, again = (found(INPUTS[:4]).soft_labels for _ in range(2))
    torch.testing.assert_close(first, (expected / 2).softmax(-1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, (evaluated / 2).softmax(-1), atol=1e-3)
    # The statistics that the neighbor sent are kept as they are.
    kept = student.memory["networks.0/backbone.1.running_mean"]
    assert kept == pytest.approx(wire.read("", content[network_record(0)]["backbone.1.running_mean"]))


def test_a_node_among_its_own_teachers_asks_its_head_1() -> None:
    one = node()
    ask = received(one, message([trained("a", 1)], [0.5, 0.5]), networks=["a"])
    with torch.no_grad():
        one.model.distilled.head[0].weight.zero_()  # the student changes, its head 1 does not
        own = (one.model.local.eval()(INPUTS) / 2).softmax(-1)
        neighbors = (trained("a", 1)(INPUTS) / 2).softmax(-1)
    torch.testing.assert_close(ask(INPUTS).soft_labels, (own + neighbors) / 2)


def test_nearness_is_measured_from_the_nodes_own_head_1() -> None:
    student, one, two, name = node(), trained("a", 1), trained("b", 2), "nearness(sharpness=20000)"
    found = received(student, message([one, two], [0.0, 0.5, 0.5]), pooling=name)(INPUTS)
    with torch.no_grad():
        logits = torch.stack([each(INPUTS) for each in (student.model.local.eval(), one, two)])
    weights = csr_array([[0.0, 0.5, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    every = torch.ones(3, dtype=torch.bool)
    (expected, *_) = pooling.pool(name, pooling.get(name), logits, weights, 2.0, present=every)
    torch.testing.assert_close(found.soft_labels, expected.soft_labels)
    assert not torch.allclose(found.soft_labels, (logits[1:] / 2).softmax(-1).mean(0), atol=1e-3)


def test_pruned_networks_travel_with_their_masks(caplog: pytest.LogCaptureFixture) -> None:
    student, neighbor = node(build=pruned), node("b", seed=7, build=pruned)
    record, weights = neighbor_networks.encoded(neighbor), wire.encode(torch.tensor([0.0, 1.0]))
    assert (list(record["backbone.0.weight"].shape), list(record["backbone.0.weight_mask"].shape)) == ([10], [3])
    content = RecordDict({network_record(0): record, TEACHER_WEIGHTS: weights})
    expected = (neighbor.model.local.eval()(INPUTS) / 2).softmax(-1).detach()
    ask = received(student, content, networks=["b"])
    torch.testing.assert_close(ask(INPUTS).soft_labels, expected)
    student.teachers = None  # built anew from what the node keeps
    again = neighbor_networks.teachers(student, order(networks=[]))
    torch.testing.assert_close(again(INPUTS).soft_labels, expected)
    everything = torch.full((3,), 255, dtype=torch.uint8)
    content[network_record(0)] = ArrayRecord({**record, "backbone.0.weight_mask": wire.as_array(everything.numpy())})
    with caplog.at_level(logging.WARNING):
        assert received(node(build=pruned), content, networks=["b"]) is None
    assert "'backbone.0.weight' is of shape [10], but 20 of its weights are kept" in caplog.text


def test_separate_teachers_keep_their_weights() -> None:
    one, two = trained("a", 1), trained("b", 2)
    teacher = received(node(), message([one, two], [0.0, 0.25, 0.75]), pooling="pairwise")(INPUTS)
    expected = torch.stack([(each(INPUTS) / 2).softmax(-1) for each in (one, two)])
    torch.testing.assert_close(teacher.soft_labels, expected.detach())
    assert teacher.weights.tolist() == pytest.approx([0.5, 1.5])


def test_what_was_received_once_serves_all_later_messages() -> None:
    one = node()
    first = received(one, message([trained("a", 1), trained("b", 2)], [0.0, 0.5, 0.5]))
    later = neighbor_networks.teachers(one, order(networks=[]))
    assert later is first  # a node that lives on
    one.teachers = None  # one that is built anew from what it keeps
    again = neighbor_networks.teachers(one, order(networks=[]))
    assert again is not first
    assert torch.equal(again(INPUTS).soft_labels, first(INPUTS).soft_labels)
    assert neighbor_networks.teachers(one, order(networks=[], pooling="")) is None


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda record: ArrayRecord({}), "weights of another model"),
        (lambda record: {"head.bias": wire.as_array(torch.zeros(3).numpy())}, "'head.bias' is 'float32' of shape"),
        (
            lambda record: {"backbone.1.running_var": wire.as_array(-torch.ones(3).numpy())},
            "does not return finite logits",
        ),
    ],
    ids=["empty", "shape", "negative variance"],
)
def test_a_network_that_cannot_be_used_is_left_out(spoil, words: str, caplog: pytest.LogCaptureFixture) -> None:
    good, content = trained("b", 2), message([trained("a", 1), trained("b", 2)], [0.0, 0.5, 0.5])
    before = content[network_record(0)]
    changed = spoil(before)
    content[network_record(0)] = changed if isinstance(changed, ArrayRecord) else ArrayRecord({**before, **changed})
    with caplog.at_level(logging.WARNING):
        ask = received(node(), content)
    assert "the network 'a' of a neighbor is not among the teachers" in caplog.text
    assert words in caplog.text
    torch.testing.assert_close(ask(INPUTS).soft_labels, (good(INPUTS) / 2).softmax(-1).detach())
    content = message([trained("a", 1)], [0.0, 1.0])
    content[network_record(0)] = ArrayRecord({})
    assert received(node(), content, networks=["a"]) is None


def test_a_network_can_be_built_or_why_not() -> None:
    one, size = node(), sum(value.numel() for value in trained("b", 0).parameters())
    answer = neighbor_networks.answer
    assert answer(one, BuildRequest(["b"], [size], [0])).failed == -1
    wrong = answer(one, BuildRequest(["b", "b"], [size, 7], [0, 0]))
    assert (wrong.failed, wrong.error) == (1, f"it builds one with {size} parameters, not 7")
    dense = answer(one, BuildRequest(["b"], [size], [3]))
    assert dense.error == "it builds one with 0 pruned parameters, not 3"
    unknown = answer(one, BuildRequest(["c"], [7], [0]))
    assert unknown.failed == 0
    assert unknown.error.startswith("ValueError: no such network: c")
    one.build_model = lambda name: torch.zeros(2)  # type: ignore[assignment,return-value]
    assert answer(one, BuildRequest(["b"], [7], [0])).error == "build_model returned a Tensor, not a torch.nn.Module"


def test_head_1_is_not_trained_after_head_2() -> None:
    one = node()
    set_head(one, order())
    with pytest.raises(InputError, match="head 1 cannot be trained any more"):
        set_head(one, order(head=1))


def test_an_order_for_a_head_needs_two() -> None:
    one = node()
    one.model = network("a")
    with pytest.raises(InputError, match=r"the model is of type Sequential: wrap it, flower_kd.TwoHeads\(model, clas"):
        set_head(one, order())


def test_the_optimizer_forgets_head_1_when_head_2_begins() -> None:
    one = node()
    one.model(INPUTS).sum().backward()
    one.optimizer.step()
    assert len(one.optimizer.state) == len(list(one.model.local.parameters()))
    set_head(one, order())
    assert not one.optimizer.state
