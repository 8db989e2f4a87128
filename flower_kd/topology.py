"""Communication graphs and mixing matrices: which node receives from which, and with what weight.

Every matrix here has the orientation of `x_new = W @ x`: row n holds the weights that node n gives to what it receives,
so a nonzero (n, m) off the diagonal needs an edge m -> n. Matrices are sparse: time and memory grow with the edges.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import isqrt, log, nan
from pathlib import Path

import networkx as nx
import numpy as np
from scipy.sparse import coo_array, csr_array, diags_array, eye_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, cg, eigs, eigsh

from flower_kd.errors import InputError, unknown
from flower_kd.parts import Registry
from flower_kd.ranges import require_number, require_whole
from flower_kd.seeding import derive

# (number of nodes, random stream, *, the topology's own options) -> connected graph with vertices 0, 1, ...
Builder = Callable[..., nx.Graph]

TOPOLOGIES: Registry[Builder] = Registry("topology")

_DRAWS = 100
_BALANCING_STEPS = 1000
_BALANCING_TOLERANCE = 1e-12
_DENSE_NODES = 200
_SYMMETRIC = 1e-12
_STABLE_SHARE = 0.9
_EXACT_DIAMETER_NODES = 2000


def names() -> list[str]:
    """Return the names of the topologies."""
    return TOPOLOGIES.names()


def options_of(name: str) -> tuple[str, ...]:
    """Return the names of a topology's options; a file has none.

    Raises
    ------
    InputError
        If `name` is neither a topology nor an existing file.
    """
    parameters = inspect.signature(_builder(name)).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)


def build(name: str, num_nodes: int, seed: int = 0, **options: float | None) -> nx.Graph:
    """Return a connected communication graph.

    Parameters
    ----------
    name : str
        One of `names()`, or the path of a file. A `.graphml` file is GraphML, which may be directed; any other file is
        an undirected edge list: two vertices per line, separated by white space or a comma, comments after `#`. Edge
        weights and self-loops in files are ignored. Vertices are 0 to `num_nodes - 1`; if any has another name,
        all are numbered in the sorted order of their names, which are kept as the attribute "name".
    num_nodes : int
        Number of vertices, at least 2.
    seed : int
        Seed of the random topologies; not negative.
    **options
        Options of the topology, see `options_of`.

    Returns
    -------
    networkx.Graph or networkx.DiGraph
        Vertices 0 to `num_nodes - 1`, no self-loops; a directed graph is strongly connected and u -> v means that v
        receives from u.

    Raises
    ------
    InputError
        If the name, an option, the number of nodes or the file is unusable.

    Examples
    --------
    >>> sorted(build("ring", num_nodes=4).edges)
    [(0, 1), (0, 3), (1, 2), (2, 3)]
    """
    builder, allowed = _builder(name), options_of(name)
    for option in options:
        if not allowed:
            raise InputError(f"topology {name!r} takes no options, but got {option!r}")
        if option not in allowed:
            raise InputError(unknown(f"option of topology {name!r}", option, list(allowed)))
    _require_two(num_nodes)
    require_whole("seed", seed, 0)
    for option, value in options.items():
        parameter = inspect.signature(builder).parameters[option]
        if parameter.annotation in (int, "int"):
            require_whole(option.replace("_", "-"), value, 0)
        elif value is not parameter.default:
            require_number(option.replace("_", "-"), value)
    return builder(num_nodes, np.random.default_rng(derive(seed, "topology")), **options)


def neighbors(graph: nx.Graph, vertex: int) -> list[int]:
    """Return the vertices that a vertex receives from, in ascending order: its neighbors or, if directed, predecessors.

    Raises
    ------
    InputError
        If the vertex is not in the graph.
    """
    if vertex not in graph:
        raise InputError(f"the graph has no vertex {vertex} (it has {graph.number_of_nodes()} vertices)")
    senders = graph.predecessors(vertex) if graph.is_directed() else graph.neighbors(vertex)
    return sorted(set(senders) - {vertex})


def mixing_matrix(graph: nx.Graph) -> csr_array:
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

    Returns
    -------
    csr_array
        [nodes, nodes]; row n holds the weights that node n gives to what it receives. Sums are 1 to within 1e-9.

    Raises
    ------
    InputError
        If the vertices are not 0, 1, ..., the graph is not connected, or its balancing does not converge.
    """
    pattern = _in_adjacency(graph)
    _require_connected(graph, "the communication graph")
    return _balanced(pattern) if graph.is_directed() else _metropolis(pattern)


