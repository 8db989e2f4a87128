import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Picture

from flower_kd import data
from flower_kd.data import DataSpec, FederatedData, fingerprint
from flower_kd.errors import InputError

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"


def write_images(folder: Path, splits: dict[str, int], *, size: int = 8, mode: str = "L", label: str = "label") -> str:
    """Write a data set of pictures in which the label is the brightness, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in splits.items():
        rng = np.random.default_rng(count)
        labels = rng.integers(0, 4, count)
        shape = (size, size) if mode == "L" else (size, size, 3)
        pictures = [Picture.fromarray(rng.integers(0, 50, shape).astype(np.uint8) + np.uint8(50 * k)) for k in labels]
        features = Features(
            {"image": Image(), label: ClassLabel(num_classes=4) if label == "label" else Value("int64")}
        )
        table = Dataset.from_dict({"image": pictures, label: labels.tolist()}, features=features)
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return str(folder)


@pytest.mark.parametrize("partition", data.partition_names())
def test_private_reference_and_test_rows_are_disjoint(partition: str) -> None:
    spec = DataSpec(partition=partition, num_partitions=4, gamma=5.0, reference_size=200, seed=3)
    digits = FederatedData(spec)
    rows = [digits.private_rows(vertex) for vertex in range(4)]
    private = np.concatenate(rows)
    assert len(set(private.tolist())) == len(private)
    assert not set(private.tolist()) & set(digits._reference_rows.tolist())
    if partition != "pathological":  # which leaves out labels that no node was given
        assert len(private) + 200 + len(digits.test[1]) == 1797
    everything = torch.cat([digits.reference, digits.test[0], *(digits.private(vertex)[0] for vertex in range(4))])
    # Digits hold no two equal images, so rows that stand twice would show.
    assert len(torch.unique(everything.flatten(1), dim=0)) == len(everything)


def test_digits_are_normalized_and_shaped() -> None:
    digits = FederatedData(DataSpec(num_partitions=2, reference_size=500))
    assert digits.shape == (1, 8, 8)
    assert digits.num_classes == 10
    assert digits.reference.shape == (500, 1, 8, 8)
    assert digits.reference.mean().abs() < 0.1
    assert digits.reference.std() == pytest.approx(1, abs=0.1)
    assert digits.test[0].dtype == torch.float32
    assert digits.test[1].dtype == torch.int64


def test_everything_follows_from_the_seed() -> None:
    spec = DataSpec(partition="skew", gamma=5.0, num_partitions=3, reference_size=50, samples_per_node=40)
    first, again = FederatedData(spec), FederatedData(spec)
    # Whatever is asked for first: a device asks for its own vertex only.
    assert torch.equal(again.private(2)[0], first.private(2)[0])
    assert torch.equal(again.private(0)[0], first.private(0)[0])
    assert again.fingerprint == first.fingerprint
    assert len(first.private(1)[1]) == 40
    other = FederatedData(DataSpec(**{**vars(spec), "seed": 1}))
    assert other.fingerprint != first.fingerprint


@pytest.mark.parametrize(("share", "held_out"), [(0.0, 0), (0.001, 1), (0.1, 4), (0.5, 20)])
def test_a_node_holds_out_a_share_of_its_samples(share: float, held_out: int) -> None:
    values = {"num_partitions": 3, "samples_per_node": 40, "reference_size": 50, "seed": 5}
    plain, digits = FederatedData(DataSpec(**values)), FederatedData(DataSpec(**values, validation_share=share))
    for vertex in range(3):
        trained, held = digits.private_rows(vertex), digits.validation_rows(vertex)
        assert (len(trained), len(held)) == (40 - held_out, held_out)
        assert sorted([*trained, *held]) == sorted(plain.private_rows(vertex))
        assert len(digits.private(vertex)[1]) == len(trained)
    assert plain.validation(0) is None
    if share == 0:
        assert np.array_equal(digits.private_rows(0), plain.private_rows(0))
        assert digits.validation(0) is None
        return
    inputs, labels = digits.validation(2)
    assert digits.validation(2)[0] is inputs
    row = digits.validation_rows(2)[0]
    place = int(np.flatnonzero(plain.private_rows(2) == row)[0])
    assert torch.equal(inputs[0], plain.private(2)[0][place])
    assert labels[0] == plain.private(2)[1][place]
    again = FederatedData(digits.spec)
    assert np.array_equal(again.validation_rows(1), digits.validation_rows(1))
    assert torch.equal(again.reference, digits.reference)


def test_the_samples_held_out_follow_from_seed_and_vertex() -> None:
    held = FederatedData(DataSpec(num_partitions=2, samples_per_node=40, validation_share=0.2))
    positions = [held._held_out(vertex).tolist() for vertex in range(2)]
    other = FederatedData(DataSpec(num_partitions=2, samples_per_node=40, validation_share=0.2, seed=1))
    assert len({*map(tuple, positions), tuple(other._held_out(0).tolist())}) == 3


def test_a_single_sample_cannot_be_held_out() -> None:
    two, one = (DataSpec(num_partitions=2, samples_per_node=count, validation_share=0.5) for count in (2, 1))
    assert [len(FederatedData(two).private_rows(0)), len(FederatedData(two).validation_rows(0))] == [1, 1]
    with pytest.raises(InputError, match=r"single private sample, too few to hold one out: validation-share = 0.5"):
        FederatedData(one).private(0)
    with pytest.raises(InputError, match=r"validation-share = 0.7 must be at least 0 and at most 0.5"):
        DataSpec(validation_share=0.7)


def test_one_copy_a_process() -> None:
    spec = DataSpec(num_partitions=2)
    assert data.load(spec) is data.load(DataSpec(num_partitions=2))
    assert data.load(spec).private(0)[0] is data.load(spec).private(0)[0]


def test_pathological_nodes_have_few_labels() -> None:
    digits = FederatedData(DataSpec(partition="pathological(labels_per_node=2)", num_partitions=5))
    assert all(len(digits.private(vertex)[1].unique()) <= 2 for vertex in range(5))


def test_a_fingerprint_sees_one_pixel() -> None:
    reference = torch.zeros(3, 1, 4, 4)
    changed = reference.clone()
    changed[2, 0, 3, 3] = 1e-6
    assert fingerprint(reference) == fingerprint(reference.clone())
    assert len({fingerprint(reference), fingerprint(changed), fingerprint(reference.reshape(1, 3, 4, 4))}) == 3


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "gray", {"train": 60, "test": 20})
    gray = FederatedData(DataSpec(dataset=folder, num_partitions=3, reference_size=10))
    assert gray.shape == (1, 8, 8)
    assert gray.num_classes == 4
    assert len(gray.test[1]) == 20
    assert sum(len(gray.private(vertex)[1]) for vertex in range(3)) == 50
    # Unknown data sets are normalized by their reference set.
    assert gray.reference.mean().abs() < 1e-5
    assert gray.reference.std(unbiased=False) == pytest.approx(1, abs=1e-4)
    inputs, labels = gray.test
    brightness = torch.stack([inputs[labels == k].mean() for k in range(4)])
    assert (brightness.diff() > 0).all()  # pixels and labels stayed together


def test_color_resizing_and_a_test_set_carved_from_train(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "color", {"train": 50}, size=12, mode="RGB")
    color = FederatedData(DataSpec(dataset=folder, num_partitions=2, reference_size=5, image_size=8))
    assert color.shape == (3, 8, 8)
    assert len(color.test[1]) == 10
    assert color.private(0)[0].shape[1:] == (3, 8, 8)


def test_only_the_rows_asked_for_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_images(tmp_path / "gray", {"train": 60, "test": 20})
    decoded: list[int] = []
    original = data.sources.TableSplit.decode
    monkeypatch.setattr(
        data.sources.TableSplit, "decode", lambda self, rows: decoded.append(len(rows)) or original(self, rows)
    )
    gray = FederatedData(DataSpec(dataset=folder, num_partitions=3, reference_size=10, samples_per_node=5))
    gray.private(1), gray.private(1), gray.reference, gray.shape, gray.fingerprint
    assert decoded == [10, 5]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (DataSpec(num_partitions=2000), "1438 training samples, too few"),
        (DataSpec(reference_size=1438), "too few for reference-size = 1438"),
        (DataSpec(dataset="./no-such-folder"), "the folder does not exist"),
        (DataSpec(partition="pathological(labels_per_node=11)"), r"'pathological\(labels_per_node=11\)' does not fit"),
        (DataSpec(partition="skew(labels_per_node=11)"), "above the number of labels, 10"),
        (DataSpec(partition="pathological", num_partitions=1000), "'pathological' does not fit .* 1000 nodes"),
        (DataSpec(partition="dirichlet", dirichlet_alpha=0.0), "dirichlet_alpha = 0.0 must be above 0"),
        (DataSpec(partition="skew", gamma=-1.0), "gamma = -1.0 must be at least 0"),
        (DataSpec(partition="skewed"), "unknown partition 'skewed', did you mean 'skew'"),
        (
            DataSpec(partition="skew", num_partitions=1000),
            "gives node [0-9]+ no samples: 1438 are too few for 1000",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_decoded(spec: DataSpec, words: str) -> None:
    with pytest.raises(InputError, match=words):
        FederatedData(spec)


def test_samples_per_node_is_an_upper_bound() -> None:
    digits = FederatedData(DataSpec(partition="skew", gamma=15.0, num_partitions=16, samples_per_node=90, seed=2))
    everything = FederatedData(DataSpec(partition="skew", gamma=15.0, num_partitions=16, seed=2))
    for vertex in range(16):
        held = everything.private_rows(vertex)
        rows = digits.private_rows(vertex)
        assert len(rows) == min(90, len(held))
        assert set(rows.tolist()) <= set(held.tolist())


@pytest.mark.filterwarnings("ignore:The specified min_partition_size")
def test_a_concentration_that_leaves_nodes_empty() -> None:
    with pytest.raises(InputError, match=r"'dirichlet\(dirichlet_alpha=0\.001\)' does not fit"):
        FederatedData(DataSpec(partition="dirichlet", dirichlet_alpha=0.001, num_partitions=50))


@pytest.mark.parametrize("vertex", [-1, 2])
def test_a_vertex_outside_the_network(vertex: int) -> None:
    with pytest.raises(InputError, match=f"partition-id = {vertex} is outside 0 to 1"):
        FederatedData(DataSpec(num_partitions=2)).private(vertex)


@pytest.mark.parametrize(
    ("key", "least"),
    [("num_partitions", 1), ("seed", 0), ("samples_per_node", 0), ("reference_size", 0)],
)
def test_a_spec_refuses_numbers_below_their_least(key: str, least: int) -> None:
    with pytest.raises(InputError, match=f"{key.replace('_', '-')} = {least - 1} must be at least {least}"):
        DataSpec(**{key: least - 1})


def test_a_folder_without_labels_or_with_invalid_content(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "odd", {"train": 10}, label="digit")
    with pytest.raises(InputError, match=r"needs the columns 'image' \(or 'img'\) and 'label', it has: image, digit"):
        FederatedData(DataSpec(dataset=folder))
    (tmp_path / "bad").mkdir()
    with pytest.raises(InputError, match="cannot be read as a data set"):
        FederatedData(DataSpec(dataset=str(tmp_path / "bad")))
    (tmp_path / "bad" / "train.parquet").write_bytes(b"garbage")
    with pytest.raises(InputError, match="cannot be read as a data set"):
        FederatedData(DataSpec(dataset=str(tmp_path / "bad")))


def test_a_name_that_no_hub_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="is not 'digits', not a folder, and cannot be loaded from the hub"):
        FederatedData(DataSpec(dataset="nobody/no-such-data-set"))


def test_pictures_of_different_sizes(tmp_path: Path) -> None:
    pictures = [Picture.new("L", (8 + k % 2, 8)) for k in range(20)]
    table = Dataset.from_dict(
        {"image": pictures, "label": [0, 1] * 10}, features=Features({"image": Image(), "label": Value("int64")})
    )
    table.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(InputError, match=r"images of different sizes .* set image-size"):
        _ = FederatedData(DataSpec(dataset=str(tmp_path), reference_size=6)).reference
    assert FederatedData(DataSpec(dataset=str(tmp_path), reference_size=6, image_size=8)).shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image": [1, 2] * 5, "label": [0, 1] * 5}, "column 'image' must hold images, but contains"),
        ({"image": [b"garbage"] * 10, "label": [0, 1] * 5}, "has an image that cannot be decoded"),
        ({"image": [b"garbage"] * 10, "label": ["cat", "dog"] * 5}, "column 'label' must hold whole numbers"),
        ({"image": [b"garbage"] * 10, "label": [-1, 1] * 5}, "column 'label' must hold whole numbers"),
        ({"image": [b"garbage"] * 10, "label": [None, 1] * 5}, "column 'label' must hold whole numbers"),
        ({"image": [b"garbage"], "label": [0]}, "has 1 samples, too few to hold out a test set"),
    ],
)
def test_columns_with_invalid_content(tmp_path: Path, columns: dict, words: str) -> None:
    Dataset.from_dict(columns).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(InputError, match=words):
        _ = FederatedData(DataSpec(dataset=str(tmp_path))).test


def test_the_image_column_may_be_called_img(tmp_path: Path) -> None:
    folder = write_images(tmp_path, {"train": 20})
    renamed = Dataset.from_parquet(f"{folder}/train-00000-of-00001.parquet").rename_column("image", "img")
    renamed.to_parquet(f"{folder}/train-00000-of-00001.parquet")
    assert FederatedData(DataSpec(dataset=folder)).shape == (1, 8, 8)


def test_a_folder_of_image_files(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for k in range(count):
                Picture.new("RGB", (4, 4), (200 * label, k, 0)).save(tmp_path / split / name / f"{k}.png")
    files = FederatedData(DataSpec(dataset=str(tmp_path), reference_size=2))
    assert files.num_classes == 2
    assert files.shape == (3, 4, 4)
    inputs, labels = files.test
    assert labels.tolist() == [0, 0, 1, 1]
    assert (inputs[labels == 1, 0] > inputs[labels == 0, 0]).all()


def write_picture_files(folder: Path, pictures: list[Picture.Image], suffix: str) -> str:
    """Write pictures in turns to the classes "a" and "b" of a folder, and return it."""
    for number, picture in enumerate(pictures):
        path = folder / "train" / "ab"[number % 2] / f"{number:03}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    return str(folder)


DEEP = np.array([[0, 1, 255], [256, 30_000, 65_535]], dtype=np.uint16)
FLOATS = (DEEP / 65_535).astype(np.float32)


@pytest.mark.parametrize(
    ("picture", "suffix"),
    [
        (Picture.fromarray(DEEP), "png"),  # read as I;16
        (Picture.fromarray(DEEP), "tiff"),
        (Picture.fromarray(DEEP.astype(">u2")), "tiff"),  # I;16B
        (Picture.fromarray(DEEP.astype(np.int32)), "pgm"),  # I
        (Picture.fromarray(FLOATS), "tiff"),  # F
    ],
    ids=["png", "tiff", "big-endian tiff", "pgm", "float tiff"],
)
def test_gray_images_keep_their_depth(tmp_path: Path, picture: Picture.Image, suffix: str) -> None:
    folder = write_picture_files(tmp_path, [picture] * 10, suffix)
    images = FederatedData(DataSpec(dataset=folder, reference_size=2))._unnormalized_reference
    assert images.dtype == torch.float32
    assert images.shape == (2, 1, 2, 3)
    assert torch.allclose(images[1, 0], torch.from_numpy(FLOATS), atol=1e-7)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([[-1, 3]], dtype=np.int32), "pixels from -1 to 3: in PIL's mode 'I' they must be 0 to 65535"),
        (np.array([[0, 70_000]], dtype=np.int32), "pixels from 0 to 70000"),
        (np.array([[0, 255]], dtype=np.float32), "pixels from 0 to 255: in PIL's mode 'F' they must be 0 to 1"),
        (np.array([[0, np.nan]], dtype=np.float32), "pixels from nan to nan"),
    ],
)
def test_gray_images_out_of_range(tmp_path: Path, values: np.ndarray, words: str) -> None:
    folder = write_picture_files(tmp_path, [Picture.fromarray(values)] * 10, "tiff")
    with pytest.raises(InputError, match=words):
        _ = FederatedData(DataSpec(dataset=folder, reference_size=2)).reference


def test_images_of_several_depths(tmp_path: Path) -> None:
    """A white and a mid-gray pixel are what they are in 8 bits and in 16, with color and without."""
    deep = Picture.fromarray(np.array([[65_535, 32_896]], dtype=np.uint16))
    flat = Picture.fromarray(np.array([[255, 128]], dtype=np.uint8))
    for first, channels in ((deep, 1), (flat.convert("RGB"), 3)):
        folder = write_picture_files(tmp_path / str(channels), [first, deep, flat, flat.convert("RGB")] * 3, "png")
        images = FederatedData(DataSpec(dataset=folder, reference_size=8))._unnormalized_reference
        assert torch.allclose(images, torch.tensor([1.0, 128 / 255]).expand(8, channels, 1, 2))


def test_the_fingerprint_does_not_depend_on_the_kernels_of_a_cpu(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "color", {"train": 40}, size=13, mode="RGB")
    spec = DataSpec(dataset=folder, reference_size=20, image_size=32)
    code = (
        "from flower_kd.data import DataSpec, FederatedData, fingerprint\n"
        f"federated = FederatedData({spec!r})\n"
        "print(federated.fingerprint, fingerprint(federated.reference))"
    )
    env = os.environ | {"ATEN_CPU_CAPABILITY": "default", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    decoded, _ = done.stdout.split()
    assert decoded == FederatedData(spec).fingerprint


def test_the_fingerprint_sees_pixels_and_settings(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "gray", {"train": 40})
    known = tmp_path / "mnist"
    shutil.copytree(folder, known)
    rows = Dataset.from_parquet(f"{folder}/train-00000-of-00001.parquet")
    pictures = [np.array(picture) for picture in rows["image"]]
    for picture in pictures:
        picture[0, 0] ^= 1
    changed = tmp_path / "changed"
    changed.mkdir()
    table = {"image": [Picture.fromarray(picture) for picture in pictures], "label": rows["label"]}
    Dataset.from_dict(table, features=rows.features).to_parquet(changed / "train.parquet")
    specs = [
        DataSpec(dataset=folder, reference_size=10),
        DataSpec(dataset=folder, reference_size=10, image_size=8),  # as they are, but resized on other devices maybe
        DataSpec(dataset=folder, reference_size=9),
        DataSpec(dataset=str(known), reference_size=10),  # normalized as MNIST
        DataSpec(dataset=str(changed), reference_size=10),
    ]
    assert len({FederatedData(spec).fingerprint for spec in specs}) == len(specs)
    assert FederatedData(specs[0]).fingerprint == FederatedData(specs[0]).fingerprint


@pytest.mark.slow
@pytest.mark.skipif(not MNIST.exists(), reason="MNIST is not part of the product")
def test_mnist() -> None:
    mnist = FederatedData(DataSpec(str(MNIST), "skew", 8, gamma=15.0, samples_per_node=500, reference_size=5000))
    assert mnist.shape == (1, 28, 28)
    assert len(mnist.test[1]) == 10_000
    assert mnist.reference.mean().abs() < 0.02
    assert all(len(mnist.private(vertex)[1]) == 500 for vertex in range(8))


def test_a_folder_is_read_without_bars(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = write_images(tmp_path / "images", {"train": 30, "test": 10})
    assert not datasets.are_progress_bars_disabled()
    capfd.readouterr()
    FederatedData(DataSpec(dataset=folder, num_partitions=2))
    assert capfd.readouterr().err == ""
    assert not datasets.are_progress_bars_disabled()  # those of the user's own downloads
