"""What the host learns of a computation on a device, and when.

A number on the CPU is read for nothing. To read one from another device the host waits for all that
it asked of the device before, which then stands idle until it's asked for more. So the loops of
matching leave decisions on the device, go on as if any of them may have been taken, and read them
once in a while, all at once. This is the one place that knows the difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Number", "Readings", "common_device"]

Number: TypeAlias = float | Tensor
"""A number on the host, or a tensor of one entry that may still be on its way."""

_MOST = 1024  # notes that wait for the next reading: a loop without any must not pile them up


class Readings:
    """Reads numbers of one device: at once where that is free, else together.

    Attributes:
        device: where they are made.
        at_once: whether reading is free.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.at_once = _is_read_freely(device)
        self._due: list[tuple[Sequence[Number], Callable[..., None]]] = []

    def known(self, value: Number) -> float | None:
        """Return a number if it can be read for nothing."""
        free = self.at_once or not isinstance(value, Tensor)
        return float(value) if free else None

    def same(self, one: Tensor, other: Tensor) -> bool:
        """Tell whether two tensors are known to be equal."""
        return one is other or (self.at_once and torch.equal(one, other))

    def later(self, values: Sequence[Number], use: Callable[..., None]) -> None:
        """Call `use` with numbers: now if they can be read for nothing, else when some are read."""
        if self.at_once:
            use(*map(float, values))
            return
        self._due.append((values, use))
        if len(self._due) > _MOST:
            self.now([])

    def now(self, values: Iterable[Number]) -> list[float]:
        """Return numbers, after all that were to be used later: one transfer for all of them."""
        if self.at_once:
            return list(map(float, values))
        due, self._due = self._due, []
        wanted = list(values)
        numbers = iter(_read([*itertools.chain(*(some for some, _ in due)), *wanted]))
        for some, use in due:
            use(*itertools.islice(numbers, len(some)))
        return list(numbers)


def common_device(tensors: Iterable[Tensor]) -> torch.device:
    """Return where parameters lie, the CPU if there are none.

    Raises:
        ValueError: they lie on several devices.
    """
    devices = {tensor.device for tensor in tensors} or {torch.device("cpu")}
    if len(devices) > 1:
        found = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"parameters must lie on one device, got {found}")
    return devices.pop()


def _is_read_freely(device: torch.device) -> bool:
    return device.type == "cpu"


def _read(values: Sequence[Number]) -> list[float]:
    """Return numbers of any dtypes, in one transfer if they lie on a device."""
    tensors = [value.double() for value in values if isinstance(value, Tensor)]
    read = iter(torch.stack(tensors).cpu().tolist() if tensors else [])
    return [next(read) if isinstance(value, Tensor) else value for value in values]
