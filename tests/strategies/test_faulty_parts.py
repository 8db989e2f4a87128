"""A faulty part of one's own ends the run in one sentence that names it, before any training if that is possible."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FaultyGrid
from flwr.app import Message
from outside_parts import module

from flower_kd import sim
from flower_kd.errors import InputError
from flower_kd.pooling import Teacher
from flower_kd.protocol import JOIN, Order
from flower_kd.strategies import DDist, GraphStrategy, NeighborKD

FAULTY = """
import torch
from flower_kd import pooling
from flower_kd.pooling import Teacher

def mean(logits, weights, temperature):
    return pooling.get("mean")(logits, weights, temperature)

def too_few(logits, weights, temperature):
    return mean(logits, weights, temperature)[:1]

def raises(logits, weights, temperature):
    return [logits[len(logits)]]

def tensor(logits, weights, temperature):
    return torch.softmax(logits / temperature, -1)

def nothing(logits, weights, temperature):
    mean(logits, weights, temperature)

def labels(logits, weights, temperature):
    return [teacher.soft_labels for teacher in mean(logits, weights, temperature)]

def narrow(logits, weights, temperature):
    return [Teacher(teacher.soft_labels[:, :-1]) for teacher in mean(logits, weights, temperature)]

def weighted(logits, weights, temperature):
    return [Teacher(teacher.soft_labels, torch.ones(2)) for teacher in mean(logits, weights, temperature)]

def infinite(logits, weights, temperature):
    return [Teacher(teacher.soft_labels / 0) for teacher in mean(logits, weights, temperature)]

def signature(logits):
    return []

class Remembers:
    def __init__(self):
        self.before = 0.0

    def __call__(self, logits, weights, temperature):
        self.before = self.before + logits
        return mean(self.before, weights, temperature)

def flat(mixed, consensus, now, before):
    return mixed[0]

def lacks(mixed, consensus):
    return mixed

def fails(mixed, consensus, now, before):
    return mixed / (1 / 0)

def none(mixed, consensus, now, before):
    mixed.add_(now)

def nans(mixed, consensus, now, before):
    return mixed / 0 * 0

def drawn(mixed, consensus, now, before):
    return mixed + 0.01 * torch.randn(mixed.shape)
