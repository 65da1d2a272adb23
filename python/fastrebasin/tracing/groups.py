"""From what a graph says about axes to the groups of a permutation spec."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fastrebasin import layout
from fastrebasin.tracing.atoms import (
    Atom,
    Axis,
    Concatenation,
    Product,
    depends,
    factors,
    heads,
    pull_apart,
    root,
)
from fastrebasin.tracing.axes import at, atoms, decouple, find
from fastrebasin.tracing.values import Value

# More fixed entries than this, each with a permutation of its own inside, share one.
_MANY = 64


class Groups:
    """Names for the atoms that may move, and which of them lie within others."""

    def __init__(self, tensors: Mapping[str, Value], values: Iterable[Value]) -> None:
        """Settle what depends on what, given all values of a graph."""
        everything = [value.axes for value in (*values, *tensors.values())]
        stated = [value.axes for value in tensors.values()]
        while _tie_families(everything, stated) or _tie_to_fixed(everything, stated):
            pass
        self._names: dict[Atom, str] = {}
        for axes in stated:
            for atom in (atom for axis in axes for atom in atoms(axis)):
                if not atom.fixed and atom.size > 1:
                    self._names.setdefault(atom, f"P{len(self._names)}")
        parents = _parents(everything)
        self.within = {
            name: tuple(self._names[p] for p in parents[atom])
            for atom, name in self._names.items()
            if parents[atom]
        }
        self.extents = {name: atom.size for atom, name in self._names.items()}

    def layouts(self, value: Value) -> tuple[str | None, ...]:
        """Return the layout of each axis in the notation of `fastrebasin.layout`."""
        found = map(self._layout, value.axes)
        return tuple(None if isinstance(f, layout.Fixed) else str(f) for f in found)

    def _layout(self, axis: Axis) -> layout.Layout:
        axis = find(axis)
        if isinstance(axis, Atom):
            name = self._names.get(axis)
            return layout.Fixed(axis.size) if name is None else layout.Units(name)
        if isinstance(axis, Product):
            return layout.product(map(self._layout, axis.factors))
        return layout.concatenation(map(self._layout, axis.parts))


def _tie_families(everything: Sequence[Sequence[Axis]], stated: Sequence[Sequence[Axis]]) -> bool:
    """Tie the members of families that can't differ; return whether there were any.

    An inner axis that was cut with its outer one may differ from part to part only if the two are
    together wherever the inner one occurs, and in parameters only if a layout can say so.
    """
    in_parameters = {id(axes) for axes in stated}
    tied = False
    for axes in everything:
        present = Counter(head for axis in axes for head in set(heads(axis)))
        for atom in [atom for axis in axes for atom in atoms(axis)]:
            for outer in dict.fromkeys(root(outer) for outer, _, _ in atom.members):
                if depends(atom, outer) and (id(axes) in in_parameters or present[outer] != 1):
                    decouple(atom, outer)
                    tied = True
    return tied


def _tie_to_fixed(everything: Sequence[Sequence[Axis]], stated: Sequence[Sequence[Axis]]) -> bool:
    """Settle what lies within fixed axes, entry by entry or alike; return whether anything did."""
    for atom, parents in _parents(everything).items():
        for parent in (p for p in parents if p.fixed):
            if parent.size <= _MANY and depends(atom, parent) and _multiplied(atom, parent, stated):
                pull_apart(parent)
                return True
            decouple(atom, parent)
            atom.independent.append(parent)
    return False


def _multiplied(atom: Atom, parent: Atom, stated: Sequence[Sequence[Axis]]) -> bool:
    """Whether the atom is a factor behind its parent on every axis of parameters it is on."""
    return all(
        parent in found for axes in stated for axis in axes if atom in (found := list(atoms(axis)))
    )


def _parents(everything: Sequence[Sequence[Axis]]) -> dict[Atom, list[Atom]]:
    """Return the atoms for whose entries each atom may have permutations of its own.

    These are the atoms that are beside it wherever it occurs, and that also occur without it (or
    else the two together would be one larger group, or two that don't lie in each other).
    Outermost first. Dictionaries stand for sets here, because their order is always the same.
    """
    beside: dict[Atom, dict[Atom, bool]] = {}
    count: dict[Atom, int] = {}
    for axes in everything:
        for block in _blocks(axes):
            for atom in block:
                count[atom] = count.get(atom, 0) + 1
                others = beside.get(atom, block)
                beside[atom] = {o: True for o, once in others.items() if once and block.get(o)}
    found = {
        atom: [
            other
            for other in others
            if other.size > 1
            and count[other] > count[atom]
            and not any(root(tied) is other for tied in atom.independent)
        ]
        for atom, others in beside.items()
        if not atom.fixed
    }
    # Whatever lies within an atom lies within what that lies within.
    for atom, parents in found.items():
        closed = [grand for parent in parents for grand in found.get(parent, ())]
        found[atom] = list(dict.fromkeys([*closed, *parents]))
    return {
        atom: sorted(parents, key=lambda parent: len(found.get(parent, ())))
        for atom, parents in found.items()
    }


def _blocks(axes: Sequence[Axis]) -> Iterator[dict[Atom, bool]]:
    """Yield the atoms of each block of a tensor, cut wherever a factor of an axis was cut.

    With each atom goes whether others may lie within it.
    """
    found = [factor for axis in axes for factor in factors(axis)]
    for i, factor in enumerate(found):
        head = factor if isinstance(factor, Atom) else None
        body = factor if head is None else head.target
        if isinstance(body, Concatenation):
            others = [*found[:i], *found[i + 1 :]]
            for k, part in enumerate(body.parts):
                yield from _blocks([part, *(at(other, head, k) for other in others)])
            return
    here = [atom for factor in found for atom in atoms(factor)]
    numbered = [other for atom in here for axis in atom.numbered for other in atoms(axis)]
    # What is on two axes says nothing about which of them another lies within.
    times = Counter(here)
    yield {atom: times[atom] < 2 for atom in [*here, *numbered]}
