"""Mistakes in a node are reported in the handshake, in one sentence."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from conftest import FaultyGrid, blobs
from outside_parts import module
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from flower_kd import dissimilarity
from flower_kd.clients import Node, ShuffledBatches
from flower_kd.clients.checks import check, check_dissimilarity
from flower_kd.errors import InputError
from flower_kd.protocol import JOIN
from flower_kd.strategies import NeighborKD


def good_node() -> Node:
    model = torch.nn.Linear(6, 3)
    inputs, labels = blobs(0, 20)
    return Node(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        private=DataLoader(TensorDataset(inputs, labels), batch_size=4, shuffle=True),
        reference=blobs(1000, 24)[0],
        test=[blobs(2000, 50)],
        classes=3,
    )


def private(node: Node, inputs: object = None, labels: object = None) -> None:
    own_inputs, own_labels = blobs(0, 20)
    data = TensorDataset(own_inputs if inputs is None else inputs, own_labels if labels is None else labels)
    node.private = replace(node, private=DataLoader(data, batch_size=4)).private


def with_model(node: Node, model: torch.nn.Module) -> None:
    node.model, node.optimizer = model, torch.optim.SGD(model.parameters(), lr=0.1)


class Pairs(Dataset):
    """A data set as `datasets` has them: each sample is a dict."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, row: int) -> dict[str, object]:
        return {"image": torch.zeros(6), "label": 0}


class Transposed(torch.nn.Linear):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs).T


class Tuple(torch.nn.Linear):
    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor]:
        return (super().forward(inputs),)


def nan_model() -> torch.nn.Module:
    model = torch.nn.Linear(6, 3)
    torch.nn.init.constant_(model.weight, float("nan"))
    return model


def late_label() -> torch.Tensor:
    labels = blobs(0, 20)[1]
    labels[17] = 3
    return labels


def one_nan() -> torch.Tensor:
    inputs = blobs(1000, 24)[0]
    inputs[20, 2] = float("nan")
    return inputs


def other_optimizer(node: Node) -> None:
    node.optimizer = torch.optim.SGD(torch.nn.Linear(6, 3).parameters(), lr=0.1)


def half_optimizer(node: Node) -> None:
    node.optimizer = torch.optim.SGD([node.model.weight], lr=0.1)


FAULTS: list[tuple[Callable[[Node], object], str]] = [
    (lambda n: private(n, labels=late_label()), "the private labels contain 3: with classes = 3 they must be 0 to 2"),
    (lambda n: private(n, labels=-late_label()), "the private labels contain -3: with classes = 3"),
    (
        lambda n: private(n, labels=blobs(0, 20)[1].float()),
        "private labels are of dtype float32, but must be int64",
    ),
    (lambda n: private(n, labels=blobs(0, 20)[1].int()), "the private labels are of dtype int32"),
    (
        lambda n: private(n, labels=torch.eye(20)[:, :3]),
        r"labels are of shape \[4, 3\] for inputs of",
    ),
    (lambda n: private(n, labels=blobs(0, 20)[1][:, None]), r"must be of shape \[4\]"),
    (lambda n: private(n, torch.zeros(0, 6), torch.zeros(0).long()), "the private data are empty"),
    (lambda n: private(n, torch.full((20, 6), float("inf"))), "the private inputs contain NaN or Inf"),
    (
        lambda n: private(n, torch.zeros(20, 5)),
        r"rows are of shape \[6\] and dtype float32, private ones of \[5\]",
    ),
    (lambda n: private(n, torch.zeros(20, 6).double()), "private ones of .* and float64"),
    (lambda n: setattr(n, "reference", one_nan()), "the reference inputs contain NaN or Inf"),
    (lambda n: setattr(n, "reference", [1, 2]), "the reference set is of type list, but must be a Tensor"),
    (lambda n: setattr(n, "private", [blobs(0, 20)]), "the private data are of type list, but must be a DataLoader"),
    (lambda n: setattr(n, "test", []), "the test data are empty"),
    (lambda n: setattr(n, "test", iter([blobs(0, 20)])), "the test data can be iterated only once"),
    (lambda n: setattr(n, "test", 5), "the test data are of type int"),
    (lambda n: setattr(n, "test", [(blobs(0, 20)[0], late_label())]), "the test labels contain 3"),
    (
        lambda n: setattr(n, "test", [(torch.zeros(3, 9), torch.zeros(3).long())]),
        r"the model fails on test inputs of shape \[2, 9\]",
    ),
    (lambda n: setattr(n, "validation", []), "the validation data are empty"),
    (lambda n: setattr(n, "validation", iter([blobs(0, 20)])), "the validation data can be iterated only once"),
    (lambda n: setattr(n, "validation", 5), "the validation data are of type int"),
    (lambda n: setattr(n, "validation", [(blobs(0, 20)[0], late_label())]), "the validation labels contain 3"),
    (
        lambda n: setattr(n, "validation", [(torch.zeros(3, 9), torch.zeros(3).long())]),
        r"the model fails on validation inputs of shape \[2, 9\]",
    ),
    (lambda n: setattr(n, "test", DataLoader(Pairs(), batch_size=4)), "a batch of the test data is dict"),
    (
        lambda n: setattr(n, "classes", 10),
        r"returns shape \[6, 3\] .* classes = 10 it must be \[6, 10\]",
    ),
    (lambda n: setattr(n, "classes", 3.0), "classes = 3.0 must be a whole number"),
    (lambda n: setattr(n, "model", "mlp"), "the model is of type str, but must be a torch.nn.Module"),
    (lambda n: setattr(n, "optimizer", None), "the optimizer is of type NoneType"),
    (other_optimizer, "2 of the optimizer's 2 parameters do not belong to the model"),
    (half_optimizer, "the optimizer lacks 1 of the model's 2 trainable parameters, such as 'bias'"),
    (lambda n: with_model(n, torch.nn.Linear(4, 3)), "the model fails on private inputs of shape .*mat1 and mat2"),
    (lambda n: with_model(n, nan_model()), "the model returns NaN or Inf for private inputs before any training"),
    (lambda n: with_model(n, Transposed(6, 3)), r"the model returns shape \[3, 6\]"),
    (lambda n: with_model(n, Tuple(6, 3)), "the model returns tuple, it must return logits"),
    (lambda n: with_model(n, torch.nn.LazyLinear(3)), "the model has lazy layers without weights"),
]


