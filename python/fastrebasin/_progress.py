"""Progress bars: on a terminal, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def bar(
    items: Iterable[Item], label: str, *, progress: bool, total: int | None = None, unit: str = "it"
) -> Iterable[Item]:
    """Iterate over `items` behind a bar, if `progress` and standard error is a terminal."""
    bars: Iterable[Item] = tqdm(
        items,
        desc=label,
        total=total,
        unit=unit,
        leave=False,
        dynamic_ncols=True,
        disable=None if progress else True,  # None: off when the stream is no terminal
    )
    return bars
