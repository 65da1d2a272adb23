"""A network that partial merging has to widen in many ways."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Joined(nn.Module):
    """Branches joined side by side, a residual sum, a gate, and maps flattened at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.wide = nn.Conv2d(6, 4, 1, bias=False)
        self.norm = nn.BatchNorm2d(10)
        self.each = nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.slope = nn.PReLU(10)
        self.gate = nn.Linear(10, 10)
        self.up = nn.ConvTranspose2d(10, 5, 2, stride=2)
        self.head = nn.Linear(5 * 16, 3)

    def forward(self, x: Tensor) -> Any:
        x = functional.relu(self.stem(x))
        x = self.norm(torch.cat([x, self.wide(x)], 1))
        x = x + self.slope(self.each(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        return self.head(functional.gelu(self.up(x)).flatten(1))
