"""Properties of every dissimilarity."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from flower_kd import dissimilarity
from flower_kd.dissimilarity import Dissimilarity, soften
from flower_kd.errors import of_type
from flower_kd.testing.attempts import attempt

_ROWS, _CLASSES, _TEACHERS = 6, 5, 3


def check_dissimilarity(part: str | type[Dissimilarity]) -> None:
    """Check values, gradients, reductions and shapes of a dissimilarity on random and extreme distributions.

    Parameters
    ----------
    part : str or class
        As in a run config, or the class of the module.

    Raises
    ------
    AssertionError
        If it is not finite, is lower for a student unlike its teacher than for one like it, has a wrong gradient,
        depends on the order of the classes, or does not reduce rows and teachers as others do.
    """
    rows, mean, total = (_made(part, reduction) for reduction in ("none", "mean", "sum"))
    with attempt("several teachers"):
        _check_shapes(rows, mean, total)
    for name, p, q in _pairs():
        with attempt(name):
            values = _check_finite(rows, name, p, q)
            own = rows(q.clamp_min(math.log(torch.finfo(q.dtype).tiny)), q)
        assert (values >= own - 1e-4 * (1 + own.abs())).all(), f"{name}: a student like its teacher has a higher value"
    with attempt("classes in another order"):
        _check_order_of_classes(rows)
    with attempt("the gradient"):
        _check_gradient(mean)
    if rows.symmetric:
        p, q = _log_probabilities(0), _log_probabilities(1)
        assert torch.allclose(rows(p, q), rows(q, p), atol=1e-5), "it is not symmetric, but says so"


def _made(part: str | type[Dissimilarity], reduction: str) -> Dissimilarity:
    return dissimilarity.get(part, reduction) if isinstance(part, str) else part(reduction)


def _log_probabilities(seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    logits = torch.randn(_ROWS, _CLASSES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return soften((scale * logits).to(dtype), 1.0)


def _pairs() -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield log-probabilities of students and teachers, each with what is special about them."""
    for seed in range(10):
        for scale in (0.01, 1.0, 30.0):
            yield f"logits of size {scale}", _log_probabilities(seed, scale), _log_probabilities(seed + 100, scale)
    yield "equal distributions", _log_probabilities(0), _log_probabilities(0)
    yield "opposite logits of size 10,000", _log_probabilities(0, 1e4), _log_probabilities(0, -1e4)
    with_zeros = torch.full((_ROWS, _CLASSES), -math.inf)
    with_zeros[torch.arange(_ROWS), torch.arange(_ROWS) % _CLASSES] = 0.0
    yield "teachers with exact zeros", _log_probabilities(3), with_zeros


def _check_finite(rows: Dissimilarity, name: str, p: Tensor, q: Tensor) -> Tensor:
    logits = p.clone().requires_grad_()
    values = rows(soften(logits, 1.0), q)
    assert torch.isfinite(values).all(), f"{name}: the value is not finite"
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert torch.isfinite(gradient).all(), f"{name}: the gradient is not finite"
    return values.detach()


def _check_shapes(rows: Dissimilarity, mean: Dissimilarity, total: Dissimilarity) -> None:
    p, q = _log_probabilities(0), _log_probabilities(1)
    several = torch.stack([_log_probabilities(seed) for seed in range(1, 1 + _TEACHERS)])
    values = rows(p, q)
    assert isinstance(values, Tensor), f"it returns {of_type(values)}, not a Tensor"
    assert values.shape == (_ROWS,), f"values of shape {list(values.shape)} for {_ROWS} rows"
    apart = rows(p, several)
    if rows.multiway:
        assert apart.shape == (_ROWS,), f"it is multiway, but gives values of shape {list(apart.shape)}"
    else:
        assert apart.shape == (_TEACHERS, _ROWS), f"values of shape {list(apart.shape)} for {_TEACHERS} teachers"
        assert torch.allclose(apart[0], values, atol=1e-6), "a teacher among several counts differently"
    for name, reduced, wanted in (("mean", mean, apart.mean()), ("sum", total, apart.sum())):
        assert torch.allclose(reduced(p, several), wanted), f"reduction {name!r} is not that of all rows and teachers"


def _check_order_of_classes(rows: Dissimilarity) -> None:
    p, q = _log_probabilities(0), _log_probabilities(1)
    order = torch.randperm(_CLASSES, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(rows(p, q), rows(p[:, order], q[:, order]), atol=1e-5), "it depends on the order of classes"


def _check_gradient(mean: Dissimilarity) -> None:
    student = torch.randn(2, _CLASSES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    teacher = _log_probabilities(1, dtype=torch.float64)[:2]
    logits = student.requires_grad_()
    try:
        torch.autograd.gradcheck(lambda logits: mean(soften(logits, 1.0), teacher), logits)
    except RuntimeError as error:
        raise AssertionError(f"the gradient is wrong: {str(error).splitlines()[0]}") from None
