"""Local work on one node: SGD on private labels and a teacher, prediction, evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import repeat

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flower_kd import dissimilarity, schedule, wire
from flower_kd.augmentation import Augmentation
from flower_kd.clients.gradient_norms import GradientNorms
from flower_kd.clients.node import Batch, Node
from flower_kd.devices import device_of
from flower_kd.errors import InputError
from flower_kd.models.two_heads import in_use
from flower_kd.protocol import Order
from flower_kd.seeding import derive, seed_torch, torch_seeded
from flower_kd.teacher import Teacher

PREDICT_BATCH = 128  # larger batches do not fit the CPU caches: half the speed for LeNet5

# Reference inputs [rows, ...] and the log-probabilities of the teacher on them, if there is a teacher.
DistillationBatch = tuple[Tensor, Tensor | None]


def train(
    node: Node,
    order: Order,
    teacher: Teacher | None,
    rows: np.ndarray,
    vertex: int,
    ask: Callable[[Tensor], Teacher | None] | None = None,
) -> tuple[dict[str, float], Tensor | None]:
    """Take the order's SGD steps on `label_weight * CE + kd_weight * dissimilarity`.

    The client loss of Molo et al. (SISAP 2024), and of Distributed Distillation (Wang, Wang and Ma 2020, equation 5).

    Private and reference rows share one forward pass, unless the model has batch normalization: each then has its own
    pass and batch statistics, and logits that leave the node are computed in evaluation mode, in which no row depends
    on private rows of the batch. So are those of a node that augments reference rows, as others get predictions of
    unchanged rows. Without distillation, reference rows take no part in training at all.

    Parameters
    ----------
    node : Node
        Its model and optimizer change in place.
    order : Order
        Steps, factors, temperature, dissimilarity.
    teacher : Teacher or None
        Without one, only labels are used.
    rows : ndarray
        Reference rows of the teacher, [rows]; also those of the reply if the order is `joint`.
    vertex : int
        The node's place in the graph, for its random streams.
    ask : callable (Tensor) -> Teacher or None, optional
        Returns the teacher on private inputs [batch, ...]: the node then distills on its private batches, unless it has
        a teacher on reference rows.

    Returns
    -------
    dict
        Mean losses over the steps, number of private samples, seconds; the norms of gradients that the order asks for.
    Tensor or None
        Logits [rows, classes] of the weights before the last step if the order is `joint`, from its forward pass where
        that has the unchanged rows: weights and consensus are then updated from the same point, as in the original
        algorithm (Bistritz et al., algorithm 1).

    Raises
    ------
    InputError
        If a loss is not finite, or the node's schedule or an augmentation cannot be used.
    """
    started = time.perf_counter()
    device = device_of(node.model)
    if not node.model.training:  # switching walks through all modules
        node.model.train()
    network = in_use(node.model)
    label_weight = order.label_weight if teacher is not None or ask is not None else 1.0
    kd_batches: Iterable[DistillationBatch | None] = repeat(None)
    joint_pass = order.kd_weight > 0 and not node.has_batch_norm
    augmentation, reference_augmentation = node.augmentation, node.reference_augmentation
    predicts_apart = order.joint and not (joint_pass and reference_augmentation is None)
    if teacher is not None and order.kd_weight > 0:
        kd_batches = _distillation_batches(node, order, teacher, rows, vertex)
    elif order.joint and not predicts_apart:
        kd_batches = repeat((_reference(node, rows), None))
    measure = measure_of(order.dissimilarity)
    label_losses, kd_losses = [], []
    gradients = GradientNorms(order) if order.record_gradients else None
    predictions: Tensor | None = None
    # Seeded for each step, so that noise depends neither on the steps per message nor on reference rows. The first seed
    # is also that of the private loader, which draws from torch's generator whenever it starts.
    noise = torch_seeded(derive(order.seed, "training noise", vertex, order.first_step), device)
    with noise, schedule.scaled_rates(node.optimizer, _factors(node, order)) as set_rates:
        batches = node.private.batches(order.first_step, order.num_steps)  # type: ignore[union-attr]
        for done, ((inputs, labels), kd_batch) in enumerate(zip(batches, kd_batches, strict=False)):
            if predicts_apart and done == order.num_steps - 1:
                predictions = predict(node.model, _reference(node, rows))
                node.model.train()
            seed_torch(derive(order.seed, "training noise", vertex, order.first_step + done), device)
            inputs, labels = inputs.to(device), labels.to(device)
            if augmentation is not None:  # before reference rows, on which private ones do not depend
                inputs, labels = _augmented(augmentation, inputs, labels, node.classes)
            if kd_batch is not None and reference_augmentation is not None:
                kd_batch = _augmented_for_teacher(reference_augmentation, *kd_batch)
            if kd_batch is not None and joint_pass:  # half the kernel launches
                own, shared = network(torch.cat([inputs, kd_batch[0]])).tensor_split([len(labels)])
                if not predicts_apart:
                    predictions = shared.detach()
            else:
                own = network(inputs)
                shared = network(kd_batch[0]) if kd_batch is not None else own[:0]
            label_loss = F.cross_entropy(own, labels)
            if gradients is not None:
                gradients.of_labels(own, labels)
            loss = label_loss if label_weight == 1 else label_weight * label_loss
            distilled: tuple[Tensor, Tensor, Tensor | None] | None = None  # logits, the teacher's log q, its weights
            if kd_batch is not None and kd_batch[1] is not None and teacher is not None:
                distilled = shared, kd_batch[1], teacher.weights
            elif ask is not None and order.kd_weight > 0 and (asked := ask(inputs)) is not None:
                # A view, whose gradient is that of this term only.
                distilled = own.view_as(own), asked.soft_labels.to(device).log(), asked.weights
            if distilled is not None:
                kd_loss = _kd_loss(measure, *distilled, order)
                loss = loss + order.kd_weight * kd_loss
                kd_losses.append(kd_loss.detach())
                if gradients is not None:
                    gradients.of_distillation(distilled[0])
            loss.backward()
            set_rates(done)
            node.optimizer.step()
            node.optimizer.zero_grad()  # now, so that gradients take no memory between messages
            label_losses.append(label_loss.detach())
    metrics = {"train-loss": _mean(label_losses), "kd-loss": _mean(kd_losses)}
    if gradients is not None:
        metrics |= gradients.metrics()
    _check_losses(metrics, label_losses, kd_losses, order.dissimilarity)
    metrics |= {"num-examples": len(node.private), "seconds": time.perf_counter() - started}
    return metrics, predictions if order.joint else None


@lru_cache(maxsize=16)
def measure_of(text: str) -> dissimilarity.Dissimilarity:
    """Return an order's dissimilarity without reduction; messages that name the same one share it."""
    return dissimilarity.get(text, reduction="none")


