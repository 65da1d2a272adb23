"""Frank-Wolfe on all permutations of all models at once: a start for the synchronised descent.

Crisostomi et al., "C2M3: Cycle-Consistent Multi-Model Merging", NeurIPS 2024, arXiv:2405.17897:
every model has a doubly stochastic matrix for each group, which moves its units onto a common
basis, the universe. The sum over pairs of models of the inner products of their weights there is
raised along the line to the best vertex of the gradient, an assignment for each matrix. We differ
in the step, which is exact, as the objective is a polynomial along the line, and in the
assignments, all solved as one batch, each from its former duals.

It must not start where each permutation is already the best with all others held, such as where
the descent ended: the gradient's best vertex is that very point, and there it stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fastrebasin import layout, nesting
from fastrebasin._precision import full_precision
from fastrebasin._progress import bar
from fastrebasin.assignment import Assignment
from fastrebasin.matching.readings import Number, Readings, common_device
from fastrebasin.matching.solving import solve
from fastrebasin.permutation import Permutation, identity_permutation, permutation_on
from fastrebasin.spec import PermutationSpec

__all__ = ["frank_wolfe"]

_Groups = tuple[str | None, ...]
_Matrices = dict[str, Tensor]

_TOLERANCE = 1e-5  # a step that gains less, as a share of the objective, is the last


def frank_wolfe(
    spec: PermutationSpec,
    params: Sequence[Mapping[str, Tensor]],
    *,
    steps: int,
    progress: bool,
) -> list[Permutation]:
    """Return for each model a permutation onto the universe, found from the identity.

    Args:
        spec: bound; groups that lie in others, or have others inside, aren't moved.
        params: what is compared, of one dtype.
        steps: how many at most.
        progress: show a bar on a terminal.

    Returns:
        Permutations on the parameters' device.
    """
    relaxation = _Relaxation(spec, params)
    if not relaxation.matrices[0]:
        return [relaxation.identity for _ in params]
    with full_precision(relaxation.readings.device):
        for _ in bar(range(steps), "Frank-Wolfe", progress=progress, unit="step"):
            if not relaxation.step():
                break
    return relaxation.nearest()


class _Relaxation:
    """Doubly stochastic matrices in the place of permutations.

    Attributes:
        matrices: of each model, one for each group; row i tells which of its units make unit i.
        identity: the permutation that moves nothing.
        readings: of the parameters' device.
    """

    def __init__(self, spec: PermutationSpec, params: Sequence[Mapping[str, Tensor]]) -> None:
        parents = {p for group in spec.groups for p in nesting.parents_of(group, spec.within)}
        flat = {g for g in spec.groups if g not in parents and not spec.within.get(g)}
        cut = [_cut(spec, model, flat) for model in params]
        self._groups: list[_Groups] = [groups for _, groups in cut[0]]
        self._blocks = [[block for block, _ in model] for model in cut]
        moved = {g: block for block, groups in cut[0] for g in groups if g}
        self.matrices: list[_Matrices] = [
            {g: torch.eye(spec.sizes[g]).to(block) for g, block in moved.items()} for _ in params
        ]
        self.readings = Readings(common_device(params[0].values()))
        self.identity = permutation_on(identity_permutation(spec.sizes), self.readings.device)
        self._former: list[Assignment | None] = [None] * sum(map(len, self.matrices))

    def step(self) -> bool:
        """Go as far as the objective rises towards the best vertex; return whether to go on."""
        vertices = self._vertices()
        objective = np.polynomial.Polynomial(self._along(vertices))
        share = _highest(objective)
        for matrices, vertex in zip(self.matrices, vertices, strict=True):
            for group, matrix in matrices.items():
                matrix.mul_(1 - share)
                matrix[torch.arange(len(matrix), device=matrix.device), vertex[group]] += share
        now = float(objective(share))
        return now - float(objective(0.0)) > _TOLERANCE * abs(now)

    def nearest(self) -> list[Permutation]:
        """Return the permutations that the matrices are closest to."""
        flat = [m for matrices in self.matrices for m in matrices.values()]
        solved = solve(flat, [None] * len(flat), self.readings)
        return [{**self.identity, **found} for found in self._by_model(solved)]

    def _vertices(self) -> list[Permutation]:
        """Return the permutations of largest inner product with the gradient."""
        gradients = [
            {group: torch.zeros_like(matrix) for group, matrix in matrices.items()}
            for matrices in self.matrices
        ]
        for k, groups in enumerate(self._groups):
            moved = [
                _moved(model[k], groups, matrices)
                for model, matrices in zip(self._blocks, self.matrices, strict=True)
            ]
            total = torch.stack(moved).sum(0)
            for model, matrices, found, own in zip(
                self._blocks, self.matrices, gradients, moved, strict=True
            ):
                for axis, group in enumerate(groups):
                    if group is not None:
                        others = tuple(None if a == axis else g for a, g in enumerate(groups))
                        beside = _moved(model[k], others, matrices)
                        found[group] += _rows(total - own, axis) @ _rows(beside, axis).T
        costs = [cost for found in gradients for cost in found.values()]
        solved = solve(costs, self._former, self.readings)
        self._former = list(solved)
        return self._by_model(solved)

    def _along(self, vertices: Sequence[Permutation]) -> list[float]:
        """Return the objective's coefficients as a polynomial of the share of the vertices."""
        degree = 2 * max(sum(g is not None for g in groups) for groups in self._groups)
        coefficients: list[Number] = [0.0] * (degree + 1)
        for k, groups in enumerate(self._groups):
            lines = [
                _line(model[k], groups, matrices, vertex)
                for model, matrices, vertex in zip(
                    self._blocks, self.matrices, vertices, strict=True
                )
            ]
            total = [torch.stack(terms).sum(0) for terms in zip(*lines, strict=True)]
            for sign, line in ((0.5, total), *((-0.5, line) for line in lines)):
                for i, one in enumerate(line):
                    for j, other in enumerate(line):
                        inner = (one * other).sum(dtype=torch.float64)
                        coefficients[i + j] = coefficients[i + j] + sign * inner
        return self.readings.now(coefficients)

    def _by_model(self, found: Sequence[Assignment]) -> list[Permutation]:
        groups = list(self.matrices[0])
        return [
            {g: a.col_ind for g, a in zip(groups, found[start:], strict=False)}
            for start in range(0, len(found), len(groups))
        ]


