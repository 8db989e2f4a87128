"""Small classifiers: one hidden layer, and LeNet-5."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from flower_kd.models.registry import MODELS

LENET_SIDE = 32  # LeCun et al. 1998, section II.B: images are centered in a 32 x 32 field


@MODELS.register("mlp")
def mlp(*, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Return one hidden layer of 64 units."""
    channels, height, width = shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 64), nn.ReLU(), nn.Linear(64, num_classes))


@MODELS.register("lenet5")
class LeNet5(nn.Module):
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling: 61,706 parameters on 28 x 28 gray images.

    Smaller images are padded to 32 x 32, as the paper pads digits; larger ones are pooled to the same features.
    """

    def __init__(self, *, num_classes: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = shape
        left, top = max(LENET_SIDE - width, 0) // 2, max(LENET_SIDE - height, 0) // 2
        self.padding = (left, max(LENET_SIDE - width, 0) - left, top, max(LENET_SIDE - height, 0) - top)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        if max(height, width) > LENET_SIDE:
            self.features.append(nn.AdaptiveMaxPool2d(5))
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [batch, classes]."""
        return self.classifier(self.features(F.pad(images, self.padding)))
