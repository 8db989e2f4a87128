"""The ClientApp that Flower loads: a node made from the run config."""

from __future__ import annotations

import torch
from flwr.app import Context

from flower_kd import data, models
from flower_kd.clients import Node, ShuffledBatches, make_client_app
from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.seeding import derive

EVALUATE_BATCH = 1024


def build_node(context: Context) -> Node:
    """Return the node of this context's partition.

    Raises
    ------
    InputError
        If the node config lacks partition-id or num-partitions, or what the run config asks for does not fit.
    """
    config = RunConfig.parse(context.run_config)
    for key in ("partition-id", "num-partitions"):
        if not isinstance(context.node_config.get(key), int):
            raise InputError(f"the node config needs a whole number {key!r}: --node-config 'partition-id=0 ...'")
    vertex, num_nodes = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    torch.set_num_threads(config.num_threads)  # the order of float sums depends on it
    corpus = data.load(config.data_spec(num_nodes))
    name = config.model_of(vertex, num_nodes)
    model_seed = derive(config.seed, "initial weights", vertex)
    model = models.build(name, corpus.num_classes, corpus.shape, seed=model_seed, weights_file=config.weights_file)
    test_inputs, test_labels = corpus.test
    return Node(
        model=model,
        optimizer=torch.optim.SGD(
            model.parameters(), config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        ),
        private=ShuffledBatches(*corpus.private(vertex), config.batch_size, config.seed, vertex),
        reference=corpus.reference,
        test=list(zip(test_inputs.split(EVALUATE_BATCH), test_labels.split(EVALUATE_BATCH), strict=True)),
        classes=corpus.num_classes,
        name=name,
        fingerprint=corpus.fingerprint,
    )


app = make_client_app(build_node)
