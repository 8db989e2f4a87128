"""The properties of a communication graph: diameter, mixing speed, and the bytes that an exchange sends over it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path

import networkx as nx
import numpy as np
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from flower_kd import data, models, topology, wire
from flower_kd.config import RunConfig
from flower_kd.protocol import ARRAYS, LOGITS
from flower_kd.report.pictures import draw_graph
from flower_kd.strategies import STRATEGIES, sends_to
from flower_kd.topology.sequence import EXCHANGES

NUM_EXAMPLES = 100  # typical: its size in a message is that of its bits


@dataclass(frozen=True)
class TopologyCard:
    """A graph, and what one node sends over one of its edges in one direction.

    Parameters
    ----------
    graph : networkx graph
        The graph; if it varies, the union over all exchanges.
    varying_over : int
        Number of exchanges over which it varies; 0 if it does not.
    edges : float
        Mean number of edges in an exchange.
    description : Description
        Degrees, diameter, spectral gap.
    rows, classes, wire : int, int, str
        Shape of the logits in an exchange, and their wire format.
    model : str
        The model whose weights would be sent instead.
    exchanges : int
        Exchanges per round.
    logits_bytes, weights_bytes : float
        Of one serialized message; for weights the mean over nodes, whose models may differ.
    strategy : str
        The strategy that would use the graph, or a server instead.
    """

    graph: nx.Graph
    varying_over: int
    edges: float
    description: topology.Description
    rows: int
    classes: int
    wire: str
    model: str
    exchanges: int
    logits_bytes: float
    weights_bytes: float
    strategy: str


def card(config: RunConfig, num_nodes: int) -> TopologyCard:
    """Return the card of a config's graph; raises InputError if the config does not fit the number of nodes."""
    graphs = config.graphs(num_nodes)
    graph = graphs.union
    per_exchange = [count for _, _, count in graph.edges(data=EXCHANGES)] if graphs.varies else []
    description = topology.describe(graph)
    # One partition is enough to know shape and classes, however many nodes there are.
    corpus = data.load(replace(config, partition="iid").data_spec(1))
    rows = config.exchange_rows or config.reference_size
    logits = wire.encode(np.zeros((rows, corpus.num_classes), np.float32), config.wire)
    names = models.assign(config.model, num_nodes)
    weights = {name: _weights_bytes(name, corpus) for name in set(names)}
    return TopologyCard(
        graph=graph,
        varying_over=graphs.exchanges if graphs.varies else 0,
        edges=sum(per_exchange) / graphs.exchanges if graphs.varies else graph.number_of_edges(),
        description=description,
        rows=rows,
        classes=corpus.num_classes,
        wire=config.wire,
        model=config.model,
        exchanges=config.local_steps // (config.exchange_every or config.local_steps),
        logits_bytes=wire.reply_bytes(LOGITS, logits, NUM_EXAMPLES),
        weights_bytes=float(np.mean([weights[name] for name in names])),
        strategy=config.strategy,
    )


def shown_name(topology: str) -> str:
    """Return how a topology is called in titles: a file by its name without folder and ending."""
    return Path(topology).stem if Path(topology).is_file() else topology


def picture(card: TopologyCard, name: str) -> Figure:
    """Return a drawing of the graph; if the strategy's nodes send to a server, of the nodes around it."""
    nodes = card.graph.number_of_nodes()
    if sends_to(STRATEGIES.get(card.strategy)) == "server":
        return draw_graph(card.graph, f"{card.strategy}, {nodes} nodes", server=True)
    return draw_graph(card.graph, f"{name}, {nodes} nodes")


def table(card: TopologyCard, name: str) -> Table:
    """Return the card as a table for the terminal."""
    found, nodes, edges = card.description, card.graph.number_of_nodes(), card.graph.number_of_edges()
    directed = card.graph.is_directed()
    shown = Table(title=Text(f"{name} of {nodes} nodes", style="table.title"), show_header=False)
    if card.varying_over:
        shown.add_row("edges in an exchange", f"mean {card.edges:.4g}{' (directed)' if directed else ''}")
        shown.add_section()
        shown.add_row(f"union of {card.varying_over:,} exchanges", "")
    shown.add_row("edges", f"{edges:,}{' (directed)' if directed else ''}")
    shown.add_row("degree", _degree(found))
    shown.add_row("diameter", f"{found.diameter}{'' if found.diameter_is_exact else ' or more'}")
    gap = "unknown" if isnan(found.spectral_gap) else f"{found.spectral_gap:.4g}"
    shown.add_row("spectral gap", gap)
    shown.add_section()
    each = "per exchange" if card.exchanges > 1 else "per round"
    shown.add_row(f"logits over an edge, {each}", f"{_bytes(card.logits_bytes)}: {_logits(card)}")
    shown.add_row(f"weights over an edge, {each}", Text(f"{_bytes(card.weights_bytes)}: {card.model}"))
    shown.add_row("weights over logits", f"{card.weights_bytes / card.logits_bytes:,.2f}")
    a_round = card.exchanges * card.edges * (1 if directed else 2)
    exchanges = f"{card.exchanges} exchange{'s' if card.exchanges > 1 else ''}"
    shown.add_row(f"logits over all edges, per round of {exchanges}", _bytes(card.logits_bytes * a_round))
    shown.add_row(f"weights over all edges, per round of {exchanges}", _bytes(card.weights_bytes * a_round))
    return shown


def _weights_bytes(name: str, corpus: data.FederatedData) -> int:
    model = models.build(name, corpus.num_classes, corpus.shape)
    return wire.reply_bytes(ARRAYS, wire.encode_weights(models.pruning.packed(model.state_dict())), NUM_EXAMPLES)


def _degree(found: topology.Description) -> str:
    if found.min_degree == found.max_degree:
        return str(found.min_degree)
    return f"{found.min_degree} to {found.max_degree}, mean {found.mean_degree:.3g}"


def _logits(card: TopologyCard) -> str:
    return f"{card.rows:,} rows of {card.classes} classes as {card.wire}"


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count:.4g} B"
