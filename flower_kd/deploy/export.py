"""A trained model in a format that needs neither this package nor the model's own code."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from flower_kd.errors import InputError, unknown
from flower_kd.failures import describe
from flower_kd.models import pruning
from flower_kd.models.card import ModelCard
from flower_kd.models.two_heads import in_use
from flower_kd.seeding import derive

INPUT, OUTPUT = "images", "logits"
CARD_FILE = "model.json"  # in archives with extra files
LARGEST_DIFFERENCE = 1e-4  # of two logits, relative above 1
TRACED_IMAGES = 2  # torch.export takes a batch of one for a constant
CHECKED_BATCHES = (1, TRACED_IMAGES, 5)

Run = Callable[[Tensor], Tensor]


class FromPixels(nn.Module):
    """A model with its normalization: from images in [0, 1], [batch, channels, height, width], to logits."""

    def __init__(self, model: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.model = model
        self.mean = nn.Buffer(torch.tensor(card.mean).view(-1, 1, 1))
        self.std = nn.Buffer(torch.tensor(card.std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [batch, classes]."""
        return self.model((images - self.mean) / self.std)


@dataclass(frozen=True)
class Format:
    """A file format.

    Parameters
    ----------
    suffix : str
        Of its files.
    write : callable (FromPixels, Tensor, dict) -> bytes
        From the model, example images and metadata to a file's content, for batches of any size.
    read : callable (bytes) -> callable (Tensor) -> Tensor
        From the content to what computes logits, as a user of the file would.
    packages : tuple of str
        That it needs; installed by the extra of the format's name.
    """

    suffix: str
    write: Callable[[FromPixels, Tensor, dict[str, str]], bytes]
    read: Callable[[bytes], Run]
    packages: tuple[str, ...] = ()


def export(model: nn.Module, card: ModelCard, format_name: str) -> bytes:
    """Return a file's content after it has been read back and compared with the model's own outputs.

    The exported model takes images in [0, 1], float32 [batch, channels, height, width] with any batch size, and returns
    logits [batch, classes]; the normalization is part of it, and its metadata have the names of the labels.

    Parameters
    ----------
    model, card
        What `load_model` and `load_card` return.
    format_name : str
        One of `FORMATS`.

    Raises
    ------
    InputError
        If there is no such format, a package is missing, the model cannot be exported, or the exported model's logits
        differ by more than `LARGEST_DIFFERENCE`, absolute or (above 1) relative.
    """
    check_format(format_name)
    form, whole = FORMATS[format_name], FromPixels(pruning.plain(in_use(model)), card).eval()
    generator = torch.Generator().manual_seed(derive(0, "exported images"))
    example = torch.rand((TRACED_IMAGES, *card.shape), generator=generator)
    try:
        with _quiet(), torch.no_grad():
            content = form.write(whole, example, about(card))
            run = form.read(content)
            found = []
            for size in CHECKED_BATCHES:
                images = torch.rand((size, *card.shape), generator=generator)
                found.append((whole(images), run(images)))
    except InputError:
        raise
    except Exception as error:  # tracing runs the user's code, and the exporters raise many kinds
        raise InputError(f"model {card.factory!r} cannot be exported as {format_name}: {describe(error)}") from error
    for own, exported in found:
        if own.shape != exported.shape or not torch.allclose(
            own, exported, rtol=LARGEST_DIFFERENCE, atol=LARGEST_DIFFERENCE
        ):
            raise InputError(
                f"model {card.factory!r} cannot be exported as {format_name}: on a batch of {len(own)}, the exported "
                f"model's logits differ from the model's own"
            )
    return content


def check_format(format_name: str) -> None:
    """Raise InputError if there is no such format, or it needs a package that is not installed."""
    if format_name not in FORMATS:
        raise InputError(unknown("format", format_name, sorted(FORMATS)))
    missing = [name for name in FORMATS[format_name].packages if find_spec(name) is None]
    if missing:
        raise InputError(
            f"format {format_name!r} needs packages that are not installed ({', '.join(missing)}): "
            f'pip install "flower-kd[{format_name}]"'
        )


def about(card: ModelCard) -> dict[str, str]:
    """Return the metadata of an exported model: what goes in, and what comes out."""
    colors = {1: "gray", 3: "RGB"}.get(card.shape[0], "pixels")
    return {
        "input": f"{INPUT}: float32 [batch, {', '.join(map(str, card.shape))}], {colors} in [0, 1]",
        "output": f"{OUTPUT}: float32 [batch, {card.classes}]",
        "labels": json.dumps(card.labels, ensure_ascii=False),
        "factory": card.factory,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what exporters print about their own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _program(model: FromPixels, example: Tensor) -> torch.export.ExportedProgram:
    """Return the model as a graph for batches of any size."""
    return torch.export.export(model, (example,), dynamic_shapes={INPUT: {0: torch.export.Dim("batch", min=1)}})


def _write_torchscript(model: FromPixels, example: Tensor, about: dict[str, str]) -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, example), file, _extra_files={CARD_FILE: json.dumps(about)})
    return file.getvalue()


def _read_torchscript(content: bytes) -> Run:
    return torch.jit.load(io.BytesIO(content))


def _write_pt2(model: FromPixels, example: Tensor, about: dict[str, str]) -> bytes:
    file = io.BytesIO()
    torch.export.save(_program(model, example), file, extra_files={CARD_FILE: json.dumps(about)})
    return file.getvalue()


def _read_pt2(content: bytes) -> Run:
    return torch.export.load(io.BytesIO(content)).module()


def _write_onnx(model: FromPixels, example: Tensor, about: dict[str, str]) -> bytes:
    program = torch.onnx.export(
        _program(model, example), dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False
    )
    assert program is not None
    proto = program.model_proto
    for key, value in about.items():
        proto.metadata_props.add(key=key, value=value)
    return proto.SerializeToString()


def _read_onnx(content: bytes) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


FORMATS = {
    "onnx": Format(".onnx", _write_onnx, _read_onnx, packages=("onnx", "onnxscript", "onnxruntime")),
    "torchscript": Format(".pt", _write_torchscript, _read_torchscript),
    "pt2": Format(".pt2", _write_pt2, _read_pt2),
}