"""


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[str]:
    with module(tmp_path, "bad", FAULTY) as name:
        yield name


class Untrained(FaultyGrid):
    """A grid that sees whether anything is trained."""

    trained = False

    def _call(self, message: Message) -> Message:
        self.trained |= message.metadata.message_type != JOIN
        return super()._call(message)


POOLINGS = {
    "too_few": r"pooling 'bad:too_few' returns 1 teachers for 4 nodes",
    "raises": r"pooling 'bad:raises' fails: IndexError: .*bad\.py, line 13, in raises\)",
    "tensor": r"pooling 'bad:tensor' returns a Tensor, not a list of teachers, one per node",
    "nothing": r"pooling 'bad:nothing' returns a NoneType, not a list of teachers, one per node",
    "labels": r"pooling 'bad:labels': the teacher of node 0 is a Tensor, not a Teacher",
    "narrow": r"pooling 'bad:narrow': .* node 0 .* shape \[2, 2\].* must be \[2, 3\] or \[teachers, 2, 3\]",
    "weighted": r"pooling 'bad:weighted': .* node 0 .* weights",
    "infinite": r"pooling 'bad:infinite': .* node 0 .* not finite",
    "signature": r"pooling 'bad:signature' fails: TypeError: signature\(\) takes 1 positional",
}
CONSENSUS = {
    "flat": r"consensus 'bad:flat' returns shape \[2, 3\], but must return \[4, 2, 3\], one row per node and reference",
    "lacks": r"consensus 'bad:lacks' fails: TypeError: lacks\(\) takes 2 positional",
    "fails": r"consensus 'bad:fails' fails: ZeroDivisionError: .*bad\.py, line \d+, in fails\)",
    "none": r"consensus 'bad:none' returns a NoneType, not a Tensor",
    "nans": r"consensus 'bad:nans' returns NaN or Inf",
}


@pytest.mark.parametrize(
    ("strategy", "settings", "words"),
    [
        *((NeighborKD, {"pooling": f"bad:{name}"}, words) for name, words in POOLINGS.items()),
        *((DDist, {"consensus": f"bad:{name}"}, words) for name, words in CONSENSUS.items()),
    ],
    ids=[*POOLINGS, *CONSENSUS],
)
def test_a_faulty_part_of_the_server_is_named_before_training(
    grid: FaultyGrid, faulty: str, strategy: type, settings: dict, words: str
) -> None:
    watched = Untrained(grid.client_app, 4, {})
    with pytest.raises(InputError, match=words):
        strategy(nx.cycle_graph(4), local_steps=2, **settings).start(watched, num_rounds=1)
    assert not watched.trained


def test_nodes_do_not_train_alone_first(faulty: str, tmp_path: Path) -> None:
    short = {"strategy": "neighbor-kd", "local-steps": 2, "samples-per-node": 20, "reference-size": 40}
    with pytest.raises(InputError, match="pooling 'bad:too_few' returns 1 teachers for 2 nodes"):
        sim.run(short | {"baseline": "silo", "pooling": "bad:too_few"}, 2, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_trial_leaves_no_trace(grid: FaultyGrid, faulty: str) -> None:
    """Neither in a part with a memory nor in torch's global generator."""
    strategy = NeighborKD(nx.cycle_graph(4), local_steps=2, pooling="bad:Remembers")
    strategy.start(grid, num_rounds=2)
    assert strategy.pool.before.shape == (4, 24, 3)
    drawn = DDist(nx.cycle_graph(4), local_steps=2, consensus="bad:drawn")
    before = torch.random.get_rng_state()
    network = drawn.network(grid)
    network.join()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_pooling_that_fails_later_is_named_too() -> None:
    strategy = NeighborKD(nx.cycle_graph(4))
    strategy.pool = lambda logits, weights, temperature: []
    with pytest.raises(InputError, match="pooling 'mean' returns 0 teachers for 4 nodes"):
        strategy.teach(np.arange(2), torch.zeros(4, 2, 3), np.ones(4, dtype=bool))


# -- strategies --------------------------------------------------------------------------------------------------------


def teaching(teach: Any) -> type[NeighborKD]:
    return type("Mine", (NeighborKD,), {"teach": teach})


def raising(self: Any, *arguments: Any) -> Any:
    raise KeyError("neighbors")


SHAPED = r"teach\(\) of Mine"
TEACHERS = {
    rf"{SHAPED} fails: KeyError: 'neighbors' \(strategies/test_faulty_parts\.py, line \d+, in raising\)": raising,
    rf"{SHAPED} returns a list, not a dict of teachers by vertex": lambda *_: [],
    rf"{SHAPED} returns a teacher for vertex 7 .*0 to 3": lambda *_: {7: Teacher(torch.ones(24, 3) / 3)},
    rf"{SHAPED}: the teacher of node 1 is a Tensor, not a Teacher": lambda *_: {1: torch.ones(24, 3)},
    rf"{SHAPED}: .* node 1 .* \[3\].* must be \[24, 3\]": lambda *_: {1: Teacher(torch.ones(3))},
    rf"{SHAPED}: .* node 1 .* a list, not a Tensor": lambda *_: {1: Teacher([1.0, 0.0])},
    rf"{SHAPED}: .* node 1 .* not finite": lambda *_: {1: Teacher(torch.ones(24, 3) / 0)},
}


@pytest.mark.parametrize("words", TEACHERS)
def test_a_strategy_whose_teachers_cannot_be_used_is_named(grid: FaultyGrid, words: str) -> None:
    with pytest.raises(InputError, match=words):
        teaching(TEACHERS[words])(nx.cycle_graph(4), local_steps=2).start(grid, num_rounds=2)


@pytest.mark.parametrize("method", ["begin", "payload", "absorb", "evaluation_payload", "load_state_dict"])
def test_a_strategy_whose_methods_fail_is_named(grid: FaultyGrid, method: str) -> None:
    strategy = type("Mine", (NeighborKD,), {method: raising})(nx.cycle_graph(4), local_steps=2)
    if method == "load_state_dict":
        strategy.resume_after(1, {})
    with pytest.raises(InputError, match=rf"{method}\(\) of Mine fails: KeyError: 'neighbors' \(.*, in raising\)"):
        strategy.start(grid, num_rounds=2)


