"""Checks of a node in the handshake: once, before any training."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer
from torch.utils.data import Subset, TensorDataset, default_collate

from flower_kd import dissimilarity, failures, schedule, wire
from flower_kd.augmentation import Augmentation
from flower_kd.clients.node import Batch, LoaderBatches, Node, ShuffledBatches
from flower_kd.devices import device_of
from flower_kd.errors import InputError, of_type
from flower_kd.failures import describe
from flower_kd.protocol import Greeting
from flower_kd.seeding import torch_seeded
from flower_kd.wire import compression

TRIED_ROWS, TRIED_TEACHERS = 3, 2  # of the trial of a dissimilarity
AUGMENTED_ROWS = 4  # of the trial of an augmentation
PROBED_ROWS = 2  # of each kind of inputs: enough to check the model's outputs


def check(node: Node, total_steps: int = 0) -> None:
    """Raise InputError, in one sentence, if a node cannot be trained or evaluated.

    Labels in memory are all checked, those of other loaders in their first batch. The model is run on two rows of each
    kind of inputs, in evaluation mode, and the augmentations on a few; the model's mode, its buffers and torch's random
    generators stay unchanged.

    Parameters
    ----------
    node : Node
        The node.
    total_steps : int
        SGD steps of the run, for its schedule; 0 if unknown.
    """
    _check_kinds(node)
    _check_optimizer(node.optimizer, node.model)
    if total_steps:
        check_schedule(node, total_steps)
    # A loader draws from torch's generator even if it does not shuffle.
    with torch_seeded(0, device_of(node.model)):
        private, labels = batch_of(next(_private_batches(node), None), "private")
        everything = labels_in_memory(node.private)
        check_labels(labels if everything is None else everything, node.classes, "private")
        evaluated = {}
        for kind, batches in _evaluated(node).items():
            evaluated[kind], found = batch_of(next(iter(batches), None), kind)
            check_labels(found, node.classes, kind)
        reference = node.reference
        assert isinstance(reference, Tensor)
        _check_finite(node.private.inputs if isinstance(node.private, ShuffledBatches) else private, "private")
        _check_finite(reference, "reference")
        _check_outputs(node, {"private": private, "reference": reference, **evaluated})
        for augmentation, rows in ((node.augmentation, private), (node.reference_augmentation, reference)):
            if augmentation is not None and len(rows):
                check_augmentation(augmentation, rows[:AUGMENTED_ROWS].to(device_of(node.model)), node.classes)


def check_parts(greeting: Greeting) -> None:
    """Raise InputError if this node lacks a part that it will need."""
    if greeting.dissimilarity:
        dissimilarity.get(greeting.dissimilarity)
    if greeting.wire:
        wire.get(greeting.wire, greeting.wire_coding)
    if greeting.compression:
        compression.get(greeting.compression)
    if greeting.pooling:
        from flower_kd import pooling  # with scipy, which other nodes do not need

        pooling.get(greeting.pooling)


def check_compression(name: str, node: Node) -> None:
    """Raise InputError unless a compression can send this node's weights; an empty name stands for none."""
    if name:
        compression.get(name).compress(
            {name: parameter.detach().cpu().float().numpy() for name, parameter in node.model.named_parameters()}, {}
        )


def check_wire(greeting: Greeting, node: Node) -> None:
    """Raise InputError unless a node's logits can be sent in the wire format that it will need."""
    if greeting.wire:
        wire.get(greeting.wire, greeting.wire_coding).check(node.classes)


def check_validation(patience: int, node: Node) -> None:
    """Raise InputError if a node is to be stopped by validation data that it does not have."""
    if patience and node.validation is None:
        raise InputError(f"patience = {patience} needs validation data, which this node does not have")


