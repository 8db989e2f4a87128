"""The apps of the benchmarks, importable by name from workers and Flower's engine."""

from __future__ import annotations

import json
import time
from functools import lru_cache
from pathlib import Path

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from flower_kd import topology
from flower_kd.bench.nodes import LENET5_ON_MNIST
from flower_kd.clients import Node, make_client_app
from flower_kd.clients.state import NodeFactory
from flower_kd.protocol import HELLO, METRICS, Hello
from flower_kd.strategies import DDist, GraphStrategy, Silo

NODES = 16
WARM_UP = 2


@lru_cache(maxsize=1)
def _factory() -> NodeFactory:
    return LENET5_ON_MNIST.factory(NODES)


def _lenet5_node(context: Context) -> Node:
    return _factory()(context)


lenet5 = make_client_app(_lenet5_node)
idle = ClientApp()


@idle.query("join")
def _join(message: Message, context: Context) -> Message:
    hello = Hello(vertex=int(context.node_config["partition-id"]), model="none")
    return Message(RecordDict({HELLO: hello.to_record()}), reply_to=message)


@idle.train()
def _train(message: Message, context: Context) -> Message:
    return Message(RecordDict({METRICS: MetricRecord({"num-examples": 1, "seconds": 0.0})}), reply_to=message)


@idle.evaluate()
def _evaluate(message: Message, context: Context) -> Message:
    return Message(RecordDict({METRICS: MetricRecord({"accuracy": 0.0})}), reply_to=message)


server = ServerApp()


@server.main()
def _main(grid: Grid, context: Context) -> None:
    """Write the seconds per exchange: a long run minus a short one, so that start-up and handshake do not count."""
    exchanges = int(context.run_config["exchanges"])
    _run(grid, context, WARM_UP)
    short, long = _run(grid, context, WARM_UP), _run(grid, context, WARM_UP + exchanges)
    Path(str(context.run_config["output"])).write_text(json.dumps((long - short) / exchanges))


def _run(grid: Grid, context: Context, exchanges: int) -> float:
    ring = topology.build("ring", num_nodes=NODES)
    strategy: GraphStrategy
    if context.run_config["clients"] == "idle":
        strategy = Silo(ring, local_steps=1, evaluate_every=exchanges)
    else:
        strategy = DDist(
            ring,
            rho=5.0,
            dissimilarity="squared-error",
            temperature=1.0,
            exchange_rows=25,
            local_steps=1,
            evaluate_every=exchanges,
        )
    started = time.perf_counter()
    strategy.start(grid, ArrayRecord(), num_rounds=exchanges)
    return time.perf_counter() - started