class Mixing:
    """The mixing matrix of a graph, adapted while nodes are absent.

    Parameters
    ----------
    graph : networkx graph
        As in `mixing_matrix`, which raises the same errors.

    Attributes
    ----------
    matrix : csr_array
        The weights if all nodes are present, [nodes, nodes].
    """

    def __init__(self, graph: nx.Graph) -> None:
        self.matrix = mixing_matrix(graph)
        self._directed = graph.is_directed()
        self._present = np.ones(graph.number_of_nodes(), dtype=bool)
        self._among = self.matrix
        self._steps: dict[float, float] = {}

    def among(self, present: np.ndarray) -> csr_array:
        """Return doubly stochastic weights [nodes, nodes] in which absent nodes take no part.

        In an undirected graph the weight of an absent node goes back to the self-weight of each neighbor. In a directed
        one that would leave row and column sums unequal, so the remaining weights are balanced again. Edges between its
        strongly connected components get no weight then, as in every doubly stochastic matrix: where absences cut such
        a graph, each component mixes within itself until the nodes between are back.

        Parameters
        ----------
        present : ndarray of bool
            [nodes]; the row and the column of an absent node are those of the identity.
        """
        if not np.array_equal(present, self._present):  # absences usually last for many exchanges
            self._present = present.copy()
            if self._directed:
                self._steps = {}
            if present.all():
                self._among = self.matrix
            else:
                self._among = (_rebalanced if self._directed else _folded)(self.matrix, present)
        return self._among

    def stable_step(self, step: float) -> float:
        """Return `stable_step` of the weights that `among` returned last, computed once.

        In an undirected graph it is that of all nodes: weights that go back to the diagonal raise all eigenvalues.
        """
        if step not in self._steps:
            self._steps[step] = stable_step(self._among if self._directed else self.matrix, step)
        return self._steps[step]


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
    matrix = _in_adjacency(graph)
    counts = np.diff(matrix.indptr)
    matrix.data = np.repeat(1.0 / counts, counts)
    return matrix


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


@dataclass(frozen=True)
class Description:
    """Cost of a graph and its mixing speed.

    Parameters
    ----------
    nodes, edges : int
        Numbers of vertices and of edges; each direction counts in a directed graph.
    min_degree, mean_degree, max_degree : int, float, int
        Number of neighbors that a node receives from: the in-degree in a directed graph.
    diameter : int
        Hops between the two nodes that are furthest apart, or a lower bound.
    diameter_is_exact : bool
        Whether `diameter` is exact and not a bound; True for up to 2,000 nodes.
    spectral_gap : float
        That of the mixing matrix, see `spectral_gap`.
    """

    nodes: int
    edges: int
    min_degree: int
    mean_degree: float
    max_degree: int
    diameter: int
    diameter_is_exact: bool
    spectral_gap: float


def describe(graph: nx.Graph) -> Description:
    """Return the cost of a graph and its mixing speed; raises InputError if it has no mixing matrix."""
    matrix = mixing_matrix(graph)
    degrees = np.diff(matrix.indptr) - 1
    exact = graph.number_of_nodes() <= _EXACT_DIAMETER_NODES
    return Description(
        nodes=graph.number_of_nodes(),
        edges=graph.number_of_edges(),
        min_degree=int(degrees.min()),
        mean_degree=float(degrees.mean()),
        max_degree=int(degrees.max()),
        diameter=nx.diameter(graph) if exact else nx.approximation.diameter(graph, seed=0),
        diameter_is_exact=exact,
        spectral_gap=spectral_gap(matrix),
    )


# -- the topologies ----------------------------------------------------------------------------------------------------


@TOPOLOGIES.register("ring")
def ring(num_nodes: int, rng: np.random.Generator) -> nx.Graph:
    """Return a cycle; for two nodes, a single edge."""
    return nx.cycle_graph(num_nodes)


@TOPOLOGIES.register("complete")
def complete(num_nodes: int, rng: np.random.Generator) -> nx.Graph:
    """Return the graph in which all nodes are neighbors."""
    return nx.complete_graph(num_nodes)


@TOPOLOGIES.register("star")
def star(num_nodes: int, rng: np.random.Generator) -> nx.Graph:
    """Return a hub, vertex 0, and its leaves."""
    return nx.star_graph(num_nodes - 1)