@pytest.mark.parametrize(("break_it", "words"), FAULTS)
def test_each_fault_is_one_sentence(break_it: Callable[[Node], object], words: str) -> None:
    node = good_node()
    check(node)
    break_it(node)
    with pytest.raises(InputError, match=words) as refusal:
        check(node)
    assert "\n" not in str(refusal.value)


def test_labels_in_memory_are_checked_behind_a_subset_and_in_batches() -> None:
    node, (inputs, labels) = good_node(), (blobs(0, 20)[0], late_label())
    node.private = ShuffledBatches(inputs, labels, batch_size=2, seed=0, vertex=0)
    with pytest.raises(InputError, match="labels contain 3"):
        check(node)
    whole = TensorDataset(inputs, labels)
    for rows, fits in (([1, 2, 17], False), (range(4), True)):
        loader = DataLoader(Subset(whole, rows), batch_size=1)
        node.private = replace(node, private=loader).private
        if fits:
            check(node)
            continue
        with pytest.raises(InputError, match="labels contain 3"):
            check(node)


def test_frozen_layers_need_no_optimizer() -> None:
    node = good_node()
    node.model.bias.requires_grad = False
    half_optimizer(node)
    check(node)


def test_validation_data_that_fit_pass() -> None:
    node = good_node()
    for validation in ([blobs(3, 4)], DataLoader(TensorDataset(*blobs(3, 4)), batch_size=2)):
        node.validation = validation
        check(node)


def test_a_check_leaves_everything_as_it_was() -> None:
    """Batch statistics, modes of single layers, gradients, and torch's, NumPy's and Python's generators."""
    node = good_node()
    norm, dropout = torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.5)
    with_model(node, torch.nn.Sequential(norm, dropout, torch.nn.Linear(6, 3)))
    norm.eval()  # a user may freeze the statistics of a pretrained network
    before = {name: value.clone() for name, value in node.model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    node.test = DataLoader(TensorDataset(*blobs(2000, 50)), batch_size=25, shuffle=True)
    check(node)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())
    assert all(torch.equal(before[name], value) for name, value in node.model.state_dict().items())
    assert [node.model.training, norm.training, dropout.training] == [True, False, True]
    assert all(parameter.grad is None for parameter in node.model.parameters())


