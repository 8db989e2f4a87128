"""What augmentations do to images and targets, and those that cannot be used."""

import time
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flower_kd import augmentation
from flower_kd.clients.checks import check_augmentation
from flower_kd.data.normalization import Normalization
from flower_kd.errors import InputError
from flower_kd.seeding import torch_seeded

HALF = Normalization((0.5,), (0.5,))
V2 = "torchvision.transforms.v2"


def augmented(part, inputs: Tensor, seed: int = 0, targets: Tensor | None = None) -> tuple[Tensor, Tensor]:
    augment = augmentation.get(part, HALF)
    assert augment is not None
    with torch_seeded(seed):
        return augment(inputs, torch.eye(3).repeat(len(inputs), 1)[: len(inputs)] if targets is None else targets)


def windows(image: Tensor, pixels: int) -> dict[tuple[int, int], Tensor]:
    """Return an image [channels, height, width] moved by every offset, with its edges repeated."""
    padded = F.pad(image[None], (pixels,) * 4, mode="replicate")[0]
    height, width = image.shape[1:]
    return {
        (down, right): padded[:, pixels - down :, pixels - right :][:, :height, :width]
        for down in range(-pixels, pixels + 1)
        for right in range(-pixels, pixels + 1)
    }


def found_in(image: Tensor, among: dict) -> set:
    return {key for key, window in among.items() if torch.equal(image, window)}


