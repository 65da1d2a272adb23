"""A first guess at a group of which nothing is known: units alike in what no permutation changes.

The values beside a unit, sorted along every axis whose order isn't known yet, are the same however
those axes were permuted. Units are matched by the inner products of such signatures: exactly, where
B is a permuted copy of A. Without it, networks none of whose axes is fixed, such as one residual
block by itself, leave the descent wherever it starts. Our own.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import torch

from fastrebasin.matching.blocks import Blocks, Term
from fastrebasin.matching.solving import solve
from fastrebasin.permutation import Permutation

__all__ = ["match_signatures"]


def match_signatures(
    blocks: Blocks, group: str, permutation: Permutation, known: AbstractSet[str]
) -> Permutation:
    """Return the permutation of a flat group by its signatures, where it is on varying blocks."""
    cost: torch.Tensor | None = None
    for term in blocks.terms_of(group):
        if not blocks.varies(term.block):
            continue
        groups = blocks.groups[term.block]
        unknown = [k for k, g in enumerate(groups) if g not in known and g and k != term.axis]
        b = blocks.moved(term.block, (term.axis, *unknown), permutation)
        u, v = (_signatures(t, term, unknown) for t in (blocks.a[term.block], b))
        cost = u @ v.T if cost is None else cost.addmm_(u, v.T)
    if cost is None:
        return {}
    (found,) = solve([cost], [None], blocks.readings)
    return {group: found.col_ind}


def _signatures(block: torch.Tensor, term: Term, unknown: list[int]) -> torch.Tensor:
    """Return a row for each unit: the entries beside it, sorted where their order isn't known."""
    units = block.movedim([term.axis, *unknown], list(range(1 + len(unknown))))
    if not unknown:
        return units.flatten(1)
    return units.flatten(1, len(unknown)).sort(dim=1).values.flatten(1)
