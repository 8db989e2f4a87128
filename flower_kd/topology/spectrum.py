"""Eigenvalues of mixing matrices: how fast nodes agree, and the largest step at which they still do."""

from __future__ import annotations

from math import nan

import numpy as np
from scipy.sparse import csr_array, eye_array
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs, eigsh

_DENSE_NODES = 200
_SYMMETRIC = 1e-12
_STABLE_SHARE = 0.9


def spectral_gap(matrix: csr_array) -> float:
    """Return 1 minus the second largest modulus of the eigenvalues: at 0 nodes never agree, at 1 in one step.

    Above 200 nodes eigenvalues are found iteratively: to about 1e-5 for a directed graph, and not at all (the result is
    NaN) if too many have nearly the same modulus, as on a long directed ring.

    Parameters
    ----------
    matrix : csr_array
        [nodes, nodes], rows sum to 1; at least 2 nodes.
    """
    num_nodes = matrix.shape[0]
    if num_nodes <= _DENSE_NODES:
        return max(0.0, 1.0 - float(np.sort(np.abs(np.linalg.eigvals(matrix.toarray())))[-2]))

    # Rows sum to 1, so subtracting the mean turns the eigenvalue 1 into 0 and keeps the others: finding one is several
    # times faster than two.
    def deflated(values: np.ndarray) -> np.ndarray:
        return matrix @ values - values.mean()

    start = np.random.default_rng(0).standard_normal(num_nodes)
    if np.abs(deflated(start)).max() < 1e-12:
        return 1.0  # ARPACK refuses a zero operator, such as that of a complete graph
    operator = LinearOperator(matrix.shape, matvec=deflated, dtype=float)
    try:
        if abs(matrix - matrix.T).max() < _SYMMETRIC:
            moduli = np.abs(eigsh(operator, k=1, v0=start, return_eigenvectors=False))
        else:
            # Eigenvalues of directed graphs crowd on circles, where a search for a single one may find a smaller one.
            found = eigs(operator, k=6, ncv=60, tol=1e-5, maxiter=300, v0=start, return_eigenvectors=False)
            moduli = np.abs(found)
    except ArpackNoConvergence:
        return nan
    return max(0.0, 1.0 - float(moduli.max()))


def stable_step(matrix: csr_array, step: float) -> float:
    """Return the largest step up to `step` at which `z <- matrix @ z - step * (z - s)` is guaranteed to converge.

    The recursion shrinks all differences if the norm of `matrix - step * I` is below 1. For symmetric weights this
    holds for steps below 1 + the least eigenvalue, of which at most nine tenths are used. For others the norm at `step`
    itself is computed; if it is not below 1, nine tenths of twice the least self-weight w are used: the norm is at
    most (1 - w) + |w - step|.

    Parameters
    ----------
    matrix : csr_array
        Doubly stochastic, [nodes, nodes].
    step : float
        In (0, 1].
    """
    least_self_weight = float(matrix.diagonal().min())
    if abs(matrix - matrix.T).max() < _SYMMETRIC:
        return min(step, _STABLE_SHARE * (1 + _least_eigenvalue(matrix, at_least=2 * least_self_weight - 1)))
    shifted = csr_array(matrix - step * eye_array(matrix.shape[0]))
    # The norm's square is the largest eigenvalue of a symmetric matrix, so 1 minus it the least of another.
    gap = _least_eigenvalue(csr_array(eye_array(matrix.shape[0]) - shifted.T @ shifted), at_least=-1)
    return step if gap > 1 - _STABLE_SHARE else min(step, _STABLE_SHARE * 2 * least_self_weight)


def _least_eigenvalue(symmetric: csr_array, at_least: float) -> float:
    """Return the least eigenvalue, or the known lower bound `at_least` if the search does not converge."""
    num_nodes = symmetric.shape[0]
    if num_nodes <= _DENSE_NODES:
        return float(np.linalg.eigvalsh(symmetric.toarray())[0])
    start = np.random.default_rng(0).standard_normal(num_nodes)
    try:
        found = eigsh(symmetric, k=1, which="SA", v0=start, tol=1e-3, maxiter=300, return_eigenvectors=False)
    except ArpackNoConvergence:
        return at_least
    return float(found[0])
