"""Base of strategies that exchange logits: decoding of logits, and delivery of teachers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
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

Pipeline = Literal[0, 1]
Reduction = Literal["mean", "sum"]  # of the distillation term, over the rows of a step


@dataclass(frozen=True)
class _PendingTeacher:
    """A teacher that waits for its node."""

    exchange: int  # whose logits it is made of
    teacher: Teacher


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
    pipeline : {0, 1}
        With 1, each node is sent its next message while it works on one, so that it never waits. Teachers are one
        exchange older.

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

    def __init__(
        self, graph: nx.Graph | GraphSequence, order: Order, *, pipeline: Pipeline = 0, **schedule: Any
    ) -> None:
        super().__init__(graph, replace(order, reply="logits"), **schedule)
        self.pipeline = self._delay = pipeline
        if pipeline and self.patience:
            raise InputError(
                f"pipeline = {pipeline} sends messages before it is known whether a node stops (use patience = 0)"
            )
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
            if pipeline:
                raise InputError(
                    f"pipeline = {pipeline} sends the next message before it is known what arrived, from which a delta "
                    "is made: use wire-coding = 'entropy'"
                )
        self.noise = wire.noise.get(order.wire_noise)
        if self.noise is not None:
            privacy.accountant()  # now: without it, the run would end without its figure
        self._last_rows: list[wire.LastRows] = []
        self._pending: dict[int, list[_PendingTeacher]] = {}  # not yet sent, in the order of exchanges
        # Those sent with a message of a later exchange, by vertex, and in which.
        self._sent_ahead: dict[int, tuple[int, _PendingTeacher]] = {}
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
        exchanges = self._exchanges_in(num_rounds)
        if not 0 < exchanges <= 1 + self._delay:
            return ""
        return (
            f"the run has {'one exchange' if exchanges == 1 else f'{exchanges} exchanges'}, and what is sent in an "
            f"exchange teaches in the next{' but one, with pipeline = 1' if self._delay else ''} (use more rounds)"
        )

    def warn_if_untaught(self, num_rounds: int, reference_rows: int) -> None:
        """Log a warning if a run would teach no node; once."""
        why = "" if self._is_checked else self.why_untaught(num_rounds, reference_rows)
        self._is_checked = True
        if why:
            log(WARNING, "no node will be taught: %s", why)

    def messages_in(self, num_rounds: int) -> int:
        """Return how many messages with logits a node sends in a run at most: none that would teach nobody."""
        return max(self._exchanges_in(num_rounds) - 1 - self._delay, 0)

    def begin(self, hellos: dict[int, Hello]) -> None:
        """Store the shape of the logits."""
        self._reference_rows, self._classes = hellos[0].reference_rows, hellos[0].classes
        self.warn_if_untaught(self._num_rounds, self._reference_rows)
        self._pending, self._sent_ahead = {}, {}
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
        # Those that were sent for the next exchange too: their messages are lost with the SuperLink.
        ahead = {vertex: [made] for vertex, (sent, made) in self._sent_ahead.items() if sent >= self._exchange}
        for vertex in range(self.num_nodes):
            for made in [*ahead.get(vertex, []), *self._pending.get(vertex, [])]:
                teacher, place = made.teacher, f"{vertex}.{made.exchange}"
                found[f"teacher.{place}"] = teacher.soft_labels.numpy()
                if teacher.weights is not None:
                    found[f"teacher-weights.{place}"] = teacher.weights.numpy()
        return found

    def load_state_dict(self, state: State) -> None:
        """Restore the teachers that have not been sent yet, and the base of each node's next delta."""
        for vertex, last in enumerate(self._last_rows):
            last.restore(state["last-rows"][vertex], state["last-rows-known"][vertex])
        for name, soft_labels in state.items():
            kind, _, place = name.partition(".")
            if kind == "teacher":
                owner, _, exchange = place.partition(".")
                weights = state.get(f"teacher-weights.{place}")
                teacher = Teacher(torch.from_numpy(soft_labels), None if weights is None else torch.from_numpy(weights))
                self._pending.setdefault(int(owner), []).append(_PendingTeacher(int(exchange), teacher))
        for pending in self._pending.values():
            pending.sort(key=lambda made: made.exchange)

    @property
    def ends_run(self) -> bool:
        """Whether the run ends before what nodes reply in the current exchange could teach another."""
        return self._exchange + 1 + self._delay >= self._exchanges_in(self._num_rounds)

    def reply(self) -> Reply:
        """Request no logits at the end of the run, as no node would learn from them."""
        return "nothing" if self.ends_run else super().reply()

    def base(self, vertex: int) -> int:
        """Return the digest of the rows from which a vertex can make a delta."""
        return NO_BASE if self.ends_run or not self._last_rows else self._last_rows[vertex].digest(self._rows())

    def taught(self, vertex: int) -> int:
        """Return the exchange of a vertex's teacher, unless it is as expected or there is none."""
        due = self._due(vertex)
        return LAST if self.order.joint or due is None or due.exchange == self._exchange - 1 else due.exchange

    def _due(self, vertex: int) -> _PendingTeacher | None:
        """Return the teacher that a vertex is sent in the current exchange, the last one that it may have by now."""
        newest = self._exchange - 1 - self._delay
        found = [each for each in self._pending.get(vertex, ()) if each.exchange <= newest]
        if not found or (self.order.joint and found[-1].exchange < newest):  # it is about other rows than this exchange
            return None
        return found[-1]

    def payload(self, vertex: int) -> dict[str, ArrayRecord]:
        """Return a vertex's teacher in the wire format, if it has one; it is sent once."""
        due = self._due(vertex)
        if due is None:
            return {}
        self._pending[vertex] = [each for each in self._pending[vertex] if each.exchange > due.exchange]
        if self._delay:
            self._sent_ahead[vertex] = self._exchange, due
        labels, weights = due.teacher.soft_labels, due.teacher.weights
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
        for vertex, teacher in teachers.items():
            # Nodes that take no part in the next exchange get theirs later, the last one.
            waiting = self._pending.get(vertex, [])[-1:] if self._delay else []
            self._pending[vertex] = [*waiting, _PendingTeacher(self._exchange, teacher)]
        return refused

    def _check_exchanged(self) -> None:
        """Raise InputError if no logits could be used in the whole run, which then shows nothing of the strategy."""
        if self._exchange > self._delay and self.last_round == 0 and not self._any_usable:
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
