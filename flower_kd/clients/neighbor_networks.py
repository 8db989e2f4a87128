"""Networks of neighbors on a node: built by name, kept for the rest of the run, and asked on private batches.

The networks travel, so that the data need not: nobody else sees what they answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from logging import WARNING

import numpy as np
import torch
from flwr.app import ArrayRecord, RecordDict
from flwr.common.logger import log
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flower_kd import wire
from flower_kd.clients.memory import remember, remembered
from flower_kd.clients.node import Node
from flower_kd.devices import device_of
from flower_kd.errors import InputError, of_type
from flower_kd.failures import describe
from flower_kd.models import num_parameters, pruning
from flower_kd.models.two_heads import TwoHeads, copied, plain, with_linear_head
from flower_kd.protocol import TEACHER_WEIGHTS, BuildRequest, Built, Order, TeacherMode, network_record
from flower_kd.seeding import torch_seeded
from flower_kd.teacher import Teacher

NETWORKS = "networks"  # what a node remembers
_ABOUT, _WEIGHTS = "about", "weights"


@dataclass
class NeighborNetworks:
    """Teachers that are asked on the student's own inputs.

    Parameters
    ----------
    networks : list of nn.Module or None
        From inputs to logits: the node's own head-1 network, None if the pooling does not read it, and its neighbors'.
    weights : ndarray
        What each counts, with a sum of 1, [networks].
    pooling : str
        How their logits are pooled.
    temperature : float
        Of the softmax.
    """

    networks: list[nn.Module | None]
    weights: np.ndarray
    pooling: str
    temperature: float

    def __post_init__(self) -> None:
        from scipy.sparse import csr_array  # which other nodes do not need

        from flower_kd import pooling

        count = len(self.networks)
        own = np.flatnonzero(self.weights)
        # One row of a square matrix: only the first node has teachers.
        self._matrix = csr_array((self.weights[own], (np.zeros_like(own), own)), shape=(count, count))
        self._pool = partial(pooling.pool, self.pooling, pooling.get(self.pooling))
        self._present = torch.tensor([network is not None for network in self.networks])

    def __call__(self, inputs: Tensor) -> Teacher | None:
        """Return the pooled teacher on inputs [batch, ...]."""
        with torch.no_grad():
            found = [None if network is None else network(inputs) for network in self.networks]
        answers = [answer for answer in found if answer is not None]
        # What a network was sent with could still be too large for these inputs.
        logits = torch.stack([torch.zeros_like(answers[0]) if answer is None else answer for answer in found])
        logits = logits.nan_to_num(0.0).clamp(-wire.LARGEST, wire.LARGEST).cpu()
        return self._pool(logits, self._matrix, self.temperature, present=self._present)[0]


def answer(node: Node, request: BuildRequest) -> Built:
    """Return whether a node can build networks of these names and sizes."""
    wanted = zip(request.networks, request.parameters, request.pruned, strict=True)
    for place, (name, parameters, pruned) in enumerate(wanted):
        try:
            network = _built(node, name)
            if (found := num_parameters(network)) != parameters:
                raise InputError(f"it builds one with {found:,} parameters, not {parameters:,}")
            if (found := pruning.num_pruned(network)) != pruned:
                raise InputError(f"it builds one with {found:,} pruned parameters, not {pruned:,}")
        except InputError as error:
            return Built(place, str(error))
    return Built()


def encoded(node: Node) -> ArrayRecord:
    """Return the node's network with head 1 as it travels; masks of pruned weights too, as receivers have others."""
    return wire.encode_weights(pruning.to_file(plain(node.model).state_dict()))


def receive(node: Node, order: Order, content: RecordDict) -> None:
    """Keep the networks of neighbors in a message; one that cannot be used is left out with a warning."""
    record = content.get(TEACHER_WEIGHTS)
    if not order.networks or not isinstance(record, ArrayRecord):
        return
    weights = wire.decode(record, (len(order.networks) + 1,)).numpy().astype(np.float64)
    arrays: dict[str, np.ndarray] = {}
    usable: list[str] = []
    for place, name in enumerate(order.networks):
        try:
            found = _decoded(node, name, content.get(network_record(place)))
        except InputError as error:
            log(WARNING, "the network %r of a neighbor is not among the teachers: %s", name, error)
            weights[place + 1] = -1
            continue
        arrays |= {f"{len(usable)}/{key}": array for key, array in found.items()}
        usable.append(name)
    weights = weights[weights >= 0]
    about = np.frombuffer(json.dumps(usable).encode(), np.uint8).copy()
    remember(node, NETWORKS, {_ABOUT: about, _WEIGHTS: weights, **arrays})


