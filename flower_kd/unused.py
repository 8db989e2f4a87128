"""Settings without effect: those that the strategy, the topology or the partition of a run does not use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flower_kd import data, strategies, topology
from flower_kd.config import RunConfig
from flower_kd.errors import InputError

WARNING = "without effect: "


@dataclass(frozen=True)
class Reason:
    """Why a key has no effect.

    Parameters
    ----------
    words : str
        What does not use the key.
    instead : str
        The keys used instead; empty if they are irrelevant.
    """

    words: str
    instead: str = ""


def unused(config: RunConfig) -> dict[str, Reason]:
    """Return the keys without effect on a run of this config, each with the reason.

    Raises
    ------
    InputError
        If the config's topology is neither a name nor an existing file.
    """
    cls = strategies.STRATEGIES.get(config.strategy)
    strategy, settings = f"strategy {config.strategy!r}", asdict(config)
    found = _beside("strategy", config.strategy, strategies.settings_of(cls), _all_settings())
    for name, condition in strategies.settings_ignored(cls, settings).items():
        found[name] = Reason(f"{strategy} does not use it with {condition}")
    options = {option for name in topology.names() for option in topology.options_of(name)}
    if strategies.sends_to(cls) == "neighbors":
        found |= _beside("topology", config.topology, set(topology.options_of(config.topology)), options)
    else:
        # A file may also name the nodes.
        named = {"topology"} if config.topology in topology.names() else set()
        found |= dict.fromkeys(options | named, Reason(f"{strategy} does not use the graph"))
    partitions = {option for name in data.partition_names() for option in data.partition_options(name)}
    found |= _beside("partition", config.partition, set(data.partition_options(config.partition)), partitions)
    return {_key(name): why for name, why in found.items() if name in settings}


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
                f"{label}: {why.words}{why.instead and f', but {why.instead}'}"
            )


def _all_settings() -> set[str]:
    return {name for key in strategies.names() for name in strategies.settings_of(strategies.STRATEGIES.get(key))}


def _beside(kind: str, name: str, used: set[str], settings: set[str]) -> dict[str, Reason]:
    """Return the settings of other parts of a kind that one part does not use, each with the reason."""
    own = ", ".join(sorted(map(_key, used))) or "no settings of its own"
    return dict.fromkeys(settings - used, Reason(f"{kind} {name!r} does not use it", own))


def _key(name: str) -> str:
    return name.replace("_", "-")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
