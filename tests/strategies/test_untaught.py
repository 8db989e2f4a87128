"""A warning where a run would teach nobody: it is given if, and only if, no distillation takes place."""

import logging

import networkx as nx
import pytest
from conftest import REFERENCE_ROWS, build_blob_node

from flower_kd import sim
from flower_kd.clients import make_client_app
from flower_kd.sim import InProcessGrid
from flower_kd.strategies import DDist, DistillationStrategy, MultiHead, NeighborKD

WORDS = "no node will be taught"
AS_PUBLISHED = {"exchange_every": 1, "reference_batch": 0, "dissimilarity": "squared-error", "temperature": 1.0}


def is_taught(strategy: DistillationStrategy, rounds: int) -> bool:
    network = strategy.network(InProcessGrid(make_client_app(build_blob_node), 3, {}))
    strategy.start(network, num_rounds=rounds)
    return any(metrics.values.get("kd-loss", 0.0) > 0 for metrics in network.metrics.values())


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="flwr")
    return lambda: [record.getMessage() for record in caplog.records if WORDS in record.getMessage()]


@pytest.mark.parametrize("exchange_rows", [0, 1, 5, 6, 12, 23])
@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_the_warning_is_given_where_nothing_is_taught(exchange_rows: int, rounds: int, warnings) -> None:
    """24 reference rows in passes of 1 to 24 exchanges; 5 and 23 rows at a time leave some of a pass out."""
    strategy = DDist(nx.cycle_graph(3), local_steps=2, exchange_rows=exchange_rows, **AS_PUBLISHED)
    assert is_taught(strategy, rounds) == (warnings() == [])
    assert len(warnings()) <= 1
    if exchange_rows and REFERENCE_ROWS % exchange_rows == 0:
        assert (2 * rounds > REFERENCE_ROWS // exchange_rows) == (warnings() == [])


@pytest.mark.parametrize("exchange_every", [1, 3])
@pytest.mark.parametrize("make", [NeighborKD, DDist])
def test_rows_that_are_sent_teach_in_the_next_exchange(make, exchange_every: int, warnings) -> None:
    strategy = make(nx.cycle_graph(3), local_steps=3, exchange_every=exchange_every, exchange_rows=6, reference_batch=2)
    assert is_taught(strategy, 1) == (exchange_every == 1) == (warnings() == [])


def test_heads_teach_after_their_only_exchange() -> None:
    assert MultiHead(nx.cycle_graph(3)).why_untaught(2, 40) == ""


def test_a_run_warns_once_and_before_the_nodes_are_trained_alone(tmp_path, caplog, warnings) -> None:
    config = {
        "strategy": "d-dist", "exchange-every": 1, "exchange-rows": 10, "reference-batch": 0, "reference-size": 40,
        "num-server-rounds": 2, "local-steps": 2, "samples-per-node": 20,
    }  # fmt: skip
    caplog.set_level(logging.INFO, logger="flwr")
    sim.run(config, 2, tmp_path / "run")
    (line,) = warnings()
    assert line == (
        "no node will be taught: with one exchange per step, reference rows teach from their second exchange on, but "
        "none of the run's 4 exchanges has only rows of earlier ones, as 40 rows are exchanged 10 at a time (use a "
        "smaller reference set, or more steps)"
    )
    lines = [record.getMessage() for record in caplog.records]
    assert lines.index(line) < next(place for place, text in enumerate(lines) if "training each node alone" in text)
