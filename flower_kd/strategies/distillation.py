"""Base of strategies that exchange logits: decoding of logits, and delivery of teachers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from logging import INFO, WARNING
from typing import Any, Literal

import networkx as nx
import numpy as np
import torch
from flwr.app import ArrayRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from torch import Tensor

from flower_kd import dissimilarity, privacy, wire
from flower_kd.errors import InputError, of_type
from flower_kd.pooling import Teacher
from flower_kd.protocol import (
    LAST,
    LOGITS,
    NO_BASE,
    SEEDED_NOISE,
    TEACHER,
    TEACHER_WEIGHTS,
    Greeting,
    Hello,
    Order,
    Reply,
    exchanged_rows,
)
from flower_kd.ranges import require_number, require_whole
from flower_kd.strategies.base import GraphStrategy
from flower_kd.strategies.network import Network
from flower_kd.strategies.node_records import most_frequent
from flower_kd.strategies.resumable import State
from flower_kd.teacher import problem
from flower_kd.topology import GraphSequence

Reduction = Literal["mean", "sum"]  # of the distillation term, over the rows of a step


class DistillationStrategy(GraphStrategy):
    """Base of strategies that turn the logits of neighbors into teachers.

    A subclass defines `teach`; sending, receiving and decoding are done here.

    Parameters
    ----------
    graph : networkx graph or GraphSequence
        Vertices 0, 1, ...; see `flower_kd.topology.build`.
    order : Order
        What each node should do. Its temperature, dissimilarity, reduction, wire format and numbers of rows are
        checked; `reply` is set to "logits".
    local_steps : int
        SGD steps per round; 25 if omitted.
    exchange_every : int
        SGD steps per exchange; must divide `local_steps`. 0, or omitted: once per round.
    evaluate_every : int
        Rounds between two evaluations; the last round is always evaluated. 1 if omitted.
    patience : int
        Evaluations without a lower validation loss after which a node stops. 0, or omitted: no node stops.
    participation, message_loss : float
        As in GraphStrategy.

    Attributes
    ----------
    order : Order
        The order of all nodes, with its temperature, seed and numbers of rows.
    graph : networkx graph
        Who receives from whom in the current exchange.
    num_nodes : int
        Its number of vertices.

    Raises
    ------
    InputError
        If an argument is unknown, of another type, or out of range.
    """

    same_reference = True

    @classmethod
    def needs_reference(cls, settings: Mapping[str, Any]) -> bool:
        """Return whether nodes need a reference set, beside such settings of the strategy."""
        return True

    def __init__(self, graph: nx.Graph | GraphSequence, order: Order, **schedule: Any) -> None:
        super().__init__(graph, replace(order, reply="logits"), **schedule)
        require_number("temperature", order.temperature, above=0)
        require_number("logit_adjustment", order.logit_adjustment, 0)
        require_whole("exchange_rows", order.exchange_rows, 0)
        require_whole("reference_batch", order.reference_batch, 0)
        if order.kd_reduction not in ("mean", "sum"):
            raise InputError(f"unknown kd-reduction {order.kd_reduction!r} (allowed: mean, sum)")
        dissimilarity.get(order.dissimilarity)
        self.wire = wire.get(order.wire, order.wire_coding)
        if self.wire.coding == "delta":
            self.require_every_message("wire-coding = 'delta'", "'entropy'")
        self.noise = wire.noise.get(order.wire_noise)
        if self.noise is not None:
            privacy.accountant()  # now: without it, the run would end without its figure
        self._last_rows: list[wire.LastRows] = []
        self._teachers: dict[int, Teacher] = {}
        self._taught: dict[int, int] = {}  # the exchanges in which they were made
        self._reference_rows = 0
        self._classes = 0
        self._any_usable = False  # whether logits of any node arrived in this run
        self._is_checked = False  # whether a run teaches anything

    def network(self, grid: Grid) -> Network:
        """Return the grid as a Network that asks each node whether it has the dissimilarity and the wire format."""
        network = super().network(grid)
        order = self.order
        network.greeting = Greeting(
            dissimilarity=order.dissimilarity,
            wire=order.wire,
            wire_coding=order.wire_coding,
            wire_noise=order.wire_noise,
            logit_adjustment=order.logit_adjustment,
        )
        return network

    def teach(self, rows: np.ndarray, logits: Tensor, present: np.ndarray) -> dict[int, Teacher]:
        """Return the teachers that are sent with the next exchange; to be overridden.

        Called once per exchange, after all replies; not after the run's last one, for which nodes send no logits.

        Parameters
        ----------
        rows : ndarray of int
            [rows], which rows of the reference set the logits are about.
        logits : Tensor
            [nodes, rows, classes], in the order of vertices; zeros for absent nodes, which must be ignored.
        present : ndarray of bool
            [nodes], whose logits arrived and are valid.

        Returns
        -------
        dict
            A Teacher by vertex, about the same rows; a vertex without one trains on its labels only.
        """
        raise NotImplementedError

    def why_untaught(self, num_rounds: int, reference_rows: int) -> str:
        """Return why a run would teach no node, even if no message is lost; empty if it would."""
        if self._exchanges_in(num_rounds) != 1:
            return ""
        return "the run has one exchange, and what is sent in an exchange teaches in the next (use more rounds)"

    def warn_if_untaught(self, num_rounds: int, reference_rows: int) -> None:
        """Log a warning if a run would teach no node; once."""
        why = "" if self._is_checked else self.why_untaught(num_rounds, reference_rows)
        self._is_checked = True
        if why:
            log(WARNING, "no node will be taught: %s", why)

    def messages_in(self, num_rounds: int) -> int:
        """Return how many messages with logits a node sends in a run at most: none in its last exchange."""
        return self._exchanges_in(num_rounds) - 1

    def _exchanges_in(self, num_rounds: int) -> int:
        return num_rounds * (self.local_steps // self.exchange_every)

    def begin(self, hellos: dict[int, Hello]) -> None:
        """Store the shape of the logits."""
        self._reference_rows, self._classes = hellos[0].reference_rows, hellos[0].classes
        self.warn_if_untaught(self._num_rounds, self._reference_rows)
        self._teachers, self._taught = {}, {}
        self._any_usable = False
        if self._reference_rows == 0:
            raise InputError("the nodes have no reference set: distillation needs reference-size above 0")
        self.wire.check(self._classes)
        self._log_privacy(hellos)
        if self.wire.coding == "delta":
            shape = (self._reference_rows, self._classes)
            self._last_rows = [wire.LastRows(self.wire, *shape) for _ in range(self.num_nodes)]

    def _log_privacy(self, hellos: dict[int, Hello]) -> None:
        """Log the privacy loss of the run that begins, and whose noise protects nothing."""
        messages = self.messages_in(self._num_rounds)
        if self.noise is None or messages < 1:
            return
        loss = privacy.epsilon(self.noise.multiplier, messages)
        words = "wire-noise: for all data of a node, epsilon = %.4g at delta = %g, with at most %d messages of logits"
        log(INFO, words, loss, privacy.DELTA, messages)
        if seeded := sum(hello.noised_messages == SEEDED_NOISE for hello in hellos.values()):
            words = "wire-noise: on %d of %d nodes it follows from the run's seed, and protects nothing"
            log(WARNING, f"{words} (with a state-dir, a device draws its own)", seeded, len(hellos))

    def state_dict(self) -> State:
        """Return the teachers that have not been sent yet, and the base of each node's next delta."""
        found: State = {}
        if self._last_rows:
            found["last-rows"] = np.stack([last.words for last in self._last_rows])
            found["last-rows-known"] = np.stack([last.known for last in self._last_rows])
        for vertex, teacher in self._teachers.items():
            found[f"teacher.{vertex}"] = teacher.soft_labels.numpy()
            found[f"taught.{vertex}"] = np.array(self._taught[vertex])
            if teacher.weights is not None:
                found[f"teacher-weights.{vertex}"] = teacher.weights.numpy()
        return found

    def load_state_dict(self, state: State) -> None:
        """Restore the teachers that have not been sent yet, and the base of each node's next delta."""
        for vertex, last in enumerate(self._last_rows):
            last.restore(state["last-rows"][vertex], state["last-rows-known"][vertex])
        for name, soft_labels in state.items():
            kind, _, number = name.partition(".")
            if kind == "teacher":
                weights = state.get(f"teacher-weights.{number}")
                self._teachers[int(number)] = Teacher(
                    torch.from_numpy(soft_labels), None if weights is None else torch.from_numpy(weights)
                )
                self._taught[int(number)] = int(state[f"taught.{number}"])

    def reply(self) -> Reply:
        """Request no logits in the run's last exchange, as no node would learn from them."""
        return "nothing" if self.ends_run else super().reply()

    def base(self, vertex: int) -> int:
        """Return the digest of the rows from which a vertex can make a delta."""
        return NO_BASE if self.ends_run or not self._last_rows else self._last_rows[vertex].digest(self._rows())

    def taught(self, vertex: int) -> int:
        """Return the exchange of a vertex's teacher, unless it is as expected or there is none."""
        exchange = self._taught.get(vertex, LAST)
        return LAST if self.order.joint or vertex not in self._teachers or exchange == self._exchange - 1 else exchange

    def payload(self, vertex: int) -> dict[str, ArrayRecord]:
        """Return a vertex's teacher in the wire format, if it has one; it is sent once."""
        teacher = self._teachers.pop(vertex, None)
        if teacher is None:
            return {}
        labels, weights = teacher.soft_labels, teacher.weights
        records = {TEACHER: self.wire.encode_teacher(labels)}
        if labels.ndim == 3:
            records[TEACHER_WEIGHTS] = wire.encode(torch.ones(len(labels)) if weights is None else weights)
        return records

    def absorb(self, replies: Iterable[tuple[int, RecordDict]]) -> dict[int, str]:
        """Decode and check the received logits, call `teach` with them, and return whose could not be used, and why."""
        if self.ends_run:
            self._check_exchanged()
            return {}
        rows = self._rows()
        logits = torch.zeros(self.num_nodes, len(rows), self._classes)
        present = np.zeros(self.num_nodes, dtype=bool)
        refused = {}
        for vertex, content in replies:
            try:
                record = content.get(LOGITS)  # not `array_records`, which copies
                if not isinstance(record, ArrayRecord):
                    raise InputError("its reply has no logits")
                logits[vertex] = self._decoded(vertex, record, rows)
                present[vertex] = True
            except InputError as error:
                refused[vertex] = str(error)
        self._any_usable |= bool(present.any())
        with self._named("teach"):
            teachers = self.teach(rows, logits, present)
        self._check_teachers(teachers, len(rows))
        if self.order.joint:  # the rows of an earlier exchange are of no use
            self._teachers = {}
        # Nodes that take no part in the next exchange get theirs later.
        self._teachers |= teachers
        self._taught |= dict.fromkeys(teachers, self._exchange)
        return refused

    def _check_exchanged(self) -> None:
        """Raise InputError if no logits could be used in the whole run, which then shows nothing of the strategy."""
        if self._exchange > 0 and self.last_round == 0 and not self._any_usable:
            why = most_frequent(part.reasons for part in self._joined(None).participation.values())
            raise InputError(f"nothing was exchanged: no node's logits could be used ({why})")

    def _rows(self) -> np.ndarray:
        """Return the reference rows of the current exchange."""
        return exchanged_rows(self.order.seed, self._exchange, self._reference_rows, self.order.exchange_rows)

    def _decoded(self, vertex: int, record: ArrayRecord, rows: np.ndarray) -> Tensor:
        if self._last_rows:
            return self._last_rows[vertex].decode(record, rows)
        return self.wire.decode(record, (len(rows), self._classes))

    def _check_teachers(self, teachers: dict[int, Teacher], rows: int) -> None:
        if not isinstance(teachers, dict):
            raise InputError(f"{self._method('teach')} returns {of_type(teachers)}, not a dict of teachers by vertex")
        for vertex, teacher in teachers.items():
            if vertex not in self.graphs.at(0):
                allowed = f"0 to {self.num_nodes - 1}"
                raise InputError(
                    f"{self._method('teach')} returns a teacher for vertex {vertex!r} (allowed: {allowed})"
                )
            wrong = problem(teacher, rows, self._classes)
            if wrong:
                raise InputError(f"{self._method('teach')}: the teacher of node {vertex} {wrong}")
