"""The algebra of axes: which entries of two axes must move together, and which move as a whole.

An axis of a tensor is an `Atom` (entries that may change places with each other), a product of axes
(the first factor outermost: heads times units of a head) or a concatenation. Operations state
equalities between axes (`join`), cut them (`piece`), split them (`take_inner`) or fix them (`pin`);
union-find over atoms keeps the coarsest structure that satisfies them all. Atoms are only ever
refined, so the order of the statements doesn't matter, and what can't be expressed is fixed:
symmetry may be lost, but no permutation is allowed that the statements don't allow.

An inner factor may have a permutation of its own for every entry of an outer one. Cutting the
outer one must then cut this family too: `at(inner, outer, k)` is its member for part k.
"""

from __future__ import annotations

import itertools
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

ONE = Atom(1, fixed=True)

# Members of members (of members) may differ so many times over; then they are tied.
_DEEPEST = 4

# An axis of so few entries is cut into all of them at once.
_MANY = 64

# A cut made on the way to a piece: the atom that was cut and the part that was taken, or None where
# the piece spans several parts.
Cut: TypeAlias = tuple[Atom, int | None]


def free(size: int) -> Axis:
    """Return a new axis without any constraint."""
    return ONE if size == 1 else Atom(size)


def fixed(size: int) -> Axis:
    """Return a new axis whose entries stay where they are."""
    return ONE if size == 1 else Atom(size, fixed=True)


def root(atom: Atom) -> Atom:
    """Return the atom that stands for all atoms united with this one."""
    while isinstance(atom.target, Atom):
        atom = atom.target
    return atom


def find(axis: Axis) -> Axis:
    """Return the axis in terms of atoms that aren't refined (yet): a sum of products."""
    if isinstance(axis, Atom):
        axis = root(axis)
        return axis if axis.target is None else find(axis.target)
    if isinstance(axis, Concatenation):
        parts: list[Axis] = []
        for part in map(find, axis.parts):
            parts += part.parts if isinstance(part, Concatenation) else [part]
        return parts[0] if len(parts) == 1 else Concatenation(tuple(parts))
    return _multiply(axis.factors)


def _multiply(factors: tuple[Axis, ...]) -> Axis:
    """Multiply out: a concatenation stays whole only as the innermost factor."""
    factors = tuple(factor for factor in factors if factor.size != 1)
    for i, factor in enumerate(factors):
        head = root(factor) if isinstance(factor, Atom) else None
        body = factor if head is None else head.target
        before, behind = factors[:i], factors[i + 1 :]
        if isinstance(body, Product):
            return _multiply((*before, *body.factors, *behind))
        if isinstance(body, Concatenation) and behind:
            parts = (
                Product((part, *(at(inner, head, k) for inner in behind)))
                for k, part in enumerate(body.parts)
            )
            return _multiply((*before, Concatenation(tuple(parts))))
    found: list[Axis] = []
    for factor in map(find, factors):
        found += factor.factors if isinstance(factor, Product) else [factor]
    if not found:
        return ONE
    return found[0] if len(found) == 1 else Product(tuple(found))


def atoms(axis: Axis) -> Iterator[Atom]:
    """Yield the atoms of an axis that aren't refined, from left to right."""
    axis = find(axis)
    if isinstance(axis, Atom):
        yield axis
    else:
        for child in axis.factors if isinstance(axis, Product) else axis.parts:
            yield from atoms(child)


def is_fixed(axis: Axis) -> bool:
    """Whether no entry of the axis may move."""
    return all(atom.fixed for atom in atoms(axis))


def pin(axis: Axis) -> None:
    """Fix every entry of the axis."""
    for atom in atoms(axis):
        if not atom.fixed:
            atom.fixed = True
            for _, _, member in atom.members:
                pin(member)


def join(x: Axis, y: Axis) -> None:
    """State that the entries of two axes move in the same way."""
    x, y = find(x), find(y)
    if x is y or x.size == y.size == 1:
        return
    if x.size != y.size:
        pin(x)
        pin(y)
    elif isinstance(x, Atom):
        _bind(x, y)
    elif isinstance(y, Atom):
        _bind(y, x)
    elif isinstance(x, Product) and isinstance(y, Product):
        size = min(x.factors[-1].size, y.factors[-1].size)
        for one, other in zip(take_inner(x, size), take_inner(y, size), strict=True):
            join(one, other)
    else:
        first = min(z.parts[0].size for z in (x, y) if isinstance(z, Concatenation))
        for start, stop in ((0, first), (first, x.size)):
            join(piece(x, start, stop)[0], piece(y, start, stop)[0])


