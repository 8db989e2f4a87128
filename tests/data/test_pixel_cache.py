import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Picture

from flower_kd.data import DataSpec, FederatedData, pixel_cache
from flower_kd.data.pixel_cache import PixelCache

FILES = [bytes([number]) * 5 for number in range(6)]


def gray(file: bytes) -> np.ndarray:
    return np.full((2, 3), file[0], np.uint8)


def never(file: bytes) -> np.ndarray:
    raise AssertionError("decoded again")


def filled(folder: Path, name: str = "data", files: list[bytes] = FILES, largest: int = 2**20) -> PixelCache:
    cache = PixelCache(folder, name, "settings", largest)
    cache.pixels(files, gray)
    return cache


@pytest.mark.parametrize(
    "decode",
    [
        gray,
        lambda file: np.full((4, 5, 3), file[0], np.uint8),
        lambda file: np.full((1 + file[0], 2), 1000 * file[0], np.uint16),
        lambda file: np.full((2, 2, 3), file[0] / 7, np.float32),
        lambda file: np.arange(12, dtype=np.uint8).reshape(3, 4).T,  # not contiguous
    ],
    ids=["gray", "color", "deep, of several sizes", "floats", "transposed"],
)
def test_pixels_are_decoded_once(tmp_path: Path, decode: Callable[[bytes], np.ndarray]) -> None:
    expected = [decode(file) for file in FILES]
    for each in (decode, never):
        found = PixelCache(tmp_path, "data", "settings").pixels(FILES, each)
        for pixels, right in zip(found, expected, strict=True):
            assert pixels.dtype == right.dtype
            assert np.array_equal(pixels, right)


def test_only_what_is_asked_for_is_decoded(tmp_path: Path) -> None:
    decoded = []

    def decode(file: bytes) -> np.ndarray:
        decoded.append(file)
        return gray(file)

    cache = PixelCache(tmp_path, "data", "settings")
    cache.pixels([FILES[2], FILES[1], FILES[2]], decode)
    cache.pixels([FILES[1], FILES[3]], decode)
    assert decoded == [FILES[2], FILES[1], FILES[3]]


