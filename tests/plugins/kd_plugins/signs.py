"""One bit per weight."""

from math import prod

import numpy as np


class Signs:
    """The sign of each value, and the mean absolute value of each array (Karimireddy et al. 2019)."""

    consensus_step = 0.3

    def compress(self, update: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return all signs as bits, and the means [arrays]."""
        positive = [change.reshape(-1) >= 0 for change in update.values()]
        means = [np.abs(change).mean() if change.size else 0.0 for change in update.values()]
        return {"signs": np.packbits(np.concatenate(positive or [[]])), "means": np.array(means, np.float32)}

    def decompress(self, arrays: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        """Return each array's mean with the signs; too few of either raise ValueError."""
        ends = np.cumsum([prod(shape) for shape in shapes.values()])
        signs = np.unpackbits(arrays["signs"], count=ends[-1]) * np.float32(2) - 1
        parts = np.split(signs, ends[:-1])
        return {
            name: mean * part.reshape(shape)
            for (name, shape), mean, part in zip(shapes.items(), arrays["means"], parts, strict=True)
        }
