"""Image files become the inputs that a node was trained on."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import flower_kd
from flower_kd import data
from flower_kd.deploy import prediction
from flower_kd.errors import InputError
from flower_kd.models.card import ModelCard
from flower_kd.runs import results


def test_predictions_are_those_of_the_node_in_the_run(trained, pictures: Path, monkeypatch) -> None:
    monkeypatch.setattr(prediction, "BATCH", 7)  # so that there are several
    folder, summary = trained
    inputs, labels = data.load(results.read(folder).config.data_spec(4)).test
    files = prediction.image_files([pictures / "test"])
    for node in (0, 1):
        model, card = flower_kd.load_model(folder, node), flower_kd.load_card(folder, node)
        assert torch.equal(torch.stack([prediction.read_image(path, card) for path in files]), inputs)
        found = prediction.predict(model, card, files)
        with torch.inference_mode():
            torch.testing.assert_close(found, model(inputs).softmax(-1))
        correct = [card.labels[k] == path.parent.name for k, path in zip(found.argmax(-1).tolist(), files, strict=True)]
        assert np.mean(correct) == pytest.approx(summary.accuracy["per_node"][node])
    assert [path.parent.name for path in files] == [card.labels[k] for k in labels.tolist()]


GRAY = ModelCard("mlp", 2, (1, 2, 3), (0.5,), (0.25,), ("a", "b"))
COLOR = ModelCard("mlp", 2, (3, 2, 3), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), ("a", "b"))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16", "LA", "CMYK"])
@pytest.mark.parametrize("card", [GRAY, COLOR])
def test_any_kind_of_picture_becomes_the_models_kind(mode: str, card: ModelCard, tmp_path: Path) -> None:
    if mode == "I;16":
        picture = PIL.Image.fromarray(np.full((2, 3), 65_535, dtype=np.uint16))
    else:
        picture = PIL.Image.new("RGB", (3, 2), (255, 255, 255)).convert(mode)
    path = tmp_path / f"white.{'tiff' if mode == 'CMYK' else 'png'}"
    picture.save(path)
    white = (1 - card.mean[0]) / card.std[0]
    torch.testing.assert_close(prediction.read_image(path, card), torch.full(card.shape, white))


def test_a_picture_is_turned_and_resized(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    PIL.Image.fromarray(pixels).save(tmp_path / "large.png")
    assert prediction.read_image(tmp_path / "large.png", GRAY).shape == (1, 2, 3)
    exif = PIL.Image.Exif()
    exif[PIL.Image.ExifTags.Base.Orientation] = 3  # upside down
    PIL.Image.fromarray(pixels[:2, :3]).save(tmp_path / "turned.png", exif=exif)
    expected = torch.tensor(pixels[:2, :3][::-1, ::-1] / 255, dtype=torch.float32)
    found = prediction.read_image(tmp_path / "turned.png", GRAY)[0] * 0.25 + 0.5
    torch.testing.assert_close(found, expected)


def test_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "b" / "deep").mkdir(parents=True)
    for name in ("b/deep/2.JPG", "b/1.png", "b/notes.txt", "b/picture.pdf", "a.unknown"):
        (tmp_path / name).touch()
    files = prediction.image_files([tmp_path / "b", tmp_path / "a.unknown"])
    assert [str(path.relative_to(tmp_path)) for path in files] == ["b/1.png", "b/deep/2.JPG", "a.unknown"]
    with pytest.raises(InputError, match=r"image '.*none.png' does not exist"):
        prediction.image_files([tmp_path / "none.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"folder '.*empty' has no image files"):
        prediction.image_files([tmp_path / "empty"])


def test_a_file_that_is_not_an_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"image '.*bad.png' cannot be read: it is not in a known image format"):
        prediction.read_image(tmp_path / "bad.png", GRAY)
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"image '.*cut.png' cannot be read: \w"):
        prediction.read_image(tmp_path / "cut.png", GRAY)
    PIL.Image.fromarray(np.full((2, 3), 7.0, dtype=np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(InputError, match=r"image '.*float.tiff' has gray pixels from 7 to 7: .* must be 0 to 1"):
        prediction.read_image(tmp_path / "float.tiff", GRAY)
