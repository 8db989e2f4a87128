"""The settings of a part in words, for the command line and the documentation."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from flower_kd.parts.signatures import Setting
from flower_kd.parts.text import written
from flower_kd.parts.values import allowed


def described(settings: Mapping[str, Setting], keys: Collection[str]) -> list[tuple[str, str]]:
    """Return each setting as it is written by default, and its values in words.

    Parameters
    ----------
    settings : mapping
        Settings by name.
    keys : collection of str
        The run-config keys, with underscores. Settings of the same names come last, in one entry: they have the keys'
        values.

    Returns
    -------
    list of (str, str)
        Such as ("labels_per_node=0", "whole number, at least 0") and ("gamma", "the key's value").
    """
    found = []
    for setting in settings.values():
        if setting.name not in keys:
            default = "" if setting.required else f"={written(setting.default)}"
            found.append(
                (f"{setting.name}{default}", f"{'required; ' * setting.required}{allowed(setting.annotation)}")
            )
    shared = [name for name in settings if name in keys]
    if shared:
        found.append((", ".join(shared), "the key's value" if len(shared) == 1 else "the keys' values"))
    return found