def check_dissimilarity(name: str, node: Node) -> None:
    """Raise InputError unless a dissimilarity can train this node; an empty name stands for none.

    It is tried on a few rows with and without separate teachers, one of which excludes a class. Torch's random
    generators stay unchanged.
    """
    if not name:
        return
    device = device_of(node.model)
    with torch_seeded(0, device), torch.enable_grad():
        student = torch.randn(TRIED_ROWS, node.classes).to(device).requires_grad_()
        teachers = torch.randn(TRIED_TEACHERS, TRIED_ROWS, node.classes).softmax(-1).to(device)
        teachers[0, 0] = torch.eye(node.classes, device=device)[0]  # as a coarse wire format may round it
        per_row = dissimilarity.get(name, reduction="none")
        rows, several = [TRIED_ROWS], [TRIED_ROWS] if per_row.multiway else [TRIED_TEACHERS, TRIED_ROWS]
        for soft_labels, shape in ((teachers[0], rows), (teachers, several)):
            _check_values(name, per_row, student, soft_labels, shape)
            _check_values(name, dissimilarity.get(name, reduction="mean"), student, soft_labels, [])


def check_schedule(node: Node, total_steps: int) -> None:
    """Raise InputError unless a node's schedule has a factor for the rates of each step of a run."""
    if node.schedule == schedule.CONSTANT:
        return
    schedule.factors(node.schedule, total_steps)
    if not all("lr" in group for group in node.optimizer.param_groups):
        raise InputError(
            f"schedule {node.schedule!r} changes learning rates, but {type(node.optimizer).__name__} has none ('lr')"
        )


def check_augmentation(augmentation: Augmentation, inputs: Tensor, classes: int) -> None:
    """Raise InputError unless an augmentation returns inputs as the model needs them, and targets that fit.

    Parameters
    ----------
    augmentation : Augmentation
        It is run on the inputs once.
    inputs : Tensor
        [rows, ...].
    classes : int
        Number of classes.
    """
    part = f"augmentation {augmentation.name!r}"
    before = inputs.clone()
    targets = torch.full((len(inputs), classes), 1 / classes, device=inputs.device)
    found = augmentation(inputs, targets)
    for kind, values, given in zip(("inputs", "targets"), found, (before, targets), strict=True):
        if not isinstance(values, Tensor):
            raise InputError(f"{part} returns {kind} of type {type(values).__name__}, not a Tensor")
        if values.shape != given.shape or values.dtype != given.dtype:
            raise InputError(
                f"{part} returns {kind} of shape {_shape(values)} and dtype {_dtype(values)} for {_shape(given)} and "
                f"{_dtype(given)}, but must keep both"
            )
        if values.is_floating_point() and not values.isfinite().all():
            raise InputError(f"{part} returns {kind} with NaN or Inf")
    if not torch.equal(inputs, before):
        raise InputError(f"{part} changes its inputs in place: it must return new ones")
    if augmentation.mixes and found[1].min() < 0:
        raise InputError(f"{part} returns negative targets, but they must be probabilities")


def _check_values(
    name: str, measure: dissimilarity.Dissimilarity, student: Tensor, soft_labels: Tensor, shape: list[int]
) -> None:
    """Raise InputError unless a dissimilarity gives finite values of a shape, with a finite gradient."""
    part = f"dissimilarity {name!r}"
    of = f"for a student of shape {_shape(student)} and a teacher of shape {_shape(soft_labels)}"
    with failures.named(f"{part} {of}"):
        values = measure(dissimilarity.soften(student, 1.0), soft_labels.log())
    if not isinstance(values, Tensor):
        raise InputError(f"{part} returns {of_type(values)}, not a Tensor")
    if list(values.shape) != shape:
        reduced = f" with reduction {measure.reduction!r}"
        raise InputError(f"{part} returns values of shape {_shape(values)} {of}{reduced}, but must return {shape}")
    if not values.isfinite().all():
        raise InputError(f"{part} is not finite {of}")
    if not values.requires_grad:
        raise InputError(f"{part} has no gradient: its value must depend on the student through torch's operations")
    with failures.named(f"the gradient of {part} {of}"):
        (gradient,) = torch.autograd.grad(values.sum(), student)
    if not gradient.isfinite().all():
        raise InputError(f"the gradient of {part} is not finite {of}")