def predict(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return logits [rows, classes] for inputs [rows, ...], in evaluation mode and without gradients."""
    device = device_of(model)
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(part.to(device)) for part in inputs.split(PREDICT_BATCH)])


def evaluate(model: nn.Module, batches: Iterable[Batch], kind: str = "test") -> dict[str, float]:
    """Return accuracy in [0, 1], mean cross entropy (nats) and number of samples."""
    device = device_of(model)
    model.eval()
    correct, loss, samples = torch.zeros((), device=device), torch.zeros((), device=device), 0
    with torch.inference_mode():
        for batch in batches:
            inputs, labels = (part.to(device) for part in batch)
            logits = model(inputs)
            loss += F.cross_entropy(logits, labels, reduction="sum")
            correct += (logits.argmax(dim=-1) == labels).sum()
            samples += len(labels)
    if samples == 0:
        raise InputError(f"the {kind} set is empty")
    return {"accuracy": correct.item() / samples, "loss": loss.item() / samples, "num-examples": samples}


def _distillation_batches(
    node: Node, order: Order, teacher: Teacher, rows: np.ndarray, vertex: int
) -> Iterator[DistillationBatch]:
    """Yield reference inputs and the logarithms of the teacher's soft labels, one batch per step."""
    log_q = teacher.soft_labels.to(device_of(node.model)).log()
    size = order.reference_batch or len(rows)
    if size >= len(rows) or order.joint:
        yield from repeat((_reference(node, rows), log_q))
    generator = torch.Generator().manual_seed(derive(order.seed, "distillation batches", vertex, order.first_step))
    while True:
        for chosen in torch.randperm(len(rows), generator=generator)[: len(rows) // size * size].split(size):
            yield _reference(node, rows[chosen.numpy()]), log_q[..., chosen, :]


def _factors(node: Node, order: Order) -> list[float] | None:
    """Return the factors of the learning rate in an order's steps; None if the rate is constant."""
    if node.schedule == schedule.CONSTANT:
        return None
    first = order.first_step - order.phase_start
    last = first + order.num_steps
    if order.total_steps and not 0 <= first < last <= order.total_steps:
        raise InputError(f"an order of steps {first} to {last} in a run or phase of total_steps = {order.total_steps}")
    return schedule.factors(node.schedule, order.total_steps)[first:last].tolist()


def _augmented(augmentation: Augmentation, inputs: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return augmented inputs, and labels [batch] or, if they were mixed, probabilities [batch, classes]."""
    if augmentation.mixes:
        labels = F.one_hot(labels.long(), classes).to(torch.get_default_dtype())
    return augmentation(inputs, labels)


def _augmented_for_teacher(augmentation: Augmentation, inputs: Tensor, log_q: Tensor | None) -> DistillationBatch:
    """Return augmented reference inputs; soft labels stay those of the unchanged rows, unless rows are mixed."""
    assert log_q is not None  # otherwise the rows are there for predictions, which are of unchanged rows
    if not augmentation.mixes:
        return augmentation(inputs, log_q)
    inputs, soft_labels = augmentation(inputs, log_q.exp().movedim(-2, 0))  # [rows, ...], also for several teachers
    return inputs, soft_labels.movedim(0, -2).log()


def _reference(node: Node, rows: np.ndarray) -> Tensor:
    assert isinstance(node.reference, Tensor)
    return node.reference[torch.from_numpy(rows)].to(device_of(node.model))


def _kd_loss(measure: nn.Module, logits: Tensor, log_q: Tensor, weights: Tensor | None, order: Order) -> Tensor:
    """Return the distillation term: a mean or sum over rows, summed over separate teachers."""
    per_row = measure(dissimilarity.soften(logits, order.temperature), log_q)  # [rows] or [teachers, rows]
    if per_row.ndim == 2:
        per_row = per_row.sum(0) if weights is None else weights.to(per_row.device) @ per_row
    return per_row.sum() if order.kd_reduction == "sum" else per_row.mean()


def _check_losses(means: dict[str, float], labels: list[Tensor], kd: list[Tensor], dissimilarity_name: str) -> None:
    """Raise InputError if a loss is not finite; it names the dissimilarity if the model had not diverged before."""
    odd = next((name for name, value in means.items() if not np.isfinite(value)), None)
    if odd is None:
        return
    for label_loss, kd_loss in zip(labels, kd, strict=False):
        if not label_loss < wire.LARGEST:
            break
        if not kd_loss.isfinite():
            raise InputError(
                f"kd-loss is {kd_loss.item()} in a step whose train-loss is {label_loss.item():.4g}: dissimilarity "
                f"{dissimilarity_name!r} is not finite for this student and its teacher"
            )
    raise InputError(f"{odd} is {means[odd]}: the model diverged (lower learning-rate?)")


def _mean(losses: list[Tensor]) -> float:
    return torch.stack(losses).mean().item() if losses else 0.0
