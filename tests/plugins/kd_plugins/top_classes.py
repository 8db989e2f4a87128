"""Only the largest logits of each row."""

from typing import Annotated

import numpy as np
from annotated_types import Ge


class TopClasses:
    """The `keep` largest logits of each row in half precision; the others are as low as the lowest of them, minus 1."""

    def __init__(self, *, keep: Annotated[int, Ge(1)] = 4) -> None:
        self.keep = keep

    def encode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Return classes and logits, [..., keep]."""
        kept = min(self.keep, values.shape[-1])
        classes = np.argsort(-values, axis=-1, kind="stable")[..., :kept]
        logits = np.take_along_axis(values, classes, -1)
        return {"classes": classes.astype(np.uint16), "logits": logits.astype(np.float16)}

    def decode(self, arrays: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """Return all logits; a class that does not exist raises IndexError."""
        logits = arrays["logits"].astype(np.float32)
        values = np.repeat(logits.min(-1, keepdims=True) - 1, shape[-1], axis=-1).clip(-65504)
        np.put_along_axis(values, arrays["classes"].astype(np.int64), logits, axis=-1)
        return values
