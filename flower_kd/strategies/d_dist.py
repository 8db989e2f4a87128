"""Distributed Distillation: nodes agree on soft decisions (Bistritz et al., NeurIPS 2020, and its reproduction)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from logging import INFO
from typing import Any

import networkx as nx
import numpy as np
import torch
from flwr.common.logger import log
from torch import Tensor

from flower_kd import topology
from flower_kd.errors import InputError
from flower_kd.pooling import Teacher, mix
from flower_kd.protocol import Hello, Order, exchanged_rows
from flower_kd.ranges import require_flag, require_number
from flower_kd.registry import Registry
from flower_kd.strategies.clipping import check_radius, clipped_mix
from flower_kd.strategies.distillation import DistillationStrategy
from flower_kd.strategies.registry import STRATEGIES
from flower_kd.strategies.resumable import State

# (mixed consensus W z, consensus z, predictions s, predictions before, eta) -> next consensus; each [nodes, rows, K]
ConsensusUpdate = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]

CONSENSUS: Registry[ConsensusUpdate] = Registry("consensus")


@CONSENSUS.register("gradient")
def gradient(mixed: Tensor, consensus: Tensor, now: Tensor, before: Tensor, eta: float) -> Tensor:
    """Step toward the node's own prediction: `W z - eta (z - s)` (report, section IV; original, equation 7)."""
    return mixed - eta * (consensus - now)


@CONSENSUS.register("tracking")
def tracking(mixed: Tensor, consensus: Tensor, now: Tensor, before: Tensor, eta: float) -> Tensor:
    """Dynamic average consensus: `W z + s(new) - s(old)`; the network's mean of z is that of s at all times."""
    return mixed + now - before


@STRATEGIES.register("d-dist")
class DDist(DistillationStrategy):
    """Minimize `L_n + rho * D(z_n, s_n)` on each node while neighbors agree on the consensus z (report, equation 5).

    Defaults are those of the run config. The published algorithm has `dissimilarity="squared-error", temperature=1.0,
    exchange_every=1, exchange_rows=50, reference_batch=0` (preset `strategies/d-dist.toml`).

    With one exchange per step, weights and consensus are updated from the same point, as published: a node's
    predictions are those of the step's own forward pass. With rarer exchanges they are computed after the steps.

    Parameters
    ----------
    graph : networkx graph
        Directed graphs must be strongly connected; the mixing matrix is doubly stochastic.
    rho : float
        Weight of the distillation term, not negative.
    consensus : {"gradient", "tracking"}
        Update rule of z.
    eta : float
        Step of the gradient consensus, in (0, 1]; lowered if z would not converge on this graph without clamping (see
        `topology.stable_step`: on a torus of 16 nodes, from 0.5 to 0.36).
    clamp : bool
        Keep the z of the gradient consensus in [0, 1] (the report found that it can leave it). That of the tracking
        consensus is not clamped, which would change its mean. What a node distills from is always clamped.
    clip : float
        Radius of self-centered clipping, in Euclidean distance of two nodes' z on one row; 0 for none. It needs the
        gradient consensus: tracking keeps the mean of all predictions, including a liar's, so clipping would only delay
        it.
    dissimilarity : str
        "squared-error" as published, or any other; z is then normalized to probabilities first.
    temperature : float
        T of the softmax in the soft decisions s_n.
    exchange_rows, reference_batch, wire, kd_reduction, seed, local_steps, exchange_every, evaluate_every
        As in NeighborKD.
    """

    def __init__(
        self,
        graph: nx.Graph,
        *,
        rho: float = 4.0,
        consensus: str = "gradient",
        eta: float = 0.5,
        clamp: bool = True,
        clip: float = 0.0,
        dissimilarity: str = "kl",
        temperature: float = 2.0,
        exchange_rows: int = 0,
        reference_batch: int = 100,
        wire: str = "float32",
        kd_reduction: str = "mean",
        seed: int = 0,
        **schedule: int,
    ) -> None:
        require_number("rho", rho, 0)
        require_number("eta", eta)
        require_flag("clamp", clamp)
        if not 0 < eta <= 1:
            raise InputError(f"eta = {eta} is outside (0, 1]")
        check_radius(clip)
        if clip and consensus == "tracking":
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
            dissimilarity=dissimilarity,
            temperature=temperature,
            kd_reduction=kd_reduction,
            kd_weight=rho,
        )
        super().__init__(graph, order, **schedule)
        # With one exchange per step on the exchanged rows, the step's own forward pass has the predictions.
        every_row = reference_batch == 0 or 0 < exchange_rows <= reference_batch
        self.order = replace(self.order, joint=self.exchange_every == 1 and every_row)
        self.update = CONSENSUS.get(consensus)
        self.eta = eta
        self.clamp = clamp
        self.mix = partial(clipped_mix, radius=clip) if clip else mix
        self.mixing = topology.Mixing(graph)

    @classmethod
    def ignored(cls, settings: Mapping[str, Any]) -> dict[str, str]:
        """Return `eta` and `clamp` for tracking, which uses neither."""
        tracks = settings.get("consensus") == "tracking"
        return dict.fromkeys(("eta", "clamp"), "consensus = 'tracking'") if tracks else {}

    def begin(self, hellos: dict[int, Hello]) -> None:
        """Allocate consensus and last predictions for every reference row, [nodes, rows, classes]."""
        super().begin(hellos)
        shape = (self.num_nodes, self._reference_rows, self._classes)
        self.consensus, self.predictions = torch.zeros(shape), torch.zeros(shape)
        self.known = np.zeros(shape[:2], dtype=bool)
        if self.update is gradient and (stable := self.mixing.stable_step(self.eta)) < self.eta:
            log(INFO, "eta = %g would not converge on this graph: using %.2g", self.eta, stable)

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
        mixed = self.mix(self.mixing.among(present), consensus)
        eta = self.mixing.stable_step(self.eta) if self.update is gradient else self.eta
        moved = self.update(mixed, consensus, now, before, eta)
        if self.clamp and self.update is not tracking:
            moved = moved.clamp_(0.0, 1.0)
        if not present.all():
            here = torch.from_numpy(present)[:, None, None]
            moved, now = torch.where(here, moved, consensus), torch.where(here, now, before)
        self.consensus[:, index] = moved
        self.predictions[:, index] = now
        self.known[:, rows] |= present[:, None]
        if self.order.joint:
            rows = exchanged_rows(self.order.seed, self._exchange + 1, self._reference_rows, self.order.exchange_rows)
            moved, present = self.consensus[:, torch.from_numpy(rows)], np.all(self.known[:, rows], axis=1)
        taught = moved if self.order.dissimilarity == "squared-error" else _probabilities(moved)
        return {int(vertex): Teacher(taught[vertex]) for vertex in np.flatnonzero(present)}


def _probabilities(values: Tensor) -> Tensor:
    positive = values.clamp(0.0, 1.0)
    total = positive.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, positive / total.clamp_min(torch.finfo(values.dtype).tiny), 1 / values.shape[-1])
