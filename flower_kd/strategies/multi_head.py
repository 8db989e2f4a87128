"""The two-head client: a head trained alone, then another distilled from the neighbors' (Molo et al., SISAP 2024)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from logging import WARNING
from typing import Any, Literal

import networkx as nx
import numpy as np
from flwr.app import ArrayRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from scipy.sparse import csr_array, diags_array

from flower_kd import wire
from flower_kd.errors import InputError
from flower_kd.protocol import (
    LAST,
    NO_BASE,
    TEACHER_WEIGHTS,
    Hello,
    Order,
    Reply,
    TeacherMode,
    exchanged_rows,
    network_record,
)
from flower_kd.ranges import Whole
from flower_kd.strategies.base import GraphStrategy
from flower_kd.strategies.neighbor_kd import NeighborKD, normalized
from flower_kd.strategies.network import Network
from flower_kd.strategies.node_records import most_frequent
from flower_kd.strategies.registry import STRATEGIES
from flower_kd.strategies.resumable import State
from flower_kd.strategies.sent_networks import SentNetworks
from flower_kd.topology import GraphSequence
from flower_kd.wire import noise

REFERENCE, PRIVATE = "reference", "private"

# Arguments that are about reference rows, and how they travel.
_OF_REFERENCE_ROWS = (
    "exchange_rows",
    "reference_batch",
    "reference_augment",
    "wire",
    "wire_coding",
    "wire_noise",
    "logit_adjustment",
)


@STRATEGIES.register("multi-head")
class MultiHead(NeighborKD):
    """Train backbone and head 1 alone, then backbone and head 2 with the neighbors' head 1 as teachers.

    The two-head client of Molo, Vadicamo, Carlini, Gennaro and Connor (SISAP 2024) and of their public code. In the
    first `local_rounds` rounds, nodes minimize `CE(labels)` on head 1 and exchange nothing. At the end of these each
    sends one message. In the other rounds, a copy of the backbone with head 2 minimizes
    `alpha * CE(labels) + (1 - alpha) * rho * D(student, teacher)`, where the teacher is made of the head-1 logits of
    the neighbors, which do not change any more. Learning-rate schedules run over each of the two phases. Nodes need a
    `flower_kd.TwoHeads`. With patience, each phase stops by itself: a node that stops in the first waits with the
    head 1 that was best on its validation data. In every case that head 1 is the teacher of others, and what head 2
    begins from. Other arguments are those of NeighborKD, with the same defaults.

    Parameters
    ----------
    graph : networkx graph or GraphSequence
        Communication graph; if it varies, that of the exchange at the end of the first phase counts. Nodes that are not
        drawn for this exchange neither send nor get a teacher.
    local_rounds : int
        Rounds of the first phase; 0 for half of all rounds, rounded down.
    teachers : {"reference", "private"}
        What teachers predict: the rows of the reference set, for which nodes send logits; or the student's own private
        batches, for which neighbors send their networks with head 1, as in the paper.
    teacher_mode : {"eval", "train"}
        Mode of private teachers. "train" normalizes each batch by its own statistics (batch normalization), as the
        public code does, which never calls `eval()` on teachers.
    frozen_backbone : bool
        Whether the second phase trains head 2 only, on features of the backbone as the first phase left it.
    exchange_every : int
        Not used: there is a single exchange.
    """

    two_heads = True
    fewest_rounds = 2

    def __init__(
        self,
        graph: nx.Graph | GraphSequence,
        *,
        local_rounds: Whole = 0,
        teachers: Literal["reference", "private"] = "reference",
        teacher_mode: TeacherMode = "eval",
        frozen_backbone: bool = False,
        exchange_every: Whole = 0,
        **settings: Any,
    ) -> None:
        super().__init__(graph, **settings)
        self._delay = 0  # its messages wait for teachers
        self.local_rounds = local_rounds
        self.teachers = teachers
        self.teacher_mode = teacher_mode
        self.frozen_backbone = frozen_backbone
        self.is_private = teachers == PRIVATE
        self.same_reference = self.needs_reference(vars(self))
        if teacher_mode == "train" and not self.is_private:
            raise InputError(
                "teacher_mode = 'train' is for teachers = 'private': logits on reference rows are those of evaluation "
                "mode"
            )
        if self.is_private and self._takes_class_counts:
            raise InputError(
                f"pooling = {self.pooling!r} needs the class counts of neighbors, which nodes tell the server only: it "
                "cannot be used with teachers = 'private'"
            )
        self._sent = SentNetworks()
        self._teaching = self.weights  # in the exchange in which networks are sent
        self._delivered: set[int] = set()  # vertices that have received their teacher
        self._given: dict[int, int] = {}  # the last exchange whose message to a vertex had its teacher

    @classmethod
    def phases_of(cls, num_rounds: int, settings: Mapping[str, Any]) -> list[int]:
        """Return the numbers of rounds of both phases; raises InputError if there are too few for them."""
        if num_rounds < cls.fewest_rounds:
            raise InputError(f"a run of {num_rounds} round has no second phase: multi-head needs at least 2 rounds")
        local_rounds = settings.get("local_rounds", 0) or num_rounds // 2
        if local_rounds >= num_rounds:
            raise InputError(
                f"local_rounds = {local_rounds} leaves no round for the second head: it must be below the number of "
                f"rounds, {num_rounds}"
            )
        return [local_rounds, num_rounds - local_rounds]

    @classmethod
    def needs_reference(cls, settings: Mapping[str, Any]) -> bool:
        """Return whether teachers predict reference rows."""
        return settings.get("teachers", REFERENCE) == REFERENCE

    @classmethod
    def without_effect(cls, settings: Mapping[str, Any]) -> dict[str, str]:
        """Return what is not used: the frequency of exchanges, and what is about reference rows if there are none."""
        found = {"exchange_every": "strategy 'multi-head' has a single exchange"}
        if not cls.needs_reference(settings):
            words = "teachers = 'private' of strategy 'multi-head' does not use it"
            found |= dict.fromkeys(_OF_REFERENCE_ROWS, words)
        return found

    @property
    def head_1_round(self) -> int:
        """The last round of the first phase, after which head 1 is evaluated; 0 before a run."""
        return self.phases[0] if self.phases else 0

    def network(self, grid: Grid) -> Network:
        """Return the grid as a Network that requires two heads and, for private teachers, that nodes can build them."""
        network = super().network(grid)
        network.greeting = replace(network.greeting, two_heads=True)
        if self.is_private:
            network.greeting = replace(
                network.greeting,
                wire="",
                wire_coding="plain",
                wire_noise=noise.NONE,
                logit_adjustment=0.0,
                pooling=self.pooling,
            )
            network.must_build = self._sources
        return network

    def try_parts(self, hellos: dict[int, Hello]) -> None:
        """Try the pooling, on networks of two classes or more."""
        if hellos[0].classes < 2:
            raise InputError("models with 1 class cannot be distilled: their softmax is always 1 (allowed: at least 2)")
        super().try_parts(hellos)

    def begin(self, hellos: dict[int, Hello]) -> None:
        """Begin without teachers."""
        self._sent, self._delivered, self._given = SentNetworks(), set(), {}
        if self.is_private:
            GraphStrategy.begin(self, hellos)
            self._hellos = dict(hellos)
        else:
            super().begin(hellos)

    def state_dict(self) -> State:
        """Return also who has received its teacher, and the networks that were sent."""
        return {
            **super().state_dict(),
            **self._sent.state_dict(),
            "delivered": np.array(sorted(self._delivered), np.int64),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore also who has received its teacher, and the networks that were sent."""
        super().load_state_dict(state)
        self._sent.load_state_dict(state)
        self._delivered = set(state["delivered"].tolist())

    def node_returned(self, vertex: int, hello: Hello) -> None:
        """Send its teacher again to a node that may have lost it."""
        super().node_returned(vertex, hello)
        self._delivered.discard(vertex)
        if hello.fresh and self._distills:
            log(
                WARNING,
                "node %d has lost what it learned alone: it continues with head 2 on an untrained backbone",
                vertex,
            )

    def ordered(self, order: Order) -> Order:
        """Return the order with the head that it trains; there is only one exchange, the first."""
        ends_head_1 = bool(self.patience) and (self._distills or self._exchanges)
        order = replace(order, exchange=0, head=2 if self._distills else 1, best_head_1=ends_head_1)
        if not self._distills:
            return order
        order = replace(order, frozen_backbone=self.frozen_backbone)
        if not self.is_private:
            return order
        return replace(order, pooling=self.pooling, teacher_mode=self.teacher_mode)

    def messages_in(self, num_rounds: int) -> int:
        """Return that a node sends logits once."""
        return 1

    def reply(self) -> Reply:
        """Request logits or networks at the end of the first phase, and nothing else."""
        if not self._exchanges:
            return "nothing"
        return "network" if self.is_private else "logits"

    def base(self, vertex: int) -> int:
        """Return that nothing is known of a vertex: it sends once."""
        return NO_BASE

    def taught(self, vertex: int) -> int:
        """Return that teachers are of the exchange in the order: there is no other."""
        return LAST

    def waits(self, exchange: int) -> bool:
        """Return also that messages wait until each node has its teacher."""
        return super().waits(exchange) or (exchange >= self.phases[0] and len(self._delivered) < self.num_nodes)

    def fields(self, vertex: int) -> dict[str, list[str]]:
        """Return the names of the networks that a vertex is sent."""
        if not self._is_due(vertex) or not self.is_private:
            return {}
        return {"networks": [self._hellos[source].model for source in self._networks_for(vertex)[0]]}

    def payload(self, vertex: int) -> dict[str, ArrayRecord]:
        """Return a vertex's teacher until it has received it."""
        if not self._is_due(vertex):
            return {}
        self._given[vertex] = self._exchange
        if not self.is_private:
            waiting = dict(self._pending)
            records = super().payload(vertex)
            self._pending = waiting  # for a node that does not receive it, or loses it
            return records
        sources, weights = self._networks_for(vertex)
        if not sources:
            return {}
        records = {network_record(place): self._sent.records[source] for place, source in enumerate(sources)}
        return {**records, TEACHER_WEIGHTS: wire.encode(weights)}

    def absorb(self, replies: Iterable[tuple[int, RecordDict]]) -> dict[int, str]:
        """Receive what nodes send in the exchange; after it, note who has its teacher."""
        if not self._exchanges:
            for vertex, _ in replies:
                # With pipeline = 1, a message may be older than the return of a node that has lost its teacher.
                if self._distills and self._given.get(vertex) == self._exchange:
                    self._delivered.add(vertex)
            return {}
        if self.is_private:
            refused = self._sent.receive(replies, self._hellos)
            received = bool(self._sent.records)
        else:
            refused = super().absorb(replies)
            received = self._any_usable
        if not received:
            why = most_frequent(part.reasons for part in self._joined(None).participation.values())
            said = why or "; ".join(dict.fromkeys(refused.values())) or "no node replied"
            raise InputError(f"nothing was exchanged: no node's head 1 can teach others ({said})")
        return refused

    def _check_exchanged(self) -> None:
        """Nothing is left to check: a run whose exchange failed has ended there."""

    @property
    def _distills(self) -> bool:
        """Whether the current exchange is in the second phase; there is one exchange a round."""
        return self._exchange >= self.phases[0]

    @property
    def _exchanges(self) -> bool:
        """Whether nodes send in the current exchange."""
        return self._exchange + 1 == self.phases[0]

    def _is_due(self, vertex: int) -> bool:
        return self._distills and vertex not in self._delivered

    def _rows(self) -> np.ndarray:
        return exchanged_rows(self.order.seed, 0, self._reference_rows, self.order.exchange_rows)

    def _sources(self, hellos: Mapping[int, Hello]) -> dict[int, list[int]]:
        """Return, by vertex, the others whose networks it is sent."""
        weights = self._teaching = self._weights_in(self.phases[0] - 1)[0]
        rows = weights.indptr
        return {
            vertex: sorted({*weights.indices[rows[vertex] : rows[vertex + 1]].tolist()} - {vertex}) for vertex in hellos
        }

    def _networks_for(self, vertex: int) -> tuple[list[int], np.ndarray]:
        """Return the vertices whose networks a vertex is sent, and the weights of its own and of theirs."""
        present = np.zeros(self.num_nodes)
        present[[*self._sent.records, vertex]] = 1
        row = normalized(csr_array(self._teaching[[vertex]] @ diags_array(present)))
        found = dict(zip(row.indices.tolist(), row.data.tolist(), strict=True))
        own = found.pop(vertex, 0.0)
        sources = sorted(found)
        return sources, np.array([own, *(found[source] for source in sources)], np.float32)
