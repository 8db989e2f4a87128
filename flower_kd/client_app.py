"""The ClientApp that Flower loads: a node made from the run config."""

from __future__ import annotations

from functools import lru_cache, partial

import torch
from flwr.app import Context
from torch import Tensor, nn

from flower_kd import data, devices, folders, models
from flower_kd.clients import Node, ShuffledBatches, make_client_app, state
from flower_kd.clients.node import Batch
from flower_kd.clients.node_files import NodeFiles
from flower_kd.clients.state_dir import StateDir
from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.models.card import ModelCard
from flower_kd.protocol import Greeting
from flower_kd.seeding import derive

EVALUATE_BATCH = 128  # as PREDICT_BATCH


def build_node(context: Context) -> Node:
    """Return the node for this context's partition.

    Raises
    ------
    InputError
        If the node config lacks partition-id or num-partitions, or the run config is invalid for this node.
    """
    config = RunConfig.read(context.run_config)
    for key in ("partition-id", "num-partitions"):
        if not isinstance(context.node_config.get(key), int):
            raise InputError(f"the node config needs an integer {key!r}: --node-config 'partition-id=0 ...'")
    vertex, num_nodes = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    torch.set_num_threads(config.num_threads)  # the order of float sums depends on it
    device = devices.device(config.device)
    own_model, own_data = (_text(context, key) for key in ("model", "data-dir"))
    home = StateDir.of(context)
    chosen = config.data_spec(num_nodes), vertex, own_data
    found = data.of_node(*chosen) if home is None else data.kept_in(home.folder, context.run_id, *chosen)
    name = config.named_model(_one_model(own_model)) if own_model else config.model_of(vertex, num_nodes)
    model_seed = derive(config.seed, "initial weights", 0 if config.common_weights else vertex)
    two_heads = state.greeting(context).two_heads  # what the server needs, whatever it took that from
    model = models.build(
        name,
        len(found.label_names),
        found.shape,
        seed=model_seed,
        # They are those of the run's models.
        weights_file=config.weights_file if not own_model or name in config.models(num_nodes) else "",
        two_heads=two_heads,
    )
    model.to(device)
    inputs, labels = (tensor.to(device) for tensor in found.private)
    reference, test = _shared(found.reference, *found.test, device)
    return Node(
        model=model,
        optimizer=torch.optim.SGD(
            model.parameters(), config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        ),
        private=ShuffledBatches(inputs, labels, config.batch_size, config.seed, vertex),
        reference=reference,
        test=test,
        classes=len(found.label_names),
        name=name,
        fingerprint=found.fingerprint,
        card=ModelCard(
            factory=name,
            classes=len(found.label_names),
            shape=found.shape,
            mean=found.normalization.mean,
            std=found.normalization.std,
            labels=found.label_names,
            two_heads=two_heads,
        ),
        validation=_batches(found.validation, device) if found.validation is not None else None,
        schedule=config.schedule,
        augment=config.augment,
        reference_augment=config.reference_augment,
        build_model=partial(_neighbors_model, config, num_nodes, found),
    )


def _text(context: Context, key: str) -> str:
    """Return a text in the node config, empty if it is not there; raises InputError if it is something else."""
    value = context.node_config.get(key, "")
    if not isinstance(value, str):
        raise InputError(f"{key} = {value!r} in the node config must be a text: {key}='...'")
    return value


def _one_model(text: str) -> str:
    """Return the one model that a node config names; raises InputError if it is unknown, or names several."""
    found = models.parse(text)
    if len(found) != 1 or found[0][1] is not None:
        raise InputError(f"model = {text!r} in the node config must be one model, without a count")
    return found[0][0]


def _neighbors_model(config: RunConfig, num_nodes: int, found: data.NodeData, name: str) -> nn.Module:
    """Return a model with the name that another node gave; raises InputError unless the run config lists it."""
    # A name can be any module of this machine.
    if name not in config.models(num_nodes):
        raise InputError(f"model = {config.model!r} does not list it")
    return models.build(name, len(found.label_names), found.shape)


@lru_cache(maxsize=4)
def _shared(reference: Tensor, inputs: Tensor, labels: Tensor, device: torch.device) -> tuple[Tensor, list[Batch]]:
    """Return the reference set and the test batches on a device; all nodes of a process share one copy."""
    return reference.to(device), _batches((inputs, labels), device)


def _batches(samples: Batch, device: torch.device) -> list[Batch]:
    """Return samples as batches on a device, for evaluation."""
    inputs, labels = (tensor.to(device).split(EVALUATE_BATCH) for tensor in samples)
    return list(zip(inputs, labels, strict=True))


def find_files(context: Context, greeting: Greeting) -> NodeFiles | None:
    """Return where a node keeps its states: in the run's folder if it is on the server's machine, else None.

    The token shows that the folder belongs to the run and is not one of the same name on another machine.
    """
    if not (greeting.token and greeting.stage):
        return None
    folder = folders.of_token(greeting.token, str(context.run_config.get("output-dir") or ""))
    if folder is None:
        return None
    label = context.node_config.get("name") or context.node_config.get("partition-id")
    return NodeFiles.of(folder, greeting.stage, label)


app = make_client_app(build_node, find_files)