def _check_kinds(node: Node) -> None:
    """Raise InputError if a part of a node has the wrong type."""
    if not isinstance(node.model, nn.Module):
        raise InputError(f"the model is of type {type(node.model).__name__}, but must be a torch.nn.Module")
    if not isinstance(node.optimizer, Optimizer):
        raise InputError(
            f"the optimizer is of type {type(node.optimizer).__name__}, but must be a torch.optim.Optimizer"
        )
    if not hasattr(node.private, "batches"):
        raise InputError(
            f"the private data are of type {type(node.private).__name__}, but must be a DataLoader or have a method "
            "batches(first_step, num_steps)"
        )
    if not isinstance(node.reference, Tensor):
        raise InputError(
            f"the reference set is of type {type(node.reference).__name__}, but must be a Tensor [rows, ...] or a "
            "DataLoader"
        )
    for name, value in (("augment", node.augment), ("reference_augment", node.reference_augment)):
        if not (isinstance(value, str) or callable(value)):
            raise InputError(f"{name} = {value!r} must be a text or a function from inputs to inputs")
    if not (isinstance(node.schedule, str) or callable(node.schedule)):
        raise InputError(f"schedule = {node.schedule!r} must be a text or a function from an optimizer to a scheduler")
    if not isinstance(node.schedule, Hashable):  # its factors are computed once
        kind = type(node.schedule).__name__
        raise InputError(f"the schedule is of type {kind}, which is not hashable: give it a __hash__, or a function")
    if type(node.classes) is not int or node.classes < 1:
        raise InputError(f"classes = {node.classes!r} must be a whole number, at least 1")
    for kind, batches in _evaluated(node).items():
        if not hasattr(batches, "__iter__"):
            raise InputError(
                f"the {kind} data are of type {type(batches).__name__}, but must be a DataLoader or a list of batches"
            )
        if isinstance(batches, Iterator):
            raise InputError(f"the {kind} data can be iterated only once: use a DataLoader or a list, not an iterator")


def _evaluated(node: Node) -> dict[str, Iterable[Batch]]:
    """Return the data on which a node is evaluated, by kind."""
    return {"test": node.test} | ({"validation": node.validation} if node.validation is not None else {})


