"""Networks of convolutions in stages: plain, residual and grouped."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastrebasin.experiments.models import MLP, VGG, resnet20

from .entry import Entry, real, scaled


class FlattenedCNN(nn.Module):
    """Two convolutions, and a linear layer that reads every channel at 7 x 7 places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1)
        self.conv2 = nn.Conv2d(12, 20, 5, padding=2)
        self.dropout = nn.Dropout(0.25)
        self.fc1 = nn.Linear(20 * 7 * 7, 36)
        self.fc2 = nn.Linear(36, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = torch.flatten(self.dropout(x), 1)
        x = functional.relu(self.fc1(x))
        return functional.log_softmax(self.fc2(x), dim=1)


class PaddedBlock(nn.Module):
    """A basic block whose shortcut has no parameters: every other pixel, zeros around."""

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(fan_out)
        self.stride = stride
        self.padding = fan_out - fan_in

    def shortcut(self, x: Tensor) -> Tensor:
        if not self.padding:
            return x
        x = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(x, (0, 0, 0, 0, self.padding // 2, self.padding - self.padding // 2))

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class PaddedResNet(nn.Module):
    """ResNet20 for CIFAR with shortcuts that pad."""

    def __init__(self, widths: Sequence[int] = (16, 32, 64), blocks: int = 3) -> None:
        super().__init__()
        fan_in = widths[0]
        self.conv1 = nn.Conv2d(3, fan_in, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(fan_in)
        layers = []
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(PaddedBlock(fan_in, width, 2 if stage and not block else 1))
                fan_in = width
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(fan_in, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(functional.relu(self.bn1(self.conv1(x))))
        x = functional.avg_pool2d(x, x.shape[3])
        logits: Tensor = self.linear(x.view(x.size(0), -1))
        return logits


class Basic(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, fan_in: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, width, 3, stride, padding=1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return torch.relu(out)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut."""

    expansion = 4

    def __init__(self, fan_in: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        # ResNeXt's inner width is twice the width that counts for the block's output.
        inner = width if groups == 1 else 2 * width
        fan_out = self.expansion * width
        self.conv1 = nn.Conv2d(fan_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, fan_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(fan_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += identity
        return torch.relu(out)


class ImageResNet(nn.Module):
    """ResNet as torchvision builds it: stem with pooling, four stages, 1 x 1 shortcuts."""

    def __init__(
        self,
        block: type[Basic] | type[Bottleneck],
        depths: Sequence[int],
        widths: Sequence[int],
        stem: int,
        *,
        groups: int = 1,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.fan_in = stem
        self.conv1 = nn.Conv2d(3, stem, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = self._stage(block, depths[0], widths[0], 1, groups)
        self.layer2 = self._stage(block, depths[1], widths[1], 2, groups)
        self.layer3 = self._stage(block, depths[2], widths[2], 2, groups)
        self.layer4 = self._stage(block, depths[3], widths[3], 2, groups)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(self.fan_in, classes)

    def _stage(
        self, kind: type[Basic] | type[Bottleneck], depth: int, width: int, stride: int, groups: int
    ) -> nn.Sequential:
        blocks = []
        for i in range(depth):
            block = kind(self.fan_in, width, 1 if i else stride, groups)
            fan_out = kind.expansion * width
            if not i and (stride != 1 or self.fan_in != fan_out):
                block.downsample = nn.Sequential(
                    nn.Conv2d(self.fan_in, fan_out, 1, stride, bias=False), nn.BatchNorm2d(fan_out)
                )
            self.fan_in = fan_out
            blocks.append(block)
        return nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def resnet50() -> nn.Module:
    """Return ResNet-50 at its full size: (batch, 3, 224, 224) to 1000 logits, 25.6 M parameters."""
    model = ImageResNet(Bottleneck, (3, 4, 6, 3), (64, 128, 256, 512), 64, classes=1000)
    return scaled(model, 1.0)


def _image() -> tuple[object, ...]:
    return (real(2, 3, 64, 64),)


def _small_image() -> tuple[object, ...]:
    return (real(2, 3, 16, 16),)


def _vgg11() -> nn.Module:
    return scaled(
        VGG((12, "pool", 20, "pool", 28, 36, "pool", 44, 52, "pool", 60, 68, "pool")), 2.0
    )


def _resnet18() -> nn.Module:
    return scaled(ImageResNet(Basic, (2, 2, 2, 2), (12, 20, 28, 44), 12), 1.0)


def _resnet50() -> nn.Module:
    return scaled(ImageResNet(Bottleneck, (3, 4, 6, 3), (10, 14, 22, 34), 12), 1.0)


def _resnext() -> nn.Module:
    return scaled(ImageResNet(Bottleneck, (1, 2, 2, 1), (8, 12, 20, 28), 12, groups=4), 1.0)


# All but the biases of the last layer moves, as at least one axis of every weight counts hidden
# channels, and a scale or bias in between has one entry for each of them.
ENTRIES = (
    Entry("MLP", lambda: MLP(64, (36, 28, 20), 10), lambda: (real(2, 8, 8),), 0.99),
    Entry("CNN with flatten", FlattenedCNN, lambda: (real(2, 1, 28, 28),), 0.99),
    Entry("VGG11-BN", _vgg11, lambda: (real(2, 3, 32, 32),), 0.99),
    Entry("ResNet20 (projection shortcuts)", lambda: scaled(resnet20(), 1.0), _small_image, 0.99),
    Entry("ResNet20 (padding shortcuts)", lambda: scaled(PaddedResNet(), 1.0), _small_image, 0.99),
    Entry("ResNet-18 (torchvision shape)", _resnet18, _image, 0.99),
    Entry("ResNet-50 (torchvision shape)", _resnet50, _image, 0.99, large=True),
    Entry("ResNeXt (grouped convolutions)", _resnext, _image, 0.99, large=True),
)

LARGE = (
    Entry(
        "ResNet20 x16 (projection shortcuts)",
        lambda: scaled(resnet20(width=16), 1.0),
        _small_image,
        0.99,
    ),
    Entry(
        "ResNet20 x16 (padding shortcuts)",
        lambda: scaled(PaddedResNet((256, 512, 1024)), 1.0),
        _small_image,
        0.99,
    ),
    Entry("ResNet-50 (full size)", resnet50, lambda: (real(2, 3, 224, 224),), 0.99),
)
