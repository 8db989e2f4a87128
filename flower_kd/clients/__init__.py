"""The client side: nodes, and how they handle messages."""

from flower_kd.clients.app import make_client_app
from flower_kd.clients.node import LoaderBatches, Node, PrivateData, ShuffledBatches
from flower_kd.clients.node_files import NodeFiles

__all__ = ["LoaderBatches", "Node", "NodeFiles", "PrivateData", "ShuffledBatches", "make_client_app"]
