"""A small network of nodes made by hand: seconds are for real processes, not for unit tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import networkx as nx
import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from flower_kd.clients import Node, ShuffledBatches, make_client_app
from flower_kd.seeding import derive
from flower_kd.sim import InProcessGrid

torch.set_num_threads(1)  # float sums depend on it, and small models are faster with one

CLASSES, FEATURES, REFERENCE_ROWS = 3, 6, 24


def blobs(seed: int, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points around one center a class, which are the same for every seed."""
    centers = 2 * torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (samples,), generator=generator)
    return centers[labels] + 1.5 * torch.randn(samples, FEATURES, generator=generator), labels


def build_blob_node(context: Context) -> Node:
    """Return a node whose private data hold two of the three classes only."""
    vertex = int(context.node_config["partition-id"])
    with torch.random.fork_rng():
        torch.manual_seed(derive(0, "weights", vertex))
        model = torch.nn.Sequential(torch.nn.Linear(FEATURES, 8 + 4 * (vertex % 2)), torch.nn.ReLU())
        model.append(torch.nn.Linear(8 + 4 * (vertex % 2), CLASSES))
    inputs, labels = blobs(vertex, 60)
    own = labels != vertex % CLASSES
    return Node(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        private=ShuffledBatches(inputs[own], labels[own], batch_size=10, seed=0, vertex=vertex),
        reference=blobs(1000, REFERENCE_ROWS)[0],
        test=[blobs(2000, 200)],
        classes=CLASSES,
    )


def build_same_model_node(context: Context) -> Node:
    """Return a blob node with one model for all, as strategies that average weights need it."""
    node = build_blob_node(context)
    with torch.random.fork_rng():
        torch.manual_seed(derive(0, "weights", int(context.node_config["partition-id"])))
        node.model = torch.nn.Linear(FEATURES, CLASSES)
    node.optimizer = torch.optim.SGD(node.model.parameters(), lr=0.1, momentum=0.9)
    return node


class FaultyGrid(InProcessGrid):
    """A grid in which `interfere(vertex, reply)` may change, replace or (None) lose any reply."""

    interfere: Callable[[int, Message], Message | None] | None = None

    def stream(self, messages: Any) -> Iterator[tuple[Message, Message]]:
        for message, reply in super().stream(messages):
            changed: Message | None = reply
            if self.interfere is not None:
                vertex = int(self.contexts[reply.metadata.src_node_id].node_config["partition-id"])
                changed = self.interfere(vertex, reply)
            if changed is not None:
                yield message, changed


@pytest.fixture
def ring() -> nx.Graph:
    return nx.cycle_graph(4)


@pytest.fixture
def grid() -> FaultyGrid:
    return FaultyGrid(make_client_app(build_blob_node), 4, {})


@pytest.fixture
def same_model_grid() -> FaultyGrid:
    return FaultyGrid(make_client_app(build_same_model_node), 4, {})


def recorded_grid(app: ClientApp, num_nodes: int) -> InProcessGrid:
    """Return a grid whose nodes live in their context's records between messages, as under Flower's engines."""
    grid = InProcessGrid(app, num_nodes, {})
    for context in grid.contexts.values():
        context.state = RecordDict()
    return grid


def run_strategy(strategy: Any, grid: Any) -> dict[str, float]:
    """Return every figure of three rounds but the seconds."""
    network = strategy.network(grid)
    weights = {"weight": torch.zeros(3, 6), "bias": torch.zeros(3)} if strategy.same_model else {}
    strategy.start(network, ArrayRecord(weights), num_rounds=3)
    return {
        f"{server_round}/{vertex}/{name}": value
        for (server_round, vertex), metrics in network.metrics.items()
        for name, value in metrics.values.items()
        if name != "seconds"
    }
