"""Training networks whose forward pass is more than a function of each row: batch normalization and dropout."""

from collections.abc import Callable
from copy import deepcopy

import networkx as nx
import pytest
import torch
from conftest import CLASSES, FEATURES, blobs, build_blob_node
from flwr.app import Context, Message, RecordDict
from torch import nn

from flower_kd import models, wire
from flower_kd.clients import Node, ShuffledBatches, make_client_app, state
from flower_kd.clients.training import predict, train
from flower_kd.pooling import Teacher
from flower_kd.protocol import Order, exchanged_rows
from flower_kd.seeding import derive, torch_seeded
from flower_kd.sim import InProcessGrid
from flower_kd.strategies import DDist, NeighborKD, Silo


def noisy(vertex: int) -> nn.Module:
    with torch_seeded(derive(0, "weights", vertex)):
        return nn.Sequential(
            nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, CLASSES)
        )


def dropout(vertex: int) -> nn.Module:
    with torch_seeded(derive(0, "weights", vertex)):
        return nn.Sequential(nn.Linear(FEATURES, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, CLASSES))


def resnet8(vertex: int) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 2, 3)), models.build("resnet8", CLASSES, (1, 2, 3), seed=vertex))


def factory(build_model: Callable[[int], nn.Module]) -> Callable[[Context], Node]:
    def build(context: Context) -> Node:
        node = build_blob_node(context)
        node.model = build_model(int(context.node_config["partition-id"]))
        node.optimizer = torch.optim.SGD(node.model.parameters(), lr=0.05, momentum=0.9)
        return node

    return build


def context_of(vertex: int = 0) -> Context:
    return Context(1, 5, {"partition-id": vertex, "num-partitions": 4}, state.LiveState(), {})


def trained(strategy: object, build_model: Callable[[int], nn.Module]) -> list[dict[str, torch.Tensor]]:
    """Return every node's weights and buffers after two rounds."""
    grid = InProcessGrid(make_client_app(factory(build_model)), 4, {})
    strategy.start(grid, num_rounds=2)  # type: ignore[attr-defined]
    return [context.state.node.model.state_dict() for context in grid.contexts.values()]


@pytest.mark.parametrize("build_model", [build_blob_node, noisy, dropout, resnet8])
def test_without_a_distillation_term_training_is_that_of_a_node_alone(build_model) -> None:
    if build_model is build_blob_node:
        build_model = lambda vertex: build_blob_node(context_of(vertex)).model  # noqa: E731
    ring, schedule = nx.cycle_graph(4), {"local_steps": 4}
    alone = trained(Silo(ring, **schedule), build_model)
    for strategy in (
        DDist(ring, rho=0.0, **schedule),
        DDist(ring, rho=0.0, exchange_every=1, exchange_rows=8, **schedule),  # joint
        NeighborKD(ring, alpha=1.0, exchange_every=2, **schedule),
    ):
        for own, expected in zip(trained(strategy, build_model), alone, strict=True):
            assert all(torch.equal(own[name], value) for name, value in expected.items())


@pytest.mark.parametrize("build_model", [noisy, resnet8])
def test_logits_that_leave_the_node_do_not_depend_on_private_rows_of_the_batch(build_model) -> None:
    order = Order(1, 1, joint=True, reply="logits", kd_weight=1.0)
    rows = exchanged_rows(0, 0, 24, 0)
    teacher, replies, statistics = Teacher(torch.full((24, CLASSES), 1 / CLASSES)), [], []
    for seed in (1, 2):
        node = factory(build_model)(context_of())
        expected = predict(node.model, node.reference)
        node.private = ShuffledBatches(*blobs(seed, 40), batch_size=10, seed=0, vertex=0)
        _, logits = train(node, order, teacher, rows, vertex=0)
        assert torch.equal(logits, expected)  # of the weights before the step, as the gradient is
        replies.append(logits)
        statistics.append(torch.cat([buffer.double().reshape(-1) for buffer in node.model.buffers()]))
    assert torch.equal(*replies)
    assert not torch.equal(*statistics)


def test_private_and_reference_rows_have_batch_statistics_of_their_own() -> None:
    node = factory(noisy)(context_of())
    node.optimizer = torch.optim.SGD(node.model.parameters(), lr=0.0)
    by_hand = deepcopy(node.model).train()
    inputs, _ = next(node.private.batches(0, 1))
    by_hand(inputs), by_hand(node.reference)
    teacher = Teacher(torch.full((24, CLASSES), 1 / CLASSES))
    train(node, Order(1, 1, kd_weight=1.0), teacher, exchanged_rows(0, 0, 24, 0), vertex=0)
    assert torch.equal(node.model[1].running_mean, by_hand[1].running_mean)
    assert node.model[1].num_batches_tracked == 2


def reply_to(order: Order, vertex: int = 0) -> tuple[Context, RecordDict]:
    app, context = make_client_app(factory(noisy)), context_of(vertex)
    state.fresh(context, factory(noisy))
    InProcessGrid(app, 1, {})
    reply = app(Message(RecordDict({"config": order.to_record()}), dst_node_id=5, message_type="train"), context)
    return context, reply.content


def test_training_noise_follows_from_the_seed_vertex_and_step() -> None:
    def weights(order: Order, vertex: int = 0) -> torch.Tensor:
        torch.rand(7)  # nothing depends on the state of the global generator
        context, _ = reply_to(order, vertex)
        return context.state.node.model[0].weight.detach()

    first = weights(Order(1, 3, vertex=0))
    assert torch.equal(first, weights(Order(1, 3, vertex=0)))
    # The same data and initial weights: vertex and seed move the noise alone here.
    assert not torch.equal(first, weights(Order(1, 3, vertex=1)))
    assert not torch.equal(first, weights(Order(1, 3, vertex=0, seed=1)))


def test_noise_does_not_depend_on_how_steps_are_divided_into_messages() -> None:
    def weights(*orders: Order) -> torch.Tensor:
        node = factory(dropout)(context_of())
        for order in orders:
            train(node, order, None, exchanged_rows(0, 0, 24, 0), vertex=0)
        return node.model[0].weight.detach()

    assert torch.equal(weights(Order(1, 4, step=0)), weights(Order(1, 1, step=0), Order(1, 3, step=1)))


def test_predictions_are_those_of_evaluation_mode() -> None:
    context, content = reply_to(Order(1, 2, reply="logits"))
    model, reference = context.state.node.model, context.state.node.reference
    logits = wire.decode(content["logits"], (24, CLASSES))
    tracked = model[1].num_batches_tracked.item()
    assert tracked == 2  # batches of training alone
    assert torch.allclose(logits, model.eval()(reference), atol=1e-6)
    assert not torch.allclose(logits, model.train()(reference), atol=1e-2)
