"""Dissimilarities between a student's and a teacher's class distributions, as functions and as modules.

All take log-probabilities: `log_p` of the student, [..., classes], and `log_q` of the teacher, of the same shape or
with one axis more in front ([teachers, ..., classes]); the values then have that axis too. Logarithms are natural.
Values and gradients are finite for all finite logits and for teachers with exact zeros (log_q = -inf).

CE, KL, JS, SED and TD are those of the slides on information dissimilarity, MSED is that of their public code.

>>> import torch
>>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
>>> round(js(soften(student, 1.0), soften(teacher, 1.0)).item(), 4)
0.0895
>>> round(get("js", reduction="sum")(soften(student, 1.0), soften(teacher, 1.0)).item(), 4)
0.0895
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flower_kd.errors import InputError
from flower_kd.registry import Registry, unknown

_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"mean": Tensor.mean, "sum": Tensor.sum, "none": Tensor.clone}


@dataclass(frozen=True)
class Measure:
    """A dissimilarity as a function of log-probabilities.

    Parameters
    ----------
    name : str
        Its name in the registry.
    rows : callable
        From `log_p` and `log_q`, both finite, to one value a row, [...].
    symmetric : bool
        Whether student and teacher may change places.
    multiway : bool
        Whether [teachers, ..., classes] gives one value for all teachers together.
    """

    name: str
    rows: Callable[[Tensor, Tensor], Tensor]
    symmetric: bool = False
    multiway: bool = False

    def __call__(self, log_p: Tensor, log_q: Tensor, reduction: str = "mean") -> Tensor:
        """Return the dissimilarity of student and teacher.

        Parameters
        ----------
        log_p, log_q : Tensor
            Log-probabilities, [..., classes] and [..., classes] or [teachers, ..., classes].
        reduction : {"mean", "sum", "none"}
            Over all rows (and teachers).

        Raises
        ------
        InputError
            If the reduction is unknown.
        """
        reduce = _reduction(reduction)
        # Below the smallest normal number a probability is zero: its logarithm must not become an infinite factor.
        return reduce(self.rows(log_p, log_q.clamp_min(math.log(torch.finfo(log_q.dtype).tiny))))


class Dissimilarity(nn.Module):
    """A dissimilarity as a module, with the reduction fixed.

    Parameters
    ----------
    measure : Measure
        The function.
    reduction : {"mean", "sum", "none"}
        Over all rows.
    """

    def __init__(self, measure: Measure, reduction: str = "mean") -> None:
        super().__init__()
        _reduction(reduction)
        self.measure = measure
        self.reduction = reduction

    def forward(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Return the reduced dissimilarity; shapes as in `Measure`."""
        return self.measure(log_p, log_q, self.reduction)

    def extra_repr(self) -> str:
        """Return what tells two modules apart."""
        return f"{self.measure.name!r}, reduction={self.reduction!r}"


MEASURES: Registry[Measure] = Registry("dissimilarity")


def names() -> list[str]:
    """Return the names of the dissimilarities."""
    return MEASURES.names()


def get(name: str, reduction: str = "mean") -> Dissimilarity:
    """Return a dissimilarity as a module; raises InputError for an unknown name or reduction."""
    return Dissimilarity(MEASURES.get(name), reduction)


def soften(logits: Tensor, temperature: float) -> Tensor:
    """Return log-probabilities [..., classes] of logits at a temperature; raises InputError unless it is above 0."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise InputError(f"temperature = {temperature} must be above 0")
    return F.log_softmax(logits / temperature, dim=-1)


def measure(name: str, *, symmetric: bool = False, multiway: bool = False) -> Callable[..., Measure]:
    """Return a decorator that registers a function of rows as a dissimilarity."""

    def register(rows: Callable[[Tensor, Tensor], Tensor]) -> Measure:
        return MEASURES.register(name)(Measure(name, rows, symmetric, multiway))

    return register


@measure("kl")
def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Kullback-Leibler divergence `sum q log(q / p)`."""
    return (log_q.exp() * (log_q - log_p)).sum(-1)


@measure("ce")
def ce(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Cross entropy `-sum q log p`; at p = q it is the teacher's entropy, not zero."""
    return -(log_q.exp() * log_p).sum(-1)


@measure("js", symmetric=True)
def js(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Jensen-Shannon divergence `H((p + q) / 2) - H(p) / 2 - H(q) / 2`, at most log 2."""
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    return (log_p.exp() * (log_p - log_mean) + log_q.exp() * (log_q - log_mean)).sum(-1) / 2


@measure("sed", symmetric=True)
def sed(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Structural entropic distance `C((p + q) / 2) / sqrt(C(p) C(q)) - 1`, `C = exp(H)`; equals `expm1(JS)`."""
    return torch.expm1(js.rows(log_p, log_q))


@measure("td", symmetric=True)
def td(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Triangular discrimination `1 - sum 2 p q / (p + q)`, at most 1."""
    p, q = log_p.exp(), log_q.exp()
    # The same sum without the cancellation of 1 - ...; a class that both exclude adds nothing.
    return ((p - q).square() / (2 * (p + q)).clamp_min(torch.finfo(p.dtype).tiny)).sum(-1)


@measure("msed", multiway=True)
def msed(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Multi-way SED of the student and all its teachers, `(C(mean) / (C_1 ... C_n)^(1/n) - 1) / (n - 1)`."""
    log_all = torch.cat([log_p[None], log_q if log_q.ndim > log_p.ndim else log_q[None]])
    n = len(log_all)
    log_mean = torch.logsumexp(log_all, dim=0) - math.log(n)
    # H(mean) - mean of H, as a mean of divergences from the mean: nothing large cancels.
    divergence = (log_all.exp() * (log_all - log_mean)).sum(-1).mean(0)
    return torch.expm1(divergence) / (n - 1)


@measure("jeffreys", symmetric=True)
def jeffreys(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Jeffreys divergence `KL(q : p) + KL(p : q)`."""
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)


@measure("hellinger", symmetric=True)
def hellinger(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Hellinger distance `sqrt(1 - sum sqrt(p q))`, at most 1."""
    squared = ((log_p / 2).exp() - (log_q / 2).exp()).square().sum(-1) / 2
    # The root has no gradient at 0; a number that vanishes beside any other gives it one, and is taken off again.
    tiny = torch.finfo(squared.dtype).tiny
    return (squared + tiny).sqrt() - math.sqrt(tiny)


@measure("total-variation", symmetric=True)
def total_variation(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Total variation `sum |p - q| / 2`, at most 1."""
    return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2


@measure("squared-error", symmetric=True)
def squared_error(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Squared error `sum (p - q)^2` (Brier score; the distillation term of the report's equation 5)."""
    return (log_p.exp() - log_q.exp()).square().sum(-1)


@measure("reverse-kl")
def reverse_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Reverse divergence `sum p log(p / q)`; where q is zero it counts as the smallest normal number."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


@measure("cosine", symmetric=True)
def cosine(log_p: Tensor, log_q: Tensor) -> Tensor:
    """One minus the cosine of the angle between p and q, in [0, 1]."""
    return 1 - F.cosine_similarity(log_p.exp(), log_q.exp(), dim=-1)


def _reduction(name: str) -> Callable[[Tensor], Tensor]:
    if name not in _REDUCTIONS:
        raise InputError(unknown("reduction", name, list(_REDUCTIONS)))
    return _REDUCTIONS[name]
