"""Results folders: markers, locks, and files that are written atomically."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

from filelock import FileLock, Timeout

from flower_kd.errors import InputError

MARKER = ".flower-kd.json"
NODE_MARKER = ".flower-kd-node.json"  # of a node's own folder (`flower_kd.clients.state_dir`)
NOISED_MESSAGES = "noised-messages.json"  # there
LOCK = ".flower-kd.lock"
RUNS = "runs"
CHECKPOINT = "checkpoint"
TENSORBOARD = "tensorboard"
MODELS = "models"
# Where runs without an output-dir go. Not the working directory: under Flower, that is where the SuperLink was started.
DEFAULT = Path("~/flower-kd-results")
LONGEST_NAME = 160

PICTURE_SUFFIXES = (".png", ".pdf", ".svg")


def picture_names(stem: str) -> tuple[str, ...]:
    """Return the names of the files of a picture, one per format."""
    return tuple(f"{stem}{suffix}" for suffix in PICTURE_SUFFIXES)


# What each kind of results consists of, in the order of removal: first what marks something as finished.
_INDEXES = {"comparison": "comparison.json", "sweep": "sweep.json"}
_FILES = {
    "run": (
        *("summary.json", "config.toml", "graph.graphml", "history.csv", "history-silo.csv"),
        *picture_names("accuracy"),
    ),
    "comparison": (
        *("comparison.json", "failed.json", "comparison.csv", "comparison.tex", "comparison.md"),
        *picture_names("comparison"),
    ),
    "sweep": (
        *("sweep.json", "sweep.csv", "sweep.parquet", "sweep.tex", "sweep.md"),
        *picture_names("sweep"),
    ),
}
_FOLDERS = {"run": (CHECKPOINT, TENSORBOARD, MODELS), "comparison": (), "sweep": ()}
_EVENTS = ("events.out.tfevents.*", "alone/events.out.tfevents.*")
REPORT = "report.html"
REPORT_MARK = b'<meta name="generator" content="flower-kd">'
_PARTIAL_NAME = re.compile(r"\.(.+)\.[0-9a-f]{32}\.partial")
_PARTIAL = ".partial"
_KNOWN_NAMES = {MARKER, REPORT, *(name for names in _FILES.values() for name in names)}


@dataclass(frozen=True)
class Marker:
    """Content of the marker file of a results folder; in folders without one, nothing is replaced or removed.

    Parameters
    ----------
    kind : {"run", "comparison", "sweep"}
        What the folder contains.
    identity : str
        Of a run: the hash of everything that determines its figures (`flower_kd.runs.identity`).
    token : str
        Of a run: a random string sent to the nodes in the handshake, by which those on this machine recognize the
        folder.
    runs : tuple of str
        Of a comparison or sweep: the names of its runs in `runs`.
    """

    kind: str
    identity: str = ""
    token: str = ""
    runs: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        return json.dumps(asdict(self)).encode()


def read_marker(folder: Path) -> Marker | None:
    """Return the marker of a folder, or None if it is not a results folder."""
    try:
        found = json.loads((folder / MARKER).read_bytes())
        marker = Marker(found["kind"], found["identity"], found["token"], tuple(found["runs"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    texts = (marker.kind, marker.identity, marker.token, *marker.runs)
    return marker if marker.kind in _FILES and all(isinstance(text, str) for text in texts) else None


def of_token(token: str, output_dir: str) -> Path | None:
    """Return the folder of the run with a token, or None if it is not on this machine.

    Parameters
    ----------
    token : str
        See Marker.
    output_dir : str
        The run's output-dir; if empty, all folders in `DEFAULT` are searched, the newest first.
    """
    if output_dir:
        candidates = [expanded(output_dir).absolute()]
    else:
        candidates = sorted(expanded(DEFAULT).absolute().glob("*"), reverse=True)  # names begin with the time
    for folder in candidates:
        marker = read_marker(folder)
        if marker is not None and marker.token == token:
            return folder
    return None


def expanded(path: str | Path) -> Path:
    """Return a path with the home folder in place of ~ or ~NAME; raises InputError if there is no such folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = Path(path).parts[0]
        raise InputError(f"{str(path)!r} cannot be used: {user!r} has no home folder on this machine") from None