def test_a_shift_is_an_offset_of_each_image_and_all_offsets_occur() -> None:
    images = torch.rand(400, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    shifted, _ = augmented("shift", images)
    offsets = [found_in(after, windows(before, 2)) for before, after in zip(images, shifted, strict=True)]
    assert all(len(each) == 1 for each in offsets)
    counts = [sum(each == {offset} for each in offsets) for offset in windows(images[0], 2)]
    assert len(counts) == 25
    assert min(counts) > 3  # 16 are expected of each
    assert max(counts) < 40
    assert not torch.equal(shifted, augmented("shift", images, seed=1)[0])
    assert torch.equal(shifted, augmented("shift(pixels=2)", images)[0])


def test_a_crop_is_mirrored_in_half_the_cases() -> None:
    images = torch.rand(200, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    cropped, _ = augmented("crop-flip(pixels=1)", images)
    straight = [bool(found_in(after, windows(before, 1))) for before, after in zip(images, cropped, strict=True)]
    turned = [bool(found_in(after.flip(-1), windows(before, 1))) for before, after in zip(images, cropped, strict=True)]
    assert all(one != other for one, other in zip(straight, turned, strict=True))
    assert 70 < sum(turned) < 130


@pytest.mark.parametrize("shape", [(21, 21), (12, 30)])
def test_turned_images_are_those_of_torchvision(shape: tuple[int, int]) -> None:
    from torchvision.transforms.v2 import InterpolationMode, functional

    height, width = shape
    pattern = torch.linspace(0, 1, height)[:, None] + torch.sin(torch.linspace(0, 6, width))
    images = pattern.expand(4, 1, height, width).contiguous()
    turned, _ = augmented("affine(degrees=30, translate=0, scale=0, shear=0)", images, seed=3)
    with torch_seeded(3):
        angles = (torch.rand(6, 4)[0] * 2 - 1) * 30
    assert angles.abs().min() > 1
    center = (..., slice(height // 2 - 3, height // 2 + 3), slice(width // 2 - 3, width // 2 + 3))
    for image, found, angle in zip(images, turned, angles.tolist(), strict=True):
        expected = functional.rotate(image, angle, InterpolationMode.BILINEAR)
        assert torch.allclose(found[center], expected[center], atol=1e-5)


def test_affine_changes_each_image_by_its_own_numbers_within_its_limits() -> None:
    images = torch.rand(1, 1, 8, 10, generator=torch.Generator().manual_seed(0)).expand(50, -1, -1, -1)
    still, _ = augmented("affine(degrees=0, translate=0, scale=0, shear=0)", images)
    assert torch.allclose(still, images, atol=1e-5)
    for one in ("degrees=10, translate=0, scale=0, shear=0", "degrees=0, translate=0.2, scale=0, shear=0",
                "degrees=0, translate=0, scale=0.1, shear=0", "degrees=0, translate=0, scale=0, shear=0.1",
                "degrees=0, translate=0, scale=0, shear=0, elastic=0.1"):  # fmt: skip
        changed, _ = augmented(f"affine({one})", images)
        assert len({tuple(image.flatten().tolist()) for image in changed}) == 50
        assert changed.min() >= images.min()  # edges are repeated: no value is new
        assert changed.max() <= images.max() + 1e-6


@pytest.mark.parametrize("part", ["shift", "crop-flip", "affine(elastic=0.1)", "randaugment", "noise", "mixup"])
def test_images_in_double_precision_stay_so_and_see_the_same_changes(part: str) -> None:
    images = torch.rand(4, 1, 9, 8, generator=torch.Generator().manual_seed(0))
    found, _ = augmented(part, images.double())
    assert found.dtype == torch.float64
    if part != "noise":  # drawn in the dtype of the inputs
        assert torch.allclose(found.float(), augmented(part, images)[0], atol=1e-4)


def test_noise_has_its_standard_deviation_for_any_inputs() -> None:
    rows = torch.zeros(500, 6)
    noisy, _ = augmented("noise(std=0.3)", rows)
    assert noisy.std().item() == pytest.approx(0.3, rel=0.05)
    assert torch.equal(augmented("noise(std=0)", rows)[0], rows)


def test_mixup_mixes_inputs_and_targets_by_one_share() -> None:
    rows = torch.eye(3).repeat(4, 1)
    mixed, targets = augmented("mixup(alpha=1.0)", rows)
    assert torch.allclose(mixed, targets)  # equal before, so equal after
    assert torch.allclose(targets.sum(-1), torch.ones(12))
    assert not torch.allclose(mixed, rows)
    shares = {round(augmented("mixup(alpha=1.0)", rows, seed)[0].max(-1).values.min().item(), 4) for seed in range(9)}
    assert len(shares) > 5


@pytest.mark.parametrize("part", [f"{V2}:RandomRotation(degrees=60)", "randaugment(magnitude=20)"])
def test_transforms_of_torchvision_draw_for_each_image_and_see_pixels(part: str) -> None:
    image = HALF(torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0)))
    changed, _ = augmented(part, image.expand(8, -1, -1, -1))
    assert changed.shape == (8, 1, 12, 12)
    assert len({tuple(each.flatten().tolist()) for each in changed}) > 4
    assert changed.min() == -1  # what is filled is black
    assert changed.max() <= 1


def test_an_object_of_torchvision_is_used_as_its_name_is() -> None:
    from torchvision.transforms import v2

    images = HALF(torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    named, _ = augmented(f"{V2}:RandomRotation(degrees=30)", images)
    assert torch.equal(augmented(v2.RandomRotation(30), images)[0], named)
    with pytest.raises(InputError, match=r"'RandomRotation' works on pixels in \[0, 1\], but the node has no card"):
        augmentation.get(v2.RandomRotation(30))


def test_a_function_that_says_so_gets_pixels() -> None:
    def darker(inputs: Tensor) -> Tensor:
        assert inputs.min() >= 0
        return inputs / 2

    images = HALF(torch.rand(3, 1, 4, 4))
    darker.of_pixels = True
    assert torch.allclose(augmented(darker, images)[0], (images - 1) / 2, atol=1e-6)


def test_nothing_stands_for_none() -> None:
    assert augmentation.get("none") is None
    with pytest.raises(InputError, match="'none' takes no arguments"):
        augmentation.get("none(pixels=2)")


ROWS, IMAGES = torch.rand(4, 6), torch.rand(4, 1, 8, 8)


@pytest.mark.parametrize(
    ("part", "inputs", "words"),
    [
        ("shft", IMAGES, "unknown augmentation 'shft', did you mean 'shift'"),
        ("shift", ROWS, r"'shift': it needs images \[channels, height, width\], not inputs of shape \[6\]"),
        ("crop-flip", ROWS, r"'crop-flip': it needs images"),
        ("randaugment", ROWS, r"'randaugment': it needs images"),
        (f"{V2}:RandomRotation(degrees=9)", ROWS, "it needs images"),
        ("shift(pixels=8)", IMAGES, "'shift.pixels=8.': pixels = 8 is too large for images of 8 x 8"),
        ("affine", ROWS, "'affine': it needs images"),
        ("affine(translate=8)", IMAGES, "translate = 8"),
        ("shift(pixels=0)", IMAGES, "pixels = 0 must be at least 1"),
        ("noise(std=-0.1)", IMAGES, "std = -0.1 must be at least 0"),
        ("mixup(alpha=0.0)", IMAGES, "alpha = 0.0 must be above 0"),
        ("noise", torch.ones(4, 6, dtype=torch.int64), "'noise' of inputs of shape .4, 6. fails"),
        (f"{V2}:RandomCrop(size=5)", IMAGES, r"returns inputs of shape \[4, 1, 5, 5\] .* for \[4, 1, 8, 8\]"),
        (f"{V2}:RandomRotation", IMAGES, r"needs the argument degrees, as in '.*:RandomRotation\(degrees=...\)'"),
        (lambda inputs: inputs.double(), ROWS, "returns inputs of .* dtype float64 for .* float32, but must keep both"),
        (lambda inputs: inputs / 0, ROWS, "returns inputs with NaN or Inf"),
        (lambda inputs: inputs.mul_(2), ROWS, "changes its inputs in place"),
        (lambda inputs: None, ROWS, "returns inputs of type NoneType, not a Tensor"),
        (lambda inputs: 1 / 0, ROWS, "fails: ZeroDivisionError"),
        (lambda inputs, targets: inputs, ROWS, "fails: ValueError: too many values to unpack"),
        (lambda inputs, targets: (inputs, targets[:1]), ROWS, r"returns targets of shape \[1, 3\]"),
        (lambda inputs, targets: (inputs, targets - 1), ROWS, "returns negative targets"),
    ],
)
def test_augmentations_that_do_not_fit(part, inputs: Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words) as refusal:
        check_augmentation(augmentation.get(part, HALF), inputs, classes=3)
    assert "\n" not in str(refusal.value)


def test_a_shift_of_a_hundred_images_takes_far_less_than_a_step() -> None:
    shift, images = augmentation.get("shift"), torch.rand(100, 1, 28, 28)
    targets, seconds = torch.eye(10).repeat(10, 1), []
    for _ in range(20):
        started = time.process_time()  # of this process alone, on a busy machine
        shift(images, targets)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.001  # 0.15 ms on one core; a step of LeNet5 takes 6 ms


def test_functions_with_bound_settings_and_of_c_are_augmentations() -> None:
    assert torch.equal(augmented(torch.neg, ROWS)[0], -ROWS)
    bound = partial(augmentation.AUGMENTATIONS.get("noise"), std=0.0)
    assert torch.equal(augmented(bound, ROWS)[0], ROWS)