def teachers(node: Node, order: Order) -> Callable[[Tensor], Teacher | None] | None:
    """Return the teachers that a node keeps, if there are any; a node that lives on builds them once."""
    kept = remembered(node, NETWORKS)
    if not order.pooling or not kept or not kept[_WEIGHTS].sum() > 0:
        return None
    cached = node.teachers
    if cached is None or cached[0] is not kept[_ABOUT]:
        from flower_kd import pooling  # with scipy, which other nodes do not need

        is_read = kept[_WEIGHTS][0] > 0 or pooling.takes_present(pooling.get(order.pooling))
        own = copied(plain(node.model)) if is_read else None
        networks = [own, *_restored(node, kept)]
        for network in networks:
            if network is not None:
                _prepare(network.to(device_of(node.model)), order.teacher_mode)
        weights = kept[_WEIGHTS] / kept[_WEIGHTS].sum()
        cached = (kept[_ABOUT], NeighborNetworks(networks, weights, order.pooling, order.temperature))
        node.teachers = cached
    return cached[1]


def _restored(node: Node, kept: dict[str, np.ndarray]) -> Iterator[nn.Module]:
    for place, name in enumerate(json.loads(kept[_ABOUT].tobytes())):
        prefix = f"{place}/"
        own = {key.removeprefix(prefix): array for key, array in kept.items() if key.startswith(prefix)}
        yield _loaded(_built(node, name), own)


def _decoded(node: Node, name: str, record: object) -> wire.Arrays:
    """Return the weights of a neighbor's network; raises InputError unless it can be asked on the node's inputs."""
    if not isinstance(record, ArrayRecord):
        raise InputError("the message does not have its weights")
    network = _built(node, name)
    weights = wire.decode_weights(record, wire.layout_of(pruning.to_file(network.state_dict())))
    _loaded(network, weights).to(device_of(node.model)).eval()
    device = device_of(node.model)
    with torch_seeded(0, device), torch.no_grad():  # a loader draws from torch's generator
        inputs, _ = next(iter(node.private.batches(0, 1)))  # type: ignore[union-attr]
        try:
            logits = network(inputs[:2].to(device))
        except Exception as error:
            raise InputError(f"it fails on private inputs: {describe(error)}") from error
    if logits.shape != (min(len(inputs), 2), node.classes) or not logits.isfinite().all():
        raise InputError("it does not return finite logits of each class for private inputs")
    return weights


def _built(node: Node, name: str) -> nn.Module:
    """Return a network like a neighbor's of this name, with head 1; raises InputError if that is impossible."""
    if name == node.name:
        return copied(plain(node.model))
    if node.build_model is None:
        raise InputError("it has no build_model for networks that are not its own")
    try:
        model = node.build_model(name)
    except (Exception, SystemExit) as error:
        raise InputError(describe(error)) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"build_model returned {of_type(model)}, not a torch.nn.Module")
    return model.local if isinstance(model, TwoHeads) else with_linear_head(model, node.classes)


def _loaded(network: nn.Module, weights: wire.Arrays) -> nn.Module:
    """Return a network with weights as they were sent; those that are not pruned share their memory on a CPU."""
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    try:
        network.load_state_dict(pruning.from_file(tensors, network.state_dict()), assign=True)
    except ValueError as error:
        raise InputError(str(error)) from None
    return network


def _prepare(network: nn.Module, mode: TeacherMode) -> None:
    network.requires_grad_(False).train(mode == "train")
    for module in network.modules():
        if mode == "train" and isinstance(module, _BatchNorm):
            module.track_running_stats = False  # statistics of the batch; those of the network stay as they are
