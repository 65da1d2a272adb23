"""How many units each group has, from the lengths of axes."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence

from fastrebasin.layout import Layout, groups_of, length

__all__ = ["solve_extents"]


def solve_extents(
    axes: Sequence[tuple[str, Layout, int]], groups: Iterable[str], hints: Mapping[str, int]
) -> tuple[dict[str, int], list[str]]:
    """Solve the lengths of axes for the number of entries of each group.

    Args:
        axes: what to call each axis, its layout and its length.
        groups: all groups, in order.
        hints: numbers to take where the axes leave a choice: heads times units of a head.

    Returns:
        The number of entries of each group, and what doesn't fit, in words.
    """
    own: dict[str, int] = {}
    pending = list(axes)
    while pending:
        unsolved = []
        for axis in pending:
            unknown = set(groups_of(axis[1])) - set(own)
            if len(unknown) == 1:
                group = unknown.pop()
                own[group] = _solve(axis[1], axis[2], group, own)
            elif unknown:
                unsolved.append(axis)
        if len(unsolved) == len(pending):
            unknown = {g for _, layout, _ in unsolved for g in groups_of(layout)} - set(own)
            hinted = next((g for g in groups if g in unknown and g in hints), None)
            if hinted is None:
                names = ", ".join(map(repr, sorted(unknown)))
                return own, [f"the sizes of {names} can't be told from the tensors: give sizes"]
            own[hinted] = hints[hinted]
        pending = unsolved
    return own, _misfits(axes, groups, own)


def _misfits(
    axes: Sequence[tuple[str, Layout, int]], groups: Iterable[str], own: Mapping[str, int]
) -> list[str]:
    problems = []
    for group in groups:
        found = [axis for axis in axes if group in groups_of(axis[1])]
        if any(length(layout, own) != size for _, layout, size in found):
            listed = {where: size for where, _, size in found}
            problems.append(f"group {group!r} has several sizes: {listed}")
    return problems


def _solve(layout: Layout, size: int, group: str, own: Mapping[str, int]) -> int:
    """Return how many entries `group` has if the layout has `size`; the nearest if none fits."""
    return 1 + bisect.bisect_left(
        range(1, size + 1), size, key=lambda n: length(layout, {**own, group: n})
    )
