"""Exported models compute what the module computes, and say what they take."""

import io
import json

import pytest
import torch
from torch import nn

from flower_kd import models
from flower_kd.deploy import export as exports
from flower_kd.deploy.export import FORMATS, export
from flower_kd.errors import InputError
from flower_kd.models.card import ModelCard

CARD = ModelCard("lenet5", 3, (3, 12, 10), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), ("a", "b ü", "c"))


def lenet5() -> nn.Module:
    return models.build("lenet5", CARD.classes, CARD.shape, seed=1).eval()


def expected(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CARD.mean, CARD.std))
    with torch.inference_mode():
        return model((images - mean) / std)


@pytest.mark.parametrize("name", FORMATS)
def test_an_exported_model_takes_images_between_0_and_1(name: str) -> None:
    model = lenet5()
    exported = FORMATS[name].read(export(model, CARD, name))
    for batch in (1, 7):
        images = torch.rand(batch, *CARD.shape)
        found = exported(images).detach()
        torch.testing.assert_close(found, expected(model, images), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(found, expected(model, images + 0.1), atol=1e-3)


def test_metadata_name_the_labels() -> None:
    import onnx

    found = {prop.key: prop.value for prop in onnx.load_from_string(export(lenet5(), CARD, "onnx")).metadata_props}
    archives = {}
    for name, load in (("torchscript", torch.jit.load), ("pt2", torch.export.load)):
        files: dict[str, str] = {exports.CARD_FILE: ""}
        load(io.BytesIO(export(lenet5(), CARD, name)), **{f"{'_' * (name == 'torchscript')}extra_files": files})
        archives[name] = json.loads(files[exports.CARD_FILE])
    assert found == archives["torchscript"] == archives["pt2"]
    assert json.loads(found["labels"]) == list(CARD.labels)
    assert found["input"] == "images: float32 [batch, 3, 12, 10], RGB in [0, 1]"


class Doubles(nn.Module):
    """Computes something else in a batch of another size, which a trace does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(360, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.layer(images.flatten(1))
        return logits * 2 if len(images) == 5 else logits


class Unexportable(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not\nhere")


def test_an_exported_model_that_computes_something_else_is_refused() -> None:
    words = (
        "cannot be exported as torchscript: on a batch of 5, the exported model's logits differ from the model's own"
    )
    with pytest.raises(InputError, match=words):
        export(Doubles(), CARD, "torchscript")


@pytest.mark.parametrize("name", FORMATS)
def test_a_model_that_cannot_be_exported_is_one_sentence(name: str) -> None:
    with pytest.raises(InputError, match=f"model 'lenet5' cannot be exported as {name}: ") as caught:
        export(Unexportable(), CARD, name)
    assert "not here" in str(caught.value)


def test_a_missing_package_is_named_with_the_line_to_install_it(monkeypatch) -> None:
    real = exports.find_spec
    monkeypatch.setattr(exports, "find_spec", lambda name: None if name == "onnxscript" else real(name))
    with pytest.raises(InputError, match=r"not installed \(onnxscript\): pip install \"flower-kd\[onnx\]\""):
        export(lenet5(), CARD, "onnx")
    with pytest.raises(InputError, match=r"unknown format 'onn', did you mean 'onnx'\?"):
        export(lenet5(), CARD, "onn")
