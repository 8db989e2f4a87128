"""Class probabilities for image files, which become a model's input as the images it was trained on did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import PIL.Image
import torch
from datasets import Image
from torch import Tensor, nn

from flower_kd.data.normalization import Normalization
from flower_kd.data.sources import image_of, pixels_of
from flower_kd.errors import InputError
from flower_kd.models.card import ModelCard

BATCH = 128


def image_files(paths: Iterable[Path]) -> list[Path]:
    """Return files as they are, and in place of folders the image files inside, at any depth and in order of names.

    Raises
    ------
    InputError
        If a path does not exist, or a folder has no images.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            formats = PIL.Image.registered_extensions()  # also registers them
            known = {suffix for suffix, name in formats.items() if name in PIL.Image.OPEN}  # it only writes PDF
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in known and file.is_file())
            if not inside:
                raise InputError(f"folder {str(path)!r} has no image files")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"image {str(path)!r} does not exist")
    return found


def read_image(path: Path, card: ModelCard) -> Tensor:
    """Return an image file as a model's input [channels, height, width]; raises InputError if it cannot be read."""
    channels, height, width = card.shape
    try:
        # What decodes the images of a data set; it would take some paths for addresses on the web.
        picture = Image().decode_example({"path": None, "bytes": path.read_bytes()})
    except Exception as error:  # PIL's readers raise many kinds
        reason = "it is not in a known image format" if isinstance(error, PIL.UnidentifiedImageError) else str(error)
        raise InputError(f"image {str(path)!r} cannot be read: {' '.join(reason.split())}") from None
    image = image_of(pixels_of(picture, gray=channels == 1, owner=f"image {str(path)!r}"), height, width)
    return Normalization(card.mean, card.std)(image[None])[0]


def predict(model: nn.Module, card: ModelCard, files: Sequence[Path]) -> Tensor:
    """Return the probability of each label, [files, classes].

    Parameters
    ----------
    model, card
        What `load_model` and `load_card` return.
    files : sequence of Path
        Image files in any format that PIL reads, gray or color, of any size.

    Raises
    ------
    InputError
        If an image cannot be read.
    """
    batches = [files[start : start + BATCH] for start in range(0, len(files), BATCH)]
    with torch.inference_mode():
        found = [model(torch.stack([read_image(path, card) for path in batch])).softmax(-1) for batch in batches]
    return torch.cat(found) if found else torch.empty(0, card.classes)
