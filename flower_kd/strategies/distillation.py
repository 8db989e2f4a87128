"""What strategies share in which logits travel: their decoding, and teachers on their way down."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import networkx as nx
import numpy as np
import torch
from flwr.app import ArrayRecord, RecordDict
from torch import Tensor

from flower_kd import dissimilarity, wire
from flower_kd.errors import InputError
from flower_kd.pooling import Teacher
from flower_kd.protocol import LOGITS, TEACHER, Hello, Order, exchanged_rows
from flower_kd.strategies.base import GraphStrategy
from flower_kd.strategies.resumable import State


class DistillationStrategy(GraphStrategy):
    """Base of strategies that turn the logits of neighbors into teachers.

    Parameters
    ----------
    graph, local_steps, exchange_every, evaluate_every
        As in GraphStrategy.
    order : Order
        Its dissimilarity, temperature, wire format and factors are checked here.
    """

    same_reference = True

    def __init__(self, graph: nx.Graph, order: Order, **schedule: int) -> None:
        super().__init__(graph, replace(order, reply="logits"), **schedule)
        if not (np.isfinite(order.temperature) and order.temperature > 0):
            raise InputError(f"temperature = {order.temperature} must be above 0")
        if order.kd_reduction not in ("mean", "sum"):
            raise InputError(f"unknown kd-reduction {order.kd_reduction!r} (allowed: mean, sum)")
        dissimilarity.get(order.dissimilarity)
        wire.FORMATS.get(order.wire)
        self._teachers: dict[int, Teacher] = {}
        self._reference_rows = 0
        self._classes = 0

    def teach(self, rows: np.ndarray, logits: Tensor, present: np.ndarray) -> dict[int, Teacher]:
        """Return teachers by vertex for logits [nodes, rows, classes] on the given reference rows.

        Rows of `logits` where `present` [nodes] is False hold zeros and say nothing.
        """
        raise NotImplementedError

    def begin(self, hellos: dict[int, Hello]) -> None:
        """Learn the sizes of what will travel."""
        self._reference_rows, self._classes = hellos[0].reference_rows, hellos[0].classes
        self._teachers = {}
        if self._reference_rows == 0:
            raise InputError("the nodes have no reference set: distillation needs reference-size above 0")

    def state_dict(self) -> State:
        """Return the teachers that are on their way down."""
        found: State = {}
        for vertex, teacher in self._teachers.items():
            found[f"teacher.{vertex}"] = teacher.soft_labels.numpy()
            if teacher.weights is not None:
                found[f"teacher-weights.{vertex}"] = teacher.weights.numpy()
        return found

    def load_state_dict(self, state: State) -> None:
        """Take the teachers that are on their way down."""
        for name, soft_labels in state.items():
            kind, _, vertex = name.partition(".")
            if kind == "teacher":
                weights = state.get(f"teacher-weights.{vertex}")
                self._teachers[int(vertex)] = Teacher(
                    torch.from_numpy(soft_labels), None if weights is None else torch.from_numpy(weights)
                )

    def payload(self, vertex: int) -> dict[str, ArrayRecord]:
        """Return a vertex's teacher, if it has one."""
        teacher = self._teachers.pop(vertex, None)
        if teacher is None:
            return {}
        record = wire.encode(teacher.soft_labels, self.order.wire)
        if teacher.weights is not None:
            record["weights"] = wire.as_array(teacher.weights.numpy())
        return {TEACHER: record}

    def absorb(self, replies: Iterable[tuple[int, RecordDict]]) -> dict[int, str]:
        """Check the logits that came and make teachers of them."""
        rows = exchanged_rows(self.order.seed, self._exchange, self._reference_rows, self.order.exchange_rows)
        logits = torch.zeros(self.num_nodes, len(rows), self._classes)
        present = np.zeros(self.num_nodes, dtype=bool)
        refused = {}
        for vertex, content in replies:
            try:
                record = content.get(LOGITS)  # not `array_records`, which goes through all records to copy some
                if not isinstance(record, ArrayRecord):
                    raise InputError("its reply has no logits")
                logits[vertex] = wire.decode(record, (len(rows), self._classes))
                present[vertex] = True
            except InputError as error:
                refused[vertex] = str(error)
        self._teachers = self.teach(rows, logits, present)
        return refused
