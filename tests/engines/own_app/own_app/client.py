"""A node: its model, its private data, and the shared reference data."""

from functools import lru_cache

import torch
from flwr.app import Context
from sklearn.datasets import load_wine
from torch.utils.data import DataLoader, Subset, TensorDataset

from flower_kd import Node, make_client_app


@lru_cache  # Flower may build the node anew for each message
def wine() -> TensorDataset:
    """Return 178 wines of three cultivars in a fixed random order: 13 measurements each."""
    inputs, labels = (torch.tensor(part) for part in load_wine(return_X_y=True))
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    return TensorDataset(((inputs - inputs.mean(0)) / inputs.std(0)).float()[order], labels[order])


def build_node(context: Context) -> Node:
    vertex, nodes = context.node_config["partition-id"], context.node_config["num-partitions"]
    torch.manual_seed(vertex)
    model = torch.nn.Sequential(
        torch.nn.Linear(13, 4 + 4 * vertex), torch.nn.Tanh(), torch.nn.Linear(4 + 4 * vertex, 3)
    )
    mine = Subset(wine(), range(vertex, 20, nodes))
    return Node(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        private=DataLoader(mine, batch_size=5, shuffle=True),
        reference=DataLoader(Subset(wine(), range(20, 100)), batch_size=40),
        test=DataLoader(Subset(wine(), range(100, 178)), batch_size=78),
        classes=3,
    )


app = make_client_app(build_node)
