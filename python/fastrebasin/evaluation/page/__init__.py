"""A report as one page of HTML that needs no other file, no script and no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastrebasin.evaluation.page import sections
from fastrebasin.evaluation.page.markup import element, text
from fastrebasin.evaluation.page.style import STYLE

if TYPE_CHECKING:
    from fastrebasin.evaluation.report import MergeReport

__all__ = ["html_page"]

# Browsers hold to it: nothing is fetched and nothing runs, whatever a name holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def html_page(report: MergeReport) -> str:
    """Return a report as a page to read in a browser."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", text(report.title)),
        element("style", STYLE),
    )
    parts = (
        sections.scores, sections.alignments, sections.plane, sections.units, sections.layers,
        sections.confidence, sections.runs,
    )  # fmt: skip
    main = element(
        "main",
        element("h1", text(report.title)),
        element("p", text(_summary(report))),
        _tiles(report),
        *(part(report) for part in parts),
        element("footer", text("Made by fastrebasin.")),
    )
    return "<!DOCTYPE html>\n" + element("html", head, element("body", main), lang="en")


def _summary(report: MergeReport) -> str:
    best, names = sections.best_merge(report), report.data_names
    where = names[0] if len(names) == 1 else f"the mixture of {' and '.join(names)}"
    if not best:
        return f"Two networks, A and B, evaluated on {where}."
    accuracy = report.rows[best].mixture.accuracy
    return (
        f"Two networks, A and B, were merged into one. The best merge, {best}, gets "
        f"{100 * accuracy:.1f} % right on {where}."
    )


def _tiles(report: MergeReport) -> str:
    best = sections.best_merge(report)
    alone = [name for name in report.rows if name not in report.merges]
    shown = ([best] if best else []) + alone
    tiles = [
        element(
            "div",
            element("strong", text(f"{100 * report.rows[name].mixture.accuracy:.1f} %")),
            element("span", text(f"best merge: {name}" if name == best else name)),
            class_="tile best" if name == best else "tile",
        )
        for name in shown
    ]
    return element("div", *tiles, class_="tiles")
