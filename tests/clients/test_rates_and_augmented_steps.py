"""Training with a schedule and with augmentations: the same on all engines, and what others get of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import CLASSES, blobs, build_blob_node, build_same_model_node, killed_after, recorded_grid, run_strategy
from flwr.app import Context
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from flower_kd import sim
from flower_kd.clients import Node, make_client_app, state, training
from flower_kd.clients.checks import check
from flower_kd.clients.node import LoaderBatches
from flower_kd.clients.training import predict, train
from flower_kd.errors import InputError
from flower_kd.pooling import Teacher
from flower_kd.protocol import Order
from flower_kd.sim import InProcessGrid
from flower_kd.strategies import DSGD, DDist, FedAvg, NeighborKD, Silo

ROWS = np.arange(24)
SCHEDULE = "cosine(warmup=2)"


def context_of(vertex: int = 0) -> Context:
    return Context(1, 5, {"partition-id": vertex, "num-partitions": 4}, state.LiveState(), {})


def built(vertex: int = 0, build: Callable[[Context], Node] = build_blob_node, **settings: object) -> Node:
    node = build(context_of(vertex))
    for name, value in settings.items():
        setattr(node, name, value)
    return node


def teacher(seed: int = 0, *several: int) -> Teacher:
    generator = torch.Generator().manual_seed(seed)
    return Teacher(torch.softmax(torch.randn(*several, 24, CLASSES, generator=generator), dim=-1))


def weights(node: Node) -> Tensor:
    return torch.nn.utils.parameters_to_vector(node.model.parameters()).detach().clone()


def after(*orders: Order, vertex: int = 0, soft: Teacher | None = None, **settings: object) -> Tensor:
    node = built(vertex, **settings)
    for order in orders:
        train(node, order, soft, ROWS, vertex=vertex)
    return weights(node)


EVERY = [
    lambda ring: Silo(ring, local_steps=4),
    lambda ring: FedAvg(ring, local_steps=4),
    lambda ring: DSGD(ring, local_steps=4, exchange_every=2),
    lambda ring: DDist(ring, local_steps=4, reference_batch=6),
    lambda ring: DDist(ring, local_steps=4, exchange_every=1, exchange_rows=8),  # joint
    lambda ring: NeighborKD(ring, local_steps=4, exchange_every=2, reference_batch=6),
]


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize(
    "settings",
    [{"schedule": SCHEDULE}, {"augment": "noise", "reference_augment": "mixup"}, {"augment": "mixup"}],
    ids=str,
)
def test_live_nodes_and_nodes_in_records_have_the_same_figures(make: Callable, settings: dict, ring: nx.Graph) -> None:
    def build(context: Context) -> Node:
        node = (build_same_model_node if make(ring).same_model else build_blob_node)(context)
        vars(node).update(settings)
        return node

    app = make_client_app(build)
    live = run_strategy(make(ring), InProcessGrid(app, 4, {}))
    assert live == run_strategy(make(ring), recorded_grid(app, 4))
    plain = make_client_app(build_same_model_node if make(ring).same_model else build_blob_node)
    assert live != run_strategy(make(ring), InProcessGrid(plain, 4, {}))


@pytest.mark.parametrize(
    "settings",
    [{"schedule": SCHEDULE}, {"augment": "noise"}, {"augment": "mixup"}, {"reference_augment": "noise"}],
    ids=str,
)
def test_steps_are_the_same_in_one_message_or_in_several(settings: dict) -> None:
    def order(step: int, steps: int) -> Order:
        return Order(1, steps, step=step, kd_weight=1.0, total_steps=8)

    whole = after(order(0, 8), soft=teacher(), **settings)
    assert torch.equal(whole, after(*(order(step, 2) for step in (0, 2, 4, 6)), soft=teacher(), **settings))
    assert not torch.equal(whole, after(order(0, 8), soft=teacher()))


def test_noise_does_not_depend_on_what_a_loader_draws() -> None:
    """A DataLoader draws a seed whenever it starts, which is once a message, even if it does not shuffle."""
    inputs, labels = blobs(0, 40)

    def after_messages_of(steps: int) -> Tensor:
        loader = DataLoader(TensorDataset(inputs, labels), batch_size=10)
        node = built(private=LoaderBatches(loader), augment="noise")
        for first in range(0, 8, steps):
            train(node, Order(1, steps, step=first), None, ROWS, vertex=0)
        return weights(node)

    assert torch.equal(after_messages_of(8), after_messages_of(2))
    assert torch.equal(after_messages_of(8), after_messages_of(1))


def test_rates_are_scaled_in_each_step_of_the_optimizer_and_are_back_at_the_end() -> None:
    node, used = built(schedule=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5)), []
    node.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    train(node, Order(1, 2, step=1, total_steps=4), None, ROWS, vertex=0)
    assert used == [0.05, 0.025]
    assert node.optimizer.param_groups[0]["lr"] == 0.1


def test_a_constant_schedule_asks_nothing_of_the_order_or_the_optimizer() -> None:
    assert torch.equal(after(Order(1, 3)), after(Order(1, 3, total_steps=2)))
    with pytest.raises(InputError, match="schedule 'cosine' needs the number of steps of the run"):
        after(Order(1, 3), schedule="cosine")
    with pytest.raises(InputError, match="steps 0 to 3 in a run or phase of total_steps = 2"):
        after(Order(1, 3, total_steps=2), schedule="cosine")


def test_noise_differs_between_vertices_seeds_and_steps_and_not_by_distillation() -> None:
    def seen(vertex: int = 0, soft: Teacher | None = None, **order: int) -> Tensor:
        shown: list[Tensor] = []

        def watched(inputs: Tensor) -> Tensor:
            shown.append(torch.rand_like(inputs))
            return inputs.clone()

        node = built(vertex=0, augment=watched, reference_augment="noise")
        train(node, Order(1, 1, kd_weight=1.0, **order), soft, ROWS, vertex=vertex)
        return shown[0]

    first = seen()
    assert torch.equal(first, seen(soft=teacher()))
    assert not any(torch.equal(first, other) for other in (seen(vertex=1), seen(seed=1), seen(step=1)))


def test_one_step_on_mixed_private_rows_is_that_of_mixed_labels() -> None:
    def halves(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return (inputs + inputs.flip(0)) / 2, (targets + targets.flip(0)) / 2

    node, by_hand = built(augment=halves), built()
    inputs, labels = next(by_hand.private.batches(0, 1))
    train(node, Order(1, 1), None, ROWS, vertex=0)
    logits = by_hand.model((inputs + inputs.flip(0)) / 2)
    loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits, labels.flip(0))) / 2
    loss.backward()
    by_hand.optimizer.step()
    assert torch.allclose(weights(node), weights(by_hand), atol=1e-6)


@pytest.mark.parametrize("several", [(), (2,)])
@pytest.mark.parametrize("mixes", [False, True])
def test_one_step_on_augmented_reference_rows(several: tuple[int, ...], mixes: bool) -> None:
    """Plain augmentations keep the teacher of the unchanged row; one that mixes rows mixes their teachers too."""

    def reversed_rows(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return inputs.flip(0), targets.flip(0)

    soft = teacher(0, *several)
    node = built(reference_augment=reversed_rows if mixes else lambda inputs: inputs.flip(0))
    by_hand = built()
    order = Order(1, 1, kd_weight=0.5, dissimilarity="kl")
    train(node, order, soft, ROWS, vertex=0)
    inputs, labels = next(by_hand.private.batches(0, 1))
    log_p = by_hand.model(by_hand.reference.flip(0)).log_softmax(-1)
    target = soft.soft_labels.flip(-2) if mixes else soft.soft_labels
    kd = F.kl_div(log_p.expand_as(target), target, reduction="none").sum(-1).mean(-1).sum()
    (F.cross_entropy(by_hand.model(inputs), labels) + 0.5 * kd).backward()
    by_hand.optimizer.step()
    assert torch.allclose(weights(node), weights(by_hand), atol=1e-6)


@pytest.mark.parametrize("soft", [None, teacher()])
def test_predictions_that_leave_a_node_are_of_unchanged_rows(soft: Teacher | None) -> None:
    """Also those of an order whose replies would come from the step's own forward pass."""
    order = Order(1, 1, joint=True, reply="logits", kd_weight=1.0)
    node = built(reference_augment="noise(std=5.0)")
    expected = predict(node.model, node.reference)
    _, logits = train(node, order, soft, ROWS, vertex=0)
    assert torch.equal(logits, expected)
    assert node.model.training
    _, plain = train(built(), order, soft, ROWS, vertex=0)
    assert torch.allclose(plain, expected, atol=1e-6)


