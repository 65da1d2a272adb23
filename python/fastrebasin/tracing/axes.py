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
from collections.abc import Iterator, Sequence

from fastrebasin.tracing.atoms import (
    ONE,
    Atom,
    Axis,
    Concatenation,
    Cut,
    Product,
    depends,
    factors_of,
    family,
    fixed,
    root,
)  # fmt: skip

# Members of members (of members) may differ so many times over; then they are tied.
_DEEPEST = 4

# An axis of so few entries is cut into all of them at once.
_MANY = 64


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


def at(axis: Axis, outer: Atom | None, k: int) -> Axis:
    """Return what the axis is in part k of `outer`, an atom that was cut."""
    axis = find(axis)
    if isinstance(axis, Product):
        return Product(tuple(at(factor, outer, k) for factor in axis.factors))
    if isinstance(axis, Concatenation):
        return Concatenation(tuple(at(part, outer, k) for part in axis.parts))
    if outer is None or axis.fixed or not depends(axis, outer):
        return axis
    return _member(axis, outer, k)


def _member(atom: Atom, outer: Atom, k: int) -> Axis:
    found = [m for other, index, m in atom.members if root(other) is outer and index == k]
    for other in found[1:]:
        join(found[0], other)
    if found:
        return found[0]
    if atom.level == _DEEPEST:
        decouple(atom, outer)
        return find(atom)
    assert isinstance(outer.target, Concatenation)
    others = dict.fromkeys(a for other in atom.outer for a in factors_of(other))
    around = [at(other, outer, k) for other in others if other is not outer]
    around.append(outer.target.parts[k])
    member = Atom(atom.size, outer=[a for other in around for a in factors_of(other)])
    member.level = atom.level + 1
    atom.members.append((outer, k, member))
    return member


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
    _bind(atom, whole := Concatenation(tuple(parts)))
    return whole


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
    here = [head] if head is not None else []
    if len(found) == 1:
        k, taken, cuts = found[0]
        return taken, [*((atom, k) for atom in here), *cuts]
    spanned = [*here, *(atom for _, _, cuts in found for atom, _ in cuts)]
    return Concatenation(tuple(taken for _, taken, _ in found)), [(a, None) for a in spanned]


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
    return family([take_inner(part, size) for part in parts])
