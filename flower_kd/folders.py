"""Folders of results: whose they are, who writes in them now, and files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

from filelock import FileLock, Timeout

from flower_kd.errors import InputError

MARKER = ".flower-kd.json"
LOCK = ".flower-kd.lock"
RUNS = "runs"
CHECKPOINT = "checkpoint"
LONGEST_NAME = 160

# In the order in which they are removed: first those that say that something is finished.
_INDEXES = ("comparison.json", "sweep.json")
_OURS = (
    "summary.json",
    *_INDEXES,
    "config.toml",
    "graph.graphml",
    "history.csv",
    "history-silo.csv",
    "accuracy.png",
    "failed.json",
    "comparison.csv",
    "comparison.png",
    "sweep.csv",
    "sweep.parquet",
    "sweep.png",
    "report.html",
)
_EVENTS = ("tensorboard/events.out.tfevents.*", "tensorboard/alone/events.out.tfevents.*")
_PARTIAL = ".partial"


@dataclass(frozen=True)
class Marker:
    """What a folder of ours says of itself; in a folder without it nothing is replaced or removed.

    Parameters
    ----------
    kind : {"run", "comparison", "sweep"}
        What the folder holds.
    identity : str
        Of a run: all that its figures follow from (`flower_kd.identity`).
    token : str
        Of a run: a random text that nodes get in the handshake, by which one on this machine knows the folder.
    """

    kind: str
    identity: str = ""
    token: str = ""

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        return json.dumps(asdict(self)).encode()


def read_marker(folder: Path) -> Marker | None:
    """Return what a folder says of itself, or None if it is not one of ours."""
    try:
        return Marker(**json.loads((folder / MARKER).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def check_writable(folder: Path) -> None:
    """Raise InputError if nothing can be written in a folder, or it cannot be made."""
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not nearest.is_dir():
        raise InputError(f"output-dir {str(folder)!r} cannot be written: {str(nearest)!r} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"output-dir {str(folder)!r} cannot be written: no permission to write in {str(nearest)!r}")


def check_ours(folder: Path) -> None:
    """Raise InputError if a folder that is not one of ours has files with names that ours would have."""
    if read_marker(folder) is not None:
        return
    foreign = next((name for name in (*_OURS, CHECKPOINT) if (folder / name).exists()), None)
    if foreign is not None:
        raise InputError(
            f"output-dir {str(folder)!r} has {foreign!r}, which flower-kd did not write (the folder has no {MARKER}): "
            "name another folder, or move that file away"
        )


def refusal(folder: Path, holds: str) -> InputError:
    """Return the error that a folder holds results, and what to do about it."""
    return InputError(
        f"output-dir {str(folder)!r} holds {holds}: name another folder, replace it with --overwrite (overwrite=true), "
        "or let flower-kd go on with --resume (resume=true)"
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing in a folder, which is made if need be, until the end of the block.

    The system frees the lock of a process that is killed.

    Raises
    ------
    InputError
        If another process has the lock, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise InputError(
            f"output-dir {str(folder)!r} is in use by another flower-kd process: wait for its end, or name another"
        ) from None
    except OSError as error:
        raise InputError(f"output-dir {str(folder)!r} cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def write(folder: Path, parts: Mapping[str, bytes], *, replace_results: bool = False) -> None:
    """Write files into a folder, in their order, each whole or not at all.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    parts : mapping
        Contents by name.
    replace_results : bool
        Whether to remove all earlier results once the new files are on the disk under other names: a disk that is full
        leaves the earlier results as they were.

    Raises
    ------
    InputError
        If that fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not replace_results:
            for name, content in parts.items():
                partial = _partial(folder / name, content)
                _rename(partial, folder / name)
            return
        partials = [(_partial(folder / name, content), folder / name) for name, content in parts.items()]
    except OSError as error:
        raise InputError(f"output-dir {str(folder)!r} cannot be written: {error.strerror}") from None
    try:
        clear(folder, keep=[partial for partial, _ in partials])
        for partial, path in partials:
            _rename(partial, path)
    except OSError as error:
        raise InputError(f"output-dir {str(folder)!r} cannot be written: {error.strerror}") from None
    finally:
        for partial, _ in partials:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def clear(folder: Path, keep: list[Path] | None = None) -> None:
    """Remove the results in a folder of ours, and those in its `runs`; nothing else, and the folder itself stays.

    Parameters
    ----------
    folder : Path
        Nothing is removed if it is not one of ours.
    keep : list of Path, optional
        Partial files that stay.

    Raises
    ------
    InputError
        If a file cannot be removed.
    """
    if read_marker(folder) is None:
        return
    try:
        for name in _OURS:
            (folder / name).unlink(missing_ok=True)
        for run in (folder / RUNS).glob("*"):
            clear(run)
            with suppress(OSError):  # not empty: somebody else's files are in it
                run.rmdir()
        for pattern in _EVENTS:
            for path in folder.glob(pattern):
                path.unlink()
        remove_checkpoint(folder)
        for path in folder.glob(f".*{_PARTIAL}"):  # of a process that was killed
            if path not in (keep or []):
                path.unlink()
        (folder / MARKER).unlink()  # the last one: until then the folder is ours
        if keep is None:
            (folder / LOCK).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"output-dir {str(folder)!r} cannot be cleared: {error}") from None


def remove_index(folder: Path) -> None:
    """Remove the file that tells what the runs of a comparison or sweep gave; raises InputError if it cannot be."""
    try:
        for name in _INDEXES:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"output-dir {str(folder)!r} cannot be cleared: {error}") from None


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoint in a folder of ours; raises OSError if it cannot be removed."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder / CHECKPOINT)


def append(path: Path, content: bytes, size: int) -> int:
    """Add to a file that has `size` bytes of worth, and return how many it has then; what follows them is cut off.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            file.truncate(size)
            file.write(content)
    except OSError as error:
        raise InputError(f"output-dir {str(path.parent)!r} cannot be written: {error.strerror}") from None
    return size + len(content)


def name_of(text: str) -> str:
    """Return a text as the name of one file: readable, and another name for another text."""
    name = quote(text, safe="=,+@ ")
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def replace_file(path: Path, content: bytes) -> None:
    """Write one file whole or not at all; raises OSError."""
    _rename(_partial(path, content), path)


def _partial(path: Path, content: bytes) -> Path:
    """Return a file beside `path`, of a name that no other process has, with the content."""
    partial = path.with_name(f".{path.name[:LONGEST_NAME]}.{uuid4().hex}{_PARTIAL}")
    try:
        partial.write_bytes(content)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    return partial


def _rename(partial: Path, path: Path) -> None:
    try:
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
