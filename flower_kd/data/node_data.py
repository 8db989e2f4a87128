"""What one node needs of the run's data and of its own; kept on a device, so that it is prepared once a run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from logging import WARNING
from pathlib import Path

from flwr.common.logger import log
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from flower_kd import folders
from flower_kd.data.normalization import Normalization
from flower_kd.data.pixel_cache import LEFT_FREE
from flower_kd.data.spec import DataSpec

Samples = tuple[Tensor, Tensor]

FILE = "prepared/data.safetensors"  # not in data/, where a user may have the node's own
_FACTS = "flower-kd"  # in the file's metadata


@dataclass(frozen=True)
class NodeData:
    """The data of one node.

    Parameters
    ----------
    private, test : tuple of Tensor
        Inputs [samples, channels, height, width] and labels [samples].
    validation : tuple of Tensor or None
        What the node holds out; None if nodes hold out nothing.
    reference : Tensor
        Inputs of the reference set, [rows, channels, height, width].
    fingerprint : str
        Of the reference set, as nodes compare it.
    label_names : tuple of str
        Of the run's classes.
    normalization : Normalization
        What turned images in [0, 1] into inputs.
    """

    private: Samples
    validation: Samples | None
    test: Samples
    reference: Tensor
    fingerprint: str
    label_names: tuple[str, ...]
    normalization: Normalization

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.reference.shape[1:]
        return channels, height, width


def of_node(spec: DataSpec, vertex: int, own: str = "") -> NodeData:
    """Return the data of a node.

    Parameters
    ----------
    spec : DataSpec
        The run's data, of which nodes in a process share one copy.
    vertex : int
        The node's vertex.
    own : str
        The folder of its own labeled images; empty if it has a part of the run's data.

    Raises
    ------
    InputError
        As `FederatedData` and `OwnData` do.
    """
    from flower_kd.data.federated import load  # seconds of imports, for nothing if the data are kept
    from flower_kd.data.own import OwnData

    run = load(spec)
    if own:
        mine = OwnData(own, run, vertex)
        private, validation = mine.private, mine.validation
    else:
        private, validation = run.private(vertex), run.validation(vertex)
    return NodeData(private, validation, run.test, run.reference, run.fingerprint, run.label_names, run.normalization)


def kept_in(folder: Path, run_id: int, spec: DataSpec, vertex: int, own: str = "") -> NodeData:
    """Return the data of a node as `of_node` does, from a file in a folder of its own if nothing has changed since.

    It is written once a run, and again if a file in a folder of images has another name, size or time. From it,
    nothing is decoded, and no fingerprint computed. A disk without room for it is no reason to fail.

    Parameters
    ----------
    folder : Path
        Where the file is, in a folder that only this user may enter.
    run_id : int
        Flower's number of the run: what the hub has may change between runs.
    spec : DataSpec
        As in `of_node`.
    vertex : int
        As in `of_node`.
    own : str
        As in `of_node`.

    Raises
    ------
    InputError
        As `of_node` does.
    """
    path = folder / FILE
    made_of = json.dumps([run_id, asdict(spec), vertex, own, *(_stamp(each) for each in (spec.dataset, own))])
    found = _read(path, made_of)
    if found is None:
        found = of_node(spec, vertex, own)
        _write(path, made_of, found)
    return found


def _stamp(folder: str) -> str:
    """Return a digest of names, sizes and times of the files in a folder; empty for what is not a folder."""
    path = folders.expanded(folder).absolute()
    if not folder or not path.is_dir():
        return ""
    digest = hashlib.blake2b(str(path).encode(errors="surrogateescape"), digest_size=16)
    for parent, inner, names in os.walk(path):
        inner.sort()
        for name in sorted(names):
            file = Path(parent, name)
            try:
                status = file.stat()
            except OSError:  # a link to nowhere, or it has just been removed
                continue
            found = f"{file.relative_to(path)}\n{status.st_size} {status.st_mtime_ns}\n"
            digest.update(found.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _read(path: Path, made_of: str) -> NodeData | None:
    """Return what is in a file, mapped into memory, if it was made of the same; None if it must be made anew."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("made-of") != made_of:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is not a mapping
        facts = json.loads(metadata[_FACTS])
        return NodeData(
            private=(tensors["private-inputs"], tensors["private-labels"]),
            validation=(tensors["validation-inputs"], tensors["validation-labels"]) if facts["validation"] else None,
            test=(tensors["test-inputs"], tensors["test-labels"]),
            reference=tensors["reference-inputs"],
            fingerprint=facts["fingerprint"],
            label_names=tuple(facts["label-names"]),
            normalization=Normalization(tuple(facts["mean"]), tuple(facts["std"])),
        )
    except (OSError, SafetensorError, KeyError, ValueError):  # a damaged file, or one of another version
        return None


def _write(path: Path, made_of: str, data: NodeData) -> None:
    tensors = {"reference-inputs": data.reference}
    for name, samples in (("private", data.private), ("validation", data.validation), ("test", data.test)):
        if samples is not None:
            tensors |= {f"{name}-inputs": samples[0], f"{name}-labels": samples[1]}
    facts = {
        "validation": data.validation is not None,
        "fingerprint": data.fingerprint,
        "label-names": data.label_names,
        "mean": data.normalization.mean,
        "std": data.normalization.std,
    }
    try:
        path.parent.mkdir(exist_ok=True, mode=0o700)  # images may be private
        path.unlink(missing_ok=True)  # of another run: its room may be needed
        folders.remove_partial_files(path.parent)
        if not _has_room(path.parent, tensors):
            return
        content = save(_contiguous(tensors), {"made-of": made_of, _FACTS: json.dumps(facts)})
        folders.replace_file(path, content, durable=True)
    except OSError as error:
        log(WARNING, "data are prepared again for each message: %s cannot be written: %s", path, error.strerror)


def _has_room(folder: Path, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether enough of the disk is left to others: to the node's state above all."""
    needed = sum(tensor.nbytes for tensor in tensors.values())
    if shutil.disk_usage(folder).free - needed >= LEFT_FREE:
        return True
    log(
        WARNING,
        "data are prepared again for each message: a file of %.0f MB would leave less than %.0f GB of the disk of %s",
        needed / 1e6,
        LEFT_FREE / 1e9,
        folder,
    )
    return False


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
