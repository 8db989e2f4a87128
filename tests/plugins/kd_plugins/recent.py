"""A consensus that remembers less."""

from typing import Annotated

from annotated_types import Interval
from torch import Tensor


def recent(
    mixed: Tensor,
    consensus: Tensor,
    now: Tensor,
    before: Tensor,
    *,
    share: Annotated[float, Interval(gt=0, le=1)] = 0.5,
) -> Tensor:
    """Mix the neighbors' consensus with the node's own latest prediction."""
    return (1 - share) * mixed + share * now
