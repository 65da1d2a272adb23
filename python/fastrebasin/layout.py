"""How an axis of a tensor is laid out in units: one group, several side by side, units in blocks.

An axis is written as a sum of products. `P0` is one entry for each unit of group P0; `P0*49` has a
block of 49 entries for each (a convolution's channels, flattened); `P0 + P1` puts two groups side
by side (a concatenation); `16` is sixteen entries that stay where they are. In a product the left
factor is the outer one: `H*(Q + Q + V)` has for each head H its queries, keys and values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

__all__ = [
    "Concatenation", "Fixed", "Layout", "Product", "Units",
    "blocks", "concatenation", "groups_of", "length", "parse", "product",
]  # fmt: skip


@dataclass(frozen=True)
class Fixed:
    """Entries that never move."""

    size: int

    def __str__(self) -> str:
        return str(self.size)


@dataclass(frozen=True)
class Units:
    """One entry for each unit of a group."""

    group: str

    def __str__(self) -> str:
        return self.group


@dataclass(frozen=True)
class Product:
    """Every combination of the factors' entries; the first factor is the outermost."""

    factors: tuple[Layout, ...]

    def __str__(self) -> str:
        return "*".join(
            f"({factor})" if isinstance(factor, Concatenation) else str(factor)
            for factor in self.factors
        )


@dataclass(frozen=True)
class Concatenation:
    """The parts' entries, one part behind the other."""

    parts: tuple[Layout, ...]

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))


Layout: TypeAlias = Fixed | Units | Product | Concatenation

_TOKEN = re.compile(r"\s*([+*()]|[^\s+*()]+)")


def parse(text: str) -> Layout:
    """Read a layout from its notation; `str` writes it.

    Raises:
        ValueError: the text isn't a sum of products of group names and positive integers.

    Example:
        >>> parse("H*(Q + Q + V)") == parse(" H * (Q+Q + V)")
        True
        >>> str(parse("P0*49 + 3"))
        'P0*49 + 3'
    """
    tokens = _TOKEN.findall(text)
    layout, rest = _sum(tokens, text)
    if rest:
        raise _malformed(text)
    return layout


def _sum(tokens: list[str], text: str) -> tuple[Layout, list[str]]:
    return _chain(tokens, text, "+", _product, Concatenation)


def _product(tokens: list[str], text: str) -> tuple[Layout, list[str]]:
    return _chain(tokens, text, "*", _factor, Product)


def _chain(
    tokens: list[str],
    text: str,
    sign: str,
    read: Callable[[list[str], str], tuple[Layout, list[str]]],
    combine: Callable[[tuple[Layout, ...]], Layout],
) -> tuple[Layout, list[str]]:
    """Read layouts with a sign between them; also return the tokens behind."""
    first, tokens = read(tokens, text)
    found = [first]
    while tokens and tokens[0] == sign:
        other, tokens = read(tokens[1:], text)
        found.append(other)
    return (combine(tuple(found)) if len(found) > 1 else first), tokens


def _factor(tokens: list[str], text: str) -> tuple[Layout, list[str]]:
    if not tokens or tokens[0] in {"+", "*", ")"}:
        raise _malformed(text)
    token, tokens = tokens[0], tokens[1:]
    if token == "(":
        layout, tokens = _sum(tokens, text)
        if not tokens or tokens[0] != ")":
            raise _malformed(text)
        return layout, tokens[1:]
    if not token.isdecimal():
        return Units(token), tokens
    if int(token) == 0:
        raise _malformed(text)
    return Fixed(int(token)), tokens


def _malformed(text: str) -> ValueError:
    return ValueError(
        f"the layout of an axis must be like 'P0', 'P0*49' or 'P0 + P1 + 16', got {text!r}"
    )


def product(factors: Iterable[Layout]) -> Layout:
    """Return the product of layouts, fixed neighbours as one."""
    found: list[Layout] = []
    for factor in factors:
        last = found[-1] if found else None
        if isinstance(last, Fixed) and isinstance(factor, Fixed):
            found[-1] = Fixed(last.size * factor.size)
        else:
            found.append(factor)
    return found[0] if len(found) == 1 else Product(tuple(found))


def concatenation(parts: Iterable[Layout]) -> Layout:
    """Return the concatenation of layouts, fixed neighbours as one."""
    found: list[Layout] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(last, Fixed) and isinstance(part, Fixed):
            found[-1] = Fixed(last.size + part.size)
        else:
            found.append(part)
    return found[0] if len(found) == 1 else Concatenation(tuple(found))


def groups_of(layout: Layout) -> Iterator[str]:
    """Yield the groups of a layout from left to right, as often as they occur."""
    match layout:
        case Units(group):
            yield group
        case Product(children) | Concatenation(children):
            for child in children:
                yield from groups_of(child)


def length(layout: Layout, extents: Mapping[str, int]) -> int:
    """Return the number of entries of an axis, given the number of entries of each group.

    Example:
        >>> length(parse("P0*49 + 3"), {"P0": 2})
        101
    """
    match layout:
        case Fixed(size):
            return size
        case Units(group):
            return extents[group]
        case Product(factors):
            return math.prod(length(factor, extents) for factor in factors)
        case Concatenation(parts):
            return sum(length(part, extents) for part in parts)


def blocks(
    tensor: torch.Tensor, layouts: Sequence[Layout | None], extents: Mapping[str, int]
) -> Iterator[tuple[torch.Tensor, tuple[str | None, ...]]]:
    """Cut a tensor into views whose every axis is one group or fixed; together they cover it.

    Args:
        tensor: any tensor.
        layouts: one for each axis; None is a fixed axis.
        extents: number of entries of each group.

    Yields:
        Each view, and the group (or None) of each of its axes. A product becomes several axes, a
        concatenation several views.

    Example:
        >>> [(tuple(view.shape), groups)
        ...  for view, groups in blocks(torch.zeros(7, 2), [parse("P*2 + 1"), None], {"P": 3})]
        [((3, 2, 2), ('P', None, None)), ((1, 2), (None, None))]
    """
    for axis, layout in enumerate(layouts):
        before, after = layouts[:axis], layouts[axis + 1 :]
        if isinstance(layout, Product):
            view = tensor.unflatten(axis, [length(f, extents) for f in layout.factors])
            yield from blocks(view, [*before, *layout.factors, *after], extents)
            return
        if isinstance(layout, Concatenation):
            pieces = tensor.split([length(part, extents) for part in layout.parts], axis)
            for piece, part in zip(pieces, layout.parts, strict=True):
                yield from blocks(piece, [*before, part, *after], extents)
            return
    yield tensor, tuple(lay.group if isinstance(lay, Units) else None for lay in layouts)
