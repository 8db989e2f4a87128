"""CIFAR ResNets of depth 6n + 2 (He et al., CVPR 2016, section 4.2) and torchvision's ResNet-18."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from flower_kd.models.registry import MODELS

WIDTHS = (16, 32, 64)
SMALL_IMAGE = 64


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut without parameters (option A: subsample, pad channels with zeros)."""

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
    """Return the ResNet of depth `6 * blocks + 2`; with no blocks, a convolution and a classifier."""
    layers: list[nn.Module] = [nn.Conv2d(shape[0], WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(WIDTHS[0])]
    layers.append(nn.ReLU())
    width = WIDTHS[0]
    for stage, outputs in enumerate(WIDTHS):
        for block in range(blocks):
            layers.append(Block(width, outputs, stride=2 if stage > 0 and block == 0 else 1))
            width = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))


for _blocks in (0, 1, 2):
    MODELS.register(f"resnet{6 * _blocks + 2}")(partial(cifar_resnet, _blocks))


@MODELS.register("resnet18")
def resnet18(*, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Return torchvision's ResNet-18; images below 64 x 64 get the usual CIFAR stem (3 x 3, stride 1, no pooling)."""
    model = torchvision.models.resnet18(num_classes=num_classes)
    if min(shape[1:]) < SMALL_IMAGE:
        model.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    elif shape[0] != 3:
        model.conv1 = nn.Conv2d(shape[0], 64, 7, 2, padding=3, bias=False)
    return model
