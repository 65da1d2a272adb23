"""Progress bars: on a terminal, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def bar(
    items: Iterable[Item],
    label: str,
    *,
    progress: bool,
    total: int | None = None,
    unit: str = "it",
    done: int = 0,
) -> Iterable[Item]:
    """Iterate over `items` behind a bar, if `progress` and standard error is a terminal.

    Args:
        items: what is still to do.
        label: what the bar is called.
        progress: whether to show one.
        total: how many items there are, those `done` before included.
        unit: what an item is called.
        done: where the bar starts.
    """
    bars: Iterable[Item] = tqdm(
        items,
        desc=label,
        total=total,
        initial=done,
        unit=unit,
        leave=False,
        dynamic_ncols=True,
        disable=None if progress else True,  # None: off when the stream is no terminal
    )
    return bars