@TOPOLOGIES.register("torus")
def torus(num_nodes: int, rng: np.random.Generator) -> nx.Graph:
    """Return a grid that wraps around, as square as possible and at least 3 by 3; numbered row by row."""
    rows, columns = _torus_shape(num_nodes)
    if rows < 3:
        below = [nodes for nodes in range(9, num_nodes) if _torus_shape(nodes)[0] >= 3][-1:]
        above = next(nodes for nodes in count(max(num_nodes, 9)) if _torus_shape(nodes)[0] >= 3)
        raise InputError(
            f"a torus needs at least 3 rows and 3 columns, and {num_nodes} nodes have no such grid "
            f"(nearest: {_some([*below, above])})"
        )
    return nx.convert_node_labels_to_integers(nx.grid_2d_graph(rows, columns, periodic=True), ordering="sorted")


@TOPOLOGIES.register("hypercube")
def hypercube(num_nodes: int, rng: np.random.Generator) -> nx.Graph:
    """Return the cube whose vertices are neighbors if their numbers differ in one bit."""
    dimension = num_nodes.bit_length() - 1
    if num_nodes != 2**dimension:
        nearest = _some([2**dimension, 2 ** (dimension + 1)])
        raise InputError(f"a hypercube needs a power of two, not {num_nodes} nodes (nearest: {nearest})")
    return nx.convert_node_labels_to_integers(nx.hypercube_graph(dimension), ordering="sorted")


@TOPOLOGIES.register("exponential")
def exponential(num_nodes: int, rng: np.random.Generator) -> nx.Graph:
    """Return a ring with more edges: neighbors are 1, 2, 4, ... hops away, in both directions.

    The undirected form of the static exponential graph of Ying et al., Exponential Graph is Provably Efficient for
    Decentralized Deep Training (NeurIPS 2021).
    """
    return nx.circulant_graph(num_nodes, [2**power for power in range((num_nodes - 1).bit_length())])


@TOPOLOGIES.register("regular")
def regular(num_nodes: int, rng: np.random.Generator, *, degree: int = 4) -> nx.Graph:
    """Return a random graph in which all have the same degree (Steger and Wormald 1999)."""
    _require_between("degree", degree, 1, num_nodes - 1, num_nodes)
    if num_nodes * degree % 2:
        raise InputError(f"a regular graph needs an even number of edge ends, not {num_nodes} nodes of degree {degree}")

    def draw() -> nx.Graph:
        if 2 * degree < num_nodes:
            return nx.random_regular_graph(degree, num_nodes, seed=rng)
        # Pairing the edge ends of a dense graph fails repeatedly; for its complement it succeeds at once.
        return nx.complement(nx.random_regular_graph(num_nodes - 1 - degree, num_nodes, seed=rng))

    return _first_connected(draw, f"degree = {degree} is too low for {num_nodes} nodes")


@TOPOLOGIES.register("erdos-renyi")
def erdos_renyi(num_nodes: int, rng: np.random.Generator, *, edge_probability: float | None = None) -> nx.Graph:
    """Return a graph in which each edge is there with the same probability (Gilbert 1959).

    The default is min(1, 2 ln(nodes) / nodes), twice the threshold of connectedness.
    """
    if edge_probability is None:
        edge_probability = min(1.0, 2 * log(num_nodes) / num_nodes)
    if not 0 < edge_probability <= 1:
        raise InputError(f"edge-probability = {edge_probability} is outside (0, 1]")
    return _first_connected(
        lambda: nx.fast_gnp_random_graph(num_nodes, edge_probability, seed=rng),
        f"edge-probability = {edge_probability:.3g} is too low for {num_nodes} nodes",
    )


@TOPOLOGIES.register("small-world")
def small_world(
    num_nodes: int, rng: np.random.Generator, *, degree: int = 4, rewire_probability: float = 0.1
) -> nx.Graph:
    """Return a ring of near neighbors with some edges moved to random nodes (Watts and Strogatz 1998)."""
    _require_between("degree", degree, 2, num_nodes - 1, num_nodes)
    if degree % 2:
        raise InputError(f"degree = {degree} must be even in a small world: half of the neighbors are on either side")
    if not 0 <= rewire_probability <= 1:
        raise InputError(f"rewire-probability = {rewire_probability} is outside [0, 1]")
    return _first_connected(
        lambda: nx.watts_strogatz_graph(num_nodes, degree, rewire_probability, seed=rng),
        f"degree = {degree} is too low for {num_nodes} nodes at rewire-probability = {rewire_probability}",
    )


