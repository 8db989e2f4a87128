"""Settings without effect: those that the strategy, the topology or the partition of a run does not use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flower_kd import models, strategies, topology
from flower_kd.catalog import REGISTRIES
from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.parts import moved
from flower_kd.strategies import STRATEGIES

WARNING = "without effect: "

# Kinds of parts that only some strategies use.
_OF_STRATEGY = ("dissimilarity", "pooling", "consensus", "wire", "compression")


@dataclass(frozen=True)
class Reason:
    """Why a key has no effect.

    Parameters
    ----------
    words : str
        What does not use the key.
    instead : str
        The keys and settings used instead; empty if there are none, or they are irrelevant.
    """

    words: str
    instead: str = ""


def unused(config: RunConfig) -> dict[str, Reason]:
    """Return the keys without effect on a run of this config, each with the reason.

    Keys that no part of flower-kd declares among its settings always have one.
    """
    settings = asdict(config)
    cls = strategies.STRATEGIES.get(config.strategy)
    found: dict[str, Reason] = {}
    used = {"seed"}  # by the data and the graph too
    for kind in ("strategy", "partition", "topology", *_OF_STRATEGY):
        if kind in _OF_STRATEGY and kind not in STRATEGIES.settings(config.strategy):
            continue  # a strategy that does not take this kind of part is a reason already
        if kind == "topology" and strategies.sends_to(cls) != "neighbors":
            # A file may also name the nodes.
            if not topology.is_file(config.topology):
                found[kind] = Reason(f"strategy {config.strategy!r} does not use the graph")
            continue
        if kind == "topology" and topology.is_file(config.topology):
            continue
        registry, text = REGISTRIES[kind], getattr(config, kind)
        own = set(registry.settings(text))
        in_parentheses = registry.parse(text).arguments.keys() & settings.keys()
        used |= own - in_parentheses
        words = f"{kind} {text!r} does not use it"
        others = {name for part in registry.own_names() for name in registry.settings(part)}
        keys = (_key(name) if name in settings else name for name in own)
        instead = ", ".join(sorted(keys))
        found |= dict.fromkeys(others - own, Reason(words, instead))
        found |= dict.fromkeys(in_parentheses, Reason(f"{kind} {text!r} sets it in parentheses"))
    if not getattr(cls, "same_reference", False):
        found["reference_augment"] = Reason(f"strategy {config.strategy!r} does not distill")
    for name, _ in models.parse(config.model):
        used |= (
            set(models.MODELS.settings(name)) - models.MODELS.parse(name).arguments.keys() if _known(name) else set()
        )
    if issubclass(cls, strategies.GraphStrategy):
        for name, words in cls.without_effect(STRATEGIES.parse(config.strategy).arguments).items():
            found[name] = Reason(words)
            used.discard(name)
    return {_key(name): why for name, why in found.items() if name in settings and name not in used}


def effective(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run config with defaults and without the keys that have no effect; with all, if a part is not found."""
    config = RunConfig.read(moved.applied(values))
    try:
        without = unused(config)
    except InputError:  # the user's module is no longer here
        without = {}
    return {key: value for key, value in config.to_dict().items() if key not in without}


def warning(configs: Iterable[RunConfig]) -> str:
    """Return one line about keys that were changed from their defaults but used by no run; empty if there are none."""
    defaults = RunConfig().to_dict()
    used: set[str] = set()
    whys: dict[str, dict[str, None]] = {}  # distinct reasons by setting, in order
    for config in configs:
        values, without = config.to_dict(), unused(config)
        for key in (key for key, value in values.items() if value != defaults[key]):
            if key in without:
                whys.setdefault(f"{key} = {_text(values[key])}", {})[without[key].words] = None
            else:
                used.add(key)
    unused_settings = [
        f"{setting} ({'; '.join(why)})" for setting, why in whys.items() if setting.split(" = ")[0] not in used
    ]
    return f"{WARNING}{', '.join(unused_settings)}" if unused_settings else ""


def check_grid(grid: Mapping[str, Sequence[Any]], configs: Mapping[str, RunConfig]) -> None:
    """Refuse a sweep of keys without effect, whose runs would differ only in name.

    Parameters
    ----------
    grid : mapping
        Values by key.
    configs : mapping
        The config of each combination by its label.

    Raises
    ------
    InputError
        If a combination does not use a key with several values, or no combination uses a key.
    """
    reasons = {label: unused(config) for label, config in configs.items()}
    for key, values in grid.items():
        without = {label: why[key] for label, why in reasons.items() if key in why}
        if without and (len(values) > 1 or len(without) == len(reasons)):
            label, why = next(iter(without.items()))
            raise InputError(
                f"--grid {key}: it has no effect in {len(without)} of {len(reasons)} combinations, as in "
                f"{label}: {why.words}{why.instead and f', but uses {why.instead}'}"
            )


def _known(model: str) -> bool:
    """Return whether a model can be imported here; a server need not have what its nodes train."""
    try:
        models.MODELS.get(model)
    except InputError:
        return False
    return True


def _key(name: str) -> str:
    return name.replace("_", "-")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
