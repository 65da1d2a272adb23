"""Charts as inline SVG: colours come from the page's style, so that they follow its theme.

Series differ by dashes and marks as well as by colour, and every chart says in words what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastrebasin.evaluation.page.markup import element, number, text
from fastrebasin.evaluation.page.scales import Scale, scale_for

__all__ = [
    "SERIES", "WIDTH", "Line", "Row", "figure", "legend", "line_chart", "plain_number", "row_chart",
    "two_digits",
]  # fmt: skip

SERIES = 8
"""How many colours there are; a ninth series looks like the first."""
WIDTH = 420
_DASHES = (None, "7 4", "2 3", "9 3 2 3", "12 4", "5 2", "1 4", "8 2 2 2")
_LETTER = 7.2  # mean width of a letter in a legend, in pixels


@dataclass(frozen=True)
class Line:
    """A series of points; `style` numbers its colour and dashes."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: int


@dataclass(frozen=True)
class Row:
    """A row of a chart of rows: a bar, if any, and marks, in the order of the legend."""

    name: str
    bar: float | None
    marks: Sequence[float]
    label: str
    strong: bool = False


def figure(title: str, description: str, height: float, body: str) -> str:
    """Return a titled drawing of width `WIDTH`, described for those who can't see it."""
    drawing = element(
        "svg",
        element("title", text(title)),
        element("desc", text(description)),
        body,
        viewBox=f"0 0 {WIDTH} {number(height)}",
        role="img",
        aria_label=f"{title}. {description}",
    )
    return element("figure", element("figcaption", text(title)), drawing)


def plain_number(value: float) -> str:
    """Return a value as a reader would write it, three digits of it."""
    return f"{value:.3g}" if math.isfinite(value) else str(value)


def two_digits(value: float) -> str:
    """Return a value to two digits behind the point, zero without a sign.

    Example:
        >>> two_digits(-0.001)
        '0.00'
    """
    return f"{round(value, 2) + 0.0:.2f}"


def legend(names: Sequence[str], swatch: Callable[[int, float, float], str]) -> tuple[str, float]:
    """Return names beside their swatches, in as many lines as they need, and their height.

    Args:
        names: what to show.
        swatch: draws that of an entry, 24 wide, from a place on.
    """
    body, x, y = "", 4.0, 12.0
    for k, name in enumerate(names):
        shown = name if len(name) < 54 else name[:52] + "…"
        width = 32 + _LETTER * len(shown)
        if x > 4 and x + width > WIDTH:
            x, y = 4.0, y + 18
        body += swatch(k, x, y - 4) + element("text", text(shown), x=x + 29, y=y, class_="label")
        x += width + 12
    return body, y + 8


def line_chart(
    title: str,
    description: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    x_names: Sequence[tuple[float, str]] = (),
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    guide: Line | None = None,
    height: float = 230,
) -> str:
    """Return lines over one pair of axes.

    Args:
        title, description: see `figure`.
        lines: what to draw; points that aren't finite are left out.
        x_label, y_label: what the axes show.
        x_names: what to write below some x, in place of numbers.
        x_range, y_range: of the axes; what is needed by default, and zero on the y axis.
        guide: a faint line behind the others.
        height: of the plot alone.
    """
    names = [line.name for line in lines]
    key, top = legend(names, lambda k, x, y: _stroke(lines[k].style, x, y))
    if len(lines) < 2:
        key, top = "", 10.0
    bottom = top + 22 + height
    x_held = x_range or [x for line in lines for x in line.x]
    x_scale = scale_for(x_held, 46, WIDTH - 12, slack=0)
    y_held = y_range or [y for line in lines for y in line.y]
    y_scale = scale_for(y_held, bottom, top + 22, zero=True, slack=0 if y_range else 0.05)
    body = key + _axes(x_scale, y_scale, x_label, y_label, x_names)
    if guide is not None:
        body += element("path", d=_path(guide, x_scale, y_scale), class_="guide")
    for line in lines:
        shown = f"line s{line.style % SERIES}"
        dashes = _DASHES[line.style % SERIES]
        body += element(
            "path", element("title", text(line.name)), d=_path(line, x_scale, y_scale),
            class_=shown, stroke_dasharray=dashes,
        )  # fmt: skip
    return figure(title, description, bottom + 40, body)


