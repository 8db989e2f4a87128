"""Decoded images on disk, so that each is decoded once per machine.

Pixels are found by a digest of the file they were decoded from, so that a changed data set is never read from old
pixels, and rows that nobody asks for are never decoded. All settings and library versions that affect decoding are part
of a cache's name. Every entry has a checksum: one that is damaged or was written in part is decoded again.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from logging import WARNING
from pathlib import Path
from zlib import crc32

import numpy as np
from filelock import FileLock, Timeout
from flwr.common.logger import log
from platformdirs import user_cache_path

from flower_kd import folders

FOLDER = "FLOWER_KD_CACHE"  # environment variable: the folder, or OFF
OFF = "off"
LARGEST = 4 * 10**9  # bytes of all caches together
LEFT_FREE = 10**9  # bytes of the disk that are left to others
LOCK_SECONDS = 10.0

_KINDS = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))
# Digest of the file, offset of the pixels, height, width, channels (0: no such axis), kind, checksum.
_ENTRY = struct.Struct("<16sQIIHBI")
_PIXELS, _INDEX, _LOCK = ".pixels", ".index", ".lock"
_NAME = re.compile(r"[a-z0-9-]*-[0-9a-f]{16}")  # the folder may be one in which a user has other files

Entry = tuple[int, int, int, int, int, int]


def folder() -> Path | None:
    """Return the folder of all caches: that of the environment variable, or the user's; None if switched off."""
    chosen = os.environ.get(FOLDER, "").strip()
    if chosen.lower() == OFF:
        return None
    return folders.expanded(chosen).absolute() if chosen else user_cache_path("flower-kd") / "images"


def shared_order(parts: int) -> list[int]:
    """Return an order of parts that differs between processes: those that need the same parts share the work."""
    return random.Random(os.getpid()).sample(range(parts), parts)


