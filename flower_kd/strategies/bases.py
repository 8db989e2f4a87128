"""The weights that compressed updates are about, as the server has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flwr.app import ArrayRecord, RecordDict

from flower_kd import wire
from flower_kd.errors import InputError
from flower_kd.protocol import ARRAYS, NO_BASE, UPDATE
from flower_kd.strategies.network import Network
from flower_kd.strategies.resumable import State, by_vertex, of_vertices
from flower_kd.wire import Compressor, compression

BASE = "base"  # how its names in a state begin


def compressor(name: str) -> Compressor | None:
    """Return a compression by its name; None for no compression."""
    found = compression.get(name)
    return None if compression.COMPRESSIONS.parse(name).name == compression.NONE else found


class Bases:
    """Each vertex's base: the weights from which its next update is the difference.

    A node is told its digest (`Order.base`). One that has another base replies with all of its weights, so that both
    sides have the same again.
    """

    def __init__(self) -> None:
        self._weights: dict[int, wire.Arrays] = {}
        self._digests: dict[int, int] = {}

    def set(self, vertices: Iterable[int], weights: wire.Arrays) -> None:
        """Store the base of some vertices, which must not be changed in place; without weights, nothing changes."""
        if not weights:
            return
        found = wire.digest(weights)
        for vertex in vertices:
            self._weights[vertex], self._digests[vertex] = weights, found

    def digest(self, vertex: int) -> int:
        """Return the digest of a vertex's base; `NO_BASE` if it has none."""
        return self._digests.get(vertex, NO_BASE)

    def state_dict(self) -> State:
        """Return the bases, by vertex and name."""
        return of_vertices(BASE, self._weights)

    def load_state_dict(self, state: State) -> None:
        """Restore the bases in a state, which may have other arrays."""
        for vertex, weights in by_vertex(BASE, state).items():
            self.set([vertex], weights)

    def expand(
        self, contents: Mapping[int, RecordDict], compressor: Compressor | None
    ) -> tuple[dict[int, RecordDict], dict[int, str]]:
        """Return replies with the weights that their updates stand for, and why others cannot be used, by vertex."""
        found: dict[int, RecordDict] = {}
        refused: dict[int, str] = {}
        for vertex, content in contents.items():
            record = content.get(UPDATE)
            if compressor is None or not isinstance(record, ArrayRecord):
                found[vertex] = content
                continue
            try:
                if vertex not in self._weights:
                    raise InputError("its reply has an update of weights that were never received")
                weights = compressor.decompress(record, self._weights[vertex])
            except InputError as error:
                refused[vertex] = str(error)
                continue
            arrays = ArrayRecord({name: wire.as_array(array) for name, array in weights.items()})
            others = {name: record for name, record in content.items() if name != UPDATE}
            found[vertex] = RecordDict({**others, ARRAYS: arrays})
        return found, refused


def start_weights(network: Network, initial: ArrayRecord) -> wire.Arrays:
    """Return the initial weights of all nodes or, if there are none, those of a node; empty if none tells them."""
    return {name: wire.read(name, array) for name, array in initial.items()} or network.start_weights()
