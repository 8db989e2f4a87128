"""Federated and fully decentralized knowledge distillation on Flower."""

from flower_kd import dissimilarity, topology
from flower_kd.clients import Node, make_client_app
from flower_kd.errors import InputError
from flower_kd.strategies import DSGD, DDist, FedAvg, NeighborKD, Silo

__all__ = [
    "DSGD",
    "DDist",
    "FedAvg",
    "InputError",
    "NeighborKD",
    "Node",
    "Silo",
    "dissimilarity",
    "make_client_app",
    "topology",
]
