"""The published checks pass flower-kd's own parts, and fail each kind of broken one."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from flwr.common.logger import FLOWER_LOGGER
from flwr_datasets.partitioner import IidPartitioner
from outside_parts import module

from flower_kd import augmentation, dissimilarity, pooling, schedule, strategies, topology, wire
from flower_kd.data.partition import partition_names
from flower_kd.dissimilarity import Dissimilarity, reducible
from flower_kd.errors import InputError
from flower_kd.models.registry import MODELS
from flower_kd.pooling import Teacher
from flower_kd.strategies import NeighborKD
from flower_kd.testing import (
    check_augmentation,
    check_codec,
    check_compression,
    check_consensus,
    check_dissimilarity,
    check_model,
    check_partition,
    check_pooling,
    check_schedule,
    check_strategy,
    check_topology,
)

# Of schedules that need some.
SETTINGS = {"step": "step(every=300)", "warmup": "warmup(steps=10)"}

OWN = [
    *((check_dissimilarity, name) for name in dissimilarity.names()),
    *((check_topology, name) for name in topology.names()),
    *((check_pooling, name) for name in pooling.names()),
    *((check_codec, name) for name in wire.names()),
    *((check_compression, name) for name in wire.COMPRESSIONS.names()),
    *((check_partition, name) for name in partition_names()),
    *((check_model, name) for name in MODELS.names()),
    *((check_consensus, name) for name in strategies.CONSENSUS.names()),
    *((check_strategy, name) for name in strategies.names()),
    *((check_schedule, SETTINGS.get(name, name)) for name in schedule.names()),
    *((check_augmentation, name) for name in augmentation.names()),
    (check_strategy, "neighbor-kd(pooling=class-share)"),
]


@pytest.mark.parametrize(("check", "name"), OWN, ids=lambda value: getattr(value, "__name__", value))
def test_own_parts_pass(check: Callable[[str], None], name: str) -> None:
    check(name)


def distance(rows: Callable[..., torch.Tensor], **attributes: Any) -> type[Dissimilarity]:
    return type("Broken", (Dissimilarity,), {"function": staticmethod(reducible(rows)), **attributes})


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("broken")


BROKEN_DISSIMILARITIES = {
    "the value is not finite": distance(lambda p, q: (p.exp() / q.exp() - 1).square().sum(-1)),
    "the gradient is not finite": distance(lambda p, q: (p.exp() - q.exp()).square().sum(-1).sqrt()),
    "has a higher value": distance(lambda p, q: (p.exp() * q.exp()).sum(-1)),
    "order of classes": distance(lambda p, q: (p.exp() - q.exp())[..., 0].square()),
    "not symmetric": distance(lambda p, q: (q.exp() * (q - p)).sum(-1), symmetric=True),
    "the gradient is wrong": distance(
        lambda p, q: (
            (p.exp() - q.exp()).square().sum(-1) * p.detach().exp().sum(-1) ** 2 + (p.detach() - q).square().sum(-1)
        )
    ),
    r"several teachers: RuntimeError: broken \(testing/test_testing\.py, line \d+, in broken\)": distance(
        lambda p, q: broken()
    ),
    "it returns a float, not a Tensor": distance(lambda p, q: 1.0),
    "values of shape": distance(lambda p, q: (p.exp() - q.exp()).square()),
    "it is multiway": distance(lambda p, q: (p.exp() - q.exp()).square().sum(-1), multiway=True),
}


@pytest.mark.parametrize("words", BROKEN_DISSIMILARITIES)
def test_broken_dissimilarities(words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_dissimilarity(BROKEN_DISSIMILARITIES[words])


def refusing(num_nodes: int, rng: np.random.Generator) -> nx.Graph:
    raise InputError("boom")


def unseeded(num_nodes: int, rng: np.random.Generator) -> nx.Graph:
    return nx.random_labeled_tree(num_nodes)


def apart(num_nodes: int, rng: np.random.Generator, exchange: int) -> nx.Graph:
    return nx.empty_graph(num_nodes)


CALLS = count()


def alternating(num_nodes: int, rng: np.random.Generator, exchange: int) -> nx.Graph:
    return nx.path_graph(num_nodes) if next(CALLS) % 2 else nx.star_graph(num_nodes - 1)


BROKEN_TOPOLOGIES: dict[str, Callable[..., Any]] = {
    "not connected": lambda num_nodes, rng: nx.empty_graph(num_nodes),
    "self-loops": lambda num_nodes, rng: nx.Graph([*nx.path_graph(num_nodes).edges, (0, 0)]),
    "the vertices are": lambda num_nodes, rng: nx.path_graph(num_nodes + 1),
    "the same seed gave two graphs": unseeded,
    "not InputError": lambda num_nodes, rng: nx.hypercube_graph(num_nodes / 2),
    r"it refuses every number of nodes of 2, .*, 32; for 32: boom": refusing,
    "not a networkx graph": lambda num_nodes, rng: [],
    "2 nodes: the union of 200 graphs is not connected": apart,
    "exchange 7: the same seed gave two graphs": alternating,
}


@pytest.mark.parametrize("words", BROKEN_TOPOLOGIES)
def test_broken_topologies(words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_topology(BROKEN_TOPOLOGIES[words])


def test_a_graph_by_name_that_is_not_connected_says_so(tmp_path: Path) -> None:
    content = "import networkx as nx\ndef apart(num_nodes, rng): return nx.empty_graph(num_nodes)\n"
    content += "def fails(num_nodes, rng): return nx.path_graph(num_nodes)[num_nodes]\n"
    with module(tmp_path, "own_graphs", content):
        with pytest.raises(AssertionError, match="2 nodes: the graph is not connected"):
            check_topology("own_graphs:apart")
        with pytest.raises(AssertionError, match=r"not InputError: KeyError: 2 \(.*own_graphs.py, line 3, in fails\)"):
            check_topology("own_graphs:fails")


def pooled(change: Callable[..., Any]) -> Callable[..., list[Teacher | None]]:
    def pool(logits: torch.Tensor, weights: Any, temperature: float) -> list[Teacher | None]:
        return change(pooling.get("mean")(logits, weights, temperature), logits, weights)

    return pool


BROKEN_POOLINGS = {
    "teachers for": pooled(lambda teachers, logits, weights: teachers[:-1]),
    r"a ring, random logits: pooling 'broken' fails: RuntimeError: broken \(.*, in broken\)": broken,
    "a ring, random logits: pooling 'pool' returns a Tensor, not a list": pooled(lambda teachers, logits, *_: logits),
    "do not sum to 1": pooled(lambda teachers, *_: [t and Teacher(2 * t.soft_labels) for t in teachers]),
    "has no teacher": pooled(lambda teachers, *_: [None, *teachers[1:]]),
    "are not followed": pooled(lambda teachers, *_: [t and Teacher(t.soft_labels.roll(1, -1)) for t in teachers]),
    "renumbering": pooled(
        lambda teachers, logits, *_: [t and Teacher(torch.softmax(logits[0] / 2.0, -1)) for t in teachers]
    ),
    "are ignored": pooled(lambda teachers, *_: [t and Teacher(0 * t.soft_labels + 0.25) for t in teachers]),
    "a ring, hard labels: .* not finite": pooled(
        lambda teachers, *_: [t and Teacher((t.soft_labels * t.soft_labels.log()).softmax(-1)) for t in teachers]
    ),
    "a node without weights whose rows are NaN: .* not finite": pooled(
        lambda teachers, logits, *_: [t and Teacher(t.soft_labels + 0 * logits.sum()) for t in teachers]
    ),
    "without weights has a teacher": pooled(lambda teachers, *_: [t or teachers[0] for t in teachers]),
}


def divides(logits: torch.Tensor, weights: Any, temperature: float, *, class_counts: torch.Tensor) -> Any:
    """Pool as class-share does, without a thought for classes that nobody has."""
    numbers, labels = class_counts[:, None], torch.softmax(logits / temperature, -1)
    pooled = pooling.mix(weights, numbers * labels) / pooling.mix(weights, class_counts)[:, None]
    return [Teacher(row / row.sum(-1, keepdim=True)) for row in pooled]


def numbered(logits: torch.Tensor, weights: Any, temperature: float, class_counts: torch.Tensor) -> Any:
    """Give all nodes the class counts of the first one."""
    return pooling.get("class-share")(logits, weights, temperature, class_counts=class_counts * class_counts[0])


BROKEN_POOLINGS |= {
    "random logits: pooling 'divides': .* not finite": divides,
    "a ring: renumbering nodes changes": numbered,
}


@pytest.mark.parametrize("words", BROKEN_POOLINGS)
def test_broken_poolings(words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_pooling(BROKEN_POOLINGS[words])


class Codec:
    def encode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        return {"rows": values}

    def decode(self, arrays: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        return arrays["rows"]


class LosesShape(Codec):
    def decode(self, arrays: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        return arrays["rows"].reshape(-1)


class LosesPrediction(Codec):
    def encode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        return {"rows": np.minimum(values, 0.0)}


class Remembers(Codec):
    calls = 0

    def encode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        self.calls += 1
        return {"rows": values + np.float32(self.calls)}


BROKEN_CODECS = {
    "where 6 x 4 was expected": LosesShape,
    "predicted class is lost": LosesPrediction,
    "other bytes": Remembers,
}


@pytest.mark.parametrize("words", BROKEN_CODECS)
def test_broken_codecs(words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_codec(BROKEN_CODECS[words]())


class Grows:
    """Sends twice the values, so that what is left out grows."""

    def compress(self, update: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.float32(2.5) * change for name, change in update.items()}

    def decompress(self, arrays: dict[str, np.ndarray], shapes: dict) -> dict[str, np.ndarray]:
        return arrays


class SendsTheFirst(Grows):
    """Sends only one array, ever."""

    def compress(self, update: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: change * (name == "bias") for name, change in update.items()}


class Draws(Grows):
    """Sends other bytes each time."""

    calls = 0

    def compress(self, update: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls += 1
        return {name: change / np.float32(1 + self.calls) for name, change in update.items()}


BROKEN_COMPRESSIONS = {
    "the error, .* is above their norm": Grows,
    r"after 200 messages, \d+% of a difference are not sent": SendsTheFirst,
    "other bytes for the same values": Draws,
}


@pytest.mark.parametrize("words", BROKEN_COMPRESSIONS)
def test_broken_compressions(words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_compression(BROKEN_COMPRESSIONS[words]())


class Forgets(NeighborKD):
    """Does not save the teachers that are not sent yet."""

    def state_dict(self) -> dict[str, np.ndarray]:
        return {}


class Nested(NeighborKD):
    """Saves what is not an array."""

    def state_dict(self) -> Any:
        return super().state_dict() | {"memory": {0: 1.0}}


class Rounded(NeighborKD):
    """Remembers a number that comes back as an array of another kind than it was."""

    calls: Any = 0

    def teach(self, rows: Any, logits: Any, present: Any) -> dict[int, Teacher]:
        self.calls = self.calls.__add__(1) if isinstance(self.calls, int) else broken()
        return super().teach(rows, logits, present)

    def state_dict(self) -> Any:
        return super().state_dict() | {"calls": self.calls}

    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict(state)
        self.calls = state["calls"]


class Leaks(NeighborKD):
    """Gives every node the teacher of node 3, made of what nodes 2 and 4 sent."""

    def teach(self, rows: Any, logits: Any, present: Any) -> dict[int, Teacher]:
        teachers = super().teach(rows, logits, present)
        return dict.fromkeys(teachers, teachers[3]) if 3 in teachers else teachers


class Fragile(NeighborKD):
    """Needs every node."""

    def teach(self, rows: Any, logits: Any, present: Any) -> dict[int, Teacher]:
        if not present.all():
            raise ValueError("a node is missing")
        return super().teach(rows, logits, present)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Forgets, "state_dict"),
        (Leaks, "hops away"),
        (
            Fragile,
            r"a silent node ends the run: teach\(\) of Fragile fails: ValueError: a node is missing \(.*, in teach\)",
        ),
        (Nested, r"state_dict\(\) of Nested must map names to NumPy arrays: 'memory' is a dict"),
        (Rounded, r"teach\(\) of Rounded fails: RuntimeError: broken"),
        *(
            (type("Broken", (NeighborKD,), {method: broken}), rf"{method}.*: RuntimeError: broken \(.*, in broken\)")
            for method in ("begin", "teach", "payload", "absorb", "state_dict", "load_state_dict")
        ),
        (type("Broken", (NeighborKD,), {"__init__": broken}), r"RuntimeError: broken \(.*, in broken\)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_strategies(part: type[NeighborKD], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_strategy(part)


def test_the_check_of_a_strategy_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    level = FLOWER_LOGGER.level
    check_strategy("d-dist")
    assert not caplog.records
    assert FLOWER_LOGGER.level == level


class Rows(IidPartitioner):
    """Gives nodes other rows than their share."""

    rows: Any = staticmethod(lambda partitioner, vertex: range(10 * vertex, 10 * vertex + 10))

    def load_partition(self, partition_id: int) -> Any:
        return self.dataset.select(list(type(self).rows(self, partition_id)))


def splitting(rows: Callable[[Any, int], Any]) -> Callable[..., Any]:
    return lambda num_partitions, seed: type("Split", (Rows,), {"rows": staticmethod(rows)})(num_partitions)


BROKEN_PARTITIONS = {
    r"2 nodes: RuntimeError: broken \(.*, in broken\)": broken,
    "2 nodes: node 1 has no samples": splitting(lambda part, vertex: range(5 - 5 * vertex)),
    "a sample is given to several nodes": splitting(lambda part, vertex: range(10)),
    "the same seed gave two splits": splitting(lambda part, v: 50 * v + np.random.default_rng().permutation(50)[:9]),
}


@pytest.mark.parametrize("words", BROKEN_PARTITIONS)
def test_broken_partitions(words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_partition(BROKEN_PARTITIONS[words])


def network(change: Callable[[torch.Tensor], Any], classes: int = 0) -> Callable[..., torch.nn.Module]:
    class Changed(torch.nn.Sequential):
        def forward(self, inputs: torch.Tensor) -> Any:
            return change(super().forward(inputs))

    def build(*, num_classes: int, shape: tuple[int, int, int]) -> torch.nn.Module:
        return Changed(torch.nn.Flatten(), torch.nn.Linear(int(np.prod(shape)), classes or num_classes))

    return build


def with_unused(*, num_classes: int, shape: tuple[int, int, int]) -> torch.nn.Module:
    model = network(lambda logits: logits)(num_classes=num_classes, shape=shape)
    model.unused = torch.nn.Parameter(torch.zeros(3))
    return model


BROKEN_MODELS = {
    r"images of shape \[1, 8, 8\]: RuntimeError: broken \(.*, in broken\)": broken,
    "it returns a list, not a torch.nn.Module": lambda num_classes, shape: [],
    r"one image in evaluation: logits of shape \[1, 3\], not \[1, 7\]": network(lambda logits: logits, 3),
    r"one image in evaluation: logits of shape \[7\]": network(torch.squeeze),
    "it returns a tuple, not logits": network(lambda logits: (logits, logits)),
    "logits that are not finite": network(lambda logits: logits / 0),
    "'unused' has no gradient": with_unused,
    "the gradient: RuntimeError": network(lambda logits: logits.detach()),
    "the gradient of '1.weight' is not finite": network(lambda logits: (logits - logits.detach()).sqrt() + 1),
}


@pytest.mark.parametrize("words", BROKEN_MODELS)
def test_broken_models(words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_model(BROKEN_MODELS[words])


BROKEN_CONSENSUS = {
    r"a ring, random predictions: RuntimeError: broken \(.*, in broken\)": broken,
    "it returns a NoneType, not a Tensor": lambda mixed, consensus, now, before: None,
    r"it returns a consensus of shape \[7, 4\], not \[6, 7, 4\]": lambda mixed, consensus, now, before: mixed[0],
    "values that are not finite": lambda mixed, consensus, now, before: mixed / 0,
    "it changes its inputs": lambda mixed, consensus, now, before: consensus.add_(0.1 * (now - before)),
    "nodes that agree do not stay": lambda mixed, consensus, now, before: mixed / 2,
}


@pytest.mark.parametrize("words", BROKEN_CONSENSUS)
def test_broken_consensus(words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_consensus(BROKEN_CONSENSUS[words])


def drawn(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: torch.rand(()).item())


BROKEN_SCHEDULES = {
    r"schedule 'broken' fails: RuntimeError: broken \(.*, in broken\)": broken,
    "the factors are others when it is called again": drawn,
    "ends before the run: its rate is 0 after 5 of 1000 steps": torch.optim.lr_scheduler.PolynomialLR,
}


@pytest.mark.parametrize("words", BROKEN_SCHEDULES)
def test_broken_schedules(words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_schedule(BROKEN_SCHEDULES[words])


BROKEN_AUGMENTATIONS = {
    r"augmentation 'broken' of inputs of shape \[1, 3, 32, 32\] fails: RuntimeError: broken": broken,
    "returns inputs of shape": lambda inputs: inputs.flatten(1),
    "changes its inputs in place": lambda inputs: inputs.neg_(),
    "its randomness must come from torch's global generator alone": lambda inputs: inputs * np.random.rand(),
    "targets must remain probabilities": lambda inputs, targets: (inputs, targets / 2),
}


@pytest.mark.parametrize("words", BROKEN_AUGMENTATIONS)
def test_broken_augmentations(words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_augmentation(BROKEN_AUGMENTATIONS[words])


def test_an_augmentation_of_other_data_than_images() -> None:
    check_augmentation("noise", shape=(6,))
    check_augmentation("mixup", shape=(6,))
    with pytest.raises(AssertionError, match="it needs images"):
        check_augmentation("shift", shape=(6,))
