"""Sources of images and labels: scikit-learn's digits, a folder (SUN397 as it is distributed, too), or the hub."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import datasets
import numpy as np
import PIL.features
import PIL.Image
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image, load_dataset
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from datasets.utils.file_utils import xopen
from torch import Tensor

from flower_kd import folders
from flower_kd.data import pixel_cache, sun397
from flower_kd.data.pixel_cache import PixelCache
from flower_kd.errors import InputError
from flower_kd.seeding import derive

IMAGE_COLUMNS = ("image", "img")  # CIFAR-10 on the hub calls it img
LABEL_COLUMN = "label"
TEST_SHARE = 0.2
MOST_NAMES = 20  # in an error
PART = 1000  # rows decoded at a time


# Pixels as they are stored, [height, width] or [height, width, channels]: integers, or floats where the file has them.
Pixels = np.ndarray


class Split(Protocol):
    """Labeled images, decoded only when requested."""

    @property
    def labels(self) -> np.ndarray:
        """Labels of all rows, [rows]."""

    def decode(self, rows: np.ndarray) -> list[Pixels]:
        """Return the pixels of some rows, before resizing and conversion to floats."""

    def images(self, pixels: list[Pixels]) -> Tensor:
        """Return decoded pixels of at least one row as images [rows, channels, height, width] in [0, 1], float32."""

    def read(self, rows: np.ndarray) -> Tensor:
        """Return some rows, at least one, as images; large ones are in memory as pixels for a short time only."""


@dataclass(frozen=True)
class Source:
    """A data set with its two splits and the names of its labels."""

    train: Split
    test: Split
    label_names: tuple[str, ...]


@dataclass(frozen=True)
class DigitsSplit:
    """Digits of scikit-learn, in memory.

    Parameters
    ----------
    pixels : ndarray
        [rows, height, width], whole numbers from 0 to 16.
    labels : ndarray
        [rows].
    image_size : int
        Side in pixels; 0 to keep the size.
    """

    pixels: np.ndarray
    labels: np.ndarray
    image_size: int

    def decode(self, rows: np.ndarray) -> list[Pixels]:
        """Return the pixels of some rows."""
        return list(self.pixels[rows])

    def images(self, pixels: list[Pixels]) -> Tensor:
        """Return pixels as images [rows, 1, height, width] in [0, 1], float32."""
        images = torch.from_numpy(np.stack(pixels)[:, None].astype(np.float32) / 16)
        return _resized(images, self.image_size, self.image_size)

    def read(self, rows: np.ndarray) -> Tensor:
        """Return some rows as images."""
        return self.images(self.decode(rows))


@dataclass(frozen=True)
class TableSplit:
    """Images in a table of Hugging Face `datasets`, decoded by PIL on request, and once per machine.

    Parameters
    ----------
    dataset : str
        Its name or folder.
    table : Dataset
        With a column of image files that `datasets` does not decode.
    column : str
        The name of this column.
    labels : ndarray
        [rows].
    image_size : int
        Side in pixels; 0 to keep the size.
    gray_images : bool, optional
        Whether images are read as gray ones; unless given, the first image decides.
    """

    dataset: str
    table: Dataset
    column: str
    labels: np.ndarray
    image_size: int
    gray_images: bool | None = None

    def decode(self, rows: np.ndarray) -> list[Pixels]:
        """Return the pixels of some rows.

        Raises
        ------
        InputError
            If an image cannot be decoded, or has values outside the range of its kind.
        """
        return [pixels for part in self._in_parts(rows, self._pixels) for pixels in part]

    def read(self, rows: np.ndarray) -> Tensor:
        """Return some rows as images; raises the same errors as `decode` and `images`."""
        if not self.image_size:
            return self.images(self.decode(rows))
        return torch.cat(self._in_parts(rows, lambda part: self.images(self._pixels(part))))

    def _pixels(self, rows: np.ndarray) -> list[Pixels]:
        return self._cache.pixels(self._files(rows), self._decoded)

    def _in_parts(self, rows: np.ndarray, work: Callable[[np.ndarray], Any]) -> list[Any]:
        """Return what is made of each part of some rows, in their order."""
        parts = np.array_split(rows, -(-len(rows) // PART) or 1)
        done = {part: work(parts[part]) for part in pixel_cache.shared_order(len(parts))}
        return [done[part] for part in range(len(parts))]

    def images(self, pixels: list[Pixels]) -> Tensor:
        """Return pixels as images [rows, channels, height, width] in [0, 1], float32.

        Raises
        ------
        InputError
            If images differ in size and `image_size` is 0.
        """
        images = [_resized(_channels_first(each), self.image_size, self.image_size) for each in pixels]
        sizes = sorted({tuple(image.shape[1:]) for image in images})
        if len(sizes) > 1:
            shown = ", ".join(f"{height} x {width}" for height, width in sizes[:3])
            raise InputError(f"dataset {self.dataset!r} has images of different sizes ({shown}, ...): set image-size")
        if len({image.dtype for image in images}) > 1:
            images = [_as_float(image) for image in images]
        return _as_float(torch.stack(images))

    @cached_property
    def _gray(self) -> bool:
        """Whether all images are gray."""
        if self.gray_images is not None:
            return self.gray_images
        return _is_gray(self._picture(self._files(np.array([0]))[0]))

    @cached_property
    def _cache(self) -> PixelCache:
        jpeg = PIL.features.version("jpg")
        libraries = f"datasets {datasets.__version__}, PIL {PIL.__version__}, libjpeg {jpeg}"
        path = folders.expanded(self.dataset)
        place = str(path.resolve()) if path.is_dir() else self.dataset
        return PixelCache(pixel_cache.folder(), place, f"{libraries}, {'gray' if self._gray else 'color'}")

    def _decoded(self, file: bytes) -> Pixels:
        return pixels_of(self._picture(file), self._gray, f"dataset {self.dataset!r}")

    def _files(self, rows: np.ndarray) -> list[bytes]:
        """Return the contents of the image files of some rows."""
        return [self._content(image) for image in self.table.select(rows)[self.column][:]]

    def _content(self, image: dict[str, Any] | None) -> bytes:
        if image is None or (image["bytes"] is None and image["path"] is None):
            raise InputError(f"dataset {self.dataset!r} has a row without an image")
        if image["bytes"] is not None:
            return image["bytes"]
        try:
            with xopen(image["path"], "rb") as file:
                return file.read()
        except OSError as error:
            raise InputError(f"dataset {self.dataset!r} has an image that cannot be read: {error}") from None

    def _picture(self, file: bytes) -> PIL.Image.Image:
        try:
            return Image().decode_example({"bytes": file, "path": None})
        except OSError as error:  # PIL's own errors are of this kind
            raise InputError(f"dataset {self.dataset!r} has an image that cannot be decoded: {error}") from None


def load_source(dataset: str, image_size: int, seed: int) -> Source:
    """Return a data set.

    Parameters
    ----------
    dataset : str
        "digits", a folder that `datasets.load_dataset` reads, or a name on the hub.
    image_size : int
        Side in pixels; 0 to keep the size.
    seed : int
        Seed of the test split, where the data set has none.

    Raises
    ------
    InputError
        If there is no such data set, or it has no images and labels.
    """
    return _digits(image_size, seed) if dataset == "digits" else _table(dataset, image_size, seed)


def _digits(image_size: int, seed: int) -> Source:
    from sklearn.datasets import load_digits  # with scipy, a second that other data sets do not need

    data = load_digits()
    pixels = data.images.astype(np.uint8)
    train, test = (
        DigitsSplit(pixels[rows], data.target[rows], image_size) for rows in _train_test_rows(len(pixels), seed)
    )
    return Source(train, test, _numbered(10))


def _table(dataset: str, image_size: int, seed: int) -> Source:
    tables = _load(dataset)
    train = _train(tables)
    if "train" in tables and "test" in tables:
        test = tables["test"]
    else:
        kept, held_out = _train_test_rows(len(train), seed)
        if len(held_out) == 0:
            raise InputError(f"dataset {dataset!r} has {len(train)} samples, too few to hold out a test set")
        train, test = train.select(kept), train.select(held_out)
    splits = [_split(dataset, table, image_size) for table in (train, test)]
    feature = train.features[LABEL_COLUMN]
    if isinstance(feature, ClassLabel):
        names = tuple(feature.names)
    else:
        names = _numbered(int(max(split.labels.max() for split in splits)) + 1)
    return Source(splits[0], splits[1], names)


def load_own(folder: str, label_names: tuple[str, ...], *, gray: bool) -> TableSplit:
    """Return the images in a node's own folder, with labels numbered as those of the run.

    Parameters
    ----------
    folder : str
        A folder that `datasets.load_dataset` reads; of several splits, "train" counts.
    label_names : tuple of str
        The classes of the run, of which the folder may lack some.
    gray : bool
        Whether the images of the run are gray.

    Raises
    ------
    InputError
        If the folder cannot be read, or has a class that the run does not have.
    """
    path = folders.expanded(folder).absolute()
    if not path.is_dir():
        raise InputError(f"data-dir {folder!r} is not a folder")
    table = _train(_load(str(path)))
    if LABEL_COLUMN not in table.column_names and any(child.is_dir() for child in path.iterdir()):
        table = _train(_load(str(path), drop_labels=False))  # `datasets` drops the label if there is a single class
    split = replace(_split(str(path), table, 0), gray_images=gray)
    feature = table.features[LABEL_COLUMN]
    own = tuple(feature.names) if isinstance(feature, ClassLabel) else label_names
    known = {name: label for label, name in enumerate(label_names)}
    unknown = next((name for name in own if name not in known), None)
    if unknown is not None:
        raise InputError(
            f"data-dir {folder!r} has the class {unknown!r}, which the run does not have (allowed: "
            f"{', '.join(label_names[:MOST_NAMES])}{', ...' if len(label_names) > MOST_NAMES else ''})"
        )
    if split.labels.max() >= len(own):
        raise InputError(
            f"data-dir {folder!r} has the label {split.labels.max()}, but the run has the labels 0 to {len(own) - 1}"
        )
    return replace(split, labels=np.array([known[name] for name in own])[split.labels])


def _numbered(classes: int) -> tuple[str, ...]:
    return tuple(str(label) for label in range(classes))


def _split(dataset: str, table: Dataset, image_size: int) -> TableSplit:
    column = next((name for name in IMAGE_COLUMNS if name in table.column_names), None)
    if column is None or LABEL_COLUMN not in table.column_names:
        found = ", ".join(table.column_names)
        raise InputError(f"dataset {dataset!r} needs the columns 'image' (or 'img') and 'label', it has: {found}")
    labels = table.with_format("numpy")[LABEL_COLUMN][:]
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise InputError(f"dataset {dataset!r}: column 'label' must hold whole numbers from 0 on")
    try:
        table = table.cast_column(column, Image(decode=False))
    except (TypeError, NotImplementedError):  # raised by pyarrow for unsupported casts
        kind = table.features[column]
        raise InputError(f"dataset {dataset!r}: column {column!r} must hold images, but contains {kind}") from None
    return TableSplit(dataset, table, column, labels.astype(np.int64), image_size)


def _train(tables: DatasetDict) -> Dataset:
    return tables["train"] if "train" in tables else next(iter(tables.values()))


def _load(dataset: str, **options: Any) -> DatasetDict:
    if not dataset.strip():
        raise InputError("dataset = '' must be 'digits', a folder, or a name on the hub")
    path = folders.expanded(dataset)
    local = path.exists() or dataset.startswith((".", "/", "~"))
    if local and not path.is_dir():
        raise InputError(f"dataset {dataset!r}: the folder does not exist")
    try:
        with _bars(download=not local):
            scenes = sun397.folder_of(path) if local else None
            if scenes is not None:
                return DatasetDict(train=sun397.table(scenes))
            splits = load_dataset(str(path) if local else dataset, **options)
    except Exception as error:  # datasets and its readers raise many kinds
        where = (
            "cannot be read as a data set"
            if local
            else "is not 'digits', not a folder, and cannot be loaded from the hub"
        )
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"dataset {dataset!r} {where}: {reason}") from None
    if not splits or any(len(table) == 0 for table in splits.values()):
        raise InputError(f"dataset {dataset!r} is empty")
    return splits


@contextmanager
def _bars(*, download: bool) -> Iterator[None]:
    """Show progress bars in a block only for a download, and only in the main process."""
    hidden = are_progress_bars_disabled()
    if not download or multiprocessing.parent_process() is not None:
        disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            enable_progress_bars()


def _train_test_rows(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the training rows and the test rows."""
    order = np.random.default_rng(derive(seed, "test split")).permutation(samples)
    held_out = round(samples * TEST_SHARE)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def pixels_of(picture: PIL.Image.Image, gray: bool, owner: str) -> Pixels:
    """Return the pixels of a picture, gray or RGB; gray ones have the depth they are stored in, which PIL would clip.

    Raises
    ------
    InputError
        If they are outside the range of their kind; `owner` names what has this picture.
    """
    if picture.mode == "F":
        pixels, highest = np.asarray(picture, dtype=np.float32), 1
    elif picture.mode.startswith("I"):  # 16 bits; the 32-bit mode "I" is what PIL makes of a 16-bit PGM file
        pixels, highest = np.asarray(picture).astype(np.int64), 2**16 - 1
    else:
        return np.asarray(picture.convert("L" if gray else "RGB"))
    if not (pixels.min() >= 0 and pixels.max() <= highest):
        raise InputError(
            f"{owner} has gray pixels from {pixels.min():g} to {pixels.max():g}: in PIL's mode {picture.mode!r} they "
            f"must be 0 to {highest}"
        )
    pixels = pixels if picture.mode == "F" else pixels.astype(np.uint16)
    return pixels if gray else np.repeat(pixels[..., None], 3, axis=-1)


