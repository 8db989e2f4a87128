"""A small synthetic network, so that unit tests take milliseconds."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import PIL.Image
import pytest
import torch
from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flower_kd import sim, study
from flower_kd.clients import Node, ShuffledBatches, make_client_app
from flower_kd.report import pictures as drawing
from flower_kd.runs import run_folder
from flower_kd.runs.results import Summary
from flower_kd.seeding import derive
from flower_kd.sim import InProcessGrid, preload
from flower_kd.strategies import Network

torch.set_num_threads(1)  # float sums depend on it, and small models are faster with one
os.environ.setdefault("OMP_NUM_THREADS", "1")  # in the processes that tests start, too
signal.signal(signal.SIGINT, signal.default_int_handler)  # which background jobs of a shell ignore

CLASSES, FEATURES, REFERENCE_ROWS = 3, 6, 24


@contextmanager
def killed_after(server_round: int, stage: str = "") -> Iterator[None]:
    """End a run in a block after it has saved a round, of one stage or of any, as Ctrl-C does."""
    save_round = run_folder.RunFolder.save_round

    def killed(self, of_stage: str, number: int, *rest: object) -> None:
        save_round(self, of_stage, number, *rest)
        if number == server_round and of_stage == (stage or of_stage):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder.RunFolder, "save_round", killed)
        with pytest.raises(KeyboardInterrupt):
            yield


def blobs(seed: int, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points around one center per class; the centers are the same for every seed."""
    centers = 2 * torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (samples,), generator=generator)
    return centers[labels] + 1.5 * torch.randn(samples, FEATURES, generator=generator), labels


def build_blob_node(context: Context) -> Node:
    """Return a node whose private data hold two of the three classes only."""
    vertex = int(context.node_config["partition-id"])
    with torch.random.fork_rng():
        torch.manual_seed(derive(0, "weights", vertex))
        model = torch.nn.Sequential(torch.nn.Linear(FEATURES, 8 + 4 * (vertex % 2)), torch.nn.ReLU())
        model.append(torch.nn.Linear(8 + 4 * (vertex % 2), CLASSES))
    inputs, labels = blobs(vertex, 60)
    own = labels != vertex % CLASSES
    return Node(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        private=ShuffledBatches(inputs[own], labels[own], batch_size=10, seed=0, vertex=vertex),
        reference=blobs(1000, REFERENCE_ROWS)[0],
        test=[blobs(2000, 200)],
        classes=CLASSES,
    )


def build_same_model_node(context: Context) -> Node:
    """Return a blob node with one model for all, as strategies that average weights need it."""
    node = build_blob_node(context)
    with torch.random.fork_rng():
        torch.manual_seed(derive(0, "weights", int(context.node_config["partition-id"])))
        node.model = torch.nn.Linear(FEATURES, CLASSES)
    node.optimizer = torch.optim.SGD(node.model.parameters(), lr=0.1, momentum=0.9)
    return node


class FaultyGrid(InProcessGrid):
    """A grid in which `interfere(vertex, reply)` may change, replace or (by returning None) drop any reply."""

    interfere: Callable[[int, Message], Message | None] | None = None

    def stream(self, messages: Any) -> Iterator[tuple[Message, Message]]:
        for message, reply in super().stream(messages):
            changed: Message | None = reply
            if self.interfere is not None:
                vertex = int(self.contexts[reply.metadata.src_node_id].node_config["partition-id"])
                changed = self.interfere(vertex, reply)
            if changed is not None:
                yield message, changed


