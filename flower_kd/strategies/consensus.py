"""Update rules of Distributed Distillation's consensus."""

from __future__ import annotations

from collections.abc import Callable
from logging import INFO
from typing import Annotated, Any

import torch
from annotated_types import Interval
from flwr.common.logger import log
from torch import Tensor

from flower_kd import failures, quiet_log
from flower_kd.errors import InputError, of_type
from flower_kd.parts.registry import Registry
from flower_kd.pooling import TRIED_ROWS, mix
from flower_kd.seeding import torch_seeded
from flower_kd.topology import Mixing

# (mixed consensus W z, consensus z, predictions s, predictions before) -> next consensus; each [nodes, rows, classes]
ConsensusUpdate = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

# Functions with these arguments, or classes whose instances are called; `mixing` is the graph's Mixing, by keyword.
CONSENSUS: Registry[Callable[..., Any]] = Registry(
    "consensus", group="flower_kd.consensus", given=("mixed", "consensus", "now", "before", "mixing")
)


def update(name: str, rule: ConsensusUpdate, mixed: Tensor, consensus: Tensor, now: Tensor, before: Tensor) -> Tensor:
    """Return the next consensus by a rule; the arguments after `rule` are its own.

    Raises
    ------
    InputError
        If the rule, known by `name`, fails or returns anything else.
    """
    with failures.named(f"consensus {name!r}"):
        moved = rule(mixed, consensus, now, before)
    if not isinstance(moved, Tensor):
        raise InputError(f"consensus {name!r} returns {of_type(moved)}, not a Tensor")
    if moved.shape != consensus.shape:
        raise InputError(
            f"consensus {name!r} returns shape {list(moved.shape)}, but must return {list(consensus.shape)}, "
            "one row per node and reference row"
        )
    if not moved.isfinite().all():
        raise InputError(f"consensus {name!r} returns NaN or Inf")
    return moved


def check(name: str, mixing: Mixing, classes: int) -> None:
    """Try an update rule on two rows of random predictions; nothing that a run computes depends on it.

    Parameters
    ----------
    name : str
        As in the run config: an instance of its own is tried, as it may have a memory.
    mixing : Mixing
        That of the run.
    classes : int
        Width of the predictions.

    Raises
    ------
    InputError
        As in `update`.
    """
    with torch_seeded(0), quiet_log.only_errors():
        now, before, consensus = torch.randn(3, mixing.matrix.shape[0], TRIED_ROWS, classes).softmax(-1)
        update(name, CONSENSUS.make(name, {"mixing": mixing}), mix(mixing.matrix, consensus), consensus, now, before)


@CONSENSUS.register("gradient")
class Gradient:
    """Step toward the node's own prediction: `W z - eta (z - s)` (Bistritz, Mann and Bambos 2020, equation 7).

    Also in Wang, Wang and Ma 2020, section IV.

    Parameters
    ----------
    mixing : Mixing
        Of the communication graph.
    eta : float
        Step, in (0, 1]; lowered if z would not converge on this graph without clamping (see `topology.stable_step`: on
        a torus of 16 nodes, from 0.5 to 0.36).
    clamp : bool
        Keep z in [0, 1], which it can leave otherwise (Wang, Wang and Ma 2020).
    """

    def __init__(
        self, mixing: Mixing, *, eta: Annotated[float, Interval(gt=0, le=1)] = 0.5, clamp: bool = True
    ) -> None:
        self.mixing = mixing
        self.eta = eta
        self.clamp = clamp
        self._told = False

    def __call__(self, mixed: Tensor, consensus: Tensor, now: Tensor, before: Tensor) -> Tensor:
        """Return the next consensus."""
        eta = self.mixing.stable_step(self.eta)
        if eta < self.eta and not self._told:
            log(INFO, "eta = %g would not converge on this graph: using %.2g", self.eta, eta)
            self._told = True
        moved = mixed - eta * (consensus - now)
        return moved.clamp_(0.0, 1.0) if self.clamp else moved


@CONSENSUS.register("tracking")
def tracking(mixed: Tensor, consensus: Tensor, now: Tensor, before: Tensor) -> Tensor:
    """Dynamic average consensus: `W z + s(new) - s(old)`; the network's mean of z is that of s at all times."""
    return mixed + now - before
