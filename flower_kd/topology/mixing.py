"""Mixing matrices: the weights that a node gives to what it receives.

Every matrix here has the orientation of `x_new = W @ x`: row n holds the weights that node n gives to what it receives,
so a nonzero (n, m) off the diagonal needs an edge m -> n. Matrices are sparse: time and memory grow with the edges.
"""

from __future__ import annotations

from functools import partial

import networkx as nx
import numpy as np
from scipy.sparse import coo_array, csr_array, diags_array, eye_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import LinearOperator, cg

from flower_kd.errors import InputError
from flower_kd.topology.checks import require_connected, require_two, some
from flower_kd.topology.sequence import GraphSequence
from flower_kd.topology.spectrum import stable_step

_BALANCING_STEPS = 1000
_BALANCING_TOLERANCE = 1e-12


def mixing_matrix(graph: nx.Graph, *, connected: bool = True) -> csr_array:
    """Return doubly stochastic weights with a positive diagonal.

    Undirected graphs get Metropolis-Hastings weights, 1 / (1 + max(degree n, degree m)) (Xiao, Boyd and Lashkari, A
    Scheme for Robust Distributed Sensor Fusion Based on Average Consensus, 2005), which are uniform on regular graphs.
    Directed graphs get the only doubly stochastic matrix of the form D1 A D2, A = self-loops plus edges (Sinkhorn and
    Knopp 1967). It exists for every strongly connected graph: each edge lies on a cycle, which together with the
    self-loops of all other vertices is a permutation, so A has total support.

    Parameters
    ----------
    graph : networkx graph
        Vertices 0, 1, ..., connected; strongly if directed. Weights, self-loops and parallel edges are ignored.
    connected : bool
        Whether it must be connected. If not, each component mixes within itself, if directed each strongly connected
        one: other edges get no weight, as in every doubly stochastic matrix.

    Returns
    -------
    csr_array
        [nodes, nodes]; row n holds the weights that node n gives to what it receives. Sums are 1 to within 1e-9.

    Raises
    ------
    InputError
        If the vertices are not 0, 1, ..., the graph is not connected, or its balancing does not converge.
    """
    pattern = in_adjacency(graph)
    if connected:
        require_connected(graph, "the communication graph")
    elif graph.is_directed():
        pattern = _within_components(pattern)
    return _balanced(pattern) if graph.is_directed() else _metropolis(pattern)


def uniform_matrix(graph: nx.Graph) -> csr_array:
    """Return row-stochastic weights: each node gives 1 / (1 + in-degree) to itself and to each node it receives from.

    Parameters
    ----------
    graph : networkx graph
        Vertices 0, 1, ...; need not be connected.

    Returns
    -------
    csr_array
        [nodes, nodes], oriented as in `mixing_matrix`.

    Raises
    ------
    InputError
        If the vertices are not 0, 1, ...
    """
    matrix = in_adjacency(graph)
    counts = np.diff(matrix.indptr)
    matrix.data = np.repeat(1.0 / counts, counts)
    return matrix


class Mixing:
    """The mixing matrix of each exchange, adapted to absent nodes and lost messages.

    Parameters
    ----------
    graph : networkx graph or GraphSequence
        As in `mixing_matrix`, which raises the same errors; graphs of a sequence that varies need not be connected.

    Attributes
    ----------
    matrix : csr_array
        The weights of the first exchange if all nodes are present, [nodes, nodes]: of all exchanges unless the graph
        varies.
    """

    def __init__(self, graph: nx.Graph | GraphSequence) -> None:
        self._graphs = GraphSequence.of(graph)
        self.matrix = mixing_matrix(self._graphs.at(0), connected=not self._graphs.varies)
        self._directed = self._graphs.directed
        self._exchange = 0
        self._whole = self.matrix  # of the current exchange, if all nodes are present
        self._present = np.ones(self._graphs.num_nodes, dtype=bool)
        self._among = self.matrix
        self._steps: dict[float, float] = {}

    def among(self, present: np.ndarray, exchange: int = 0, received: csr_array | None = None) -> csr_array:
        """Return weights [nodes, nodes] in which absent nodes and lost messages take no part; rows sum to 1.

        Without `received` they are doubly stochastic. In an undirected graph the weight of an absent node goes back to
        the self-weight of each neighbor. In a directed one that would leave row and column sums unequal, so the
        remaining weights are balanced again. Edges between its strongly connected components get no weight then, as in
        every doubly stochastic matrix: where absences cut such a graph, each component mixes within itself until the
        nodes between are back.

        With it, the weights of absent nodes and of lost messages go back to the self-weight of those that miss them, as
        a node without knowledge of the others must do. Columns then sum to 1 only if the graph is undirected and the
        messages of an edge are lost in both directions or none.

        Parameters
        ----------
        present : ndarray of bool
            [nodes]; the row and the column of an absent node are those of the identity.
        exchange : int
            Number of the exchange, from 0.
        received : csr_array, optional
            [nodes, nodes], see `Contacts.received`.
        """
        if self._graphs.varies and exchange != self._exchange:
            self._exchange = exchange
            self._whole = mixing_matrix(self._graphs.at(exchange), connected=False)
            self._present, self._among, self._steps = np.ones(len(present), dtype=bool), self._whole, {}
        if received is not None:
            self._balance(np.ones(len(present), dtype=bool))
            return _folded(csr_array(self._whole.multiply(received)), present)
        self._balance(present)
        return self._among

    def _balance(self, present: np.ndarray) -> None:
        """Compute the doubly stochastic weights among present nodes."""
        if np.array_equal(present, self._present):  # absences usually last for many exchanges
            return
        self._present = present.copy()
        if self._directed:
            self._steps = {}
        if present.all():
            self._among = self._whole
        else:
            self._among = (_rebalanced if self._directed else _folded)(self._whole, present)

    def stable_step(self, step: float) -> float:
        """Return `stable_step` of the weights that `among` returned last, computed once.

        In an undirected graph it is that of all nodes: weights that go back to the diagonal raise all eigenvalues. So
        do, on average over what is lost, those of lost messages.
        """
        if step not in self._steps:
            self._steps[step] = stable_step(self._among if self._directed else self._whole, step)
        return self._steps[step]


