"""The identity of a run: runs with the same identity have the same figures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import lru_cache
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flower_kd import folders, models, topology
from flower_kd.catalog import KINDS, REGISTRIES, texts
from flower_kd.config import RunConfig
from flower_kd.errors import InputError
from flower_kd.parts.text import parse

# These keys do not change any figure.
NOT_OF_THE_RUN = ("output-dir", "overwrite", "resume")


def identity(config: RunConfig, num_nodes: int) -> str:
    """Return the SHA-256 of everything that determines a run's figures, in hexadecimal.

    This includes the config, the number of nodes, and the content of files named in the config if they are on this
    machine: the graph, the data folder, the weights, and the modules of the user's own parts; of parts from installed
    packages, the package's version.

    Parameters
    ----------
    config : RunConfig
        The config of the run.
    num_nodes : int
        Number of nodes.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    values: dict[str, Any] = {key: value for key, value in config.to_dict().items() if key not in NOT_OF_THE_RUN}
    for name, kind in KINDS.items():
        key = name.replace("_", "-")
        values[key] = _canonical(kind, values[key])
    values["num-nodes"] = num_nodes
    # By kind too: packages may use one name for parts of several kinds.
    sources = {(kind, text): REGISTRIES[kind].source(text) for kind, text in texts(asdict(config))}
    values["packages"] = {
        f"{kind} {text}": source.package for (kind, text), source in sources.items() if source.package
    }
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    modules = [path for source in sources.values() if source.module for path in _sources(source.module)]
    for path in [*_files(config), *modules]:
        digest.update(_content(path).encode())
    return digest.hexdigest()


def _canonical(kind: str, text: str) -> str:
    """Return the text of a part as flower-kd writes it, however a user spaced and quoted it."""
    if kind == "model":
        listed = models.parse(text)
        return ",".join(f"{parse(name)}*{count}" if count else str(parse(name)) for name, count in listed)
    return text if kind == "topology" and topology.is_file(text) else str(parse(text))


def _files(config: RunConfig) -> list[Path]:
    graph = config.topology if topology.is_file(config.topology) else ""
    named = [config.dataset, config.weights_file, graph]
    return [path for path in (folders.expanded(name) for name in named if name) if path.exists()]


def _sources(module: str) -> list[Path]:
    """Return the file of a module, if it has one; of a package, all its modules, from any of which a part may be.

    The module is not imported, but its parent packages are.
    """
    invalidate_caches()  # otherwise a new file is not found
    try:
        spec = find_spec(module)
    except (Exception, SystemExit):  # importing its package runs the user's code
        return []  # using the part reports what is wrong
    if spec is None or not spec.has_location or not spec.origin:
        return []
    inside = [path for folder in spec.submodule_search_locations or () for path in sorted(Path(folder).rglob("*.py"))]
    return [Path(spec.origin), *inside]


def _content(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of all files in a folder."""
    try:
        if path.is_file():
            return _digest(path.resolve(), path.stat().st_mtime_ns, path.stat().st_size)
        digest = hashlib.sha256()
        for file in sorted(path.rglob("*")):
            if file.is_file():
                digest.update(
                    f"{file.relative_to(path).as_posix()} {_content(file)}\n".encode(errors="surrogateescape")
                )
        return digest.hexdigest()
    except OSError as error:
        raise InputError(f"{str(error.filename or path)!r} cannot be read: {error.strerror}") from None


@lru_cache(maxsize=100_000)
def _digest(path: Path, modified_ns: int, size: int) -> str:
    """Return the SHA-256 of a file, cached until it changes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