def _cut(
    spec: PermutationSpec, params: Mapping[str, Tensor], flat: set[str]
) -> list[tuple[Tensor, _Groups]]:
    """Return the blocks that flat groups are on, with those of their axes that these move."""
    cut = [
        (block, tuple(group if group in flat else None for group in groups))
        for name, tensor in params.items()
        for block, groups in layout.blocks(tensor, spec.layouts(name, tensor.ndim), spec.extents)
    ]
    return [(block, groups) for block, groups in cut if any(groups) and block.numel()]


def _moved(block: Tensor, groups: _Groups, matrices: Mapping[str, Tensor]) -> Tensor:
    """Return a block with its units mixed by the matrices, along every axis of a group."""
    for axis, group in enumerate(groups):
        if group is not None:
            block = torch.tensordot(matrices[group], block, ([1], [axis])).movedim(0, axis)
    return block


def _line(
    block: Tensor, groups: _Groups, matrices: Mapping[str, Tensor], vertex: Permutation
) -> list[Tensor]:
    """Return coefficients: the block moved by (1 - t) of the matrices and t of the vertex."""
    line = [block]
    for axis, group in enumerate(groups):
        if group is not None:
            start = [torch.tensordot(matrices[group], c, ([1], [axis])) for c in line]
            start = [c.movedim(0, axis) for c in start]
            order = vertex[group]
            ahead = [c.index_select(axis, order) - s for c, s in zip(line, start, strict=True)]
            line = [
                start[0],
                *(s + a for s, a in zip(start[1:], ahead, strict=False)),
                ahead[-1],
            ]
    return line


def _rows(block: Tensor, axis: int) -> Tensor:
    return block.movedim(axis, 0).reshape(block.shape[axis], -1)


def _highest(objective: np.polynomial.Polynomial) -> float:
    """Return where in [0, 1] a polynomial is largest, 0 if nowhere larger than there."""
    slope = objective.deriv()
    # A leading coefficient that is nothing but rounding would send roots to infinity.
    slope = slope.trim(1e-12 * float(np.abs(slope.coef).max()))
    stationary = [float(root.real) for root in slope.roots() if abs(root.imag) < 1e-6]
    inside = [share for share in stationary if 0 < share < 1]
    return max([0.0, 1.0, *inside], key=lambda share: float(objective(share)))
