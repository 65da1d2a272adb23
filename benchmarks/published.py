"""The published loops, restated plainly from the papers: what our times are compared with.

Ainsworth et al., ICLR 2023, algorithm 1; Yamada et al., ACML 2024, section 3. Every matrix product
is computed anew from gathered copies, SciPy solves, groups go one after another. `bookkeeping` adds
what implementations do besides: both scores by products with one-hot matrices, and after every
assignment the whole of B permuted for a norm that is only logged.
"""

from __future__ import annotations

from collections.abc import Mapping

import scipy.optimize
import torch
from torch import Tensor

from fastrebasin import PermutationSpec
from fastrebasin.permutation import Permutation

__all__ = ["weight_matching"]

Params = Mapping[str, Tensor]


def weight_matching(
    spec: PermutationSpec,
    a: Params,
    b: Params,
    start: Permutation,
    generator: torch.Generator,
    *,
    max_sweeps: int = 1000,
    bookkeeping: bool = False,
) -> tuple[Permutation, int]:
    """Return the permutation and the number of sweeps; specs of flat groups only."""
    perm = dict(start)
    groups = list(spec.groups)
    matched = {n: [(k, axis) for k, axis in spec.groups[n] if "running_" not in k] for n in groups}
    sweeps, progress = 0, True
    while progress and sweeps < max_sweeps:
        sweeps, progress = sweeps + 1, False
        for index in torch.randperm(len(groups), generator=generator).tolist():
            group = groups[index]
            n = len(perm[group])
            cost = torch.zeros(n, n, dtype=a[matched[group][0][0]].dtype)
            for name, axis in matched[group]:
                moved = permuted(spec, name, perm, b[name], but=axis)
                u, v = (t.movedim(axis, 0).reshape(n, -1) for t in (a[name], moved))
                cost += u @ v.T
            best = torch.as_tensor(
                scipy.optimize.linear_sum_assignment(cost.numpy(), maximize=True)[1]
            )
            old, new = (score(cost, p, one_hot=bookkeeping) for p in (perm[group], best))
            progress |= new > old + 1e-12
            perm[group] = best
            if bookkeeping:
                distance(spec, a, b, perm)
    return perm, sweeps


def permuted(
    spec: PermutationSpec, name: str, perm: Permutation, tensor: Tensor, *, but: int | None = None
) -> Tensor:
    """Return a tensor with all its axes permuted, but one."""
    for axis, group in enumerate(spec.axes.get(name, ())):
        if group is not None and axis != but:
            tensor = torch.index_select(tensor, axis, perm[group])
    return tensor


def score(cost: Tensor, perm: Tensor, *, one_hot: bool) -> float:
    """Return the sum of the costs of an assignment."""
    if not one_hot:
        return cost[torch.arange(len(perm)), perm].double().sum().item()
    chosen = torch.eye(len(perm), dtype=cost.dtype)[perm]
    return torch.einsum("ij,ij->i", cost, chosen).sum().item()


def distance(spec: PermutationSpec, a: Params, b: Params, perm: Permutation) -> float:
    """Return the distance of all weights."""
    moved = {name: permuted(spec, name, perm, tensor) for name, tensor in b.items()}
    differences = [(a[n] - moved[n]).flatten() for n in a if a[n].is_floating_point()]
    return float(torch.cat(differences).norm())
