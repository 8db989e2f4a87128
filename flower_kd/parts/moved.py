"""Run-config keys that became settings of a part: the old spelling ends in a sentence that shows the new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flower_kd.errors import InputError
from flower_kd.parts.text import PartText, parse


@dataclass(frozen=True)
class Home:
    """Where a key has moved.

    Parameters
    ----------
    kind : str
        The run-config key that names the part.
    parts : tuple of str
        The parts that have the setting.
    unset : object
        A value that stood for the part's own default, if there was one.
    """

    kind: str
    parts: tuple[str, ...]
    unset: Any = None


HOMES = {
    "degree": Home("topology", ("regular", "small-world")),
    "edge-probability": Home("topology", ("erdos-renyi",), unset=0),
    "rewire-probability": Home("topology", ("small-world",)),
    "attachment": Home("topology", ("scale-free",)),
    "min-degree": Home("topology", ("random-directed",)),
    "max-degree": Home("topology", ("random-directed",)),
    "labels-per-node": Home("partition", ("pathological", "skew"), unset=0),
    "eta": Home("consensus", ("gradient",)),
    "clamp": Home("consensus", ("gradient",)),
    "pooling-weights": Home("strategy", ("neighbor-kd", "multi-head")),
    "pooling-self": Home("strategy", ("neighbor-kd", "multi-head")),
}


def sentences(run_config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each kind of part of which a run config has moved keys."""
    for kind in dict.fromkeys(home.kind for home in HOMES.values()):
        values = {key: run_config[key] for key, home in HOMES.items() if home.kind == kind and key in run_config}
        if values:
            yield _sentence(kind, values, _named(run_config.get(kind), kind))


def argument(name: str, value: Any) -> str:
    """Return a sentence for a keyword argument that has moved; empty if it has not."""
    key = name.replace("_", "-")
    return _sentence(HOMES[key].kind, {key: value}, None) if key in HOMES else ""


def in_grid(key: str, listed: str) -> str:
    """Return the sentence for a moved key in a grid, with its listed values."""
    home = HOMES[key]
    choices = ",".join(f"{home.parts[0]}({key.replace('-', '_')}={value.strip()})" for value in listed.split(","))
    return f"{key} is now a setting of the {home.kind}: write --grid {home.kind}={choices}"


def applied(run_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run config of an earlier version in which moved keys are settings of the parts that take them."""
    found = dict(run_config)
    for key, home in HOMES.items():
        value = found.pop(key, home.unset)
        named = _named(found.get(home.kind), home.kind)
        if named is not None and named.name in home.parts and value != home.unset:
            argument = {key.replace("-", "_"): value}
            found[home.kind] = str(PartText(named.name, {**argument, **named.arguments}))
    return found


def _sentence(kind: str, values: Mapping[str, Any], named: PartText | None) -> str:
    listed = " and ".join(f"{key} = {_shown(value)}" for key, value in values.items())
    are = "is now a setting" if len(values) == 1 else "are now settings"
    shared = [part for part in HOMES[next(iter(values))].parts if all(part in HOMES[key].parts for key in values)]
    fits = named is not None and all(named.name in HOMES[key].parts for key in values)
    base = named if named is not None and fits else PartText((shared or HOMES[next(iter(values))].parts)[0])
    own = {
        key.replace("-", "_"): value
        for key, value in values.items()
        if base.name in HOMES[key].parts and (HOMES[key].unset is None or value != HOMES[key].unset)
    }
    return f"{listed} {are} of the {kind}: write {kind} = {str(PartText(base.name, {**base.arguments, **own}))!r}"


def _named(text: Any, kind: str) -> PartText | None:
    try:
        return parse(text, kind)
    except InputError:  # it is not set, or reported by itself
        return None


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
