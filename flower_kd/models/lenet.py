"""LeNet-5 (LeCun et al., "Gradient-based learning applied to document recognition", 1998, section II.B)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from flower_kd.models.registry import MODELS

SIDE = 32  # the paper's field of view
POOLED = 5  # side of what the convolutions leave of it


@MODELS.register("lenet5")
class LeNet5(nn.Module):
    """LeNet-5 with ReLU and max pooling, as the field trains it today.

    It has 61,706 parameters on gray and 62,006 on color images (10 classes), whatever their size: smaller images are
    enlarged by the largest whole factor that fits into 32 x 32 and padded to it, as the paper centers its digits in a
    larger field; larger ones are pooled to the same features.

    Parameters
    ----------
    num_classes : int
        Width of the logits.
    shape : tuple of int
        Channels, height and width of an image.
    """

    def __init__(self, *, num_classes: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = shape
        # With padding alone, 8 x 8 digits would reach only a few of the 5 x 5 features and be learned slowly.
        self.scale = max(SIDE // max(height, width), 1)
        missing_rows, missing_columns = max(SIDE - height * self.scale, 0), max(SIDE - width * self.scale, 0)
        left, top = missing_columns // 2, missing_rows // 2
        self.padding = (left, missing_columns - left, top, missing_rows - top)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.AdaptiveMaxPool2d(POOLED),  # changes nothing up to 32 x 32
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * POOLED**2, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [batch, classes] for images [batch, channels, height, width]."""
        if self.scale > 1:
            images = F.interpolate(images, scale_factor=self.scale, mode="bilinear")
        return self.classifier(self.features(F.pad(images, self.padding)))
