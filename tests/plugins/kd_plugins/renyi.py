"""Renyi divergence."""

from typing import Annotated

from annotated_types import Gt
from torch import Tensor

from flower_kd.dissimilarity import Dissimilarity, reducible


class Renyi(Dissimilarity):
    """Renyi divergence of an order other than 1 from the teacher to the student (Renyi 1961)."""

    def __init__(self, reduction: str = "mean", *, order: Annotated[float, Gt(0)] = 0.5) -> None:
        super().__init__(reduction)

        @reducible
        def renyi(log_p: Tensor, log_q: Tensor) -> Tensor:
            return (order * log_q + (1 - order) * log_p).logsumexp(-1) / (order - 1)

        self.function = renyi
