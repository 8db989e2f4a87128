"""Up and down once."""

from typing import Annotated

from annotated_types import Interval
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


def triangle(
    optimizer: Optimizer, *, total_steps: int, start: Annotated[float, Interval(gt=0, le=1)] = 0.1
) -> LRScheduler:
    """Let the rate grow from `start` to 1 in the middle of the run, and fall again."""
    return LambdaLR(optimizer, lambda step: start + (1 - start) * (1 - abs(2 * step / total_steps - 1)))
