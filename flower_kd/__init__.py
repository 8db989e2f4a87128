"""Federated and fully decentralized knowledge distillation on Flower."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flower_kd import dissimilarity, topology
    from flower_kd.clients import Node, make_client_app
    from flower_kd.deploy.loading import load_card, load_model
    from flower_kd.errors import InputError
    from flower_kd.models import TwoHeads
    from flower_kd.models.card import ModelCard
    from flower_kd.strategies import DSGD, DDist, FedAvg, MultiHead, NeighborKD, Silo

    __version__: str

__all__ = [
    "DSGD",
    "DDist",
    "FedAvg",
    "InputError",
    "ModelCard",
    "MultiHead",
    "NeighborKD",
    "Node",
    "Silo",
    "TwoHeads",
    "dissimilarity",
    "load_card",
    "load_model",
    "make_client_app",
    "topology",
]

_CLIENTS = ("Node", "make_client_app")
_STRATEGIES = ("DSGD", "DDist", "FedAvg", "MultiHead", "NeighborKD", "Silo")
_LOADING = ("load_card", "load_model")
_MODULE_OF = {
    **dict.fromkeys(_CLIENTS, "clients"),
    **dict.fromkeys(_STRATEGIES, "strategies"),
    **dict.fromkeys(_LOADING, "deploy.loading"),
    "InputError": "errors",
    "ModelCard": "models.card",
    "TwoHeads": "models",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first access: `flower-kd --help` should not wait for torch."""
    if name == "__version__":
        return import_module("importlib.metadata").version("flower-kd")
    if name in _MODULE_OF:
        return getattr(import_module(f"flower_kd.{_MODULE_OF[name]}"), name)
    if name in __all__:
        return import_module(f"flower_kd.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
