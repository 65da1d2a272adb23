"""What axes are made of: atoms, products and concatenations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias


class Atom:
    """Entries that may change places with each other, unless they are fixed.

    Attributes:
        size: number of entries.
        fixed: whether they must stay where they are.
        target: what the atom turned out to be: another atom, a product or a concatenation.
        outer: atoms for whose entries this one may have permutations of their own.
        independent: atoms for whose entries it may not.
        members: this atom at part k of an outer one that was cut, as (outer, k, member).
        has_inner: whether it is in the `outer` of another atom.
        level: how many members of members it is away from an atom that is none.
        numbered: axes that entries of this one were looked up in: experts, for the slots of an
            axis that each hold what one expert made.
    """

    __slots__ = (
        "fixed", "has_inner", "independent", "level", "members", "numbered", "outer", "size",
        "target",
    )  # fmt: skip

    def __init__(self, size: int, *, fixed: bool = False, outer: Sequence[Atom] = ()) -> None:
        self.size = size
        self.fixed = fixed
        self.target: Axis | None = None
        self.outer = list(outer)
        self.members: list[tuple[Atom, int, Axis]] = []
        self.independent: list[Atom] = []
        self.has_inner = False
        self.numbered: list[Axis] = []
        self.level = 0
        for atom in outer:
            root(atom).has_inner = True


@dataclass(frozen=True, eq=False)
class Product:
    """Every combination of the factors' entries; the first factor is the outermost."""

    factors: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(factor.size for factor in self.factors)


@dataclass(frozen=True, eq=False)
class Concatenation:
    """The parts' entries, one part behind the other."""

    parts: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """The number of entries."""
        return sum(part.size for part in self.parts)


Axis: TypeAlias = Atom | Product | Concatenation

# A cut made on the way to a piece: the atom that was cut and the part that was taken, or None where
# the piece spans several parts.
Cut: TypeAlias = tuple[Atom, int | None]

ONE = Atom(1, fixed=True)


def free(size: int) -> Axis:
    """Return a new axis without any constraint."""
    return ONE if size == 1 else Atom(size)


def fixed(size: int) -> Axis:
    """Return a new axis whose entries stay where they are."""
    return ONE if size == 1 else Atom(size, fixed=True)


def family(pairs: Sequence[tuple[Axis, Axis]]) -> tuple[Axis, Axis]:
    """Return an outer axis of several parts, and an inner one that differs from part to part."""
    outer = Atom(sum(left.size for left, _ in pairs))
    inner = Atom(pairs[0][1].size, outer=[outer])
    outer.target = Concatenation(tuple(left for left, _ in pairs))
    inner.members = [(outer, k, right) for k, (_, right) in enumerate(pairs)]
    return outer, inner


def root(atom: Atom) -> Atom:
    """Return the atom that stands for all atoms united with this one."""
    while isinstance(atom.target, Atom):
        atom = atom.target
    return atom


def heads(axis: Axis) -> Iterator[Atom]:
    """Yield the atoms that an axis was made of, refined ones included."""
    if isinstance(axis, Atom):
        yield root(axis)
        target = root(axis).target
        if target is not None:
            yield from heads(target)
    else:
        for child in axis.factors if isinstance(axis, Product) else axis.parts:
            yield from heads(child)


def factors(axis: Axis) -> Iterator[Atom | Concatenation]:
    """Yield the factors of an axis: atoms, cut or not, and concatenations that are no atom's."""
    if isinstance(axis, Atom):
        axis = root(axis)
        if not isinstance(axis.target, Product):
            yield axis
            return
        axis = axis.target
    if isinstance(axis, Concatenation):
        yield axis
    else:
        for factor in axis.factors:
            yield from factors(factor)


def factors_of(axis: Axis) -> Iterator[Atom]:
    """Yield the atoms that an axis is the product of, whether or not they were cut."""
    for factor in factors(axis):
        if isinstance(factor, Atom):
            yield factor
        else:
            for part in factor.parts:
                yield from factors_of(part)


def pull_apart(atom: Atom) -> None:
    """Cut a fixed atom into single entries, each with what lies within it."""
    atom.target = Concatenation((ONE,) * atom.size)


def depends(atom: Atom, outer: Atom) -> bool:
    """Whether the atom may have permutations of its own for every entry of `outer`."""
    if any(root(other) is outer for other in atom.independent):
        return False
    return any(head is outer for other in atom.outer for head in heads(other))