@pytest.mark.parametrize(
    ("inputs", "labels", "batch_size", "words"),
    [
        (torch.zeros(3, 2), torch.zeros(4), 2, "3 private inputs and 4 labels"),
        (torch.zeros(3, 2), torch.zeros(3), 0, "batch_size = 0 must be at least 1"),
    ],
)
def test_batches_that_are_malformed(inputs: torch.Tensor, labels: torch.Tensor, batch_size: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ShuffledBatches(inputs, labels, batch_size, seed=0, vertex=0)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(6), 0)])


@pytest.mark.parametrize(
    ("field", "loader", "words"),
    [
        ("private", DataLoader(Stream()), "the private loader's data set has no length"),
        ("reference", DataLoader(TensorDataset(torch.zeros(0, 6))), "the reference loader yields no batches"),
        ("reference", DataLoader(Pairs(), batch_size=4), "a batch of the reference loader is of type dict"),
        (
            "reference",
            DataLoader([torch.zeros(6), torch.zeros(5)], batch_size=1),
            r"rows of different shapes: \[6\] and \[5\]",
        ),
    ],
)
def test_loaders_that_cannot_be_used(field: str, loader: DataLoader, words: str) -> None:
    with pytest.raises(InputError, match=words):
        replace(good_node(), **{field: loader})


# -- the dissimilarity -------------------------------------------------------------------------------------------------

MEASURES = """
import torch
from flower_kd.dissimilarity import Dissimilarity

def fine(log_p, log_q):
    return (log_p.exp() - log_q.exp()).square().sum(-1)

def raises(log_p, log_q):
    raise RuntimeError("no such thing")

def signature(log_p):
    return log_p.sum(-1)

def wide(log_p, log_q):
    return log_p - log_q

def first(log_p, log_q):
    return fine(log_p, log_q).reshape(-1)[:3]

def number(log_p, log_q):
    return 1.0

def detached(log_p, log_q):
    return fine(log_p.detach(), log_q)

def ratio(log_p, log_q):
    return (log_p.exp() / (log_q.exp() - log_q.exp())).sum(-1)

def steep(log_p, log_q):
    return (log_p - log_p.detach()).square().sum(-1).sqrt()

class Unclamped(Dissimilarity):
    def forward(self, log_p, log_q):
        rows = (log_p.exp() * (log_p - log_q)).sum(-1)
        return rows if self.reduction == "none" else getattr(rows, self.reduction)()

class Unreduced(Dissimilarity):
    def forward(self, log_p, log_q):
        return fine(log_p, log_q)
"""

FAULTS = {
    "raises": r"for a student of shape \[3, 3\] and a teacher of shape \[3, 3\] fails: RuntimeError: no such thing "
    r"\(.*measures\.py, line 9, in raises\)",
    "signature": "fails: TypeError: ",
    "wide": r"returns values of shape \[3, 3\] .* must return \[3\]",
    "first": r"returns values of shape \[3\] .* a teacher of shape \[2, 3, 3\] .* must return \[2, 3\]",
    "number": "fails: |returns a float, not a Tensor",
    "detached": "has no gradient",
    "ratio": "is not finite for a student",
    "steep": "the gradient of .* is not finite",
    "Unclamped": "is not finite",
    "Unreduced": r"with reduction 'mean', but must return \[\]",
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_dissimilarity_is_named(name: str, tmp_path: Path) -> None:
    with (
        module(tmp_path, "measures", MEASURES),
        pytest.raises(InputError, match=f"dissimilarity 'measures:{name}' .*{FAULTS[name]}|{FAULTS[name]}") as refusal,
    ):
        check_dissimilarity(f"measures:{name}", good_node())
    assert f"dissimilarity 'measures:{name}'" in str(refusal.value)


def test_a_faulty_dissimilarity_ends_the_handshake(grid: FaultyGrid, tmp_path: Path) -> None:
    grid.interfere = lambda vertex, reply: reply if reply.metadata.message_type == JOIN else pytest.fail("trained")
    with (
        module(tmp_path, "measures", MEASURES),
        pytest.raises(InputError, match="node 0 cannot take part: dissimilarity 'measures:wide' returns values of sh"),
    ):
        NeighborKD(nx.cycle_graph(4), dissimilarity="measures:wide").start(grid, num_rounds=1)


def test_fine_dissimilarities_pass_and_leave_no_trace(tmp_path: Path) -> None:
    node, before = good_node(), torch.random.get_rng_state()
    with module(tmp_path, "measures", MEASURES):
        for name in ("measures:fine", "", *dissimilarity.names()):
            check_dissimilarity(name, node)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in node.model.parameters())
