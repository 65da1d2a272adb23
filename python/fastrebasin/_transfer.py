"""Tensors on their way from one device to another."""

from __future__ import annotations

from torch import Tensor, device

__all__ = ["sent"]


def sent(tensor: Tensor, to: device) -> Tensor:
    """Return a tensor on a device, itself if it is there.

    A device takes what it is sent in the order of its work, so the host needn't wait for it. The
    host itself would read what hasn't arrived.
    """
    return tensor.to(to, non_blocking=to.type != "cpu")