@dataclass
class Unhashable:
    gamma: float = 0.9

    def __call__(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, self.gamma)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"augment": "shift"}, r"'shift': it needs images \[channels, height, width\], not inputs of shape \[6\]"),
        ({"reference_augment": "shift"}, "'shift': it needs images"),
        ({"augment": 3}, "augment = 3 must be a text or a function from inputs to inputs"),
        ({"schedule": ["cosine"]}, "schedule = .'cosine'. must be a text or a function"),
        ({"schedule": Unhashable()}, "the schedule is of type Unhashable, which is not hashable: give it a __hash__"),
        ({"schedule": "warmup(steps=12)"}, "a warm-up of 12 steps needs a run of more than 12, not 12"),
        ({"augment": "randaugment"}, "the node has no card that says how its inputs are normalized"),
    ],
)
@pytest.mark.parametrize("make", [EVERY[0], EVERY[1], EVERY[5]])
def test_a_node_says_in_the_handshake_what_it_cannot_use(
    settings: dict, words: str, make: Callable, ring: nx.Graph
) -> None:
    def build(context: Context) -> Node:
        node = build_same_model_node(context)
        vars(node).update(settings)
        return node

    grid = InProcessGrid(make_client_app(build), 4, {})
    with pytest.raises(InputError, match=f"cannot take part: .*{words}"):
        make(ring).start(grid, num_rounds=3)
    assert all(state.MODEL not in context.state for context in grid.contexts.values())


