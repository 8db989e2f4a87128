"""Self-centered clipping: a bound on what each neighbor can move a node by (He, Karimireddy and Jaggi 2022).

ClippedGossip replaces `sum_m w_nm z_m` by `z_n + sum_m w_nm clip(z_m - z_n, radius)`: a difference longer than the
radius is shortened to it. A lying neighbor moves a node by at most `w_nm * radius` per exchange, whatever it
sends, and neighbors that agree are mixed as usual. With one radius for all nodes, the changes at the two ends of an
edge are equal and opposite, so that symmetric weights still preserve the network's mean.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array
from torch import Tensor

_PART = 2**20  # values mixed at a time


def clipped_mix(weights: csr_array, values: Tensor, radius: float) -> Tensor:
    """Mix values over nodes, each row's difference to a neighbor shortened to `radius`.

    Parameters
    ----------
    weights : csr_array
        Mixing matrix, [nodes, nodes]; rows sum to 1.
    values : Tensor
        [nodes, rows, width].
    radius : float
        Above 0; the Euclidean norm over `width` to which a difference is shortened.

    Returns
    -------
    Tensor
        [nodes, rows, width].
    """
    receivers, senders, shares = _edges(weights)
    mixed = values.clone()
    for part in np.array_split(np.arange(len(shares)), max(1, -(-len(shares) * values[0].numel() // _PART))):
        here, there = torch.from_numpy(receivers[part]), torch.from_numpy(senders[part])
        difference = values[there] - values[here]
        length = difference.norm(dim=-1, keepdim=True)
        kept = (radius / length).clamp_max(1.0)  # infinite where there is no difference
        share = torch.from_numpy(shares[part].astype(np.float32))[:, None, None]
        mixed.index_add_(0, here, share * kept * difference)
    return mixed


def clipped_matrix(weights: csr_array, vectors: dict[int, list[np.ndarray]], radius: float) -> csr_array:
    """Return the mixing matrix that clips whole vectors: what an edge loses is added to the self-weight.

    Parameters
    ----------
    weights : csr_array
        Mixing matrix, [nodes, nodes]; rows sum to 1.
    vectors : dict
        By node, the arrays that together are its vector; nodes without neighbors in `weights` need none.
    radius : float
        Above 0; the Euclidean norm to which a difference is shortened.
    """
    receivers, senders, shares = _edges(weights)
    lengths = [_distance(vectors[n], vectors[m]) for n, m in zip(receivers.tolist(), senders.tolist(), strict=True)]
    kept = shares * np.minimum(1.0, np.divide(radius, lengths, out=np.ones(len(shares)), where=np.array(lengths) > 0))
    others = csr_array((kept, (receivers, senders)), shape=weights.shape)
    return csr_array(others + diags_array(1.0 - np.asarray(others.sum(axis=1)).ravel()))


def _edges(weights: csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return receivers, senders and weights of all edges, [edges] each, without self-loops."""
    edges = weights.tocoo()
    off = (edges.row != edges.col) & (edges.data > 0)
    return edges.row[off].astype(np.int64), edges.col[off].astype(np.int64), edges.data[off]


def _distance(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    squares = (np.square(a.astype(np.float64) - b).sum() for a, b in zip(first, second, strict=True))
    return float(np.sqrt(sum(squares)))