def row_chart(
    title: str,
    description: str,
    rows: Sequence[Row],
    mark_names: Sequence[str],
    *,
    scale: tuple[float, float] | None = None,
    joined: bool = False,
) -> str:
    """Return rows with their names above them: bars from the left, and marks.

    Args:
        title, description: see `figure`.
        rows: what to draw, from top to bottom.
        mark_names: what the marks of every row are.
        scale: the values at both ends; from zero to the largest by default.
        joined: whether to join the marks of a row by a line.
    """
    values = [v for row in rows for v in (*row.marks, *([row.bar] if row.bar is not None else []))]
    key, top = legend(mark_names, lambda k, x, y: _mark(k, x + 12, y))
    if not mark_names:
        key, top = "", 4.0
    across = Scale(*scale, 4, WIDTH - 86) if scale else scale_for(values, 4, WIDTH - 86, zero=True)
    body, y = key, top + 4
    for row in rows:
        body += _row(row, across, y, joined)
        y += 38
    return figure(title, description, y + 2, body)


def _row(row: Row, across: Scale, y: float, joined: bool) -> str:
    middle = y + 25
    weight = " strong" if row.strong else ""
    shown = row.name if len(row.name) < 62 else "…" + row.name[-60:]
    body = element("text", text(shown), x=4, y=y + 13, class_="label" + weight)
    body += element("line", x1=4, x2=WIDTH - 86, y1=middle, y2=middle, class_="grid")
    if row.bar is not None and math.isfinite(row.bar):
        width = max(0.0, across(row.bar) - 4)
        body += element(
            "rect", x=4, y=middle - 6, width=width, height=12, rx=2, class_="bar" + weight
        )
    places = {k: across(value) for k, value in enumerate(row.marks) if math.isfinite(value)}
    if joined and len(places) > 1:
        first, *_, last = places.values()
        body += element("line", x1=first, x2=last, y1=middle, y2=middle, class_="joint")
    body += "".join(_mark(k, place, middle) for k, place in places.items())
    return body + element(
        "text", text(row.label), x=WIDTH - 4, y=middle + 4, class_="value" + weight,
        text_anchor="end",
    )  # fmt: skip


def _mark(k: int, x: float, y: float) -> str:
    """Return a mark: a ring, a disc, a square, a diamond, and so on."""
    kind = k % 4
    shown = f"mark m{k % SERIES}"
    if kind < 2:
        return element("circle", cx=x, cy=y, r=4.5, class_=shown + (" hollow" if kind == 0 else ""))
    turn = f"rotate(45 {number(x)} {number(y)})" if kind == 3 else None
    return element("rect", x=x - 4, y=y - 4, width=8, height=8, class_=shown, transform=turn)


def _stroke(style: int, x: float, y: float) -> str:
    return element(
        "line", x1=x, x2=x + 24, y1=y, y2=y, class_=f"line s{style % SERIES}",
        stroke_dasharray=_DASHES[style % SERIES],
    )  # fmt: skip


def _axes(
    x_scale: Scale, y_scale: Scale, x_label: str, y_label: str, x_names: Sequence[tuple[float, str]]
) -> str:
    left, right, bottom, top = x_scale.start, x_scale.end, y_scale.start, y_scale.end
    body = element("text", text(y_label), x=4, y=top - 11, class_="label")
    for value in y_scale.ticks():
        y = y_scale(value)
        body += element("line", x1=left, x2=right, y1=y, y2=y, class_="grid")
        body += element(
            "text", text(plain_number(value)), x=left - 6, y=y + 4, class_="tick", text_anchor="end"
        )
    for value, name in x_names or [(v, plain_number(v)) for v in x_scale.ticks()]:
        x = x_scale(value)
        anchor = "end" if x > right - 8 else "middle"
        body += element("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis")
        body += element("text", text(name), x=x, y=bottom + 17, class_="tick", text_anchor=anchor)
    body += element("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis")
    return body + element(
        "text", text(x_label), x=(left + right) / 2, y=bottom + 34, class_="label",
        text_anchor="middle",
    )  # fmt: skip


def _path(line: Line, x_scale: Scale, y_scale: Scale) -> str:
    """Return a path through the finite points, broken where there is none."""
    steps, move = [], "M"
    for x, y in zip(line.x, line.y, strict=True):
        if not math.isfinite(y):
            move = "M"
            continue
        inside = min(max(y, y_scale.low), y_scale.high)
        steps.append(f"{move}{number(x_scale(x))} {number(y_scale(inside))}")
        move = "L"
    return "".join(steps)
