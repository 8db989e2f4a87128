"""Arguments of strategies: a wrong one is reported in one sentence, not by a traceback from an internal class."""

from typing import Any

import networkx as nx
import pytest

from flower_kd.errors import InputError
from flower_kd.strategies import DSGD, STRATEGIES, DDist, FedAvg, NeighborKD, Silo

RING = nx.cycle_graph(4)


@pytest.mark.parametrize("name", STRATEGIES.names())
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"local_step": 5}, "unknown argument of {cls} 'local_step', did you mean 'local_steps'"),
        ({"local_steps": 0}, "local_steps = 0 must be at least 1"),
        ({"local_steps": -5}, "local_steps = -5 must be at least 1"),
        ({"local_steps": 2.0}, "local_steps = 2.0 must be a whole number"),
        ({"local_steps": True}, "local_steps = True must be a whole number"),
        ({"local_steps": "5"}, "local_steps = '5' must be a whole number"),
        ({"evaluate_every": 0}, "evaluate_every = 0 must be at least 1"),
        ({"seed": -1}, "seed = -1 must be at least 0"),
        ({"seed": 2**70}, "seed = 1180591620717411303424 must be at least 0 and at most"),
        ({"graph": "ring"}, "the graph is of type str, but must be a networkx graph"),
    ],
)
def test_schedules_of_all_strategies(name: str, settings: dict[str, Any], words: str) -> None:
    cls: Any = STRATEGIES.get(name)
    with pytest.raises(InputError, match=words.format(cls=cls.__name__)):
        cls(**{"graph": RING, **settings})


@pytest.mark.parametrize(
    ("cls", "settings", "words"),
    [
        (NeighborKD, {"temprature": 2}, "argument of NeighborKD 'temprature', did you mean 'temperature'"),
        (NeighborKD, {"no_such": 2}, r"unknown argument of NeighborKD 'no_such' \(allowed: graph, dissimilarity, "),
        (NeighborKD, {"temperature": float("inf")}, "temperature = inf must be finite and above 0"),
        (NeighborKD, {"temperature": "2"}, "temperature = '2' must be a number"),
        (NeighborKD, {"alpha": 1.5}, "alpha = 1.5 must be at least 0 and at most 1"),
        (NeighborKD, {"alpha": "0.5"}, "alpha = '0.5' must be a number"),
        (NeighborKD, {"rho": -1}, "rho = -1 must be at least 0"),
        (NeighborKD, {"pooling_self": "yes"}, "pooling_self = 'yes' must be true or false"),
        (NeighborKD, {"exchange_rows": -3}, "exchange_rows = -3 must be at least 0"),
        (NeighborKD, {"reference_batch": 2.5}, "reference_batch = 2.5 must be a whole number"),
        (NeighborKD, {"exchange_every": -1}, "exchange_every = -1 must be at least 0"),
        (NeighborKD, {"exchange_every": 7}, "exchange_every = 7 does not divide local_steps = 25"),
        (NeighborKD, {"pooling": max}, "pooling = <built-in .*> must be a string: a name or 'module:attribute'"),
        (NeighborKD, {"pooling": 3}, "pooling = 3 must be a string"),
        (DSGD, {"compression": object()}, "compression = <object .*> must be a string: a name or 'module:attribute'"),
        (DDist, {"rho": float("nan")}, "rho = nan must be finite"),
        (DDist, {"eta": 0.4}, r"eta = 0.4 is now a setting of the consensus: write consensus = 'gradient\(eta=0.4\)'"),
        (DDist, {"consensus": "gradient(eta=x)"}, "consensus 'gradient': eta = 'x' must be a number"),
        (DDist, {"consensus": "gradient(clamp=1)"}, "consensus 'gradient': clamp = 1 must be true or false"),
        (DDist, {"consensus": "tracking(clamp=true)"}, "consensus 'tracking' takes no arguments, but got 'clamp'"),
        (DDist, {"kd_reduction": "max"}, "unknown kd_reduction 'max'"),
        (DSGD, {"exchange_rows": 5}, "unknown argument of DSGD 'exchange_rows', did you mean 'exchange_every'"),
        (Silo, {"exchange_every": 5}, "unknown argument of Silo 'exchange_every'"),
        (FedAvg, {"fraction_train": 0.5}, "unknown argument of FedAvg 'fraction_train'"),
    ],
)
def test_own_arguments(cls: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        cls(RING, **settings)


@pytest.mark.parametrize("cls", [Silo, FedAvg])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_rounds": 0}, "num_rounds = 0 must be at least 1"),
        ({"num_rounds": 1.0}, "num_rounds = 1.0 must be a whole number"),
        ({"timeout": 0}, "timeout = 0 must be above 0"),
    ],
)
def test_a_run_of_nothing_is_refused(cls: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        cls(RING).start(None, None, **options)
