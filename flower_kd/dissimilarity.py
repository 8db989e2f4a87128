"""Dissimilarities between a student's and a teacher's class distributions, as functions and as modules.

All take log-probabilities: `log_p` of the student, [..., classes], and `log_q` of the teacher, of the same shape or
with an additional leading axis ([teachers, ..., classes]); unreduced values then have that axis too, [teachers, ...],
except for MSED, which compares the student with all its teachers at once. Logarithms are natural. With p and q from
finite logits (`soften`), or q with exact zeros (log_q = -inf), values and gradients are finite.

CE, KL, JS, SED and TD follow "Information Dissimilarity Measures in Decentralized Knowledge Distillation" (Molo,
Vadicamo, Carlini, Gennaro, Connor; SISAP 2024), MSED its public code.

>>> import torch
>>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
>>> round(js(soften(student, 1.0), soften(teacher, 1.0)).item(), 4)
0.0895
>>> round(get("js", reduction="sum")(soften(student, 1.0), soften(teacher, 1.0)).item(), 4)
0.0895

A new one is a function of rows and its registration::

    @reducible
    def chebyshev(log_p, log_q):
        return (log_p.exp() - log_q.exp()).abs().amax(-1)

    @DISSIMILARITIES.register("chebyshev")
    class Chebyshev(Dissimilarity):
        function = staticmethod(chebyshev)

Outside this package, a function of rows alone is a part too: its settings are its keyword-only parameters.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flower_kd.errors import InputError, of_type, unknown
from flower_kd.parts.registry import Registry

_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": Tensor.mean,
    "sum": Tensor.sum,
    "none": lambda values: values,
}


class DissimilarityFunction(Protocol):
    """A function returned by `reducible`."""

    def __call__(self, log_p: Tensor, log_q: Tensor, reduction: str = "mean") -> Tensor:
        """Return the dissimilarity of student and teacher, reduced over all rows and teachers."""


def reducible(rows: Callable[[Tensor, Tensor], Tensor]) -> DissimilarityFunction:
    """Return a dissimilarity with checks and a reduction, from a function that gives one value per row.

    Parameters
    ----------
    rows : callable
        From `log_p` [..., classes] and a finite `log_q`, [..., classes] or [teachers, ..., classes], to values without
        the class axis. The result also takes `reduction`, one of "mean" (the default), "sum" and "none", and
        raises InputError for an unknown one and for shapes that do not fit.
    """

    @wraps(rows)
    def reduced(log_p: Tensor, log_q: Tensor, reduction: str = "mean") -> Tensor:
        reduce = _reduction(reduction)
        if log_p.shape not in (log_q.shape, log_q.shape[1:]):
            raise InputError(
                f"teacher of shape {list(log_q.shape)} does not fit student of shape {list(log_p.shape)} "
                "(allowed: the same shape, or an additional leading axis of teachers)"
            )
        # A zero counts as the smallest normal number: its logarithm must not become an infinite factor.
        return reduce(rows(log_p, log_q.clamp_min(math.log(torch.finfo(log_q.dtype).tiny))))

    del reduced.__wrapped__  # otherwise help() shows the signature of `rows`, without the reduction
    return reduced


class Dissimilarity(nn.Module):
    """A dissimilarity as a module, with its reduction fixed.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        Over all rows and teachers.

    Attributes
    ----------
    function : callable
        The dissimilarity as a function.
    symmetric : bool
        Whether student and teacher can be swapped.
    multiway : bool
        Whether [teachers, ..., classes] gives one value for all teachers together.
    of_distributions : bool
        Whether the teacher must be a distribution; otherwise any values from 0 to 1 are meaningful.

    Raises
    ------
    InputError
        If the reduction is unknown.
    """

    function: ClassVar[DissimilarityFunction]
    symmetric: ClassVar[bool] = False
    multiway: ClassVar[bool] = False
    of_distributions: ClassVar[bool] = True

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        _reduction(reduction)
        self.reduction = reduction

    def forward(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Return the dissimilarity; raises InputError if the shapes do not fit."""
        return self.function(log_p, log_q, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Return the reduction, for the module's printed form."""
        return f"reduction={self.reduction!r}"


class OfFunction(Dissimilarity):
    """A module of any function.

    Parameters
    ----------
    function : callable
        From `log_p` and `log_q` to one value per row, as for `reducible`; or a function that `reducible` returned.
    reduction : {"mean", "sum", "none"}
        Over all rows and teachers.
    """

    def __init__(self, function: Callable[..., Tensor], reduction: str = "mean") -> None:
        super().__init__(reduction)
        reduces = "reduction" in inspect.signature(function).parameters
        self._function = function if reduces else reducible(function)

    def forward(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Return the dissimilarity; raises InputError if the shapes do not fit."""
        return self._function(log_p, log_q, reduction=self.reduction)


# A Dissimilarity, or a function from log-probabilities to one value per row.
DISSIMILARITIES: Registry[Callable[..., Any]] = Registry(
    "dissimilarity", group="flower_kd.dissimilarities", given=("reduction",)
)


def names() -> list[str]:
    """Return the names of the dissimilarities."""
    return DISSIMILARITIES.names()


def get(name: str, reduction: str = "mean") -> Dissimilarity:
    """Return a dissimilarity as a module.

    Parameters
    ----------
    name : str
        One of `names()` or `module:attribute`, with settings in parentheses if it has any: "my.parts:Renyi(order=0.5)".
    reduction : {"mean", "sum", "none"}
        Over all rows and teachers.

    Raises
    ------
    InputError
        If the name, a setting or the reduction cannot be used.
    """
    _reduction(reduction)
    bound = DISSIMILARITIES.bind(name)
    if not isinstance(DISSIMILARITIES.get(name), type):
        return OfFunction(bound, reduction)
    found = DISSIMILARITIES.call(name, bound, reduction=reduction)
    if not isinstance(found, Dissimilarity):
        raise InputError(f"dissimilarity {name!r} is {of_type(found)}, not a flower_kd.dissimilarity.Dissimilarity")
    return found


def soften(logits: Tensor, temperature: float) -> Tensor:
    """Return log-probabilities [..., classes] of logits [..., classes] at a temperature (Hinton et al. 2015).

    Raises
    ------
    InputError
        If the temperature is not a finite number above 0.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise InputError(f"temperature = {temperature} must be above 0 and finite")
    return F.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)


@reducible
def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Kullback-Leibler divergence `sum q log(q / p)`."""
    return (log_q.exp() * (log_q - log_p)).sum(-1)


@DISSIMILARITIES.register("kl")
class KL(Dissimilarity):
    """Kullback-Leibler divergence, `kl` as a module."""

    function = staticmethod(kl)


@reducible
def ce(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Cross entropy `-sum q log p`; at p = q it is the teacher's entropy, not zero."""
    return -(log_q.exp() * log_p).sum(-1)


@DISSIMILARITIES.register("ce")
class CE(Dissimilarity):
    """Cross entropy, `ce` as a module."""

    function = staticmethod(ce)


@reducible
def js(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Jensen-Shannon divergence `H((p + q) / 2) - H(p) / 2 - H(q) / 2`, at most log 2."""
    # As the mean of two divergences from the mean: no entropies of size 1 to cancel.
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    return (log_p.exp() * (log_p - log_mean) + log_q.exp() * (log_q - log_mean)).sum(-1) / 2


@DISSIMILARITIES.register("js")
class JS(Dissimilarity):
    """Jensen-Shannon divergence, `js` as a module."""

    function = staticmethod(js)
    symmetric = True


@reducible
def sed(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Structural entropic distance `C((p + q) / 2) / sqrt(C(p) C(q)) - 1`, `C = exp(H)`; equals `expm1(JS)`."""
    return torch.expm1(js(log_p, log_q, reduction="none"))


@DISSIMILARITIES.register("sed")
class SED(Dissimilarity):
    """Structural entropic distance, `sed` as a module."""

    function = staticmethod(sed)
    symmetric = True


@reducible
def td(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Triangular discrimination `1 - sum 2 p q / (p + q)`, at most 1."""
    p, q = log_p.exp(), log_q.exp()
    # The same sum without the cancellation of 1 - ...; a class that both exclude adds nothing.
    return ((p - q).square() / (2 * (p + q)).clamp_min(torch.finfo(p.dtype).tiny)).sum(-1)


@DISSIMILARITIES.register("td")
class TD(Dissimilarity):
    """Triangular discrimination, `td` as a module."""

    function = staticmethod(td)
    symmetric = True


@reducible
def msed(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Multi-way SED of the student and all its teachers, `(C(mean) / (C_1 ... C_n)^(1/n) - 1) / (n - 1)`.

    The student and n - 1 teachers, [teachers, ..., classes], give values [...]; one teacher needs no axis of its own.
    """
    log_all = torch.cat([log_p[None], log_q if log_q.ndim > log_p.ndim else log_q[None]])
    n = len(log_all)
    log_mean = torch.logsumexp(log_all, dim=0) - math.log(n)
    # H(mean) - mean of H, as in JS.
    divergence = (log_all.exp() * (log_all - log_mean)).sum(-1).mean(0)
    return torch.expm1(divergence) / (n - 1)


@DISSIMILARITIES.register("msed")
class MSED(Dissimilarity):
    """Multi-way structural entropic distance of the student and all its teachers, `msed` as a module."""

    function = staticmethod(msed)
    multiway = True


@reducible
def jeffreys(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Jeffreys divergence, KL plus reverse KL: `sum (p - q) log(p / q)`."""
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)


@DISSIMILARITIES.register("jeffreys")
class Jeffreys(Dissimilarity):
    """Jeffreys divergence, `jeffreys` as a module."""

    function = staticmethod(jeffreys)
    symmetric = True


@reducible
def hellinger(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Hellinger distance `sqrt(1 - sum sqrt(p q))`, at most 1."""
    squared = ((log_p / 2).exp() - (log_q / 2).exp()).square().sum(-1) / 2
    # The root has no finite gradient at 0; adding a tiny number gives it one, and its root is subtracted again.
    tiny = torch.finfo(squared.dtype).tiny
    return (squared + tiny).sqrt() - math.sqrt(tiny)


@DISSIMILARITIES.register("hellinger")
class Hellinger(Dissimilarity):
    """Hellinger distance, `hellinger` as a module."""

    function = staticmethod(hellinger)
    symmetric = True


@reducible
def total_variation(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Total variation `sum |p - q| / 2`, at most 1."""
    return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2


@DISSIMILARITIES.register("total-variation")
class TotalVariation(Dissimilarity):
    """Total variation, `total_variation` as a module."""

    function = staticmethod(total_variation)
    symmetric = True


@reducible
def squared_error(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Squared error `sum (p - q)^2` (Brier score; the distillation term of Wang, Wang and Ma 2020, equation 5)."""
    return (log_p.exp() - log_q.exp()).square().sum(-1)


@DISSIMILARITIES.register("squared-error")
class SquaredError(Dissimilarity):
    """Squared error (Brier score), `squared_error` as a module."""

    function = staticmethod(squared_error)
    symmetric = True
    of_distributions = False


@reducible
def reverse_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Reverse divergence `sum p log(p / q)`; where q is zero it counts as the smallest normal number."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


@DISSIMILARITIES.register("reverse-kl")
class ReverseKL(Dissimilarity):
    """Reverse Kullback-Leibler divergence, `reverse_kl` as a module."""

    function = staticmethod(reverse_kl)


@reducible
def cosine(log_p: Tensor, log_q: Tensor) -> Tensor:
    """One minus the cosine of the angle between p and q, in [0, 1]."""
    return 1 - F.cosine_similarity(log_p.exp(), log_q.exp(), dim=-1)


@DISSIMILARITIES.register("cosine")
class Cosine(Dissimilarity):
    """One minus the cosine of the angle between p and q, `cosine` as a module."""

    function = staticmethod(cosine)
    symmetric = True


def _reduction(name: str) -> Callable[[Tensor], Tensor]:
    if name not in _REDUCTIONS:
        raise InputError(unknown("reduction", name, list(_REDUCTIONS)))
    return _REDUCTIONS[name]
