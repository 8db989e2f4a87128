"""Distributed Distillation: nodes agree on soft decisions (Bistritz, Mann and Bambos, NeurIPS 2020)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from flower_kd import dissimilarity as dissimilarities
from flower_kd import topology
from flower_kd.errors import InputError
from flower_kd.pooling import Teacher, mix
from flower_kd.protocol import Hello, Order, exchanged_rows
from flower_kd.ranges import NonNegative, Positive, Whole
from flower_kd.strategies import consensus as rules
from flower_kd.strategies.clipping import clipped_mix
from flower_kd.strategies.consensus import CONSENSUS, ConsensusUpdate, tracking
from flower_kd.strategies.distillation import DistillationStrategy, Reduction
from flower_kd.strategies.registry import STRATEGIES
from flower_kd.strategies.resumable import State
from flower_kd.topology import GraphSequence
from flower_kd.wire import Coding


@STRATEGIES.register("d-dist")
class DDist(DistillationStrategy):
    """Minimize `L_n + rho * D(z_n, s_n)` on each node while neighbors agree on the consensus z.

    Distributed Distillation of Bistritz, Mann and Bambos (NeurIPS 2020), with the loss of its reproduction: Wang, Wang
    and Ma 2020, equation 5. Defaults are those of the run config. The published algorithm has
    `dissimilarity="squared-error", temperature=1.0, exchange_every=1, exchange_rows=50, reference_batch=0` (preset
    `d-dist`).

    With one exchange per step, weights and consensus are updated from the same point, as published: a node's
    predictions are those of the step's own forward pass. With rarer exchanges they are computed after the steps.

    Parameters
    ----------
    graph : networkx graph or GraphSequence
        Directed graphs must be strongly connected; the mixing matrix is doubly stochastic.
    rho : float
        Weight of the distillation term, not negative.
    consensus : str
        Update rule of z: "gradient", "tracking", or `module:attribute`, with settings in parentheses:
        "gradient(eta=0.3)" (see `flower_kd.strategies.consensus`). What a node distills from is clamped to [0, 1].
    clip : float
        Radius of self-centered clipping, in Euclidean distance of two nodes' z on one row; 0 for none. It needs the
        gradient consensus: tracking keeps the mean of all predictions, including a liar's, so clipping would only delay
        it.
    dissimilarity : str
        "squared-error" as published, or any other; z is then normalized to probabilities first.
    temperature : float
        T of the softmax in the soft decisions s_n.
    exchange_rows : int
        Reference rows per exchange; 0 for all.
    reference_batch : int
        Reference rows per SGD step; 0 for all rows of the teacher.
    wire : str
        Any of `flower_kd.wire.names()`, or `module:attribute`, with settings in parentheses if it has any.
    wire_coding : {"plain", "entropy", "delta"}
        How arrays in this format become bytes; see `flower_kd.wire.get`.
    wire_noise : str
        "none", or "gaussian(clip=..., multiplier=...)": what nodes add to their logits (`flower_kd.wire.noise`).
    kd_reduction : {"mean", "sum"}
        Of the distillation term over the rows of a step.
    logit_adjustment : float
        How far the logits that a node sends are corrected for the classes that it was trained on; 1 as if it had seen
        all equally often (Menon et al., ICLR 2021).
    record_gradients : bool
        Whether nodes report how large the gradients of both terms are at their logits.
    seed : int
        The run's seed.
    local_steps : int
        SGD steps per round; 25 if omitted.
    exchange_every : int
        SGD steps per exchange; must divide `local_steps`. 0, or omitted: once per round.
    evaluate_every : int
        Rounds between two evaluations; the last round is always evaluated. 1 if omitted.
    patience : int
        Evaluations without a lower validation loss after which a node stops. 0, or omitted: no node stops.
    participation, message_loss : float
        As in GraphStrategy. With tracking, a lost message also costs that in the other direction, or the mean of z
        would no longer be that of all predictions.
    """

    def __init__(
        self,
        graph: nx.Graph | GraphSequence,
        *,
        rho: NonNegative = 4.0,
        consensus: str = "gradient",
        clip: NonNegative = 0.0,
        dissimilarity: str = "kl",
        temperature: Positive = 2.0,
        exchange_rows: Whole = 0,
        reference_batch: Whole = 100,
        wire: str = "float32",
        wire_coding: Coding = "plain",
        wire_noise: str = "none",
        kd_reduction: Reduction = "mean",
        logit_adjustment: NonNegative = 0.0,
        record_gradients: bool = False,
        seed: Whole = 0,
        **schedule: Any,
    ) -> None:
        if clip and CONSENSUS.get(consensus) is tracking:
            raise InputError(
                f"clip = {clip} protects no node under consensus = 'tracking': use 'gradient', or clip = 0"
            )
        order = Order(
            server_round=0,
            num_steps=0,
            seed=seed,
            exchange_rows=exchange_rows,
            reference_batch=reference_batch,
            wire=wire,
            wire_coding=wire_coding,
            wire_noise=wire_noise,
            dissimilarity=dissimilarity,
            temperature=temperature,
            kd_reduction=kd_reduction,
            logit_adjustment=logit_adjustment,
            record_gradients=record_gradients,
            kd_weight=rho,
        )
        super().__init__(graph, order, **schedule)
        # With one exchange per step on the exchanged rows, the step's own forward pass has the predictions.
        every_row = reference_batch == 0 or 0 < exchange_rows <= reference_batch
        self.order = replace(self.order, joint=self.exchange_every == 1 and every_row)
        self.mix = partial(clipped_mix, radius=clip) if clip else mix
        self.mixing = topology.Mixing(self.graphs)
        if CONSENSUS.get(consensus) is tracking:
            self.contacts = self.contacts.used_both_ways()
        self.rule = consensus
        self.update: ConsensusUpdate = CONSENSUS.make(consensus, {"mixing": self.mixing})
        self._of_distributions = dissimilarities.get(dissimilarity).of_distributions

    def why_untaught(self, num_rounds: int, reference_rows: int) -> str:
        """Return why a run would teach no node; with one exchange per step, rows teach when exchanged once more."""
        if not self.order.joint:
            return super().why_untaught(num_rounds, reference_rows)
        exchanges, known = self._exchanges_in(num_rounds), np.zeros(reference_rows, dtype=bool)
        if not exchanges:
            return ""
        for exchange in range(exchanges):
            rows = exchanged_rows(self.order.seed, exchange, reference_rows, self.order.exchange_rows)
            if known[rows].all():
                return ""
            if exchange >= self._delay:  # those of which teachers are made by the next exchange
                made = exchange - self._delay
                known[exchanged_rows(self.order.seed, made, reference_rows, self.order.exchange_rows)] = True
        return (
            "with one exchange per step, reference rows teach from their second exchange on, but none of the run's "
            f"{exchanges:,} exchanges has only rows of earlier ones, as {reference_rows:,} rows are exchanged "
            f"{self.order.exchange_rows or reference_rows:,} at a time (use a smaller reference set, or more steps)"
        )

    def try_parts(self, hellos: dict[int, Hello]) -> None:
        """Try the consensus."""
        rules.check(self.rule, self.mixing, hellos[0].classes)

    def begin(self, hellos: dict[int, Hello]) -> None:
        """Allocate consensus and last predictions for every reference row, [nodes, rows, classes]."""
        super().begin(hellos)
        shape = (self.num_nodes, self._reference_rows, self._classes)
        self.consensus, self.predictions = torch.zeros(shape), torch.zeros(shape)
        self.known = np.zeros(shape[:2], dtype=bool)

    def state_dict(self) -> State:
        """Return also the consensus and the last predictions."""
        arrays = {"consensus": self.consensus.numpy(), "predictions": self.predictions.numpy(), "known": self.known}
        return super().state_dict() | arrays

    def load_state_dict(self, state: State) -> None:
        """Restore also the consensus and the last predictions."""
        super().load_state_dict(state)
        self.consensus, self.predictions = (torch.from_numpy(state[name]) for name in ("consensus", "predictions"))
        self.known = state["known"]

    def teach(self, rows: np.ndarray, logits: Tensor, present: np.ndarray) -> dict[int, Teacher]:
        """Update the consensus on the exchanged rows; return it, or, if joint, that on the next exchange's rows."""
        index = torch.from_numpy(rows)
        now = torch.softmax(logits / self.order.temperature, dim=-1)
        consensus, before = self.consensus[:, index], self.predictions[:, index]
        first = present[:, None] & ~self.known[:, rows]
        if first.any():
            # A node enters the consensus on a row with its own prediction, which keeps the mean of tracking.
            enters = torch.from_numpy(first)[..., None]
            consensus, before = torch.where(enters, now, consensus), torch.where(enters, now, before)
        weights = self.mixing.among(present, self._exchange, self.contacts.received(self._exchange))
        mixed = self.mix(weights, consensus)
        moved = rules.update(self.rule, self.update, mixed, consensus, now, before)
        if not present.all():
            here = torch.from_numpy(present)[:, None, None]
            moved, now = torch.where(here, moved, consensus), torch.where(here, now, before)
        self.consensus[:, index] = moved
        self.predictions[:, index] = now
        self.known[:, rows] |= present[:, None]
        if self.order.joint:
            sent = self._exchange + 1 + self._delay
            rows = exchanged_rows(self.order.seed, sent, self._reference_rows, self.order.exchange_rows)
            moved, present = self.consensus[:, torch.from_numpy(rows)], np.all(self.known[:, rows], axis=1)
        taught = _probabilities(moved) if self._of_distributions else moved
        return {int(vertex): Teacher(taught[vertex]) for vertex in np.flatnonzero(present)}


def _probabilities(values: Tensor) -> Tensor:
    positive = values.clamp(0.0, 1.0)
    total = positive.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, positive / total.clamp_min(torch.finfo(values.dtype).tiny), 1 / values.shape[-1])