def check_writable(folder: Path, option: str = "output-dir") -> None:
    """Raise InputError if a folder cannot be created or written to; `option` is what named it."""
    try:
        nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    except OSError as error:  # such as a name that is too long
        raise InputError(f"{option} {str(folder)!r} cannot be created: {error.strerror}") from None
    if not nearest.is_dir():
        raise InputError(f"{option} {str(folder)!r} cannot be created: {str(nearest)!r} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{option} {str(folder)!r} cannot be written: no permission to write to {str(nearest)!r}")


def check_foreign_files(folder: Path, kind: str, runs: Collection[str] = ()) -> None:
    """Raise InputError if a folder has files that results would replace and that flower-kd did not write.

    Parameters
    ----------
    folder : Path
        May contain results already, as its marker says.
    kind : {"run", "comparison", "sweep"}
        The results to be written.
    runs : collection of str
        Names in its `runs` that a comparison or sweep needs.

    Raises
    ------
    InputError
        If there is such a file.
    """
    marker = read_marker(folder)
    own = {*_FILES[marker.kind], *_FOLDERS[marker.kind]} if marker else set()
    foreign = [name for name in (*_FILES[kind], *_FOLDERS[kind]) if name not in own and (folder / name).exists()]
    foreign += [
        f"{RUNS}/{name}"
        for name in runs
        if name not in (marker.runs if marker else ()) and (folder / RUNS / name).exists()
    ]
    if marker is None and (folder / REPORT).exists() and not is_report(folder):
        foreign.append(REPORT)
    if foreign:
        raise InputError(
            f"output-dir {str(folder)!r} has {foreign[0]!r}, which flower-kd did not write as part of these results: "
            "choose another folder, or move that file"
        )


def has_summary(folder: Path) -> bool:
    """Return whether a folder has the file that a run writes last."""
    return (folder / _FILES["run"][0]).is_file()


def is_report(folder: Path) -> bool:
    """Return whether a folder's report page was written by flower-kd."""
    try:
        return REPORT_MARK in (folder / REPORT).read_bytes()
    except OSError:
        return False


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
                replace_file(folder / name, content)
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


def clear(folder: Path, keep: Collection[Path] = ()) -> None:
    """Remove the results in a folder, with the runs of a comparison or sweep; everything else stays.

    Parameters
    ----------
    folder : Path
        Nothing but partial files is removed if it has no marker.
    keep : collection of Path
        Partial files to keep.

    Raises
    ------
    InputError
        If a file cannot be removed, or another process writes one of the runs.
    """
    marker = read_marker(folder)
    try:
        if marker is not None:
            runs = [folder / RUNS / name for name in marker.runs]
            runs = [run for run in runs if run.is_dir() and not run.is_symlink()]
            for run in runs:  # before anything is removed
                with locked(run):
                    pass
            for name in _FILES[marker.kind]:
                (folder / name).unlink(missing_ok=True)
            if is_report(folder):
                (folder / REPORT).unlink()
            for run in runs:
                with locked(run):
                    clear(run)
                (run / LOCK).unlink(missing_ok=True)
                _remove_if_empty(run)
            if marker.kind == "run":
                remove_checkpoint(folder)
                remove_models(folder)
                _remove_tree(folder / TENSORBOARD, _EVENTS)
            (folder / MARKER).unlink()  # last: until then, the folder counts as results
        for path in folder.glob(f".*{_PARTIAL}"):  # left by a killed process
            match = _PARTIAL_NAME.fullmatch(path.name)
            if path not in keep and match and match[1] in _KNOWN_NAMES:
                path.unlink()
    except OSError as error:
        raise InputError(f"output-dir {str(folder)!r} cannot be cleared: {error}") from None


