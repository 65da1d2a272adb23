"""Lines of equal height on a grid, by marching squares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["contour"]

Point = tuple[float, float]


def contour(grid: Sequence[Sequence[float]], level: float) -> Iterator[tuple[Point, Point]]:
    """Yield the pieces of the line at which a surface has height `level`.

    Args:
        grid: heights at (row, column), linear between neighbours. Cells with a height that isn't
            finite are skipped.
        level: the height.

    Yields:
        Both ends of a piece, as (row, column).

    Example:
        >>> list(contour([[0, 1], [0, 1]], 0.25))
        [((0.0, 0.25), (1.0, 0.25))]
    """
    for row in range(len(grid) - 1):
        for column in range(len(grid[0]) - 1):
            corners = [(row, column), (row, column + 1), (row + 1, column + 1), (row + 1, column)]
            heights = [grid[r][c] for r, c in corners]
            if not all(abs(height) < float("inf") for height in heights):
                continue
            crossed = [
                _between(corners[k], corners[(k + 1) % 4], heights[k], heights[(k + 1) % 4], level)
                for k in range(4)
                if (heights[k] > level) != (heights[(k + 1) % 4] > level)
            ]
            if len(crossed) == 4 and (sum(heights) > 4 * level) != (heights[0] > level):
                crossed = crossed[1:] + crossed[:1]  # a saddle whose middle parts the first corner
            yield from zip(crossed[::2], crossed[1::2], strict=True)


def _between(one: Point, other: Point, height: float, last: float, level: float) -> Point:
    share = (level - height) / (last - height)
    return one[0] + share * (other[0] - one[0]), one[1] + share * (other[1] - one[1])
