"""What makes the runs of a comparison unequal beside their strategies: how they began, and how their nodes train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flower_kd.report.formats import as_text
from flower_kd.unused import effective

# Keys that change a node's training under any strategy.
TRAINING = (
    *("dataset", "image-size", "normalization", "partition", "gamma", "dirichlet-alpha", "samples-per-node"),
    *(
        "validation-share",
        "patience",
        "model",
        "weights-file",
        "num-server-rounds",
        "local-steps",
        "batch-size",
        "learning-rate",
    ),
    *("momentum", "weight-decay", "schedule", "augment", "reference-augment"),
)
_WIDTH = 100  # of one line in the terminal


def initial_weights(began: Mapping[str, str]) -> str:
    """Return which runs began with common weights, of "common" or "separate" by label; empty if all began alike."""
    if not {"common", "separate"} <= set(began.values()):
        return ""
    runs = {how: [label for label, own in began.items() if own == how] for how in ("common", "separate")}
    return "; ".join(f"{how} initial weights: {', '.join(labels)}" for how, labels in runs.items())


def training(configs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return in which settings of training runs differ, of run configs by label; empty if in none.

    A key without effect in a run does not count there. The values are given if they fit in one line.
    """
    used = {label: effective(config) for label, config in configs.items()}
    values = {key: {label: own[key] for label, own in used.items() if key in own} for key in TRAINING}
    differing = {key: by_label for key, by_label in values.items() if len(set(by_label.values())) > 1}
    if not differing:
        return ""
    detailed = f"differ in {', '.join(f'{key} ({_listed(by)})' for key, by in differing.items())}"
    if len(detailed) <= _WIDTH:
        return detailed
    return f"differ in {', '.join(differing)}: see the page of flower-kd report"


def _listed(values: Mapping[str, Any]) -> str:
    """Return values with their labels, the most frequent one last: "a, b: 0.1; others: 0.4"."""
    labels: dict[Any, list[str]] = {}
    for label, value in values.items():
        labels.setdefault(value, []).append(label)
    *few, most = sorted(labels, key=lambda value: len(labels[value]))
    last = "others" if len(labels[most]) > 1 else labels[most][0]
    return "; ".join([*(f"{', '.join(labels[value])}: {as_text(value)}" for value in few), f"{last}: {as_text(most)}"])
