"""SUN397 as its archive unpacks it, in a small folder of that shape."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import SUN397

from flower_kd import data
from flower_kd.data import DataSpec, FederatedData, sources
from flower_kd.errors import InputError

CLASSES = ("/a/abbey", "/a/apartment_building/outdoor", "/b/beach", "/y/youth_hostel")


def write_scenes(root: Path, *, per_class: int = 10, side: int = 40) -> Path:
    """Write scenes of different sizes, brighter by class, and return the folder with the classes."""
    folder, rng = root / "SUN397", np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        place = folder / name.removeprefix("/")
        place.mkdir(parents=True)
        for number in range(per_class):
            shape = (side + number, side + label, 3)
            pixels = rng.integers(60 * label, 60 * label + 40, shape).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"sun_{label}{number:03d}.jpg")
    (folder / "ClassName.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    (folder / "README.txt").write_text("about the data set")
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"))


def test_images_and_labels_are_those_of_torchvision(scenes: Path) -> None:
    known = SUN397(str(scenes.parent))
    wanted = {str(path): label for path, label in zip(known._image_files, known._labels, strict=True)}
    for folder in (scenes, scenes.parent):
        source = sources.load_source(str(folder), 16, 0)
        assert list(source.label_names) == known.classes
        splits = [(source.train.table, source.train.labels), (source.test.table, source.test.labels)]
        found = {
            row["path"]: int(label)
            for table, labels in splits
            for row, label in zip(table["image"][:], labels, strict=True)
        }
        assert found == wanted
        assert len(source.test.labels) == 8


def test_scenes_of_any_size_are_split_and_resized(scenes: Path) -> None:
    spec = DataSpec(
        dataset=str(scenes), partition="skew", gamma=10.0, num_partitions=3, reference_size=6, image_size=24,
        normalization="imagenet", validation_share=0.1,
    )  # fmt: skip
    federated = FederatedData(spec)
    assert federated.shape == (3, 24, 24)
    assert federated.normalization.mean == (0.485, 0.456, 0.406)
    parts = [federated.private(vertex) for vertex in range(3)] + [federated.validation(vertex) for vertex in range(3)]
    assert sum(len(labels) for _, labels in parts) == 32 - 6
    for inputs, labels in (*parts, federated.test):
        brightness = federated.normalization.undone(inputs).mean(dim=(1, 2, 3)) * 255
        assert torch.equal((brightness / 60).floor().long(), labels)


def test_without_an_image_size_different_sizes_are_refused(scenes: Path) -> None:
    federated = FederatedData(DataSpec(dataset=str(scenes), num_partitions=2))
    with pytest.raises(InputError, match=r"has images of different sizes \(.*\): set image-size"):
        federated.private(0)


def test_large_images_are_resized_in_parts(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FederatedData(DataSpec(dataset=str(scenes), num_partitions=2, image_size=16)).private(0)
    at_a_time: list[int] = []
    images = sources.TableSplit.images
    monkeypatch.setattr(sources, "PART", 3)
    monkeypatch.setattr(
        sources.TableSplit, "images", lambda self, pixels: at_a_time.append(len(pixels)) or images(self, pixels)
    )
    parts = FederatedData(DataSpec(dataset=str(scenes), num_partitions=2, image_size=16)).private(0)
    assert torch.equal(parts[0], whole[0])
    assert max(at_a_time) == 3
    assert sum(at_a_time) >= len(parts[1]) > 3


def test_what_is_incomplete_is_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path, per_class=1)
    (folder / "ClassName.txt").write_text("/a/abbey\n/b/beach\n/y/youth_hostel\n")
    with pytest.raises(
        InputError,
        match=r"data set: ClassName.txt does not list the class of a/apartment_building/outdoor/sun_1000.jpg$",
    ):
        data.load(DataSpec(dataset=str(folder)))
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "ClassName.txt").write_text("/a/abbey\n")
    with pytest.raises(InputError, match=r"it has ClassName.txt, but no images sun_\*.jpg$"):
        data.load(DataSpec(dataset=str(empty)))
