import networkx as nx
import numpy as np
import pytest
import torch

from flower_kd.errors import InputError
from flower_kd.strategies import NeighborKD
from flower_kd.strategies.neighbor_kd import teacher_weights

PATH = nx.path_graph(3)
LOGITS = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
ALL = np.ones(3, dtype=bool)


def test_a_teacher_is_made_of_graph_neighbors_only() -> None:
    teachers = NeighborKD(PATH, temperature=3.0).teach(np.arange(4), LOGITS, ALL)
    soft = torch.softmax(LOGITS / 3.0, dim=-1)
    assert torch.allclose(teachers[0].soft_labels, soft[1])
    assert torch.allclose(teachers[1].soft_labels, (soft[0] + soft[2]) / 2)
    assert torch.allclose(teachers[2].soft_labels, soft[1])


def test_absent_neighbors_leave_their_weight_to_the_others() -> None:
    teachers = NeighborKD(PATH, temperature=1.0).teach(np.arange(4), LOGITS, np.array([True, True, False]))
    soft = torch.softmax(LOGITS, dim=-1)
    assert torch.allclose(teachers[1].soft_labels, soft[0])
    assert torch.allclose(teachers[2].soft_labels, soft[1])
    alone = NeighborKD(PATH, temperature=1.0).teach(np.arange(4), LOGITS, np.array([True, False, True]))
    assert set(alone) == {1}


def test_a_robust_teacher_is_made_of_neighbors_and_the_node_itself() -> None:
    strategy = NeighborKD(PATH, pooling="median", temperature=3.0)
    soft = torch.softmax(LOGITS / 3.0, dim=-1)
    middle = soft.median(dim=0).values
    total = middle.sum(-1, True)
    expected = (middle + (1 - total).clamp_min(0) * soft[1]) / total.clamp_min(1)
    assert torch.allclose(strategy.teach(np.arange(4), LOGITS, ALL)[1].soft_labels, expected)
    late = strategy.teach(np.arange(4), LOGITS, np.array([True, False, True]))
    assert late == {}  # node 1 has no vote of its own, its neighbors have no other votes than theirs
    without_third = strategy.teach(np.arange(4), LOGITS, np.array([True, True, False]))
    assert set(without_third) == {0, 1}
    assert torch.allclose(without_third[1].soft_labels, soft[:2].mean(0), atol=1e-6)


def test_weights_uniform_and_mixing_with_and_without_self() -> None:
    uniform = teacher_weights(PATH, "uniform", with_self=False).toarray()
    assert np.allclose(uniform, [[0, 1, 0], [0.5, 0, 0.5], [0, 1, 0]])
    with_self = teacher_weights(PATH, "uniform", with_self=True).toarray()
    assert np.allclose(with_self, [[0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3], [0, 0.5, 0.5]])
    mixing = teacher_weights(PATH, "mixing", with_self=True).toarray()
    assert np.allclose(mixing, [[2 / 3, 1 / 3, 0], [1 / 3, 1 / 3, 1 / 3], [0, 1 / 3, 2 / 3]])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alpha": 1.5}, "alpha = 1.5"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"dissimilarity": "l7"}, "unknown dissimilarity 'l7'"),
        ({"pooling_weights": "equal"}, "allowed: uniform, mixing"),
        ({"wire": "int4"}, "unknown wire format"),
        ({"kd_reduction": "none"}, "allowed: mean, sum"),
        ({"local_steps": 10, "exchange_every": 4}, "does not divide"),
        ({"pooling": "mode"}, "unknown pooling 'mode'"),
        ({"pooling": "median", "pooling_weights": "mixing"}, "pooling_weights must be 'uniform'"),
    ],
)
def test_settings_are_checked_where_the_strategy_is_made(settings: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        NeighborKD(PATH, **settings)
