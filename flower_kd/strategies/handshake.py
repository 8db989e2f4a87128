"""Which vertex a node is, and whether the nodes fit together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TypeVar

from flower_kd.errors import InputError
from flower_kd.protocol import Hello

T = TypeVar("T", bound=Hashable)


def vertex_of(hello: Hello, num_nodes: int, vertex_of_name: Mapping[str, int]) -> int:
    """Return the vertex that a node claims.

    Parameters
    ----------
    hello : Hello
        What the node says.
    num_nodes : int
        Vertices of the graph.
    vertex_of_name : mapping
        Vertices by name; empty if the graph has no names.

    Raises
    ------
    InputError
        If the node cannot take part, or there is no such vertex.
    """
    if hello.error:
        raise InputError(f"node {hello.name or hello.vertex} cannot take part: {hello.error}")
    if hello.partitions and hello.partitions != num_nodes:
        raise InputError(
            f"node {hello.name or hello.vertex} reports num-partitions={hello.partitions}, but the graph has "
            f"{num_nodes} vertices"
        )
    if not vertex_of_name or not hello.name:
        if not 0 <= hello.vertex < num_nodes:
            raise InputError(
                f"a node reports partition-id={hello.vertex}, but the graph has vertices 0 to {num_nodes - 1}"
            )
        return hello.vertex
    if hello.name not in vertex_of_name:
        names = ", ".join(list(vertex_of_name)[:8])
        raise InputError(f"node {hello.name!r} is not a vertex of the graph, whose vertices are named {names}")
    vertex = vertex_of_name[hello.name]
    if hello.vertex not in (-1, vertex):
        raise InputError(
            f"node {hello.name!r} reports partition-id={hello.vertex}, but its name is that of vertex {vertex}"
        )
    return vertex


def check_alike(hellos: Mapping[int, Hello], label: Callable[[int], str], *, reference: bool, model: bool) -> None:
    """Raise InputError if a node does not fit the others.

    Parameters
    ----------
    hellos : mapping
        What the nodes say, by vertex.
    label : callable
        Returns what a vertex is called.
    reference, model : bool
        Whether all must have the same reference set, and train the same model.
    """
    checks = [("classes", "class count"), ("reference_rows", "number of reference rows")]
    if reference:
        checks.append(("fingerprint", "reference set (SHA-256)"))
    if model:
        checks.append(("parameters", "number of parameters"))
        checks.append(("model", "model"))
    most = {field: most_common(getattr(h, field) for h in hellos.values()) for field, _ in checks}
    for vertex, hello in sorted(hellos.items()):
        for name, words in checks:
            if getattr(hello, name) != most[name]:
                raise InputError(
                    f"node {label(vertex)} has a different {words}: "
                    f"{getattr(hello, name)}, while the others have {most[name]}"
                )


def check_masks(hellos: Mapping[int, Hello], label: Callable[[int], str]) -> None:
    """Raise InputError if nodes that average their weights have pruned different ones.

    Parameters
    ----------
    hellos : mapping
        What the nodes say, by vertex.
    label : callable
        Returns what a vertex is called.
    """
    most = most_common(hello.mask for hello in hellos.values())
    for vertex, hello in sorted(hellos.items()):
        if hello.mask != most:
            raise InputError(
                f"node {label(vertex)} has pruned other weights than the others, so that they cannot be averaged: "
                "pruned models must start from common weights (initial-weights = 'common', or 'auto')"
            )


def check_class_counts(hellos: Mapping[int, Hello], label: Callable[[int], str]) -> None:
    """Raise InputError if a node has not said one number of samples per class, some of them above 0.

    Parameters
    ----------
    hellos : mapping
        What the nodes say, by vertex.
    label : callable
        Returns what a vertex is called.
    """
    for vertex, hello in sorted(hellos.items()):
        counts = hello.class_counts
        if not counts:
            raise InputError(
                f"node {label(vertex)} does not say how many samples of each class it has, as this run's pooling needs"
            )
        if len(counts) != hello.classes:
            raise InputError(f"node {label(vertex)} reports {len(counts)} class counts for {hello.classes} classes")
        if not any(counts):
            raise InputError(f"node {label(vertex)} reports no sample of any class")


def most_common(values: Iterable[T]) -> T:
    """Return the most frequent value, the first of them in a tie."""
    return Counter(values).most_common(1)[0][0]
