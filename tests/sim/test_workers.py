"""Nodes in processes of their own: the same figures, and one sentence if a process dies."""

import os
import signal
from collections.abc import Iterator
from contextlib import closing

import networkx as nx
import pytest
import torch
from conftest import build_blob_node, run_strategy
from flwr.app import ArrayRecord

from flower_kd.clients import make_client_app
from flower_kd.errors import InputError
from flower_kd.sim import InProcessGrid, run_apps
from flower_kd.sim.workers import WorkerGrid
from flower_kd.strategies import DDist, NeighborKD

APP = make_client_app(build_blob_node)  # which workers find by this module's name
NODES = 5


class Killer:
    """A listener that kills a worker after the first exchange."""

    def __init__(self, grid: WorkerGrid) -> None:
        self.grid = grid

    def on_stage(self, stage: str) -> None:
        pass

    def on_exchange(self, server_round: int, kind: str, metrics: dict[int, dict[str, float]]) -> None:
        os.kill(self.grid._processes[1].pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def grid() -> Iterator[WorkerGrid]:
    torch.set_num_threads(2)
    with closing(WorkerGrid("test_workers:APP", NODES, {}, workers=2)) as workers:
        assert torch.get_num_threads() == 1
        yield workers
    assert not any(process.is_alive() for process in workers._processes)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)  # as in conftest


def test_figures_do_not_depend_on_the_number_of_workers(grid: WorkerGrid) -> None:
    ring = nx.cycle_graph(NODES)
    strategies = [
        NeighborKD(ring, pooling="pairwise", local_steps=4, exchange_every=2, record_gradients=True),
        DDist(ring, exchange_rows=8, local_steps=4, exchange_every=1),
    ]
    alone = [run_strategy(strategy, InProcessGrid(APP, NODES, {})) for strategy in strategies]
    assert [run_strategy(strategy, grid) for strategy in strategies] == alone
    assert len({process.pid for process in grid._processes if process.is_alive()} - {os.getpid()}) == 2


def test_a_worker_that_is_killed_ends_the_run_with_one_sentence(grid: WorkerGrid) -> None:
    grid.listener = Killer(grid)
    with pytest.raises(
        InputError, match=r"worker 1 ended with signal SIGKILL and took all its nodes with it: out of memory\?"
    ):
        NeighborKD(nx.cycle_graph(NODES), local_steps=2).start(grid, ArrayRecord(), num_rounds=3)


def test_workers_need_the_name_of_the_app() -> None:
    with pytest.raises(InputError, match="the client app must be given as a string, 'module:attribute'"):
        run_apps(lambda grid, context: None, APP, NODES, {}, workers=2)  # type: ignore[arg-type]


def test_an_app_that_cannot_be_imported_is_named_with_the_reason() -> None:
    with pytest.raises(
        InputError, match=r"client app 'no_such_module:app' cannot be imported: ModuleNotFoundError: No"
    ):
        WorkerGrid("no_such_module:app", 2, {}, workers=2)