def _bind(atom: Atom, axis: Axis) -> None:
    """Let an unrefined atom be `axis`."""
    if not isinstance(axis, Atom) and any(inside is atom for inside in atoms(axis)):
        pin(axis)  # larger than itself: only the identity will do
        return
    if atom.fixed:
        pin(axis)
    atom.target = axis
    for inside in atoms(axis):
        inside.outer += [outer for outer in atom.outer if root(outer) is not inside]
        inside.independent += atom.independent
        inside.numbered += atom.numbered
        inside.level = max(inside.level, atom.level)
        inside.has_inner |= atom.has_inner
    members, atom.members = atom.members, []
    for outer, k, member in members:
        join(member, at(axis, root(outer), k))


def depends(atom: Atom, outer: Atom) -> bool:
    """Whether the atom may have permutations of its own for every entry of `outer`."""
    if any(root(other) is outer for other in atom.independent):
        return False
    return any(head is outer for other in atom.outer for head in heads(other))


def at(axis: Axis, outer: Atom | None, k: int) -> Axis:
    """Return what the axis is in part k of `outer`, an atom that was cut."""
    axis = find(axis)
    if outer is None:
        return axis
    if isinstance(axis, Product):
        return Product(tuple(at(factor, outer, k) for factor in axis.factors))
    if isinstance(axis, Concatenation):
        return Concatenation(tuple(at(part, outer, k) for part in axis.parts))
    if axis.fixed or not depends(axis, outer):
        return axis
    found = [m for other, index, m in axis.members if root(other) is outer and index == k]
    for other in found[1:]:
        join(found[0], other)
    if not found and axis.level == _DEEPEST:
        decouple(axis, outer)
        return find(axis)
    if not found:
        assert isinstance(outer.target, Concatenation)
        others = dict.fromkeys(a for other in axis.outer for a in _factors(other))
        around = [at(other, outer, k) for other in others if other is not outer]
        around.append(outer.target.parts[k])
        found = [Atom(axis.size, outer=[a for other in around for a in _factors(other)])]
        found[0].level = axis.level + 1
        axis.members.append((outer, k, found[0]))
    return found[0]


def _factors(axis: Axis) -> Iterator[Atom]:
    """Yield the atoms that an axis is the product of, whether or not they were cut."""
    if isinstance(axis, Atom):
        axis = root(axis)
        if not isinstance(axis.target, Product):
            yield axis
            return
        axis = axis.target
    for child in axis.factors if isinstance(axis, Product) else axis.parts:
        yield from _factors(child)


def decouple(axis: Axis, outer: Atom) -> None:
    """State that the axis moves in the same way for every entry of `outer`."""
    for atom in list(atoms(axis)):
        if atom is outer or not depends(atom, outer):
            continue
        atom.independent.append(outer)
        same = [m for other, _, m in atom.members if root(other) is outer]
        atom.members = [entry for entry in atom.members if root(entry[0]) is not outer]
        for member in same:
            join(member, atom)


