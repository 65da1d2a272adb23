"""Pairs of random networks, the same on every device, and searches on them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import fastrebasin
from fastrebasin import PermutationSpec, architectures
from fastrebasin.experiments.models import ResNet
from gpu_bench.context import Context

__all__ = ["Networks", "networks"]


@dataclass(frozen=True)
class Networks:
    """Two networks of one architecture, and which of their axes share a permutation."""

    name: str
    spec: PermutationSpec
    a: nn.Module
    b: nn.Module

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Networks:
        """Return copies on a device."""
        a, b = (copy.deepcopy(model).to(device, dtype) for model in (self.a, self.b))
        return replace(self, a=a, b=b)

    @property
    def states(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Their state dicts."""
        return self.a.state_dict(), self.b.state_dict()

    def search(self, batch: int, steps: int) -> fastrebasin.Matching:
        """Take so many steps of straight-through matching on random images."""
        first = next(self.a.parameters())
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(batch, 3, 32, 32, generator=generator).to(first)
        y = torch.randint(10, (batch,), generator=generator).to(first.device)
        return fastrebasin.straight_through_matching(
            self.spec, self.a, self.b, (x, y), epochs=steps, batch_size=batch, progress=False
        )


def networks(context: Context, width: int) -> Networks:
    """Return two ResNet20 of this width on the CPU; shallow and narrow ones for a quick run."""
    blocks, width = context.pick(((3, 3, 3), width), ((1, 1, 1), 1))
    torch.manual_seed(0)
    a, b = (ResNet(blocks, width) for _ in range(2))
    return Networks(f"ResNet{2 + 6 * blocks[0]}x{width}", architectures.resnet(blocks), a, b)
