"""All kinds of parts, by the run-config key that names a part of the kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flower_kd import models, topology
from flower_kd.augmentation import AUGMENTATIONS
from flower_kd.data import PARTITIONS
from flower_kd.dissimilarity import DISSIMILARITIES
from flower_kd.errors import InputError
from flower_kd.models import MODELS
from flower_kd.parts.registry import Registry
from flower_kd.pooling import POOLINGS
from flower_kd.schedule import SCHEDULES
from flower_kd.strategies import CONSENSUS, STRATEGIES
from flower_kd.topology import TOPOLOGIES, varying
from flower_kd.wire import CODECS, COMPRESSIONS

REGISTRIES: dict[str, Registry[Any]] = {
    "strategy": STRATEGIES,
    "partition": PARTITIONS,
    "model": MODELS,
    "topology": TOPOLOGIES,
    "dissimilarity": DISSIMILARITIES,
    "pooling": POOLINGS,
    "consensus": CONSENSUS,
    "wire": CODECS,
    "schedule": SCHEDULES,
    "augment": AUGMENTATIONS,
    "compression": COMPRESSIONS,
}

# The kind of part that each key names: most kinds have one key, of the same name.
KINDS = {kind: kind for kind in REGISTRIES} | {"reference_augment": "augment"}

# Keys that a strategy's parentheses may not set: the run needs them elsewhere too, or they name other parts.
OF_THE_RUN = (
    *("seed", "local_steps", "exchange_every", "evaluate_every", "patience", "exchange_rows"),
    *("participation", "message_loss"),
    *("wire", "wire_noise", "compression", "dissimilarity", "pooling", "consensus"),
)


def texts(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each kind with the texts that name its parts in a run config, which may list several models.

    Parameters
    ----------
    settings : mapping
        The run config, with underscores for hyphens. A topology from a file is not a part.
    """
    for key, kind in KINDS.items():
        if kind == "model":
            yield from ((kind, text) for text in dict.fromkeys(name for name, _ in models.parse(settings[kind])))
        elif kind != "topology" or not topology.is_file(settings[kind]):
            yield kind, settings[key]
            if kind == "topology" and (drawn := varying.drawn_by(settings[key])):
                yield kind, drawn


def owners(setting: str) -> dict[str, list[str]]:
    """Return flower-kd's own parts that have a setting, by kind."""
    found = {kind: [part for part in of.own_names() if setting in of.settings(part)] for kind, of in REGISTRIES.items()}
    return {kind: parts for kind, parts in found.items() if parts}


def problems(settings: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the parts of a run config: unknown ones, and settings that do not fit."""
    found = []
    for key, kind in KINDS.items():
        try:
            _check(kind, settings[key], settings)
        except InputError as error:
            found.append(str(error))
    return found


def _check(kind: str, text: str, settings: Mapping[str, Any]) -> None:
    if kind == "model":
        models.parse(text)
    elif kind == "topology":
        topology.check(text)
    else:
        if kind == "strategy":
            _check_owner(text, settings)
        REGISTRIES[kind].bind(REGISTRIES[kind].filled(text, settings))


def _check_owner(text: str, settings: Mapping[str, Any]) -> None:
    """Raise InputError if a strategy's parentheses set what belongs to the whole run."""
    of_strategies = {name for part in STRATEGIES.own_names() for name in STRATEGIES.settings(part)}
    for name, value in STRATEGIES.parse(text).arguments.items():
        if name in OF_THE_RUN or name in settings.keys() - of_strategies - STRATEGIES.settings(text).keys():
            key = name.replace("_", "-")
            raise InputError(
                f"strategy {text!r} cannot set {name}, which belongs to the whole run: write {key} = {value!r} as a "
                "key of its own"
            )
