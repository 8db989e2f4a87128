"""What a node takes from the teacher in a message."""

import torch
from conftest import build_blob_node
from flwr.app import Context, Message, RecordDict

from flower_kd import wire
from flower_kd.clients import make_client_app, predictions, state
from flower_kd.clients.training import train
from flower_kd.pooling import Teacher
from flower_kd.protocol import Order, exchanged_rows
from flower_kd.sim import InProcessGrid


def test_a_teacher_speaks_of_the_rows_of_the_exchange_before_and_is_clamped() -> None:
    app = make_client_app(build_blob_node)
    context = Context(1, 5, {"partition-id": 0, "num-partitions": 2}, state.LiveState(), {})
    state.fresh(context, build_blob_node)
    InProcessGrid(app, 1, {})
    soft = torch.rand(8, 3, generator=torch.Generator().manual_seed(0)) * 3 - 1  # from -1 to 2
    order = Order(1, 2, kd_weight=2.0, exchange=3, exchange_rows=8, vertex=0, step=0, dissimilarity="squared-error")
    content = RecordDict({"config": order.to_record(), "teacher": wire.encode(soft)})
    app(Message(content, dst_node_id=5, message_type="train"), context)
    by_hand = build_blob_node(context)
    train(by_hand, order, Teacher(soft.clamp(0.0, 1.0)), exchanged_rows(0, 2, 24, 8), vertex=0)
    for own, expected in zip(context.state.node.model.parameters(), by_hand.model.parameters(), strict=True):
        assert torch.equal(own, expected)


def test_a_quantized_teacher_is_a_distribution_again() -> None:
    """Rounding rows of many classes loses mass, which divergences would take for a difference."""
    soft = torch.softmax(torch.randn(24, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    content = RecordDict({"teacher": wire.encode(soft, "uint8")})
    teacher = predictions.teacher(content, Order(1, 1, wire="uint8"), rows=24, classes=3)
    assert teacher is not None
    assert torch.allclose(teacher.soft_labels.sum(-1), torch.ones(24), atol=1e-6)
    raw = predictions.teacher(content, Order(1, 1, wire="uint8", dissimilarity="squared-error"), rows=24, classes=3)
    assert raw is not None
    assert not torch.allclose(raw.soft_labels.sum(-1), torch.ones(24), atol=1e-6)