def piece(axis: Axis, start: int, stop: int) -> tuple[Axis, list[Cut]]:
    """Return the entries [start, stop) of an axis, and the cuts made on the way.

    The cuts concern the other axes of a tensor that is sliced: see `after`.
    """
    head = root(axis) if isinstance(axis, Atom) else None
    body = axis if head is None else head.target
    if start == 0 and stop == axis.size:
        return axis, []
    if head is not None and body is None:
        if head.fixed and not head.has_inner:
            return fixed(stop - start), []
        body = _cut(head, start, stop)
    if isinstance(body, Concatenation):
        return _piece_of_parts(head, body, start, stop)
    assert isinstance(body, Product)
    whole = find(body)
    if not isinstance(whole, Product):
        return piece(whole, start, stop)
    outermost, rest = whole.factors[0], Product(whole.factors[1:])
    if start % rest.size or stop % rest.size:
        pin(whole)
        return fixed(stop - start), []
    taken, cuts = piece(outermost, start // rest.size, stop // rest.size)
    return Product((taken, *after(cuts, rest.factors))), cuts


def _cut(atom: Atom, start: int, stop: int) -> Concatenation:
    bounds = sorted({0, start, stop, atom.size})
    if atom.has_inner and stop - start == 1 and atom.size <= _MANY:
        bounds = list(range(atom.size + 1))  # the other entries will be wanted, too
    parts = [
        Atom(high - low, fixed=atom.fixed, outer=atom.outer)
        for low, high in itertools.pairwise(bounds)
    ]
    for part in parts:
        part.has_inner = atom.has_inner
    concatenation = Concatenation(tuple(parts))
    _bind(atom, concatenation)
    return concatenation


def _piece_of_parts(
    head: Atom | None, body: Concatenation, start: int, stop: int
) -> tuple[Axis, list[Cut]]:
    found: list[tuple[int, Axis, list[Cut]]] = []
    low = 0
    for k, part in enumerate(body.parts):
        high = low + part.size
        if max(low, start) < min(high, stop):
            taken, cuts = piece(part, max(low, start) - low, min(high, stop) - low)
            found.append((k, taken, cuts))
        low = high
    if len(found) == 1:
        k, taken, cuts = found[0]
        return taken, [(head, k), *cuts] if head is not None else cuts
    spanned: list[Cut] = [(atom, None) for _, _, cuts in found for atom, _ in cuts]
    if head is not None:
        spanned.insert(0, (head, None))
    return Concatenation(tuple(taken for _, taken, _ in found)), spanned


def after(cuts: Sequence[Cut], axes: Sequence[Axis]) -> list[Axis]:
    """Return the other axes of a tensor of which a piece was taken, as they are in that piece."""
    axes = list(axes)
    for outer, k in cuts:
        if k is None:
            for axis in axes:
                decouple(axis, outer)
        else:
            axes = [at(axis, outer, k) for axis in axes]
    return axes


def take_inner(axis: Axis, size: int) -> tuple[Axis, Axis]:
    """Split an axis into an outer and an inner one, the inner of `size` entries."""
    axis = find(axis)
    if size in {1, axis.size}:
        return (axis, ONE) if size == 1 else (ONE, axis)
    if axis.size % size == 0:
        if isinstance(axis, Atom):
            return _split(axis, size)
        found = (
            _split_product(axis, size) if isinstance(axis, Product) else _split_parts(axis, size)
        )
        if found is not None:
            return found
    pin(axis)
    return fixed(axis.size // size), fixed(size)


def _split(atom: Atom, size: int) -> tuple[Axis, Axis]:
    count = atom.size // size
    if atom.fixed:
        return fixed(count), fixed(size)
    outer = Atom(count, outer=atom.outer)
    inner = Atom(size, outer=[*atom.outer, outer])
    _bind(atom, Product((outer, inner)))
    return outer, inner


def _split_product(axis: Product, size: int) -> tuple[Axis, Axis] | None:
    outer, last = Product(axis.factors[:-1]), axis.factors[-1]
    if size % last.size == 0:
        left, inner = take_inner(outer, size // last.size)
        return left, Product((inner, last))
    if last.size % size == 0:
        left, inner = take_inner(last, size)
        return Product((outer, left)), inner
    return None


def _split_parts(axis: Concatenation, size: int) -> tuple[Axis, Axis] | None:
    """Split every part alike; the inner axis then differs from part to part."""
    parts: list[Axis] = []
    gathered: list[Axis] = []
    for part in axis.parts:
        gathered.append(part)
        if sum(g.size for g in gathered) % size == 0:
            parts.append(Concatenation(tuple(gathered)))
            gathered = []
    if gathered or len(parts) == 1:
        return None
    pairs = [take_inner(part, size) for part in parts]
    outer = Atom(axis.size // size)
    inner = Atom(size, outer=[outer])
    outer.target = Concatenation(tuple(left for left, _ in pairs))
    inner.members = [(outer, k, right) for k, (_, right) in enumerate(pairs)]
    return outer, inner


def merge(axes: Sequence[Axis]) -> Axis:
    """Return the product of several axes as one, the first outermost."""
    axes = [axis for axis in axes if axis.size != 1]
    for i, axis in enumerate(axes):
        for later in axes[i + 1 :]:
            for inner in list(heads(later)):
                decouple(axis, inner)  # an axis can't depend on one that lies inside of it
    return axes[0] if len(axes) == 1 else Product(tuple(axes))


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


def pull_apart(atom: Atom) -> None:
    """Cut a fixed atom into single entries, each with what lies within it."""
    atom.target = Concatenation((ONE,) * atom.size)


def split(axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """Return the axis as several whose product it is, of the given sizes."""
    inner: list[Axis] = []
    for size in reversed(sizes[1:]):
        axis, last = take_inner(axis, size)
        inner.append(last)
    return [axis, *reversed(inner)]
