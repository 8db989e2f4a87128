"""The run config of a command line, in the format of `flwr run -c`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click
from flwr.common.config import parse_config_args

from flower_kd import folders
from flower_kd.cli import presets
from flower_kd.errors import InputError, unknown

# As in Flower's parser, which ignores what does not match.
_PAIR = re.compile(r"(\S+?)=(\'[^\']*\'|\"[^\"]*\"|\S+)")


def parse(texts: Sequence[str] | None, scale: str = "") -> dict[str, Any]:
    """Return the run config from the values of `-c`.

    Parameters
    ----------
    texts : sequence of str
        Each `key=value` pairs separated by spaces, `preset:NAME`, or the path of a TOML file. Later files override
        earlier ones; pairs override all files.
    scale : str
        A table [scale.NAME] of a file that overrides the files' other keys; empty for none.

    Raises
    ------
    InputError
        If they cannot be read, or there is no such scale.
    """
    files: list[str] = []
    pairs: list[str] = []
    for text in texts or []:
        if text.endswith(".toml"):
            files.append(text)
            continue
        for word in _PAIR.sub("", text).split():
            if not word.startswith(presets.PREFIX):
                raise InputError(
                    f"-c {text!r}: {word!r} is neither key=value nor preset:NAME nor the path of a .toml file"
                )
            files.append(str(presets.path_of(word, experiment=False)))
        pairs.append(" ".join(f"{key}={value}" for key, value in _PAIR.findall(text)))
    settings: dict[str, Any] = {}
    for file in files:
        settings |= _parsed([file])
    return _at_scale(settings, scale) | _parsed(pairs)


def _at_scale(settings: dict[str, Any], scale: str) -> dict[str, Any]:
    """Return settings without the tables of scales, and with the keys of one of them."""
    found: dict[str, dict[str, Any]] = {}
    for key in list(settings):
        table, *names = key.split(".", maxsplit=2)
        if table == "scale" and len(names) == 2:
            found.setdefault(names[0], {})[names[1]] = settings.pop(key)
    if scale and not found:
        raise InputError(f"--scale {scale!r}: no file of -c has scales (tables [scale.NAME])")
    if scale and scale not in found:
        raise InputError(f"--scale: {unknown('scale', scale, list(found))}")
    return settings | found.get(scale, {})


def _parsed(texts: list[str]) -> dict[str, Any]:
    """Return what Flower reads from the path of one TOML file, or from pairs."""
    shown = " ".join(texts)
    try:
        return parse_config_args(texts)
    except click.ClickException:
        unquoted = _unquoted(texts or [])
        if unquoted:
            key, value = unquoted
            raise InputError(
                f"-c {key}={value} cannot be read: a string needs quotes, such as {key}='{value}'"
            ) from None
        raise InputError(
            f"-c {shown!r} cannot be read: write key=value pairs, each key once and strings in quotes, such as "
            "\"strategy='d-dist' alpha=0.5\""
        ) from None
    except RuntimeError:  # of Path.expanduser, in Flower's parser
        folders.expanded(texts[0])
        raise
    except OSError as error:
        raise InputError(f"-c {shown!r} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"-c {shown!r} cannot be read: {' '.join(str(error).split())}") from None


def _unquoted(texts: Sequence[str]) -> tuple[str, str] | None:
    """Return the first key and value of which the value must be a string without quotes; None if there is none."""
    for text in texts:
        for key, value in _PAIR.findall(text):
            if re.match(r"[^\W\d]", value) and value not in ("true", "false", "inf", "nan") and "'" not in value:
                return key, value
    return None