def test_other_settings_are_another_cache(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(AssertionError, match="decoded again"):
        PixelCache(tmp_path, "data", "color").pixels(FILES, never)


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


def replace(path: Path, content: bytes) -> None:
    path.write_bytes(content)


DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a changed pixel": (".pixels", lambda path: flip(path, 0)),
    "pixels cut short": (".pixels", lambda path: replace(path, path.read_bytes()[:7])),
    "no pixels": (".pixels", lambda path: replace(path, b"")),
    "pixels removed": (".pixels", Path.unlink),
    "a changed entry": (".index", lambda path: flip(path, 20)),
    "an entry of another shape": (".index", lambda path: flip(path, 26)),
    "an entry cut short": (".index", lambda path: replace(path, path.read_bytes()[:-5])),
    "rubbish": (".index", lambda path: replace(path, b"\xff" * 1000)),
    "an index removed": (".index", Path.unlink),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_decoded_again(tmp_path: Path, damage: str) -> None:
    filled(tmp_path)
    suffix, spoil = DAMAGES[damage]
    spoil(next(tmp_path.glob(f"*{suffix}")))
    for decode in (gray, never):  # the cache is then complete again
        found = PixelCache(tmp_path, "data", "settings").pixels(FILES, decode)
        assert [pixels.tolist() for pixels in found] == [gray(file).tolist() for file in FILES]


def test_a_cache_damaged_while_it_is_used(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    flip(next(tmp_path.glob("*.pixels")), 0)
    assert cache.pixels(FILES, gray)[0].tolist() == gray(FILES[0]).tolist()
    assert cache.pixels(FILES, never)[0].tolist() == gray(FILES[0]).tolist()


def test_several_processes_share_it(tmp_path: Path) -> None:
    script = (
        "import numpy as np, sys\n"
        "from pathlib import Path\n"
        "from flower_kd.data.pixel_cache import PixelCache, shared_order\n"
        "cache = PixelCache(Path(sys.argv[1]), 'data', 'settings')\n"
        "for number in shared_order(200):\n"
        "    cache.pixels([bytes([number])], lambda file: np.full((9, 9), file[0], np.uint8))\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    found = PixelCache(tmp_path, "data", "settings").pixels([bytes([number]) for number in range(200)], never)
    assert all((pixels == number).all() for number, pixels in enumerate(found))
    assert next(tmp_path.glob("*.pixels")).stat().st_size == 200 * 81  # none was written twice


def test_the_least_recently_used_is_removed_for_a_new_one(tmp_path: Path) -> None:
    filled(tmp_path, "first")
    one = pixel_cache.size(tmp_path)
    filled(tmp_path, "second")
    filled(tmp_path, "first")  # used again
    filled(tmp_path, "third", largest=2 * one)
    assert pixel_cache.size(tmp_path) == 2 * one
    PixelCache(tmp_path, "first", "settings").pixels(FILES, never)
    PixelCache(tmp_path, "third", "settings").pixels(FILES, never)


def test_files_of_others_in_its_folder_stay(tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("uv.lock", "books.index", "books.pixels", "a-1234.index")]
    for path in others:
        path.write_bytes(bytes(5000))
    filled(tmp_path, largest=1000)
    filled(tmp_path, name="more", largest=pixel_cache.size(tmp_path))  # removes the first
    assert pixel_cache.size(tmp_path) < 5000
    pixel_cache.clear(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_what_does_not_fit_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, largest=100)
    assert pixel_cache.size(tmp_path) == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=pixel_cache.LEFT_FREE + 10))
    filled(tmp_path)
    assert pixel_cache.size(tmp_path) == 0


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    pixel_cache._warn.cache_clear()
    with caplog.at_level(logging.WARNING, logger="flwr"):
        for _ in range(2):
            cache = PixelCache(tmp_path / "file" / "cache", "data", "settings")
            assert [pixels.tolist() for pixels in cache.pixels(FILES, gray)] == [gray(f).tolist() for f in FILES]
    (line,) = [record.getMessage() for record in caplog.records]
    assert "images are decoded in each process" in line
    assert str(tmp_path) in line


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLOWER_KD_CACHE", str(tmp_path))
    assert pixel_cache.folder() == tmp_path
    monkeypatch.setenv("FLOWER_KD_CACHE", "off")
    assert pixel_cache.folder() is None
    monkeypatch.delenv("FLOWER_KD_CACHE")
    assert "flower-kd" in str(pixel_cache.folder())
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert pixel_cache.folder() == tmp_path / "flower-kd" / "images"


def write(folder: Path, shade: int) -> str:
    """Write forty gray images as one Parquet file."""
    folder.mkdir(exist_ok=True)
    pictures = [Picture.fromarray(np.full((6, 6), shade + row, np.uint8)) for row in range(40)]
    features = Features({"image": Image(), "label": ClassLabel(num_classes=2)})
    table = Dataset.from_dict({"image": pictures, "label": [row % 2 for row in range(40)]}, features=features)
    table.to_parquet(folder / "train.parquet")
    return str(folder)


def test_a_data_set_has_the_same_tensors_with_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DataSpec(write(tmp_path / "data", 0), num_partitions=2, reference_size=10)
    seen = []
    for place in ("off", str(tmp_path / "cache"), str(tmp_path / "cache")):
        monkeypatch.setenv("FLOWER_KD_CACHE", place)
        data = FederatedData(spec)
        seen.append((data.fingerprint, data.reference, *data.private(1), *data.test))
    for others in seen[1:]:
        assert others[0] == seen[0][0]
        assert all(torch.equal(one, other) for one, other in zip(seen[0][1:], others[1:], strict=True))
    assert pixel_cache.size(tmp_path / "cache") > 0


def test_a_changed_data_set_is_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWER_KD_CACHE", str(tmp_path / "cache"))
    spec = DataSpec(write(tmp_path / "data", 0), reference_size=10)
    before = FederatedData(spec)._unnormalized_reference
    shutil.rmtree(tmp_path / "data")
    write(tmp_path / "data", 100)
    after = FederatedData(spec)._unnormalized_reference
    assert torch.allclose(after - before, torch.tensor(100 / 255))
