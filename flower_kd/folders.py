"""Results folders: markers, locks, and files that are written atomically."""

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

# In the order of removal: first those that mark something as finished.
_INDEXES = ("comparison.json", "sweep.json")
_RESULT_FILES = (
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
    """Content of the marker file of a results folder; in folders without one, nothing is replaced or removed.

    Parameters
    ----------
    kind : {"run", "comparison", "sweep"}
        What the folder contains.
    identity : str
        Of a run: the hash of everything that determines its figures (`flower_kd.identity`).
    token : str
        Of a run: a random string sent to the nodes in the handshake, by which those on this machine recognize the
        folder.
    """

    kind: str
    identity: str = ""
    token: str = ""

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        return json.dumps(asdict(self)).encode()


def read_marker(folder: Path) -> Marker | None:
    """Return the marker of a folder, or None if it is not a results folder."""
    try:
        return Marker(**json.loads((folder / MARKER).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def check_writable(folder: Path) -> None:
    """Raise InputError if a folder cannot be created or written to."""
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not nearest.is_dir():
        raise InputError(f"output-dir {str(folder)!r} cannot be created: {str(nearest)!r} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"output-dir {str(folder)!r} cannot be written: no permission to write to {str(nearest)!r}")


def check_foreign_files(folder: Path) -> None:
    """Raise InputError if a folder without a marker has files that results would replace."""
    if read_marker(folder) is not None:
        return
    foreign = next((name for name in (*_RESULT_FILES, CHECKPOINT) if (folder / name).exists()), None)
    if foreign is not None:
        raise InputError(
            f"output-dir {str(folder)!r} has {foreign!r}, which flower-kd did not write (the folder has no {MARKER}): "
            "choose another folder, or move that file"
        )


def refusal(folder: Path, content: str) -> InputError:
    """Return the error for a folder that already contains results, with what to do about it."""
    return InputError(
        f"output-dir {str(folder)!r} already contains {content}: choose another folder, replace it with --overwrite "
        "(overwrite=true), or continue it with --resume (resume=true)"
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder, which is created if needed, against other processes until the end of the block.

    The system releases the lock of a killed process.

    Raises
    ------
    InputError
        If another process holds the lock, or the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise InputError(
            f"output-dir {str(folder)!r} is in use by another flower-kd process: wait for it to end, or choose "
            "another folder"
        ) from None
    except OSError as error:
        raise InputError(f"output-dir {str(folder)!r} cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def write(folder: Path, parts: Mapping[str, bytes], *, replace_results: bool = False) -> None:
    """Write files into a folder in the given order, each atomically.

    Parameters
    ----------
    folder : Path
        Created if it does not exist.
    parts : mapping
        Contents by name.
    replace_results : bool
        Whether to remove all earlier results once the new files are on disk under temporary names: if the disk is full,
        the earlier results stay.

    Raises
    ------
    InputError
        If a file cannot be written.
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
    """Remove the results in a folder and in its `runs`; other files and the folder itself stay.

    Parameters
    ----------
    folder : Path
        Nothing is removed if it has no marker.
    keep : list of Path, optional
        Partial files to keep.

    Raises
    ------
    InputError
        If a file cannot be removed.
    """
    if read_marker(folder) is None:
        return
    try:
        for name in _RESULT_FILES:
            (folder / name).unlink(missing_ok=True)
        for run in (folder / RUNS).glob("*"):
            clear(run)
            with suppress(OSError):  # not empty: it contains other files
                run.rmdir()
        for pattern in _EVENTS:
            for path in folder.glob(pattern):
                path.unlink()
        remove_checkpoint(folder)
        for path in folder.glob(f".*{_PARTIAL}"):  # left by a killed process
            if path not in (keep or []):
                path.unlink()
        (folder / MARKER).unlink()  # last: until then, the folder counts as results
        if keep is None:
            (folder / LOCK).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"output-dir {str(folder)!r} cannot be cleared: {error}") from None


def remove_index(folder: Path) -> None:
    """Remove the index file of a comparison or sweep; raises InputError if this fails."""
    try:
        for name in _INDEXES:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"output-dir {str(folder)!r} cannot be cleared: {error}") from None


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoint in a results folder; raises OSError if this fails."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder / CHECKPOINT)


def append(path: Path, content: bytes, size: int) -> int:
    """Append to a file whose first `size` bytes are valid, truncating the rest, and return its new size.

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


def file_name_of(text: str) -> str:
    """Return a readable file name for a text; different texts get different names."""
    name = quote(text, safe="=,+@ ")
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def replace_file(path: Path, content: bytes) -> None:
    """Write one file atomically; raises OSError."""
    _rename(_partial(path, content), path)


def _partial(path: Path, content: bytes) -> Path:
    """Write the content to a temporary file beside `path`, under a name unique to this process, and return it."""
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
