"""Pictures of matrices: the plane through three networks, correlations of units."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fastrebasin.evaluation.landscape import Landscape
from fastrebasin.evaluation.moves import UnitMove
from fastrebasin.evaluation.page.charts import WIDTH, figure, plain_number, two_digits
from fastrebasin.evaluation.page.contours import contour
from fastrebasin.evaluation.page.markup import element, number, text
from fastrebasin.evaluation.page.raster import data_uri
from fastrebasin.evaluation.page.scales import Scale

__all__ = ["correlation_map", "plane_map"]

_BLUE, _ORANGE = (37, 99, 235), (234, 88, 12)
_LEVELS = 6
_SIDE = 196.0


def plane_map(plane: Landscape, names: Sequence[str], *, title: str, description: str) -> str:
    """Return the mixture's loss on a plane: darker is higher, lines join points of equal loss.

    Args:
        plane: what to draw.
        names: of the three networks on it.
        title, description: see `charts.figure`.
    """
    rows = [[evaluation.mixture.loss for evaluation in row] for row in plane.grid]
    finite = sorted(loss for row in rows for loss in row if math.isfinite(loss))
    low, high = (finite[0], finite[-1]) if finite else (0.0, 1.0)
    heights = [[_height(loss, low, high) for loss in row] for row in rows]
    width, top = WIDTH - 16.0, 8.0
    aspect = (plane.y[-1] - plane.y[0]) / (plane.x[-1] - plane.x[0])
    height = width * min(1.2, max(0.35, aspect))
    x_scale = Scale(plane.x[0], plane.x[-1], 8, 8 + width)
    y_scale = Scale(plane.y[0], plane.y[-1], top + height, top)
    half_x, half_y = width / (len(plane.x) - 1) / 2, height / (len(plane.y) - 1) / 2
    picture = element(
        "image", href=data_uri(heights[::-1], _BLUE, _BLUE), x=8 - half_x, y=top - half_y,
        width=width + 2 * half_x, height=height + 2 * half_y, preserveAspectRatio="none",
    )  # fmt: skip
    # A picture reaches half a cell beyond the outermost points; a viewport of its own cuts it off.
    body = element(
        "svg", picture, x=8, y=top, width=width, height=height,
        viewBox=f"8 {number(top)} {number(width)} {number(height)}",
    )  # fmt: skip
    body += element("rect", x=8, y=top, width=width, height=height, class_="frame")
    levels = [
        _level(heights, x_scale, y_scale, k / _LEVELS, _loss(k / _LEVELS, low, high))
        for k in range(1, _LEVELS)
    ]
    body += "".join(line for line, _ in levels) + _corners(plane, names, x_scale, y_scale)
    body += "".join(label for _, label in levels)
    body += _scale_bar(low, high, top + height + 14)
    return figure(title, description, top + height + 36, body)


def _height(loss: float, low: float, high: float) -> float:
    """Return a loss between 0 and 1, by its logarithm where losses differ by much."""
    if not math.isfinite(loss):
        return 1.0
    return (_squeeze(loss) - _squeeze(low)) / (_squeeze(high) - _squeeze(low) or 1.0)


def _loss(height: float, low: float, high: float) -> float:
    return math.expm1(_squeeze(low) + height * (_squeeze(high) - _squeeze(low)))


def _squeeze(loss: float) -> float:
    return math.log1p(max(0.0, loss))


def _level(
    heights: Sequence[Sequence[float]], x_scale: Scale, y_scale: Scale, level: float, loss: float
) -> tuple[str, str]:
    """Return a line of equal loss, and the loss written on it, clear of the edge."""
    rows, columns = len(heights) - 1, len(heights[0]) - 1
    ends = [
        [
            (
                x_scale(x_scale.low + column / columns * (x_scale.high - x_scale.low)),
                y_scale(y_scale.low + row / rows * (y_scale.high - y_scale.low)),
            )
            for row, column in piece
        ]
        for piece in contour(heights, level)
    ]
    if not ends:
        return "", ""
    path = "".join(f"M{number(a)} {number(b)}L{number(c)} {number(d)}" for (a, b), (c, d) in ends)
    inside = [
        one for one, _ in ends
        if x_scale.start + 24 < one[0] < x_scale.end - 24
        and y_scale.end + 14 < one[1] < y_scale.start - 14
    ]  # fmt: skip
    label = ""
    if inside:
        x, y = inside[int(level * (len(inside) - 1))]
        label = element("text", text(plain_number(loss)), x=x, y=y + 3, class_="level")
    return element("path", d=path, class_="contour"), label


def _corners(plane: Landscape, names: Sequence[str], x_scale: Scale, y_scale: Scale) -> str:
    a, b, c = ((x_scale(corner.x), y_scale(corner.y)) for corner in plane.corners)
    body = "".join(
        element("line", x1=a[0], y1=a[1], x2=end[0], y2=end[1], class_=f"way {kind}")
        for end, kind in ((b, "straight"), (c, "aligned"))
    )
    for (x, y), name, corner in zip((a, b, c), names, plane.corners, strict=True):
        loss = plain_number(corner.evaluation.mixture.loss)
        anchor = "start" if x < WIDTH / 3 else "end" if x > 2 * WIDTH / 3 else "middle"
        below = y > (y_scale.start + y_scale.end) / 2
        body += element("circle", element("title", text(f"{name}: loss {loss}")),
                        cx=x, cy=y, r=5, class_="corner")  # fmt: skip
        body += element("text", text(name), x=x, y=y + (20 if below else -11), class_="place",
                        text_anchor=anchor)  # fmt: skip
    return body


def _scale_bar(low: float, high: float, y: float) -> str:
    steps, width = 24, 180.0
    uri = data_uri([[k / (steps - 1) for k in range(steps)]], _BLUE, _BLUE)
    left = (WIDTH - width) / 2
    body = element(
        "image", href=uri, x=left, y=y, width=width, height=10.0, preserveAspectRatio="none"
    )
    body += element("rect", x=left, y=y, width=width, height=10.0, class_="frame")
    body += element("text", text(f"loss {plain_number(low)}"), x=left - 8, y=y + 10,
                    class_="tick", text_anchor="end")  # fmt: skip
    return body + element("text", text(plain_number(high)), x=left + width + 8, y=y + 10,
                          class_="tick")  # fmt: skip


def correlation_map(move: UnitMove) -> str:
    """Return correlations of A's units (rows) with B's (columns), before and after alignment."""
    pictures = (move.picture_before, move.picture_after)
    shown = len(move.shown)
    sample = "" if shown == move.units else f", {shown} of them shown"
    body = ""
    for k, (picture, label, mean) in enumerate(
        zip(pictures, ("before", "after"), (move.before, move.after), strict=True)
    ):
        x = 8 + k * (WIDTH - 16 - _SIDE)
        body += element(
            "text", text(f"{label}: partners {two_digits(mean)}"), x=x, y=14, class_="label"
        )
        body += element(
            "image", href=data_uri(picture, _BLUE, _ORANGE), x=x, y=22, width=_SIDE, height=_SIDE,
            class_="cells", preserveAspectRatio="none",
        )  # fmt: skip
        body += element("rect", x=x, y=22, width=_SIDE, height=_SIDE, class_="frame")
    return figure(
        f"{move.group}: {move.units} units{sample}, {100 * move.moved:.0f} % moved",
        f"Two matrices of correlations between A's units (rows) and B's (columns). Partners "
        f"correlate by {two_digits(move.before)} on average before the alignment and by "
        f"{two_digits(move.after)} after it, where they lie on the diagonal.",
        26 + _SIDE,
        body,
    )
