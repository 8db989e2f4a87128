"""Update rules of Distributed Distillation's consensus."""

from __future__ import annotations

from collections.abc import Callable
from logging import INFO
from typing import Annotated, Any

from annotated_types import Interval
from flwr.common.logger import log
from torch import Tensor

from flower_kd.parts.registry import Registry
from flower_kd.topology import Mixing

# (mixed consensus W z, consensus z, predictions s, predictions before) -> next consensus; each [nodes, rows, classes]
ConsensusUpdate = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

# Functions with these arguments, or classes whose instances are called; `mixing` is the graph's Mixing, by keyword.
CONSENSUS: Registry[Callable[..., Any]] = Registry(
    "consensus", group="flower_kd.consensus", given=("mixed", "consensus", "now", "before", "mixing")
)


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