def remove_index(folder: Path) -> None:
    """Remove the index file of a comparison or sweep; raises InputError if this fails."""
    marker = read_marker(folder)
    try:
        if marker is not None and marker.kind in _INDEXES:
            (folder / _INDEXES[marker.kind]).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"output-dir {str(folder)!r} cannot be cleared: {error}") from None


def remove(folder: Path, name: str) -> None:
    """Remove a results file, if it exists; raises InputError if this fails."""
    try:
        (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"output-dir {str(folder)!r} cannot be written: {error.strerror}") from None


def remove_checkpoint(folder: Path) -> None:
    """Remove a run's checkpoint; raises OSError if this fails. Files that flower-kd did not write stay."""
    _remove_tree(
        folder / CHECKPOINT, ("server.safetensors", "*/node-*/round-*.safetensors", "*/node-*/best-*.safetensors")
    )


def remove_states(folder: Path) -> None:
    """Remove the states of a node in a run from its own folder; raises OSError if this fails. Other files stay."""
    _remove_tree(folder, ("*/round-*.safetensors", "*/best-*.safetensors"))


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed process has left in a folder that no other process writes to; raises OSError."""
    for path in folder.glob(f".*{_PARTIAL}"):
        if _PARTIAL_NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)


def remove_models(folder: Path) -> None:
    """Remove a run's models; raises OSError if this fails. Files that flower-kd did not write stay."""
    _remove_tree(folder / MODELS, ("model.toml", "node-*.safetensors"))


def _remove_tree(folder: Path, patterns: Sequence[str]) -> None:
    """Remove the files with these names, partial files, and the folders that are empty then."""
    for path in [path for pattern in (*patterns, f"**/.*{_PARTIAL}") for path in folder.glob(pattern)]:
        if path.suffix != _PARTIAL or _PARTIAL_NAME.fullmatch(path.name):
            path.unlink()
    for path in sorted(folder.glob("**/"), reverse=True):
        _remove_if_empty(path)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # not empty: it contains other files
        folder.rmdir()


def append(path: Path, content: bytes, size: int) -> int:
    """Append to a file whose first `size` bytes are valid, truncating the rest, and return its new size.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    try:
        with open(path, "ab") as file:
            if file.tell() < size:
                raise InputError(f"{str(path)!r} is damaged: it has {file.tell()} bytes where {size} were written")
            file.truncate(size)
            file.write(content)
    except OSError as error:
        raise InputError(f"output-dir {str(path.parent)!r} cannot be written: {error.strerror}") from None
    return size + len(content)


def file_name_of(text: str) -> str:
    """Return a readable file name for a text; different texts get different names."""
    name = quote(text, safe="=,+@ ()[]")
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def replace_file(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write one file atomically; raises OSError.

    Parameters
    ----------
    path : Path
        The file; its folder must exist.
    content : bytes
        Its content.
    durable : bool
        Whether the file must outlast a loss of power: it is then on the disk when this returns, and never empty. That
        takes milliseconds.
    """
    _rename(_partial(path, content, durable=durable), path)
    if durable:
        _sync_folder(path.parent)


def _partial(path: Path, content: bytes, *, durable: bool = False) -> Path:
    """Write the content to a temporary file beside `path`, under a name unique to this process, and return it."""
    partial = path.with_name(f".{path.name[:LONGEST_NAME]}.{uuid4().hex}{_PARTIAL}")
    try:
        partial.write_bytes(content)
        if durable:  # before the rename: a file system may write names before contents
            with partial.open("rb") as file:
                os.fsync(file.fileno())
    except BaseException:  # Ctrl-C, too
        partial.unlink(missing_ok=True)
        raise
    return partial


def make(folder: Path, *, durable: bool = False) -> None:
    """Create a folder and its parents where they are missing; raises OSError. `durable` as in `replace_file`."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()] if durable else []
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename(partial: Path, path: Path) -> None:
    try:
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
