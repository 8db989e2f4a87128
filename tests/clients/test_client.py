"""What a node does with one message."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blobs, build_blob_node
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from outside_parts import module
from torch.utils.data import DataLoader, TensorDataset

from flower_kd import wire
from flower_kd.clients import LoaderBatches, Node, ShuffledBatches, make_client_app, state
from flower_kd.clients.node_files import NodeFiles
from flower_kd.clients.training import evaluate, train
from flower_kd.dissimilarity import get, soften
from flower_kd.errors import InputError
from flower_kd.models.card import Score
from flower_kd.pooling import Teacher
from flower_kd.protocol import Order
from flower_kd.sim import InProcessGrid

CONFIG = {"partition-id": 0, "num-partitions": 2}


def context_of(vertex: int = 0) -> Context:
    return Context(1, 5, {"partition-id": vertex, "num-partitions": 2}, RecordDict(), {})


def linear_node() -> Node:
    model = torch.nn.Linear(6, 3)
    with torch.no_grad():
        model.weight.zero_(), model.bias.zero_()
    inputs, labels = blobs(0, 20)
    return Node(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        private=ShuffledBatches(inputs, labels, batch_size=20, seed=0, vertex=0),
        reference=blobs(1000, 24)[0],
        test=[blobs(2000, 50)],
        classes=3,
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("apart", [False, True])
def test_one_step_is_the_gradient_of_the_formula(reduction: str, apart: bool) -> None:
    node, rows = linear_node(), np.array([3, 1, 7, 20])
    soft = torch.softmax(torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    teacher = Teacher(soft, torch.tensor([0.5, 1.5])) if apart else Teacher(soft[0])
    order = Order(1, 1, temperature=3.0, label_weight=0.2, kd_weight=0.8, dissimilarity="js", kd_reduction=reduction)
    train(node, order, teacher, rows, vertex=0)

    by_hand = linear_node()
    inputs, labels = next(by_hand.private.batches(0, 1))
    label_loss = torch.nn.functional.cross_entropy(by_hand.model(inputs), labels)
    student = soften(by_hand.model(by_hand.reference[torch.from_numpy(rows)]), 3.0)
    terms = [get("js", reduction)(student, q.log()) for q in soft]
    loss = 0.2 * label_loss + 0.8 * ((0.5 * terms[0] + 1.5 * terms[1]) if apart else terms[0])
    loss.backward()
    by_hand.optimizer.step()
    assert torch.allclose(node.model.weight, by_hand.model.weight, atol=1e-6)


def test_without_teacher_only_labels_count() -> None:
    plain, weighted = linear_node(), linear_node()
    train(plain, Order(1, 3), None, np.arange(4), vertex=0)
    train(weighted, Order(1, 3, kd_weight=0.7), None, np.arange(4), vertex=0)
    assert torch.equal(plain.model.weight, weighted.model.weight)


def test_reference_batches_go_through_all_rows() -> None:
    """A teacher on 12 rows, 4 a step: three steps meet each row once."""
    node, seen = linear_node(), []
    forward = node.model.forward
    node.model.forward = lambda inputs: seen.append(inputs[20:]) or forward(inputs)
    teacher = Teacher(torch.full((12, 3), 1 / 3))
    order = Order(1, 3, kd_weight=1.0, reference_batch=4)
    train(node, order, teacher, np.arange(12), vertex=0)
    met = torch.cat(seen)
    assert met.shape == (12, 6)
    assert torch.equal(met[met[:, 0].argsort()], node.reference[:12][node.reference[:12, 0].argsort()])


def test_a_diverged_model_says_so() -> None:
    node = linear_node()
    node.optimizer = torch.optim.SGD(node.model.parameters(), lr=1e38)
    with pytest.raises(InputError, match="diverged"):
        train(node, Order(1, 5), None, np.arange(0), vertex=0)


def test_a_distillation_term_that_is_not_finite_names_the_dissimilarity(tmp_path: Path) -> None:
    """It is finite at first: only where the student has learned to exclude a class is it not."""
    content = "def late(p, q):\n    return (p.exp() - q.exp()).square().sum(-1) / (p.exp().amax(-1) < 0.9)\n"
    with module(tmp_path, "late_measure", content):
        node, teacher = linear_node(), Teacher(torch.tensor([[1.0, 0.0, 0.0]]).expand(24, 3))
        order = Order(1, 30, kd_weight=1.0, dissimilarity="late_measure:late")
        words = r"^kd-loss is (nan|inf) in a step whose train-loss is [\d.]+: dissimilarity 'late_measure:late' is not"
        with pytest.raises(InputError, match=words):
            train(node, order, teacher, np.arange(24), vertex=0)
    node.optimizer = torch.optim.SGD(node.model.parameters(), lr=1e38)
    with pytest.raises(InputError, match="the model diverged"):
        train(node, Order(1, 5, kd_weight=1.0), teacher, np.arange(24), vertex=0)


def test_evaluation_counts_all_samples() -> None:
    model = torch.nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0], [1.0]]))
    batches = [
        (torch.tensor([[1.0], [2.0], [-1.0]]), torch.tensor([1, 1, 1])),
        (torch.tensor([[3.0]]), torch.tensor([1])),
    ]
    metrics = evaluate(model, batches)
    assert metrics["accuracy"] == 0.75
    assert metrics["num-examples"] == 4
    with pytest.raises(InputError, match="test set is empty"):
        evaluate(model, [])


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_model_and_optimizer_survive_in_records(optimizer) -> None:
    def build(_: Context) -> Node:
        node = linear_node()
        options = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
        node.optimizer = optimizer(node.model.parameters(), lr=0.1, **options)
        return node

    straight, context = build(context_of()), context_of()
    state.fresh(context, build)
    for step in range(3):
        order = Order(1, 1, step=step)
        train(straight, order, None, np.arange(0), vertex=0)
        node = state.load(context, build)
        train(node, order, None, np.arange(0), vertex=0)
        state.save(context, node)
    assert torch.equal(state.load(context, build).model.weight, straight.model.weight)


def test_shuffled_batches_are_passes_without_repetition() -> None:
    inputs = torch.arange(10.0)[:, None]
    data = ShuffledBatches(inputs, torch.arange(10), batch_size=3, seed=1, vertex=2)
    first_pass = torch.cat([labels for _, labels in data.batches(0, 3)])
    assert len(first_pass.unique()) == 9  # the incomplete batch is dropped, other samples each pass
    again = torch.cat([labels for _, labels in data.batches(1, 2)])
    assert torch.equal(again, first_pass[3:])  # any step can be repeated
    assert not torch.equal(torch.cat([labels for _, labels in data.batches(3, 3)]), first_pass)
    small = ShuffledBatches(inputs[:2], torch.arange(2), batch_size=50, seed=1, vertex=2)
    assert all(len(labels) == 2 for _, labels in small.batches(0, 4))


def test_user_loaders() -> None:
    data = TensorDataset(*blobs(0, 10))
    batches = LoaderBatches(DataLoader(data, batch_size=4))
    assert [len(labels) for _, labels in batches.batches(0, 5)] == [4, 4, 2, 4, 4]
    second, third = (labels for _, labels in batches.batches(1, 2))  # continues where step 0 left off
    assert torch.equal(torch.cat([second, third]), data.tensors[1][4:])
    with pytest.raises(InputError, match="generator of its own"):
        LoaderBatches(DataLoader(data, shuffle=True, generator=torch.Generator()))
    with pytest.raises(InputError, match="yields no batches"):
        list(LoaderBatches(DataLoader(data, batch_size=20, drop_last=True)).batches(0, 1))
    node = linear_node()
    with pytest.raises(InputError, match="reference loader shuffles"):
        Node(node.model, node.optimizer, DataLoader(data), DataLoader(data, shuffle=True), [], 3)
    reference = Node(node.model, node.optimizer, DataLoader(data), DataLoader(data, batch_size=4), [], 3).reference
    assert torch.equal(reference, data.tensors[0])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (RecordDict(), "without the ConfigRecord 'config'"),
        (RecordDict({"config": ConfigRecord({"lr": 1.0})}), "another version or sender"),
        (
            RecordDict(
                {"config": Order(1, 1, kd_weight=1.0).to_record(), "teacher": wire.encode(np.ones((3, 3), np.float32))}
            ),
            "3 x 3 where 24 x 3",
        ),
        (
            RecordDict(
                {"config": Order(1, 1).to_record(), "arrays": ArrayRecord({"weight": torch.zeros(2, 2)})},
            ),
            "weights of another model",
        ),
    ],
)
def test_messages_that_are_malformed(content: RecordDict, words: str) -> None:
    app, context = make_client_app(build_blob_node), context_of()
    state.fresh(context, build_blob_node)
    InProcessGrid(app, 1, {})  # sets up the sender for Flower
    reply = app(Message(content, dst_node_id=5, message_type="train"), context)
    assert reply.has_error()  # not an exception, whose traceback engines would print each time
    assert words in reply.error.reason


def test_a_failed_message_leaves_a_live_node_as_it_was() -> None:
    """As on engines that keep records: what a failed message did to the model is gone."""
    context = Context(1, 5, {"partition-id": 0, "num-partitions": 2}, state.LiveState(), {})
    node = state.fresh(context, build_blob_node)
    before = {name: value.clone() for name, value in node.model.state_dict().items()}
    # The second batch does not fit, after a first step that did.
    inputs = [torch.zeros(10, 6), torch.zeros(10, 5)]
    node.private = LoaderBatches(DataLoader([(x, torch.zeros(10).long()) for x in inputs], batch_size=None))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), state.restored_on_error(context, node):
        train(node, Order(1, 2), None, np.arange(0), vertex=0)
    assert all(torch.equal(before[name], value) for name, value in node.model.state_dict().items())
    assert not node.optimizer.state_dict()["state"]


class FailingSGD(torch.optim.SGD):
    """An optimizer whose second step fails, when gradients are there and the first step has been taken."""

    calls = 0

    def step(self, closure=None):
        self.calls += 1
        if self.calls == 2:
            raise RuntimeError("a step that fails")
        return super().step(closure)


def test_a_failed_message_leaves_neither_gradients_nor_batch_statistics() -> None:
    def build(_: Context) -> Node:
        node = linear_node()
        node.model = torch.nn.Sequential(torch.nn.BatchNorm1d(6), node.model)
        node.optimizer = FailingSGD(node.model[1].parameters(), lr=0.5, momentum=0.9)  # not over all parameters
        return node

    app, context = make_client_app(build), Context(1, 5, CONFIG, state.LiveState(), {})
    InProcessGrid(app, 1, {})
    node = state.fresh(context, build)
    before = {name: value.clone() for name, value in node.model.state_dict().items()}
    message = Message(RecordDict({"config": Order(1, 3).to_record()}), dst_node_id=5, message_type="train")
    assert "RuntimeError: a step that fails" in app(message, context).error.reason
    assert node.optimizer.calls == 2
    after = node.model.state_dict()
    assert after["0.num_batches_tracked"] == 0
    assert all(torch.equal(before[name], value) for name, value in after.items())
    assert all(parameter.grad is None for parameter in node.model.parameters())
    assert not node.optimizer.state_dict()["state"]


class Evaluated:
    """A node that is sent weights to evaluate, in records or alive between messages."""

    def __init__(self, records: RecordDict, find_files=lambda context, greeting: None) -> None:
        def build(_: Context) -> Node:
            node = linear_node()
            node.validation = [(torch.eye(6)[:3], torch.arange(3))]
            return node

        self.app = make_client_app(build, find_files)
        InProcessGrid(self.app, 1, {})
        self.context = Context(1, 5, CONFIG, records, {})
        state.fresh(self.context, build)

    def send(self, server_round: int, scale: float) -> dict[str, float]:
        """Evaluate weights with which the correct class has the logit `scale`, and the others 0."""
        weights = wire.encode_weights({"weight": scale * torch.eye(6)[:3], "bias": torch.zeros(3)})
        config = ConfigRecord({"server-round": server_round})
        content = RecordDict({"config": config, "arrays": weights})
        reply = self.app(Message(content, dst_node_id=5, message_type="evaluate"), self.context)
        assert not reply.has_error(), reply.error
        return dict(reply.content["metrics"])

    @property
    def best(self) -> tuple[int, float]:
        return state.best_score(self.context).round, self.context.state[state.BEST]["weight"].numpy()[0, 0].item()


@pytest.mark.parametrize("records", [RecordDict, state.LiveState])
def test_the_model_with_the_lowest_validation_loss_is_kept(records: type[RecordDict]) -> None:
    node = Evaluated(records())
    assert state.best_score(node.context) is None
    # The accuracy is 1 from round 2 on; the last two losses are no better than that of round 3.
    losses = {}
    for server_round, scale in enumerate([-1.0, 1.0, 2.0, 2.0, 1.5], start=1):
        metrics = node.send(server_round, scale)
        losses[server_round] = metrics["validation-loss"]
        assert metrics["validation-accuracy"] == (0.0 if scale == -1 else 1.0)
        assert metrics["num-examples"] == 50  # of the test set
    assert losses[3] == losses[4] == pytest.approx(np.log(np.exp(2) + 2) - 2)
    assert node.best == (3, 2.0)
    assert state.best_score(node.context) == Score(3, 1.0, losses[3])
    state.fresh(node.context, lambda _: linear_node())
    assert state.best_score(node.context) is None
    assert state.BEST not in node.context.state


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_loss_that_is_not_finite_is_never_the_best(value: float, monkeypatch) -> None:
    node = Evaluated(RecordDict())
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "cross_entropy", lambda *_, **__: torch.tensor(value))
        assert not np.isfinite(node.send(1, 1.0)["validation-loss"])
    assert state.best_score(node.context) is None
    node.send(2, 1.0)
    assert node.best == (2, 1.0)


def test_a_best_model_is_kept_even_if_the_disk_is_full(tmp_path, caplog) -> None:
    (tmp_path / "file").write_text("a folder cannot be here")
    node = Evaluated(RecordDict(), lambda context, greeting: NodeFiles(tmp_path / "file" / "node"))
    assert node.send(3, 1.0)["validation-accuracy"] == 1.0
    assert node.best == (3, 1.0)
    assert "a node's best model, of round 3, cannot be written: " in caplog.text


def test_a_node_without_validation_data_reports_nothing_of_them() -> None:
    app, context = make_client_app(build_blob_node), context_of()
    state.fresh(context, build_blob_node)
    InProcessGrid(app, 1, {})
    config = RecordDict({"config": ConfigRecord({"server-round": 1})})
    metrics = app(Message(config, dst_node_id=5, message_type="evaluate"), context).content["metrics"]
    assert set(metrics) == {"accuracy", "loss", "num-examples"}
    assert state.BEST not in context.state