def replace_evaluation(reply: Message, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change the metrics of an evaluation in a reply, if it has any: to a train message, or to one of its own."""
    if not reply.has_content():
        return
    name = "metrics" if reply.metadata.message_type == "evaluate" else "evaluation"
    if name in reply.content:
        reply.content = RecordDict({**reply.content, name: MetricRecord(change(dict(reply.content[name])))})


class DelayedGrid:
    """A grid whose nodes answer late, on a clock of its own, as over a SuperLink: messages wait, replies are fetched.

    `delay(vertex, message)` says how many seconds an answer takes; one of infinitely many is lost.
    """

    def __init__(self, grid: FaultyGrid, delay: Callable[[int, Message], float] = lambda vertex, message: 0.0) -> None:
        self.grid, self.delay = grid, delay
        self.now = 0.0
        self.pushed: list[Message] = []
        self._replies: dict[str, tuple[float, Message]] = {}
        self._busy_until: dict[int, float] = {}

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds

    def watched(self, network: Network) -> Network:
        """Return a network that uses this grid's clock."""
        network.clock, network.sleep = lambda: self.now, self.sleep
        return network

    def get_node_ids(self) -> list[int]:
        return self.grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.pushed.append(message)
            message_id = message.metadata.__dict__["_message_id"] = str(len(self.pushed))
            node = message.metadata.dst_node_id
            if node not in self.grid.contexts:
                self._replies[message_id] = (self.now, Message(Error(1, "the node is unavailable"), reply_to=message))
                continue
            vertex = int(self.grid.contexts[node].node_config["partition-id"])
            done = max(self.now, self._busy_until.get(node, 0.0)) + self.delay(vertex, message)
            if done == math.inf:
                continue
            self._busy_until[node] = done
            reply: Message | None = self.grid._call(message)
            if reply is not None and self.grid.interfere is not None:
                reply = self.grid.interfere(vertex, reply)
            if reply is not None:
                self._replies[message_id] = (done, reply)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        ready = [i for i in message_ids if i in self._replies and self._replies[i][0] <= self.now]
        return [self._replies.pop(i)[1] for i in ready]


@pytest.fixture(scope="session", autouse=True)
def _one_fork_server() -> Iterator[None]:
    """Let the first test that needs processes start a fork server with all imports, which the later ones use too."""
    context = preload.context
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preload, "context", lambda modules: context([*study.PRELOADED, "flower_kd.server_app"]))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decode images into a cache of this session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWER_KD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c63f80f0001010100b138f6140000000049454e44ae426082"
)
SKETCHES = {".png": PIXEL, ".pdf": b"%PDF-1.4\n%%EOF\n", ".svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>'}
draw_files = drawing.files


@pytest.fixture(scope="module", autouse=True)
def _sketched_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let runs write empty pictures, except in the tests of pictures: drawing takes most of the time of a short run."""
    with pytest.MonkeyPatch.context() as patch:
        if Path(__file__).parent / "report" not in request.path.parents:
            patch.setattr(
                drawing, "files", lambda figure, stem, suffixes=SKETCHES: {stem + s: SKETCHES[s] for s in suffixes}
            )
        yield


@contextmanager
def drawn_pictures() -> Iterator[None]:
    """Let the runs of a block draw their pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "files", draw_files)
        yield


@pytest.fixture
def ring() -> nx.Graph:
    return nx.cycle_graph(4)


@pytest.fixture
def grid() -> FaultyGrid:
    return FaultyGrid(make_client_app(build_blob_node), 4, {})


@pytest.fixture
def same_model_grid() -> FaultyGrid:
    return FaultyGrid(make_client_app(build_same_model_node), 4, {})


def recorded_grid(app: ClientApp, num_nodes: int) -> InProcessGrid:
    """Return a grid whose nodes live in their context's records between messages, as under Flower's engines."""
    grid = InProcessGrid(app, num_nodes, {})
    for context in grid.contexts.values():
        context.state = RecordDict()
    return grid


def run_strategy(strategy: Any, grid: Any) -> dict[str, float]:
    """Return every figure of three rounds but the seconds."""
    network = strategy.network(grid)
    weights = {"weight": torch.zeros(3, 6), "bias": torch.zeros(3)} if strategy.same_model else {}
    strategy.start(network, ArrayRecord(weights), num_rounds=3)
    return {
        f"{server_round}/{vertex}/{name}": value
        for (server_round, vertex), metrics in network.metrics.items()
        for name, value in metrics.values.items()
        if name != "seconds"
    }


PICTURE_CLASSES = ("blue fish", "cat", "dog")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of color pictures of several sizes, in folders by class."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 8)):
        for label, name in enumerate(PICTURE_CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 160, (10 + number % 3, 12, 3))
                pixels[..., label] += 70
                PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """Return the folder and the summary of a finished run on the pictures, with two kinds of models."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    config = {
        "dataset": str(pictures), "image-size": 8, "strategy": "neighbor-kd", "model": "mlp,resnet2", "momentum": 0.9,
        "num-server-rounds": 2, "local-steps": 5, "samples-per-node": 15, "reference-size": 20, "learning-rate": 0.02,
    }  # fmt: skip
    return folder, sim.run(config, 4, folder)
