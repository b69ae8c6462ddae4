"""SE-ResNets for small images, and the same ResNets without SE. Example: seresnet56(num_classes=10, image_size=32)

He et al. 2016 (arXiv:1512.03385), section 4.2: three stages of n basic blocks, depth 6n + 2, widths 16, 32, 64;
shortcut by 1x1 convolution where the shape changes. Hu et al. 2018 (arXiv:1709.01507): squeeze-and-excitation
after each block's second BatchNorm, reduction 16. With n = 9 this is the original project's network:
127,105,568 flops, 545,849 activations and 861,818 parameters at 32 px and 10 classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REDUCTION = 16  # Hu et al. 2018, section 6.1
BASE_SIZE = 32  # the image size for which He et al. give the stem's stride of 1


def stem(channels: int, image_size: int) -> nn.Conv2d:
    """The first convolution: 3x3 up to 64 px, with stride 2 there; larger beyond, so that it covers every pixel."""
    stride = max(1, image_size // BASE_SIZE)
    kernel = max(3, 2 * stride - 1)
    return nn.Conv2d(3, channels, kernel, stride, padding=kernel // 2, bias=False)


class SqueezeExcitation(nn.Module):
    """Rescale channels by a function of their global averages. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # A pooling module, not x.mean(): FLOP counters count only the module.
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Linear(channels, channels // REDUCTION, bias=False)
        self.expand = nn.Linear(channels // REDUCTION, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.pool(x).flatten(1)
        scale = torch.sigmoid(self.expand(F.relu(self.reduce(squeezed))))
        return x * scale[:, :, None, None]


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN, optional SE, plus the shortcut, ReLU. (B, C, H, W) -> (B, C', H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, se: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.se = SqueezeExcitation(out_channels) if se else None
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.se is not None:
            y = self.se(y)
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nn.Module):
    """(B, 3, S, S) -> (B, num_classes); `blocks` basic blocks in each of three stages.

    The stem's stride grows with the image, so that the stages keep the resolutions they have at 32 px.
    """

    def __init__(self, blocks: int, num_classes: int, image_size: int, se: bool) -> None:
        super().__init__()
        self.conv1 = stem(16, image_size)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(blocks, 16, 16, 1, se)
        self.layer2 = _stage(blocks, 16, 32, 2, se)
        self.layer3 = _stage(blocks, 32, 64, 2, se)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


def _stage(blocks: int, in_channels: int, out_channels: int, stride: int, se: bool) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride, se)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1, se) for _ in range(blocks - 1)))


def seresnet20(num_classes: int, image_size: int) -> nn.Module:
    """SE-ResNet-20; at 32 px and 10 classes 0.275M parameters and 41.3M multiply-adds."""
    return ResNet(3, num_classes, image_size, se=True)


def seresnet56(num_classes: int, image_size: int) -> nn.Module:
    """SE-ResNet-56, the original project's model: 861,818 parameters and 127,105,568 flops at 32 px and 10 classes."""
    return ResNet(9, num_classes, image_size, se=True)


def seresnet110(num_classes: int, image_size: int) -> nn.Module:
    """SE-ResNet-110; 1.74M parameters and 255.7M multiply-adds."""
    return ResNet(18, num_classes, image_size, se=True)


def resnet20(num_classes: int, image_size: int) -> nn.Module:
    """ResNet-20: seresnet20 without SE, which isolates the effect of SE."""
    return ResNet(3, num_classes, image_size, se=False)


def resnet56(num_classes: int, image_size: int) -> nn.Module:
    """ResNet-56: seresnet without SE."""
    return ResNet(9, num_classes, image_size, se=False)


def resnet110(num_classes: int, image_size: int) -> nn.Module:
    """ResNet-110: seresnet110 without SE."""
    return ResNet(18, num_classes, image_size, se=False)
