import pytest
import torch
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

from flower_kd.data import DataSpec
from flower_kd.data.normalization import Normalization, normalization
from flower_kd.errors import InputError


@pytest.mark.parametrize("name", ["ylecun/mnist", "/somewhere/MNIST/", "mnist"])
def test_a_known_data_set_is_known_by_its_last_name(name: str) -> None:
    assert normalization(name, torch.zeros(0, 1, 28, 28)) == Normalization((0.1307,), (0.3081,))


def test_separators_and_case_do_not_count() -> None:
    color = torch.zeros(0, 3, 32, 32)
    assert normalization("uoft-cs/CIFAR-10", color) == normalization("cifar_10", color)
    assert normalization("cifar10", color) != normalization("cifar100", color)


def test_an_unknown_data_set_gets_the_statistics_of_its_reference_set() -> None:
    reference = (
        torch.rand(50, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1, 0.5, 0.1])[None, :, None, None]
    )
    normalized = normalization("pictures", reference)(reference)
    assert torch.allclose(normalized.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(normalized.std(dim=(0, 2, 3), unbiased=False), torch.ones(3), atol=1e-4)


def test_a_gray_copy_of_a_color_data_set_does_not_take_its_statistics() -> None:
    assert len(normalization("cifar10", torch.rand(5, 1, 8, 8)).mean) == 1


def test_without_a_reference_set_pixels_go_to_minus_one_to_one() -> None:
    images = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)
    assert normalization("pictures", images[:0])(images).flatten().tolist() == [-1, 1]


def test_a_constant_reference_set_stays_finite() -> None:
    reference = torch.full((4, 1, 2, 2), 0.25)
    assert normalization("pictures", reference)(reference).isfinite().all()


def test_values_are_those_of_torchvision() -> None:
    images = torch.rand(7, 3, 5, 4)
    chosen = normalization("cifar10", images)
    expected = v2.functional.normalize(images, list(chosen.mean), list(chosen.std))
    assert torch.equal(chosen(images), expected)


def test_imagenet_statistics_are_those_of_torchvision_s_weights() -> None:
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    wanted = ResNet18_Weights.IMAGENET1K_V1.transforms(crop_size=224, resize_size=224)(images)
    for dataset in ("cifar10", "pictures"):
        torch.testing.assert_close(normalization(dataset, images, "imagenet")(images), wanted, rtol=0, atol=1e-6)
    assert normalization("cifar10", images) != normalization("cifar10", images, "imagenet")


def test_imagenet_statistics_are_of_color_images() -> None:
    with pytest.raises(InputError, match="'imagenet' is for color images, but those of dataset 'mnist' have 1 channel"):
        normalization("mnist", torch.zeros(0, 1, 28, 28), "imagenet")
    with pytest.raises(InputError, match=r"unknown normalization 'imagenet1k', did you mean 'imagenet'"):
        DataSpec(normalization="imagenet1k")