@TOPOLOGIES.register("scale-free")
def scale_free(num_nodes: int, rng: np.random.Generator, *, attachment: int = 2) -> nx.Graph:
    """Return a graph grown node by node: each adds `attachment` edges, mostly to hubs (Barabasi and Albert 1999)."""
    _require_between("attachment", attachment, 1, num_nodes - 1, num_nodes)
    return nx.barabasi_albert_graph(num_nodes, attachment, seed=rng)


@TOPOLOGIES.register("random-directed")
def random_directed(
    num_nodes: int, rng: np.random.Generator, *, min_degree: int = 1, max_degree: int = 3
) -> nx.DiGraph:
    """Return a strongly connected directed graph with out-degrees between two bounds.

    The probability of an out-degree is proportional to it (1/6, 2/6, 3/6 for 1 to 3), as in the report on Distributed
    Distillation, section III.A. One target of each vertex is its successor on a random cycle through all vertices, the
    others are drawn from the rest. Each target is therefore uniform over the other vertices, and the graph always
    strongly connected, unlike with independent targets, where this becomes rarer with more nodes.
    """
    _require_between("min-degree", min_degree, 1, num_nodes - 1, num_nodes)
    _require_between("max-degree", max_degree, min_degree, num_nodes - 1, num_nodes)
    law = np.arange(min_degree, max_degree + 1)
    degrees = rng.choice(law, size=num_nodes, p=law / law.sum())
    cycle = rng.permutation(num_nodes)
    graph = nx.DiGraph()
    graph.add_nodes_from(range(num_nodes))
    for vertex, successor in zip(cycle.tolist(), np.roll(cycle, -1).tolist(), strict=True):
        others = rng.choice(num_nodes - 2, size=degrees[vertex] - 1, replace=False) if degrees[vertex] > 1 else law[:0]
        # Skip the two vertices that are not candidates.
        others = others + (others >= min(vertex, successor))
        others = others + (others >= max(vertex, successor))
        graph.add_edges_from((vertex, target) for target in [successor, *others.tolist()])
    return graph


def _first_connected(draw: Callable[[], nx.Graph], why: str) -> nx.Graph:
    for _ in range(_DRAWS):
        graph = draw()
        if nx.is_connected(graph):
            return graph
    raise InputError(f"{_DRAWS} draws gave no connected graph: {why}")


def _require_between(option: str, value: int, low: int, high: int, num_nodes: int) -> None:
    if not low <= value <= high:
        raise InputError(f"{option} = {value} is outside {low} to {high} for {num_nodes} nodes")


def _torus_shape(num_nodes: int) -> tuple[int, int]:
    rows = next(rows for rows in range(isqrt(num_nodes), 0, -1) if num_nodes % rows == 0)
    return rows, num_nodes // rows


# -- files -------------------------------------------------------------------------------------------------------------


def _builder(name: str) -> Builder:
    if name in TOPOLOGIES:
        return TOPOLOGIES.get(name)
    if Path(name).is_file():
        return partial(_from_file, Path(name))
    raise InputError(unknown("topology", name, [*names(), "an existing file"]))


def _from_file(path: Path, num_nodes: int, rng: np.random.Generator) -> nx.Graph:
    found = _read(path)
    vertex_names = {vertex: str(vertex).strip() for vertex in found}
    numbered = all(re.fullmatch(r"-?\d+", name) for name in vertex_names.values())
    number = (_by_number if numbered else _by_rank)(path, set(vertex_names.values()), num_nodes)
    graph = nx.DiGraph() if found.is_directed() else nx.Graph()
    graph.add_nodes_from(range(num_nodes))
    if not numbered:
        nx.set_node_attributes(graph, {vertex: name for name, vertex in number.items()}, "name")
    edges = ((number[vertex_names[source]], number[vertex_names[target]]) for source, target in found.edges())
    graph.add_edges_from((source, target) for source, target in edges if source != target)
    _require_connected(graph, f"the graph in {path}")
    return graph