class PixelCache:
    """The decoded images of one data set.

    It consists of two files to which entries are only appended: the pixels, which are memory-mapped, and an index.

    Parameters
    ----------
    folder : Path or None
        Folder of all caches; with None, every image is decoded.
    dataset : str
        The data set's name or folder.
    settings : str
        Everything else but the file that determines an image's pixels.
    largest : int
        Bytes that all caches in the folder may take together: the least recently used ones are removed for a new one.
    """

    def __init__(self, folder: Path | None, dataset: str, settings: str, largest: int = LARGEST) -> None:
        digest = hashlib.sha256(f"{dataset}\n{settings}".encode(errors="surrogateescape")).hexdigest()[:16]
        shown = re.sub(r"[^a-z0-9]+", "-", dataset.rstrip("/").rsplit("/", 1)[-1].lower())[:40]
        self._folder, self._name, self._largest = folder, f"{shown}-{digest}", largest
        self._writable = True
        self._entries: dict[bytes, Entry] = {}
        self._index_read = (0, 0)  # inode and bytes

    def pixels(self, files: Sequence[bytes], decode: Callable[[bytes], np.ndarray]) -> list[np.ndarray]:
        """Return the pixels of image files, of which those that are not in the cache are decoded and added.

        Parameters
        ----------
        files : sequence of bytes
            Contents of the files.
        decode : callable
            From a file to pixels [height, width] or [height, width, channels], uint8, uint16 or float32.
        """
        if self._folder is None:
            return [decode(file) for file in files]
        keys = [hashlib.blake2b(file, digest_size=16).digest() for file in files]
        found = self._find(keys)
        missing = {key: file for key, file in zip(keys, files, strict=True) if key not in found}
        decoded = {key: decode(file) for key, file in missing.items()}
        if decoded and self._writable:
            self._add(decoded)
        found |= decoded
        return [found[key] for key in keys]

    def _find(self, keys: Iterable[bytes]) -> dict[bytes, np.ndarray]:
        """Return the pixels of those keys that are in the cache and undamaged."""
        found: dict[bytes, np.ndarray] = {}
        try:
            self._read_index()
            known = [key for key in dict.fromkeys(keys) if key in self._entries]
            if known:
                mapped = np.memmap(self._path(_PIXELS), np.uint8, mode="r")
                for key in known:
                    pixels = _pixels(mapped, self._entries[key])
                    if pixels is None:
                        del self._entries[key]
                    else:
                        found[key] = pixels
        except FileNotFoundError:  # another process removed it
            self._entries.clear()
        except (OSError, ValueError) as error:  # mmap raises ValueError for an empty file
            _warn(f"{self._folder} cannot be used: {getattr(error, 'strerror', None) or error}")
            self._entries.clear()
        return found

    def _read_index(self) -> None:
        """Read the entries that were added since the last call."""
        path = self._path(_INDEX)
        try:
            status = path.stat()
        except FileNotFoundError:
            self._entries.clear()
            return
        inode, start = self._index_read
        if inode != status.st_ino or start > status.st_size:  # another process began anew
            self._entries.clear()
            start = 0
        if start == 0:
            with suppress(OSError):
                os.utime(path, ns=(time.time_ns(),) * 2)  # when it was used last
        with path.open("rb") as file:
            file.seek(start)
            new = file.read()
        new = new[: len(new) - len(new) % _ENTRY.size]
        self._entries.update((entry[0], entry[1:]) for entry in _ENTRY.iter_unpack(new))
        self._index_read = status.st_ino, start + len(new)

    def _add(self, decoded: Mapping[bytes, np.ndarray]) -> None:
        """Append pixels, unless they do not fit; a disk that fails is no reason to fail."""
        assert self._folder is not None
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # the data may be private
            with FileLock(self._path(_LOCK), timeout=LOCK_SECONDS):
                self._read_index()
                new = {key: pixels for key, pixels in decoded.items() if key not in self._entries}
                if new and self._has_room(sum(pixels.nbytes + _ENTRY.size for pixels in new.values())):
                    self._append(new)
        except (OSError, Timeout) as error:
            _warn(f"{self._folder} cannot be used: {getattr(error, 'strerror', None) or error}")
            self._writable = False

    def _append(self, new: Mapping[bytes, np.ndarray]) -> None:
        with self._path(_PIXELS).open("ab") as file:
            offset = file.tell()
            entries = []
            for key, pixels in new.items():
                height, width, *channels = pixels.shape
                kind = _KINDS.index(pixels.dtype)
                values = np.ascontiguousarray(pixels).tobytes()
                shape = (height, width, *(channels or (0,)))
                entries.append(_ENTRY.pack(key, offset, *shape, kind, _checksum(values, *shape, kind)))
                offset += file.write(values)
        with self._path(_INDEX).open("ab") as file:  # only now: an entry without its pixels would be damaged
            file.truncate(file.tell() - file.tell() % _ENTRY.size)  # a killed process may have left a part of an entry
            file.write(b"".join(entries))

    def _has_room(self, needed: int) -> bool:
        """Return whether some more bytes fit; the least recently used other caches are removed for them."""
        assert self._folder is not None
        others = sorted((index.stat().st_mtime_ns, index.stem) for index in _files(self._folder, _INDEX))
        for name in (*(name for _, name in others if name != self._name), None):
            left = self._largest - size(self._folder)
            if needed <= min(left, shutil.disk_usage(self._folder).free - LEFT_FREE):
                return True
            if name is not None:
                _remove(self._folder, name)
        return False

    def _path(self, suffix: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{self._name}{suffix}"


def size(folder: Path) -> int:
    """Return the bytes of all caches in a folder; 0 if it does not exist."""
    total = 0
    for path in (*_files(folder, _PIXELS), *_files(folder, _INDEX)):
        with suppress(FileNotFoundError):  # another process removed it
            total += path.stat().st_size
    return total


def clear(folder: Path) -> None:
    """Remove all caches in a folder; raises OSError if one cannot be removed."""
    for suffix in (_INDEX, _PIXELS, _LOCK):
        for path in _files(folder, suffix):
            path.unlink(missing_ok=True)


def _files(folder: Path, suffix: str) -> list[Path]:
    """Return the files of all caches in a folder that have a suffix."""
    return [path for path in folder.glob(f"*{suffix}") if _NAME.fullmatch(path.stem)]


def _remove(folder: Path, name: str) -> None:
    """Remove a cache, unless another process is writing to it."""
    with suppress(Timeout), FileLock(folder / f"{name}{_LOCK}", timeout=0):
        for suffix in (_INDEX, _PIXELS):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)


def _pixels(mapped: np.ndarray, entry: Entry) -> np.ndarray | None:
    """Return the pixels of an entry; None if it is damaged."""
    offset, height, width, channels, kind, checksum = entry
    if kind >= len(_KINDS):
        return None
    end = offset + height * width * max(channels, 1) * _KINDS[kind].itemsize
    if end > len(mapped):
        return None
    values = mapped[offset:end].tobytes()
    if _checksum(values, height, width, channels, kind) != checksum:
        return None
    shape = (height, width, channels) if channels else (height, width)
    return np.frombuffer(values, _KINDS[kind]).reshape(shape)


def _checksum(values: bytes, *layout: int) -> int:
    return crc32(values, crc32(repr(layout).encode()))


@lru_cache
def _warn(problem: str) -> None:
    """Log a problem once per process."""
    log(WARNING, "images are decoded in each process: the cache %s", problem)
