"""Tables of a page, with headings for their rows and columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from fastrebasin.evaluation.page.markup import element, text

__all__ = ["table"]


def table(
    caption: str,
    columns: Sequence[str],
    rows: Mapping[str, Sequence[str]],
    *,
    best: Collection[str] = (),
) -> str:
    """Return a table that scrolls sideways where it is too wide.

    Args:
        caption: what it shows.
        columns: headings, that of the rows' names first.
        rows: the cells of each row, by its name.
        best: rows to stress.
    """
    head = "".join(element("th", text(name), scope="col") for name in columns)
    body = "".join(
        element(
            "tr",
            element("th", text(name), scope="row"),
            *(element("td", text(cell)) for cell in cells),
            class_="best" if name in best else None,
        )
        for name, cells in rows.items()
    )
    whole = element(
        "table",
        element("thead", element("tr", head)),
        element("tbody", body),
    )
    # A caption of the table's own would be as wide as the table, and scroll out of sight.
    region = element("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)
    return element("p", text(caption), class_="caption") + region
