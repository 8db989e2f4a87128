"""The networks: parameter counts from the papers, shapes, gradients, and that the small ones learn."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from flower_kd import models
from flower_kd.models.resnet import Block, cifar_resnet


def resnet_parameters(blocks: int, channels: int, classes: int) -> int:
    """Count by He et al., section 4.2: 3 x 3 convolutions without biases, scale and shift after each, option A."""
    widths = [channels, *[16] * (2 * blocks + 1), *[32] * 2 * blocks, *[64] * 2 * blocks]  # the stem, three stages
    return sum(9 * i * o + 2 * o for i, o in pairwise(widths)) + (widths[-1] + 1) * classes


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 8, 8)])
def test_lenet5_has_the_published_size_on_gray_images(shape):
    assert models.num_parameters(models.build("lenet5", 10, shape)) == 61_706


def test_lenet5_has_the_published_size_on_cifar():
    assert models.num_parameters(models.build("lenet5", 10, (3, 32, 32))) == 62_006


def test_lenet5_sees_28_by_28_as_with_padding_2_in_its_first_convolution():
    model = models.build("lenet5", 10, (1, 28, 28)).eval()
    images = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    first = model.features[0]
    padded = F.conv2d(images, first.weight, first.bias, padding=2)
    assert torch.allclose(model(images), model.classifier(model.features[1:](padded)), atol=1e-6)


@pytest.mark.parametrize("height", [8, 9, 20])
@pytest.mark.parametrize("width", [8, 15, 31, 32])
def test_lenet5_fills_its_field_with_small_images(height, width):
    model = models.build("lenet5", 10, (1, height, width))
    fields = []
    model.features.register_forward_pre_hook(lambda _, inputs: fields.append(inputs[0]))
    model(torch.ones(1, 1, height, width))
    assert fields[0].shape == (1, 1, 32, 32)
    assert fields[0].sum() == height * width * (32 // max(height, width)) ** 2


def test_pooling_of_lenet5_changes_nothing_at_32_by_32():
    model = models.build("lenet5", 10, (3, 32, 32)).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(images), model.classifier(model.features[:-1](images)))


@pytest.mark.parametrize(("name", "blocks"), [("resnet2", 0), ("resnet8", 1), ("resnet14", 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_cifar_resnets_have_the_size_of_the_paper_s_formula(name, blocks, channels):
    model = models.build(name, 10, (channels, 32, 32))
    assert models.num_parameters(model) == resnet_parameters(blocks, channels, 10)


def test_known_sizes_of_cifar_resnets():
    assert models.num_parameters(models.build("resnet8", 10, (3, 32, 32))) == 75_290
    assert models.num_parameters(models.build("resnet14", 10, (3, 32, 32))) == 172_506
    resnet20 = cifar_resnet(3, num_classes=10, shape=(3, 32, 32))
    assert round(models.num_parameters(resnet20) / 1e6, 2) == 0.27  # He et al., table 6


@pytest.mark.parametrize(("name", "depth"), [("resnet2", 2), ("resnet8", 8), ("resnet14", 14)])
def test_a_resnet_s_name_is_its_number_of_layers_with_weights(name, depth):
    layers = models.build(name, 10, (3, 32, 32)).modules()
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in layers) == depth


def test_a_shortcut_subsamples_and_pads_channels_with_zeros():
    block = Block(16, 32, stride=2)
    nn.init.zeros_(block.norm2.weight)  # nothing but the shortcut is left
    features = torch.rand(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    result = block(features)
    assert torch.equal(result[:, :16], features[:, :, ::2, ::2])
    assert not result[:, 16:].any()


def test_resnet18_is_torchvision_s_on_large_images_and_keeps_the_resolution_of_small_ones():
    assert models.num_parameters(models.build("resnet18", 1000, (3, 64, 64))) == 11_689_512
    small = models.build("resnet18", 10, (3, 32, 32))
    assert small.maxpool(small.conv1(torch.zeros(1, 3, 32, 32))).shape == (1, 64, 32, 32)


@pytest.mark.parametrize("name", models.names())
@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 32, 32), (1, 64, 64), (3, 64, 64), (3, 40, 24)]
)
def test_logits_and_gradients_are_finite_at_any_size(name, shape):
    model = models.build(name, 7, shape)
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    logits = model(images)
    assert logits.shape == (2, 7)
    F.cross_entropy(logits, torch.tensor([0, 6])).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert any(parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["mlp", "lenet5"])
def test_small_models_learn_the_digits(name):
    digits = load_digits()
    images = torch.tensor(digits.images[:1000], dtype=torch.float32).unsqueeze(1) / 8 - 1
    labels = torch.tensor(digits.target[:1000])
    model = models.build(name, 10, (1, 8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        rows = torch.randint(0, len(labels), (32,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        assert (model(images).argmax(1) == labels).float().mean() > 0.9
