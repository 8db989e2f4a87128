"""Folders of results: what they hold, and files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import quote

from flower_kd.errors import InputError

RUNS = "runs"
LONGEST_NAME = 160

# By their most telling file, in the order in which they are looked for.
_KINDS = {
    "comparison.json": "a comparison",
    "sweep.json": "a sweep",
    "summary.json": "a finished run",
    "config.toml": "an unfinished run",
}
_OURS = (
    "config.toml",
    "history.csv",
    "history-silo.csv",
    "summary.json",
    "accuracy.png",
    "tensorboard/events.out.tfevents.*",
    "tensorboard/alone/events.out.tfevents.*",
    "comparison.json",
    "comparison.csv",
    "comparison.png",
    "failed.json",
    "sweep.json",
    "sweep.csv",
    "sweep.parquet",
    "sweep.png",
    "report.html",
)


def check_writable(folder: Path) -> None:
    """Raise InputError if nothing can be written in a folder, or it cannot be made."""
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise InputError(f"output-dir {str(folder)!r} cannot be written: {str(nearest)!r} is no folder to write in")


def check_free(folder: Path, allow: str = "") -> None:
    """Raise InputError if a folder holds results, other than those known by the file `allow`."""
    kind = next((kind for name, kind in _KINDS.items() if name != allow and (folder / name).exists()), None)
    if kind:
        raise refusal(folder, kind)


def refusal(folder: Path, kind: str) -> InputError:
    """Return the error that a folder holds results of a kind, and what to do about it."""
    return InputError(
        f"output-dir {str(folder)!r} holds {kind}: name another folder, replace it with --overwrite (overwrite=true), "
        "or let flower-kd go on with --resume"
    )


def clear(folder: Path, keep: Collection[str] = ()) -> None:
    """Remove what an earlier run, comparison or sweep left in a folder, but for its `runs`; nothing else.

    Parameters
    ----------
    folder : Path
        Need not be there.
    keep : collection of str
        Names of files that stay.

    Raises
    ------
    InputError
        If a file cannot be removed.
    """
    try:
        for pattern in set(_OURS) - set(keep):
            for path in folder.glob(pattern):
                path.unlink()
    except OSError as error:
        raise InputError(f"output-dir {str(folder)!r} cannot be cleared: {error}") from None


def write(folder: Path, parts: Mapping[str, bytes]) -> None:
    """Write files into a folder, in their order, each whole or not at all; raises InputError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in parts.items():
            _replace(folder / name, content)
    except OSError as error:
        raise InputError(f"output-dir {str(folder)!r} cannot be written: {error.strerror}") from None


def name_of(text: str) -> str:
    """Return a text as the name of one file: readable, and another name for another text."""
    name = quote(text, safe="=,+@ ")
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
