"""Means in which a neighbor's weight depends on how sure it is, or on the data it was trained on."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.sparse import csr_array
from torch import Tensor

from flower_kd.pooling.registry import POOLINGS
from flower_kd.pooling.rows import by_rows, mix, normalized, one_teacher
from flower_kd.teacher import Teacher

_LEAST_CERTAINTY = 1e-4  # more than the rounding of an entropy: neighbors that know nothing weigh the same
# Of samples, added to every class of every node: it decides only where all who vote lack the class that they vote for.
_PSEUDO_COUNT = 1e-3


@POOLINGS.register("confidence")
def confidence(logits: Tensor, weights: csr_array, temperature: float) -> list[Teacher | None]:
    """Weigh each neighbor, row by row, by its largest probability, besides its own weight.

    The formula is ours; Cho et al. (Fed-ET, IJCAI 2022) weigh by the variance of a row's logits. It is the mean where
    neighbors send labels only.
    """
    return _by_certainty(logits, weights, temperature, lambda labels: labels.amax(dim=-1, keepdim=True))


@POOLINGS.register("entropy")
def entropy(logits: Tensor, weights: csr_array, temperature: float) -> list[Teacher | None]:
    """Weigh each neighbor, row by row, by `1 - H / log(classes)`, H the entropy of its soft labels.

    After Kwon, Na, Lee and Kim (ICASSP 2020), who prefer teachers of low entropy; the formula is ours. It is the mean
    where neighbors send labels only, or none of them knows anything.
    """
    largest = math.log(max(logits.shape[-1], 2))

    def certainty(labels: Tensor) -> Tensor:
        return (1 - torch.special.entr(labels).sum(dim=-1, keepdim=True) / largest).clamp_min_(_LEAST_CERTAINTY)

    return _by_certainty(logits, weights, temperature, certainty)


@POOLINGS.register("class-share")
def class_share(
    logits: Tensor, weights: csr_array, temperature: float, *, class_counts: Tensor
) -> list[Teacher | None]:
    """Weigh each neighbor, class by class, by its share of the neighbors' samples of that class.

    `q[c]` is proportional to `sum_m w_m n_m[c] p_m[c] / sum_m w_m n_m[c]` over a node's teachers m, with their soft
    labels p and numbers of samples n. Teachers of a class that none of them has weigh the same there, apart from their
    own weights. Zhang et al. (CVPR 2022, class-level ensemble) have the same shares, for samples whose class is known.

    It needs the histogram of every node's labels, which each node then tells the server once, in the handshake: choose
    another pooling if the server must not know it. The numbers are taken on trust; a liar's weigh as much as those of
    an honest node with 3 times the median of samples, at most.

    Parameters
    ----------
    class_counts : Tensor
        Number of samples, [nodes, classes].
    """
    counts = class_counts.to(logits.dtype) + _PSEUDO_COUNT
    shares = mix(weights, counts).clamp_min_(torch.finfo(counts.dtype).tiny).reciprocal_()[:, None]
    counts = counts[:, None]

    def pool(part: Tensor) -> Tensor:
        labels = torch.softmax(part / temperature, dim=-1).mul_(counts)
        return normalized(mix(weights, labels).mul_(shares))

    return one_teacher(by_rows(pool, logits), weights)


def _by_certainty(
    logits: Tensor, weights: csr_array, temperature: float, certainty: Callable[[Tensor], Tensor]
) -> list[Teacher | None]:
    """Pool soft labels that weigh as much as a function of them says, [nodes, rows, 1] for [nodes, rows, classes]."""

    def pool(part: Tensor) -> Tensor:
        labels = torch.softmax(part / temperature, dim=-1)
        return normalized(mix(weights, labels.mul_(certainty(labels))))

    return one_teacher(by_rows(pool, logits), weights)
