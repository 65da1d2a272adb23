"""ShuffleNetV2: channels split, half of them computed anew, and interleaved."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .entry import Entry, real
from .vision import conv_bn


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of `groups` equal runs."""
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(batch, channels, height, width)


class ShuffleUnit(nn.Module):
    """Compute half of the channels anew, or all of them with a stride, and shuffle."""

    def __init__(self, fan_in: int, inner: int, fan_out: int, stride: int) -> None:
        super().__init__()
        half = fan_out // 2
        self.stride = stride
        self.branch1 = nn.Sequential()
        if stride > 1:
            self.branch1 = nn.Sequential(
                conv_bn(fan_in, fan_in, 3, stride, groups=fan_in),
                conv_bn(fan_in, half, activation=nn.ReLU),
            )
        self.branch2 = nn.Sequential(
            conv_bn(fan_in if stride > 1 else half, inner, activation=nn.ReLU),
            conv_bn(inner, inner, 3, stride, groups=inner),
            conv_bn(inner, half, activation=nn.ReLU),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            out = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(out, 2)


class ShuffleNetV2(nn.Module):
    """Units that split the channels in two and shuffle them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 14, 3, 2, activation=nn.ReLU)
        self.stage2 = nn.Sequential(ShuffleUnit(14, 22, 40, 2), ShuffleUnit(40, 26, 40, 1))
        self.stage3 = nn.Sequential(
            ShuffleUnit(40, 42, 72, 2), ShuffleUnit(72, 46, 72, 1), ShuffleUnit(72, 50, 72, 1)
        )
        self.conv5 = conv_bn(72, 90, activation=nn.ReLU)
        self.fc = nn.Linear(90, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.stem(x), 3, 2, padding=1)
        x = self.conv5(self.stage3(self.stage2(x)))
        logits: Tensor = self.fc(x.mean([2, 3]))
        return logits


# A reader that gives up at the shuffle still moves 0.9: each branch has hidden channels inside.
# Beyond it, the channels that later splits send the same way can be exchanged.
ENTRIES = (Entry("ShuffleNetV2", ShuffleNetV2, lambda: (real(2, 3, 32, 32),), 0.99, large=True),)
