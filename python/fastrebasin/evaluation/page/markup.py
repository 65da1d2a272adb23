"""Elements of HTML and SVG as text: whatever is shown is escaped, attributes are numbers and names.

The text is well-formed XML too, so that any parser can check it.
"""

from __future__ import annotations

import html

__all__ = ["element", "number", "text"]


def text(shown: object) -> str:
    """Return plain text as markup.

    Example:
        >>> text("a < b & c")
        'a &lt; b &amp; c'
    """
    # Control characters are not allowed in XML, and draw nothing.
    return html.escape("".join(c if c.isprintable() else " " for c in str(shown)))


def number(value: float) -> str:
    """Return a coordinate, to a hundredth of a pixel."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def element(name: str, /, *children: str, **attributes: object) -> str:
    """Return an element; children are markup, attributes are not.

    Args:
        name: of the element.
        children: markup inside it.
        attributes: `class_` stands for class, and `font_size` for font-size; None is left out.

    Example:
        >>> element("text", text("A & B"), x=1.5, class_="label")
        '<text x="1.5" class="label">A &amp; B</text>'
    """
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if not children and name in {"meta", "br", "hr", "path", "rect", "circle", "line", "image"}:
        return f"<{name}{pairs}/>"
    return f"<{name}{pairs}>{''.join(children)}</{name}>"


def _value(value: object) -> str:
    return number(value) if isinstance(value, float) else text(value)