def image_of(pixels: Pixels, height: int, width: int) -> Tensor:
    """Return pixels as an image [channels, height, width] in [0, 1], float32, resized as `TableSplit.images` does."""
    image = _channels_first(pixels)
    return _as_float(image if image.shape[1:] == (height, width) else _resized(image, height, width))


def _is_gray(picture: PIL.Image.Image) -> bool:
    return picture.mode in ("L", "LA", "1", "F") or picture.mode.startswith("I")


def _channels_first(pixels: Pixels) -> Tensor:
    """Return [channels, height, width]: bytes unchanged, as they resize fast, and all else as floats in [0, 1]."""
    values = np.atleast_3d(pixels)
    if values.dtype == np.uint16:
        values = values.astype(np.float32) / (2**16 - 1)
    return torch.tensor(values).permute(2, 0, 1)


def _resized(images: Tensor, height: int, width: int) -> Tensor:
    if not height:
        return images
    from torchvision.transforms import v2  # with torch._dynamo, seconds that images of the right size do not need

    return v2.functional.resize(images, [height, width], antialias=True)


def _as_float(images: Tensor) -> Tensor:
    """Return bytes as floats in [0, 1], as torchvision's `to_dtype` scales them; floats unchanged."""
    return images.to(torch.float32).mul_(1 / 255) if images.dtype == torch.uint8 else images
