"""The published checks pass flower-kd's own parts, and fail each kind of broken one."""

from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

from flower_kd import dissimilarity, pooling, strategies, topology, wire
from flower_kd.dissimilarity import Dissimilarity, reducible
from flower_kd.pooling import Teacher
from flower_kd.strategies import NeighborKD
from flower_kd.testing import check_codec, check_dissimilarity, check_pooling, check_strategy, check_topology

OWN = [
    *((check_dissimilarity, name) for name in dissimilarity.names()),
    *((check_topology, name) for name in topology.names()),
    *((check_pooling, name) for name in pooling.names()),
    *((check_codec, name) for name in wire.names()),
    *((check_strategy, name) for name in strategies.names()),
]


@pytest.mark.parametrize(("check", "name"), OWN, ids=lambda value: getattr(value, "__name__", value))
def test_own_parts_pass(check: Callable[[str], None], name: str) -> None:
    check(name)


def distance(rows: Callable[..., torch.Tensor], **attributes: Any) -> type[Dissimilarity]:
    return type("Broken", (Dissimilarity,), {"function": staticmethod(reducible(rows)), **attributes})


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
    "values of shape": distance(lambda p, q: (p.exp() - q.exp()).square()),
    "it is multiway": distance(lambda p, q: (p.exp() - q.exp()).square().sum(-1), multiway=True),
}


@pytest.mark.parametrize("words", BROKEN_DISSIMILARITIES)
def test_broken_dissimilarities(words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_dissimilarity(BROKEN_DISSIMILARITIES[words])


def unseeded(num_nodes: int, rng: np.random.Generator) -> nx.Graph:
    return nx.random_labeled_tree(num_nodes)


BROKEN_TOPOLOGIES: dict[str, Callable[..., Any]] = {
    "not connected": lambda num_nodes, rng: nx.empty_graph(num_nodes),
    "self-loops": lambda num_nodes, rng: nx.Graph([*nx.path_graph(num_nodes).edges, (0, 0)]),
    "the vertices are": lambda num_nodes, rng: nx.path_graph(num_nodes + 1),
    "the same seed gave two graphs": unseeded,
    "not InputError": lambda num_nodes, rng: nx.hypercube_graph(num_nodes / 2),
    "not a networkx graph": lambda num_nodes, rng: [],
}


@pytest.mark.parametrize("words", BROKEN_TOPOLOGIES)
def test_broken_topologies(words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_topology(BROKEN_TOPOLOGIES[words])


def pooled(change: Callable[..., Any]) -> Callable[..., list[Teacher | None]]:
    def pool(logits: torch.Tensor, weights: Any, temperature: float) -> list[Teacher | None]:
        return change(pooling.get("mean")(logits, weights, temperature), logits, weights)

    return pool


BROKEN_POOLINGS = {
    "teachers for": pooled(lambda teachers, logits, weights: teachers[:-1]),
    "do not sum to 1": pooled(lambda teachers, *_: [t and Teacher(2 * t.soft_labels) for t in teachers]),
    "has no teacher": pooled(lambda teachers, *_: [None, *teachers[1:]]),
    "are not followed": pooled(lambda teachers, *_: [t and Teacher(t.soft_labels.roll(1, -1)) for t in teachers]),
    "renumbering": pooled(
        lambda teachers, logits, *_: [t and Teacher(torch.softmax(logits[0] / 2.0, -1)) for t in teachers]
    ),
    "without weights has a teacher": pooled(lambda teachers, *_: [t or teachers[0] for t in teachers]),
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


class Forgets(NeighborKD):
    """Does not save the teachers that are not sent yet."""

    def state_dict(self) -> dict[str, np.ndarray]:
        return {}


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
    [(Forgets, "state_dict"), (Leaks, "hops away"), (Fragile, "a silent node ends the run")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_strategies(part: type[NeighborKD], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_strategy(part)