def test_a_schedule_needs_rates() -> None:
    class Fixed(torch.optim.Optimizer):
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data.sub_(0.1 * parameter.grad)

    node = built()
    node.optimizer = Fixed(node.model.parameters(), {})
    train(node, Order(1, 1), None, ROWS, vertex=0)
    node.schedule = "cosine"
    with pytest.raises(InputError, match="schedule 'cosine' changes learning rates, but Fixed has none"):
        check(node, total_steps=10)


CONFIG = {
    "strategy": "neighbor-kd", "baseline": "none", "num-server-rounds": 2, "local-steps": 4, "momentum": 0.9,
    "samples-per-node": 30, "reference-size": 40, "reference-batch": 20, "learning-rate": 0.05,
    "schedule": "cosine(warmup=3)", "augment": "crop-flip(pixels=1)", "reference-augment": "shift(pixels=2)",
}  # fmt: skip


def test_workers_and_a_resumed_run_have_the_same_figures(tmp_path: Path) -> None:
    whole = sim.run(CONFIG, 3, tmp_path / "workers", workers=2)
    with killed_after(1):
        sim.run(CONFIG, 3, tmp_path / "resumed")
    resumed = sim.run(CONFIG | {"resume": True}, 3, tmp_path / "resumed")  # in this process
    assert resumed.accuracy == whole.accuracy
    assert len(set(whole.accuracy["per_node"])) > 1


def test_the_baseline_alone_has_the_schedule_too(tmp_path: Path) -> None:
    quick = CONFIG | {"num-server-rounds": 1}
    alone = sim.run(quick | {"baseline": "silo"}, 3, tmp_path / "both")
    silo = sim.run(quick | {"strategy": "silo"}, 3, tmp_path / "silo")
    assert alone.baseline == silo.accuracy


def test_a_schedule_counts_from_the_beginning_of_a_phase() -> None:
    node = built(schedule="cosine")
    factors = training._factors(node, Order(2, 3, step=7, phase_start=4, total_steps=8))
    assert factors == pytest.approx([(1 + np.cos(np.pi * step / 8)) / 2 for step in (3, 4, 5)])
    for wrong in ({"step": 3}, {"step": 10}):
        with pytest.raises(InputError, match="in a run or phase of total_steps = 8"):
            training._factors(node, Order(2, 3, phase_start=4, total_steps=8, **wrong))