def _read(path: Path) -> nx.Graph:
    try:
        if path.suffix.lower() == ".graphml":
            return nx.read_graphml(path)
        return _parse_edges(path, path.read_text(encoding="utf-8-sig").splitlines())
    # A broken GraphML file ends in any of these (ParseError is a SyntaxError).
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read a graph from {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read a graph from {path}: it is not a text file") from error
    except (ValueError, KeyError, SyntaxError, nx.NetworkXException) as error:
        raise InputError(f"{path} is not a GraphML file: {error}") from error


def _parse_edges(path: Path, lines: list[str]) -> nx.Graph:
    """Return the graph of an edge list; raises InputError at the first line that is not two vertices."""
    graph = nx.Graph()
    edges = [line.partition("#")[0].strip() for line in lines]
    by_comma = any("," in edge for edge in edges)
    for number, edge in enumerate(edges, start=1):
        if not edge:
            continue
        vertices = [word.strip() for word in (edge.split(",") if by_comma else edge.split())]
        if len(vertices) < 2 or not all(vertices[:2]):
            raise InputError(
                f"{path}, line {number}: {edge[:40]!r} is not an edge, it must be two vertices separated by white "
                "space or a comma"
            )
        graph.add_edge(*vertices[:2])
    if len(graph) == 0:
        raise InputError(
            f"{path} contains no edges: a graph file is an edge list, with two vertices per line, or GraphML"
        )
    return graph


def _by_number(path: Path, found: set[str], num_nodes: int) -> dict[str, int]:
    number = {name: int(name) for name in found}
    vertices, wanted = set(number.values()), set(range(num_nodes))
    if vertices != wanted:
        faults = {"lacks": sorted(wanted - vertices), "has also": sorted(vertices - wanted)}
        listed = " and ".join(f"{verb} {_some(wrong)}" for verb, wrong in faults.items() if wrong)
        raise InputError(f"the vertices in {path} must be 0 to {num_nodes - 1}, but it {listed}")
    return number


def _by_rank(path: Path, found: set[str], num_nodes: int) -> dict[str, int]:
    if len(found) != num_nodes:
        raise InputError(
            f"the graph in {path} has {len(found)} vertices, named {_some(sorted(found))}, for a network of {num_nodes}"
            " nodes: is it an edge list, with two vertices per line?"
        )
    return {name: vertex for vertex, name in enumerate(sorted(found))}


def _some(values: Iterable[object]) -> str:
    listed = [str(value) for value in values]
    return ", ".join(listed if len(listed) <= 6 else [*listed[:5], f"... {len(listed) - 5} more"])


# -- weights -----------------------------------------------------------------------------------------------------------


def _in_adjacency(graph: nx.Graph) -> csr_array:
    """Return [nodes, nodes] with a 1 on the diagonal and at (n, m) for each edge m -> n."""
    num_nodes = graph.number_of_nodes()
    _require_two(num_nodes)
    if set(graph) != set(range(num_nodes)):
        raise InputError(f"the vertices of a communication graph must be 0 to {num_nodes - 1}, not {_some(graph)}")
    adjacency = nx.to_scipy_sparse_array(graph, nodelist=range(num_nodes), weight=None, dtype=float)
    pattern = csr_array(adjacency.T + eye_array(num_nodes))
    pattern.data[:] = 1.0
    return pattern


def _require_two(num_nodes: int) -> None:
    if isinstance(num_nodes, int) and num_nodes < 2:
        raise InputError(f"a communication graph needs at least 2 nodes, not {num_nodes}")
    require_whole("num_nodes", num_nodes, 2)


def _require_connected(graph: nx.Graph, what: str) -> None:
    if graph.is_directed():
        kind, components = "strongly connected", nx.number_strongly_connected_components(graph)
    else:
        kind, components = "connected", nx.number_connected_components(graph)
    if components != 1:
        raise InputError(f"{what} is not {kind}: it has {components} components, but must have 1")


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


def _folded(matrix: csr_array, present: np.ndarray) -> csr_array:
    kept = _among_present(matrix, present)
    return csr_array(kept + diags_array(1.0 - np.asarray(kept.sum(axis=1)).ravel()))


def _rebalanced(matrix: csr_array, present: np.ndarray) -> csr_array:
    kept = _among_present(matrix, present)
    _, component = connected_components(kept, directed=True, connection="strong")
    weights = kept.tocoo()
    within = component[weights.row] == component[weights.col]
    edges = coo_array((weights.data[within], (weights.row[within], weights.col[within])), shape=matrix.shape)
    # Absent nodes have no self-weight left: each becomes its own component.
    pattern = csr_array(edges + diags_array((~present).astype(float)))
    pattern.eliminate_zeros()
    return _balanced(pattern)


def _among_present(matrix: csr_array, present: np.ndarray) -> csr_array:
    """Return the weights between present nodes."""
    here = diags_array(present.astype(float))
    kept = csr_array(here @ matrix @ here)
    kept.eliminate_zeros()
    return kept


def _hessian(matrix: csr_array, sums: np.ndarray, direction: np.ndarray) -> np.ndarray:
    return sums * direction - matrix.T @ (matrix @ direction)