def in_adjacency(graph: nx.Graph) -> csr_array:
    """Return [nodes, nodes] with a 1 on the diagonal and at (n, m) for each edge m -> n.

    Raises
    ------
    InputError
        If the vertices are not 0, 1, ...
    """
    num_nodes = graph.number_of_nodes()
    require_two(num_nodes)
    if set(graph) != set(range(num_nodes)):
        raise InputError(f"the vertices of a communication graph must be 0 to {num_nodes - 1}, not {some(graph)}")
    adjacency = nx.to_scipy_sparse_array(graph, nodelist=range(num_nodes), weight=None, dtype=float)
    pattern = csr_array(adjacency.T + eye_array(num_nodes))
    pattern.data[:] = 1.0
    return pattern


def _metropolis(pattern: csr_array) -> csr_array:
    counts = np.diff(pattern.indptr)  # 1 + degree
    rows = np.repeat(np.arange(len(counts)), counts)
    weights = 1.0 / np.maximum(counts[rows], counts[pattern.indices])
    own = rows == pattern.indices
    weights[own] = 0.0
    weights[own] = 1.0 - np.add.reduceat(weights, pattern.indptr[:-1])
    return csr_array((weights, pattern.indices, pattern.indptr), shape=pattern.shape)


def _balanced(pattern: csr_array) -> csr_array:
    """Scale rows and columns to sums of 1, by Newton's method on the logarithms of the column scales.

    The row scales follow from the column scales, and the residual, column sums minus 1, is the gradient of
    a convex function. Sinkhorn's alternation finds the same matrix, but needs iterations in proportion to 1 / spectral
    gap, far too many for a long ring with a few chords. See Knight and Ruiz, A Fast Algorithm for Matrix Balancing
    (2013).
    """
    matrix, starts, counts = pattern.copy(), pattern.indptr[:-1], np.diff(pattern.indptr)
    log_scales = np.zeros(len(counts))
    for _ in range(_BALANCING_STEPS):
        logits = log_scales[pattern.indices]
        shares = np.exp(logits - np.repeat(np.maximum.reduceat(logits, starts), counts))
        matrix.data = shares / np.repeat(np.add.reduceat(shares, starts), counts)
        sums = np.asarray(matrix.sum(axis=0)).ravel()
        if np.abs(sums - 1.0).max() < _BALANCING_TOLERANCE:
            return matrix
        hessian = LinearOperator(matrix.shape, matvec=partial(_hessian, matrix, sums), dtype=float)
        step, _ = cg(hessian, 1.0 - sums, rtol=1e-3)
        # Within a distance of 1, the Hessian changes by at most a constant factor; longer steps cannot be trusted.
        log_scales += step / max(1.0, np.abs(step).max())
    raise InputError(
        f"the directed graph of {len(counts)} nodes could not be balanced to a doubly stochastic matrix "
        f"in {_BALANCING_STEPS} steps: add edges, or use an undirected graph"
    )


def _hessian(matrix: csr_array, sums: np.ndarray, direction: np.ndarray) -> np.ndarray:
    return sums * direction - matrix.T @ (matrix @ direction)


def _folded(matrix: csr_array, present: np.ndarray) -> csr_array:
    kept = _among_present(matrix, present)
    return csr_array(kept + diags_array(1.0 - np.asarray(kept.sum(axis=1)).ravel()))


def _rebalanced(matrix: csr_array, present: np.ndarray) -> csr_array:
    edges = _within_components(_among_present(matrix, present))
    # Absent nodes have no self-weight left: each becomes its own component.
    pattern = csr_array(edges + diags_array((~present).astype(float)))
    pattern.eliminate_zeros()
    return _balanced(pattern)


def _within_components(pattern: csr_array) -> csr_array:
    """Return a pattern without the edges between its strongly connected components."""
    _, component = connected_components(pattern, directed=True, connection="strong")
    weights = pattern.tocoo()
    within = component[weights.row] == component[weights.col]
    edges = (weights.data[within], (weights.row[within], weights.col[within]))
    return csr_array(coo_array(edges, shape=pattern.shape))


def _among_present(matrix: csr_array, present: np.ndarray) -> csr_array:
    """Return the weights between present nodes."""
    here = diags_array(present.astype(float))
    kept = csr_array(here @ matrix @ here)
    kept.eliminate_zeros()
    return kept
