"""Where images and labels come from: scikit-learn's digits, a folder, or the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image, load_dataset
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.transforms import v2

from flower_kd.errors import InputError
from flower_kd.seeding import derive

IMAGE_COLUMNS = ("image", "img")  # CIFAR-10 on the hub calls it img
LABEL_COLUMN = "label"
TEST_SHARE = 0.2


class Split(Protocol):
    """Labelled images of which only those that are asked for are decoded."""

    @property
    def labels(self) -> np.ndarray:
        """Labels of all rows, [rows]."""

    def images(self, rows: np.ndarray) -> Tensor:
        """Return images [rows, channels, height, width] in [0, 1], float32."""


@dataclass(frozen=True)
class Source:
    """A data set with its two splits."""

    train: Split
    test: Split
    num_classes: int


@dataclass(frozen=True)
class TensorSplit:
    """Images that are in memory."""

    pixels: Tensor
    labels: np.ndarray

    def images(self, rows: np.ndarray) -> Tensor:
        """Return images [rows, channels, height, width] in [0, 1], float32."""
        return self.pixels[torch.from_numpy(rows)]


@dataclass(frozen=True)
class TableSplit:
    """Images in a table of Hugging Face `datasets`, decoded by PIL when they are asked for."""

    table: Dataset
    column: str
    labels: np.ndarray
    image_size: int

    def images(self, rows: np.ndarray) -> Tensor:
        """Return images [rows, channels, height, width] in [0, 1], float32.

        Raises
        ------
        InputError
            If images differ in size and no size was asked for.
        """
        if len(rows) == 0:
            return torch.empty(0, *self.images(np.array([0])).shape[1:])
        # One channel if the data set is gray, whatever an odd image in it is.
        mode = "L" if self.table[0][self.column].mode in ("L", "1", "I", "I;16", "LA") else "RGB"
        steps = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
        if self.image_size:
            steps.insert(1, v2.Resize([self.image_size, self.image_size], antialias=True))
        transform = v2.Compose(steps)
        images = [transform(row[self.column].convert(mode)) for row in self.table.select(rows)]
        sizes = sorted({tuple(image.shape[1:]) for image in images})
        if len(sizes) > 1:
            shown = ", ".join(f"{height} x {width}" for height, width in sizes[:3])
            raise InputError(f"images have different sizes ({shown}, ...): set image-size")
        return torch.stack(images)


def load_source(dataset: str, image_size: int, seed: int) -> Source:
    """Return a data set.

    Parameters
    ----------
    dataset : str
        "digits", a folder that `datasets.load_dataset` reads, or a name on the hub.
    image_size : int
        Side in pixels; 0 for as it is.
    seed : int
        Seed of the test split, where the data set has none.

    Raises
    ------
    InputError
        If there is no such data set, or it has no images and labels.
    """
    return _digits(image_size, seed) if dataset == "digits" else _table(dataset, image_size, seed)


def _digits(image_size: int, seed: int) -> Source:
    data = load_digits()
    pixels = torch.from_numpy(data.images.astype(np.float32) / 16)[:, None]
    if image_size:
        pixels = v2.Resize([image_size, image_size], antialias=True)(pixels)
    train, test = _carve(len(pixels), seed)
    return Source(
        TensorSplit(pixels[train], data.target[train]), TensorSplit(pixels[test], data.target[test]), num_classes=10
    )


def _table(dataset: str, image_size: int, seed: int) -> Source:
    splits = _load(dataset)
    train = splits["train"] if "train" in splits else next(iter(splits.values()))
    image, label = _columns(dataset, train)
    if "test" in splits and "train" in splits:
        test = splits["test"]
        _columns(dataset, test)
    else:
        kept, held = _carve(len(train), seed)
        train, test = train.select(kept), train.select(held)
    feature = train.features[label]
    parts = [_labels(dataset, table[label]) for table in (train, test)]
    classes = feature.num_classes if isinstance(feature, ClassLabel) else int(max(part.max() for part in parts)) + 1
    tables = [
        TableSplit(table.cast_column(image, Image()), image, labels, image_size)
        for table, labels in zip((train, test), parts, strict=True)
    ]
    return Source(tables[0], tables[1], classes)


def _load(dataset: str) -> DatasetDict:
    path = Path(dataset).expanduser()
    local = path.exists() or dataset.startswith((".", "/", "~"))
    if local and not path.is_dir():
        raise InputError(f"dataset {dataset!r}: there is no such folder")
    try:
        splits = load_dataset(str(path) if local else dataset)
    except Exception as error:  # datasets raises many kinds, some of its own and some of its readers
        where = "cannot be read as a data set" if local else "is neither 'digits', a folder here, nor to be had by name"
        raise InputError(f"dataset {dataset!r} {where}: {str(error).splitlines()[0]}") from None
    if not splits or any(len(table) == 0 for table in splits.values()):
        raise InputError(f"dataset {dataset!r} is empty")
    return splits


def _columns(dataset: str, table: Dataset) -> tuple[str, str]:
    image = next((name for name in IMAGE_COLUMNS if name in table.column_names), None)
    if image is None or LABEL_COLUMN not in table.column_names:
        found = ", ".join(table.column_names)
        raise InputError(f"dataset {dataset!r} needs the columns 'image' and 'label', it has: {found}")
    return image, LABEL_COLUMN


def _labels(dataset: str, column: object) -> np.ndarray:
    labels = np.asarray(column)
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise InputError(f"dataset {dataset!r}: column 'label' must hold whole numbers from 0 on")
    return labels.astype(np.int64)


def _carve(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that train and those that test."""
    order = np.random.default_rng(derive(seed, "test split")).permutation(samples)
    held = round(samples * TEST_SHARE)
    return np.sort(order[held:]), np.sort(order[:held])
