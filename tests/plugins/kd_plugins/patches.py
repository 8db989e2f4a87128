"""Hidden patches."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor


def patches(inputs: Tensor, *, size: Annotated[int, Ge(1)] = 2) -> Tensor:
    """Set a square of `size` pixels in each image to 0 (Cutout: DeVries and Taylor 2017)."""
    rows, columns = (torch.arange(side, device=inputs.device) for side in inputs.shape[-2:])
    top, left = (torch.randint(len(side), (len(inputs), 1), device=inputs.device) for side in (rows, columns))
    inside = ((rows - top) // size == 0)[:, :, None] & ((columns - left) // size == 0)[:, None, :]
    return inputs.masked_fill(inside[:, None], 0.0)
