"""A node's own folder of images, beside the run's data set."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import PICTURE_CLASSES
from datasets import ClassLabel, Dataset, Features, Image, Value

from flower_kd.data import DataSpec, FederatedData, OwnData
from flower_kd.errors import InputError


@pytest.fixture(scope="module")
def run(pictures: Path) -> FederatedData:
    return FederatedData(DataSpec(str(pictures), num_partitions=2, reference_size=20, image_size=8))


def of_classes(pictures: Path, folder: Path, *names: str) -> str:
    for name in names:
        shutil.copytree(pictures / "train" / name, folder / name)
    return str(folder)


def test_images_are_those_that_the_run_would_make_of_them(pictures: Path, run: FederatedData, tmp_path: Path) -> None:
    own = OwnData(of_classes(pictures, tmp_path / "own", *PICTURE_CLASSES), run, 0)
    inputs, labels = own.private
    expected, known = run._samples(run._source.train, np.arange(90))
    assert torch.equal(inputs, expected)
    assert torch.equal(labels, known)
    assert own.validation is None


@pytest.mark.parametrize("names", [("dog",), ("cat", "dog")])
def test_classes_are_known_by_their_names(names: tuple[str, ...], pictures: Path, run, tmp_path: Path) -> None:
    inputs, labels = OwnData(of_classes(pictures, tmp_path / "own", *names), run, 0).private
    assert inputs.shape == (30 * len(names), 3, 8, 8)
    assert labels.tolist() == [PICTURE_CLASSES.index(name) for name in names for _ in range(30)]


@pytest.mark.parametrize("feature", [Value("int64"), ClassLabel(names=["dog", "cat"])])
def test_parquet(feature: object, pictures: Path, run: FederatedData, tmp_path: Path) -> None:
    files = [str(path) for path in sorted((pictures / "train" / "cat").iterdir())]
    table = Dataset.from_dict({"image": files, "label": [1] * 30}, Features({"image": Image(), "label": feature}))
    (tmp_path / "own").mkdir()
    table.to_parquet(tmp_path / "own" / "train.parquet")
    inputs, labels = OwnData(str(tmp_path / "own"), run, 0).private
    assert labels.tolist() == [1] * 30
    assert torch.equal(inputs, OwnData(of_classes(pictures, tmp_path / "folders", "cat"), run, 0).private[0])


def test_gray_images_of_another_size_become_the_runs_kind(run: FederatedData, tmp_path: Path) -> None:
    (tmp_path / "dog").mkdir()
    PIL.Image.fromarray(np.full((30, 20), 51, np.uint8)).save(tmp_path / "dog" / "a.png")
    (inputs, labels) = OwnData(str(tmp_path), run, 0).private
    assert torch.allclose(run.normalization.undone(inputs), torch.full((1, 3, 8, 8), 0.2), atol=1e-6)
    assert labels.tolist() == [2]


def test_as_many_samples_as_the_run_allows_and_some_held_out(pictures: Path, tmp_path: Path) -> None:
    spec = DataSpec(
        str(pictures), num_partitions=2, reference_size=20, image_size=8, samples_per_node=10, validation_share=0.2
    )
    folder = of_classes(pictures, tmp_path / "own", "cat", "dog")
    own = [OwnData(folder, FederatedData(spec), vertex) for vertex in (0, 0, 1)]
    assert [len(each.private[1]) for each in own] == [8] * 3
    assert [len(each.validation[1]) for each in own] == [2] * 3
    assert torch.equal(own[0].private[0], own[1].private[0])
    assert not torch.equal(own[0].private[0], own[2].private[0])


def test_mistakes_are_one_sentence(pictures: Path, run: FederatedData, tmp_path: Path) -> None:
    def error(folder: str) -> str:
        with pytest.raises(InputError) as caught:
            OwnData(folder, run, 0)
        return str(caught.value)

    none = str(tmp_path / "none")
    assert error(none) == f"data-dir {none!r} is not a folder"
    other = of_classes(pictures, tmp_path / "other", "cat", "dog")
    (Path(other) / "dog").rename(Path(other) / "wolf")
    words = f"data-dir {other!r} has the class 'wolf', which the run does not have (allowed: blue fish, cat, dog)"
    assert error(other) == words
    (tmp_path / "empty").mkdir()
    assert "cannot be read as a data set" in error(str(tmp_path / "empty"))
    table = Dataset.from_dict(
        {"image": [str(pictures / "train" / "cat" / "0.png")], "label": [3]},
        Features({"image": Image(), "label": Value("int64")}),
    )
    (tmp_path / "labels").mkdir()
    table.to_parquet(tmp_path / "labels" / "a.parquet")
    assert error(str(tmp_path / "labels")).endswith("has the label 3, but the run has the labels 0 to 2")