def _check_optimizer(optimizer: Optimizer, model: nn.Module) -> None:
    """Raise InputError unless an optimizer has all trainable parameters of a model, and no others."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    if any(isinstance(parameter, UninitializedParameter) for parameter in model.parameters()):
        raise InputError("the model has lazy layers without weights: run a batch through it in build_node")
    optimized = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    foreign = len(optimized - names.keys())
    if foreign:
        raise InputError(
            f"{foreign} of the optimizer's {len(optimized)} parameters do not belong to the model: build the optimizer "
            "from the parameters of the node's own model"
        )
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    missing = [names[id(p)] for p in model.parameters() if p.requires_grad and id(p) not in optimized]
    if missing:
        raise InputError(
            f"the optimizer lacks {len(missing)} of the model's {len(trained)} trainable parameters, such as "
            f"{missing[0]!r}: pass all of them, and set requires_grad=False on those to be frozen"
        )


def _private_batches(node: Node) -> Iterator[object]:
    if len(node.private) == 0:
        raise InputError("the private data are empty")
    return iter(node.private.batches(0, 1))  # type: ignore[union-attr]


def batch_of(batch: object, kind: str) -> tuple[Tensor, Tensor]:
    """Return inputs and labels of a batch; raises InputError if it is anything else."""
    if batch is None:
        raise InputError(f"the {kind} data are empty")
    if not (isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        parts = [type(part).__name__ for part in batch] if isinstance(batch, list | tuple) else []
        found = f"({', '.join(parts)})" if parts else type(batch).__name__
        raise InputError(f"a batch of the {kind} data is {found}, but must be two tensors: (inputs, labels)")
    inputs, labels = batch
    if len(inputs) == 0:
        raise InputError(f"the first batch of the {kind} data is empty")
    if labels.shape != inputs.shape[:1]:
        raise InputError(
            f"the {kind} labels are of shape {_shape(labels)} for inputs of shape {_shape(inputs)}, but must be of "
            f"shape [{len(inputs)}]: one class index per sample"
        )
    return inputs, labels


def labels_in_memory(private: object) -> Tensor | None:
    """Return all labels of private data, [samples], if they are in memory."""
    if isinstance(private, ShuffledBatches):
        return private.labels
    if isinstance(private, LoaderBatches) and private.loader.collate_fn is default_collate:
        return _labels_of(private.loader.dataset)
    return None


def _labels_of(dataset: object) -> Tensor | None:
    if type(dataset) is TensorDataset:
        return dataset.tensors[-1]
    if type(dataset) is Subset:
        whole = _labels_of(dataset.dataset)
        return None if whole is None else whole[torch.as_tensor(dataset.indices)]
    return None


def check_labels(labels: Tensor, classes: int, kind: str) -> None:
    """Raise InputError unless labels, [samples], are indices of classes."""
    if labels.dtype not in (torch.int64, torch.uint8):  # the dtypes of class indices in cross_entropy
        raise InputError(f"the {kind} labels are of dtype {_dtype(labels)}, but must be int64: class indices")
    low, high = (int(bound) for bound in labels.aminmax())
    if low < 0 or high >= classes:
        odd = low if low < 0 else high
        raise InputError(f"the {kind} labels contain {odd}: with classes = {classes} they must be 0 to {classes - 1}")


def _check_finite(inputs: Tensor, kind: str) -> None:
    # A sum is several times faster; it is finite if all values are, except for values too large for any model.
    if inputs.is_floating_point() and not inputs.sum().isfinite() and not inputs.isfinite().all():
        raise InputError(f"the {kind} inputs contain NaN or Inf")


def _check_outputs(node: Node, inputs: dict[str, Tensor]) -> None:
    """Raise InputError unless the model returns one row of finite logits for each row of inputs."""
    samples = {kind: rows[:PROBED_ROWS] for kind, rows in inputs.items() if len(rows)}
    shapes = {kind: (rows.shape[1:], rows.dtype) for kind, rows in samples.items()}
    if shapes.get("reference", shapes["private"]) != shapes["private"]:
        raise InputError(
            f"reference rows are of shape {_shape(inputs['reference'][0])} and dtype {_dtype(inputs['reference'])}, "
            f"private ones of {_shape(inputs['private'][0])} and {_dtype(inputs['private'])}: both must fit into "
            "one batch"
        )
    if len(set(shapes.values())) == 1:
        samples = {"private": torch.cat(list(samples.values()))}  # one pass for all, as there may be thousands of nodes
    with _evaluating(node.model):
        for kind, rows in samples.items():
            _check_logits(node, rows, kind)


def _check_logits(node: Node, rows: Tensor, kind: str) -> None:
    try:
        logits = node.model(rows.to(device_of(node.model)))
    except Exception as error:
        raise InputError(f"the model fails on {kind} inputs of shape {_shape(rows)}: {describe(error)}") from error
    if not isinstance(logits, Tensor):
        raise InputError(f"the model returns {type(logits).__name__}, it must return logits: a Tensor [batch, classes]")
    if logits.shape != (len(rows), node.classes):
        raise InputError(
            f"the model returns shape {_shape(logits)} for {kind} inputs of shape {_shape(rows)}, with classes = "
            f"{node.classes} it must be [{len(rows)}, {node.classes}]"
        )
    if not logits.isfinite().all():
        raise InputError(f"the model returns NaN or Inf for {kind} inputs before any training")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a block, then restore the mode of each of its modules."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _shape(tensor: Tensor) -> str:
    return f"[{', '.join(map(str, tensor.shape))}]"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