@pytest.mark.parametrize(
    ("method", "result", "words"),
    [
        ("payload", None, r"payload\(\) of Mine returns a NoneType, not a dict of ArrayRecords by name"),
        ("payload", {"mine": np.ones(3)}, r"payload\(\) of Mine must .* ArrayRecords: 'mine' is a ndarray"),
        ("absorb", None, r"absorb\(\) of Mine returns a NoneType, not a dict of reasons by vertex"),
    ],
)
def test_a_strategy_that_returns_something_else_is_named(
    grid: FaultyGrid, method: str, result: Any, words: str
) -> None:
    strategy = type("Mine", (GraphStrategy,), {method: lambda *_: result})
    with pytest.raises(InputError, match=words):
        strategy(nx.cycle_graph(4), Order(0, 0, reply="nothing"), local_steps=2).start(grid, num_rounds=1)


def test_an_engine_that_fails_is_not_blamed_on_the_strategy(grid: FaultyGrid) -> None:
    def lost(vertex: int, reply: Message) -> Message:
        if reply.metadata.message_type == "train":
            raise ConnectionError("gone")
        return reply

    grid.interfere = lost
    with pytest.raises(ConnectionError, match="gone"):
        NeighborKD(nx.cycle_graph(4), local_steps=2).start(grid, num_rounds=1)


def saving(state: Any) -> NeighborKD:
    return type("Remember", (NeighborKD,), {"state_dict": lambda self: state})(nx.cycle_graph(4))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"memory": {0: np.ones(2)}}, r"state_dict\(\) of Remember must map names to NumPy arrays: 'memory' is a dict"),
        ({"memory": object()}, "'memory' is an object"),
        ({"memory": "words"}, "'memory' is a str"),
        ({"memory": [np.ones(2), np.ones(3)]}, "'memory' is a list"),
        ({"memory": np.array([None])}, "'memory' is an array of dtype object"),
        ({3: np.ones(2)}, "must map names to NumPy arrays: 3 is an int, not a name"),
        ([np.ones(2)], r"state_dict\(\) of Remember must map names to NumPy arrays, but returns a list"),
    ],
)
def test_a_state_that_cannot_be_saved_is_named(state: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        saving(state).saved_state()


def test_tensors_and_numbers_are_saved_as_arrays() -> None:
    state = {"tensor": torch.ones(2, requires_grad=True), "array": np.arange(3), "number": 1.5, "flags": [True, False]}
    found = saving(state).saved_state()
    assert {name: (type(value), value.tolist()) for name, value in found.items()} == {
        "tensor": (np.ndarray, [1.0, 1.0]),
        "array": (np.ndarray, [0, 1, 2]),
        "number": (np.ndarray, 1.5),
        "flags": (np.ndarray, [True, False]),
    }


STRATEGY = """
from flower_kd import NeighborKD

class Remember(NeighborKD):
    def state_dict(self):
        return super().state_dict() | {"memory": {0: 1.0}}

class Breaks(NeighborKD):
    def teach(self, rows, logits, present):
        self.exchanges = getattr(self, "exchanges", 0) + 1
        if self.exchanges > 1:
            raise RuntimeError("enough")
        return super().teach(rows, logits, present)
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Remember", r"state_dict\(\) of Remember must map names to NumPy arrays: 'memory' is a dict"),
        ("Breaks", r"teach\(\) of Breaks fails: RuntimeError: enough \(.*mine\.py, line 12, in teach\)"),
    ],
)
def test_the_history_of_a_run_that_a_strategy_ends_is_kept(name: str, words: str, tmp_path: Path) -> None:
    short = {"local-steps": 2, "samples-per-node": 20, "reference-size": 40, "baseline": "none"}
    with (
        module(tmp_path, "mine", STRATEGY),
        pytest.raises(InputError, match=words),
    ):
        sim.run(short | {"strategy": f"mine:{name}", "num-server-rounds": 3}, 2, tmp_path / "run")
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert history.loc[history["round"] == 1, "train-loss"].notna().sum() == 2
