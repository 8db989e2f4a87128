"""How large the gradients of the label loss and of the distillation term are at a node's logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flower_kd.protocol import Order


class GradientNorms:
    """Mean norms over rows and steps, of each row's own loss: whatever the batch size and the factors of both terms.

    Parameters
    ----------
    order : Order
        Its reduction and `kd_weight` are divided out.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._labels: list[Tensor] = []
        self._kd: list[Tensor] = []

    def of_labels(self, logits: Tensor, labels: Tensor) -> None:
        """Note a step's label loss: softmax - label, also where its factor is 0.

        Parameters
        ----------
        logits : Tensor
            [batch, classes].
        labels : Tensor
            [batch], or probabilities [batch, classes].
        """
        probabilities = logits.detach().softmax(-1)
        wanted = labels if labels.is_floating_point() else F.one_hot(labels.long(), logits.shape[-1])
        self._labels.append((probabilities - wanted).norm(dim=-1).mean())

    def of_distillation(self, logits: Tensor) -> None:
        """Note a step's distillation term in the backward pass that follows, from the gradient at its logits."""
        logits.register_hook(self._note)

    def _note(self, gradient: Tensor) -> None:
        # Of a mean over rows, each row has its share.
        rows = len(gradient) if self._order.kd_reduction == "mean" else 1
        self._kd.append(gradient.norm(dim=-1).mean() * (rows / self._order.kd_weight))

    def metrics(self) -> dict[str, float]:
        """Return `label-gradient` and, if there was a teacher, `kd-gradient`."""
        noted = {"label-gradient": self._labels, "kd-gradient": self._kd}
        return {name: torch.stack(norms).mean().item() for name, norms in noted.items() if norms}
