"""The networks that nodes send once, for their neighbors to ask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flwr.app import ArrayRecord, RecordDict

from flower_kd import wire
from flower_kd.protocol import Hello
from flower_kd.strategies.resumable import State, by_vertex, of_vertices
from flower_kd.strategies.weights import usable_weights

NETWORK = "network"  # how their names in a state begin


class SentNetworks:
    """Checked weights of networks, by the vertex of the node that sent them."""

    def __init__(self) -> None:
        self.records: dict[int, ArrayRecord] = {}

    def receive(self, replies: Iterable[tuple[int, RecordDict]], hellos: Mapping[int, Hello]) -> dict[int, str]:
        """Keep the usable weights, and return why others cannot be used, by vertex.

        Those of networks with the same name and number of parameters must be alike.
        """
        by_kind: dict[tuple[str, int], dict[int, RecordDict]] = {}
        for vertex, content in replies:
            by_kind.setdefault((hellos[vertex].model, hellos[vertex].parameters), {})[vertex] = content
        refused: dict[int, str] = {}
        for contents in by_kind.values():
            usable, unusable = usable_weights(contents)
            refused |= unusable
            for vertex, weights in list(usable.items()):
                values = sum(array.size for array in weights.values())
                kept = hellos[vertex].parameters - hellos[vertex].pruned
                if values < kept:
                    del usable[vertex]
                    refused[vertex] = f"{values:,} weights of a network that has {kept:,} parameters"
            self.records |= {vertex: _record(weights) for vertex, weights in usable.items()}
        return refused

    def state_dict(self) -> State:
        """Return the weights, by vertex and name."""
        weights = {
            vertex: {name: wire.read(name, array) for name, array in record.items()}
            for vertex, record in self.records.items()
        }
        return of_vertices(NETWORK, weights)

    def load_state_dict(self, state: State) -> None:
        """Restore the weights in a state, which may have other arrays."""
        self.records = {vertex: _record(weights) for vertex, weights in by_vertex(NETWORK, state).items()}


def _record(weights: wire.Arrays) -> ArrayRecord:
    return ArrayRecord({name: wire.as_array(array) for name, array in weights.items()})
