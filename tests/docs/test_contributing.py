"""The shortest part of each kind, as CONTRIBUTING.md shows it, works and passes the checks."""

import sys
import types
from pathlib import Path

import pytest
from code_blocks import blocks

from flower_kd import models, testing
from flower_kd.catalog import REGISTRIES
from flower_kd.config import RunConfig

IMPORTS = """
import math

import networkx as nx
import numpy as np
import torch
from flwr_datasets.partitioner import LinearPartitioner, Partitioner
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler

from flower_kd.augmentation import AUGMENTATIONS
from flower_kd.data import PARTITIONS
from flower_kd.dissimilarity import DISSIMILARITIES, Dissimilarity, reducible
from flower_kd.models import MODELS
from flower_kd.pooling import POOLINGS
from flower_kd.protocol import Order
from flower_kd.schedule import SCHEDULES
from flower_kd.strategies import CONSENSUS, STRATEGIES, DistillationStrategy
from flower_kd.teacher import Teacher
from flower_kd.topology import TOPOLOGIES
from flower_kd.wire import CODECS, COMPRESSIONS, Arrays, Shapes
"""


def test_the_shortest_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in REGISTRIES.values():
        monkeypatch.setattr(registry, "_parts", dict(registry._parts))
    page = Path(__file__).parents[2] / "CONTRIBUTING.md"
    (code,) = [block.text for block in blocks(page) if block.language == "python"]
    module = types.ModuleType("shortest_parts")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(IMPORTS + code, module.__dict__)
    testing.check_dissimilarity("chebyshev")
    testing.check_topology("path")
    testing.check_pooling("largest")
    testing.check_codec("tenths")
    testing.check_schedule("exponential")
    testing.check_augmentation("mirror")
    testing.check_compression("float16")
    testing.check_strategy("lonely")
    RunConfig.parse({"partition": "linear", "consensus": "average"})
    assert models.build("linear", 10, (1, 8, 8))[1].out_features == 10
