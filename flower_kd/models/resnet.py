"""Residual networks (He et al., "Deep residual learning for image recognition", CVPR 2016)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from flower_kd.models.registry import MODELS

WIDTHS = (16, 32, 64)
SMALL_IMAGE = 64  # below this side, resnet18's own stem would shrink the image to almost nothing


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut without parameters.

    The shortcut is option A of He et al. (CVPR 2016), which their section 4.2 uses throughout: it subsamples, and pads
    new channels with zeros.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride, self.new_channels = stride, outputs - inputs

    def forward(self, features: Tensor) -> Tensor:
        """Return features [batch, outputs, height / stride, width / stride]."""
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(features)))))
        shortcut = features[:, :, :: self.stride, :: self.stride]
        return F.relu(residual + F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels)))


def cifar_resnet(blocks: int, *, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Return the CIFAR network of He et al. (CVPR 2016, section 4.2), whose depth is `6 * blocks + 2`.

    Parameters
    ----------
    blocks : int
        Blocks in each of the three stages; with 0, only a convolution and a linear classifier.
    num_classes : int
        Width of the logits.
    shape : tuple of int
        Channels, height and width of an image; the parameters depend on the channels only.
    """
    width = WIDTHS[0]
    layers: list[nn.Module] = [nn.Conv2d(shape[0], width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    for stage, outputs in enumerate(WIDTHS):
        for block in range(blocks):
            layers.append(Block(width, outputs, stride=2 if stage > 0 and block == 0 else 1))
            width = outputs
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # the paper's; torch's own is smaller
    return model


@MODELS.register("resnet2")
def resnet2(*, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Return the CIFAR network of He et al. (CVPR 2016) without blocks: a convolution and a linear classifier."""
    return cifar_resnet(0, num_classes=num_classes, shape=shape)


@MODELS.register("resnet8")
def resnet8(*, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Return the CIFAR network of He et al. (CVPR 2016) with 8 layers, one block in each of the three stages."""
    return cifar_resnet(1, num_classes=num_classes, shape=shape)


@MODELS.register("resnet14")
def resnet14(*, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Return the CIFAR network of He et al. (CVPR 2016) with 14 layers, two blocks in each of the three stages."""
    return cifar_resnet(2, num_classes=num_classes, shape=shape)


@MODELS.register("resnet18")
def resnet18(*, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Return torchvision's ResNet-18.

    Images with a side below 64 get the usual CIFAR stem (3 x 3, stride 1, no pooling), so that weights of the 7 x 7
    stem do not fit.

    Parameters
    ----------
    num_classes : int
        Width of the logits.
    shape : tuple of int
        Channels, height and width of an image.
    """
    from torchvision import models  # with torch._dynamo, seconds that no other model needs

    channels, height, width = shape
    model = models.resnet18(num_classes=num_classes)
    if min(height, width) < SMALL_IMAGE:
        model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    elif channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
    return model
