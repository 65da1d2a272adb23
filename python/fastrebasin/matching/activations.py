"""Activation matching: align units that respond alike to the same data.

Ainsworth et al., "Git Re-Basin", ICLR 2023, section 3.1, after Li et al., "Convergent Learning",
2015: one assignment for each group, on the statistics of A's units against B's. The published code
runs both networks over the data once for every layer; we gather the moments of all layers in one
pass. All sources weigh the same, every example of each counted: the exact moments of the
mixture of Yamada et al., ACML 2024. Groups inside groups, such as the units of attention heads, are
our own.
"""

from __future__ import annotations

import copy
from collections import deque
from typing import Literal

import torch
from torch import Tensor, nn

from fastrebasin._precision import Precision
from fastrebasin._progress import bar
from fastrebasin.assignment import solve_assignment
from fastrebasin.data import Data, batches, some, sources
from fastrebasin.matching.descent import WeightMatcher
from fastrebasin.matching.observation import Block, choose_blocks, hooked, units_first
from fastrebasin.matching.points import Observe, Point
from fastrebasin.matching.result import Matching
from fastrebasin.matching.weights import weight_matching
from fastrebasin.permutation import Permutation
from fastrebasin.spec import PermutationSpec
from fastrebasin.statistics import Moments, update_moments

__all__ = ["activation_matching", "unit_similarity"]

Cost = Literal["correlation", "covariance", "cosine"]


def activation_matching(
    spec: PermutationSpec,
    model_a: nn.Module,
    model_b: nn.Module,
    data: Data,
    *,
    cost: Cost = "correlation",
    observe: Observe = "input",
    precision: Precision = "highest",
    batch_size: int = 250,
    max_examples: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Matching:
    """Find the permutation of B's units that respond most like A's to the same data.

    All axes of an activation but the units', such as examples and positions, are observations;
    where a layer's weight has a flattened axis `"P0*49"`, the 49 positions are, too. A trial run on
    two examples proves that the units are where they are looked for. Those that pass no module's
    input or output, such as the heads of `nn.MultiheadAttention`, can't be observed.

    Args:
        spec: which axes share a permutation.
        model_a, model_b: modules of one architecture on one device, called with x alone; copies
            run in eval mode, without gradients.
        data: labelled examples, or several sources (A's data, B's) that all weigh the same,
            whatever their sizes; labels aren't used.
        cost: what makes two units alike: "correlation" of their activations, "covariance", or
            "cosine" (not centred). Units that never vary have correlation zero with all.
        observe: where a group is seen first of all: "input" of the layers that read it (behind
            activation functions), "output" of linear layers, convolutions and embeddings that make
            it, or "normalized", the output of normalisation layers; a group without such a point
            is seen at the first of these that it has. Or, for some groups, `{group: ["module:input"
            or "module:output", ...]}`: any module at which the group's units are the channels.
            Several points count by the mean.
        precision: of products of activations on a CUDA device: "highest", "high" or "medium", as
            `update_moments` says.
        batch_size: examples per forward pass; batches go to the models' device.
        max_examples: of each source, drawn by `seed`; all by default.
        seed: of that choice, and of the order of groups where some lie within others.
        progress: show a bar on a terminal.

    Returns:
        The permutation, the inner product of A's weights with B's so permuted, and one sweep.

    Raises:
        ValueError: the models don't fit each other or the spec, groups can't be observed,
            activations aren't finite, or an option is out of range.

    Example:
        >>> from fastrebasin import apply_permutation, architectures, invert
        >>> from fastrebasin.experiments.models import MLP
        >>> a, b, spec = MLP(4, (8,), 2), MLP(4, (8,), 2), architectures.mlp(1)
        >>> answer = spec.bind(a.state_dict()).random_permutation(seed=1)
        >>> _ = b.load_state_dict(apply_permutation(spec, invert(answer), a.state_dict()))
        >>> data = torch.randn(100, 4), torch.zeros(100)
        >>> found = activation_matching(spec, a, b, data, observe="output")
        >>> torch.equal(found.permutation["P0"], answer["P0"])
        True

    Source: Ainsworth et al., ICLR 2023, section 3.1.
    """
    matcher = WeightMatcher(spec, model_a.state_dict(), model_b.state_dict())
    similarity = unit_similarity(
        matcher.spec, model_a, model_b, data, cost=cost, observe=observe, precision=precision,
        batch_size=batch_size, max_examples=max_examples, seed=seed, progress=progress,
    )  # fmt: skip
    permutation = _solve(matcher.spec, similarity, seed)
    return Matching(permutation, matcher.objective(permutation), 1)


def unit_similarity(
    spec: PermutationSpec,
    model_a: nn.Module,
    model_b: nn.Module,
    data: Data,
    *,
    cost: Cost = "correlation",
    observe: Observe = "input",
    precision: Precision = "highest",
    batch_size: int = 250,
    max_examples: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict[tuple[str, ...], Tensor]:
    """Return how alike A's units (rows) and B's (columns) respond to the same data.

    Args: as of `activation_matching`; `spec` is bound to the models' parameters.

    Returns:
        A float64 matrix on the CPU for each group, or for each combination of groups whose units
        are seen together, outermost first.

    Raises:
        ValueError: groups can't be observed, activations aren't finite, or an option is out of
            range.
    """
    _check_options(cost, observe, precision, batch_size, max_examples)
    parts = [
        some(source, max_examples, torch.Generator().manual_seed(seed)) for source in sources(data)
    ]
    pair = _Pair(spec, model_a, model_b, observe, next(batches(parts[0], 2))[0], precision)
    total = sum(-(-len(part) // batch_size) for part in parts)
    stream = (
        (number, x) for number, part in enumerate(parts) for x, _ in batches(part, batch_size)
    )
    current = 0
    for number, x in bar(stream, "activations", progress=progress, total=total, unit="batch"):
        if number != current:  # what was seen of each source counts as much as the next one
            pair.scale(len(parts[number]) / len(parts[current]))
            current = number
        pair.observe(x)
    return pair.costs(cost)


class _Pair:
    """Two networks that run side by side, and the moments of A's units against B's."""

    def __init__(
        self,
        spec: PermutationSpec,
        model_a: nn.Module,
        model_b: nn.Module,
        observe: Observe,
        example: Tensor,
        precision: Precision = "highest",
    ) -> None:
        self._extents = spec.extents
        self._a, self._b = (copy.deepcopy(model).eval() for model in (model_a, model_b))
        self._device = next(self._a.parameters(), example).device
        blocks = choose_blocks(spec, self._a, example.to(self._device), observe)
        self._precision: Precision = precision
        self._moments = {block: Moments() for block in blocks}
        self._seen: list[tuple[Moments, Tensor, Tensor]] = []
        self._numbers: dict[Point, list[Block]] = {}
        for block in blocks:
            self._numbers.setdefault(block.point, []).append(block)
        self._waiting: dict[Point, deque[list[Tensor]]] = {
            point: deque() for point in self._numbers
        }

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Run both networks on a batch and add what their units do."""
        x = x.to(self._device)
        with hooked(self._a, self._numbers, self._keep):
            self._a(x)
        with hooked(self._b, self._numbers, self._compare):
            self._b(x)
        for point, waiting in self._waiting.items():
            if waiting:
                raise _uneven(point)
        self._add_seen()

    def scale(self, weight: float) -> None:
        """Count all so far `weight` times."""
        for moments in self._moments.values():
            moments.scale(weight)

    def costs(self, cost: Cost) -> dict[tuple[str, ...], Tensor]:
        """Return how alike A's and B's units are, for each combination of groups that is seen."""
        found: dict[tuple[str, ...], list[Tensor]] = {}
        for block, moments in self._moments.items():
            # The assignment is solved on the CPU wherever the moments were gathered.
            statistic: Tensor = getattr(moments, cost)().cpu()
            if not torch.isfinite(statistic).all():
                raise ValueError(
                    f"activations at '{block.point.module}:{block.point.side}' must be finite"
                )
            found.setdefault(block.groups, []).append(statistic)
        return {groups: torch.stack(parts).mean(0) for groups, parts in found.items()}

    def _units(self, point: Point, tensor: object) -> list[Tensor]:
        if not isinstance(tensor, Tensor) or not point.fits(tensor, self._extents):
            raise _uneven(point)
        cut = point.cut(tensor, self._extents)
        return [units_first(*cut[block.number]) for block in self._numbers[point]]

    def _keep(self, point: Point, tensor: object) -> None:
        # A copy: what comes behind may work in place.
        units = [block.clone() for block in self._units(point, tensor)]
        self._waiting[point].append(units)

    def _compare(self, point: Point, tensor: object) -> None:
        if not self._waiting[point]:
            raise _uneven(point)
        units_a, units_b = self._waiting[point].popleft(), self._units(point, tensor)
        for block, a, b in zip(self._numbers[point], units_a, units_b, strict=True):
            # A GPU adds all layers at once, at the end: a copy, as above.
            self._seen.append((self._moments[block], a, b.clone() if b.is_cuda else b))
        if units_b and not units_b[0].is_cuda:
            self._add_seen()

    def _add_seen(self) -> None:
        """Add what was seen of both networks, and forget it."""
        batches = [(a, b) for _, a, b in self._seen]
        moments = [each for each, *_ in self._seen]
        update_moments(moments, batches, axis=0, precision=self._precision)
        self._seen = []


def _solve(spec: PermutationSpec, costs: dict[tuple[str, ...], Tensor], seed: int) -> Permutation:
    """Return the best permutation: a plain assignment for a group that is seen by itself."""
    parents = {parent for above in spec.within.values() for parent in above}
    tied = {g for groups in costs for g in groups if len(groups) > 1} | {*spec.within, *parents}
    alone = [groups for groups in costs if not tied & set(groups)]
    solved = solve_assignment([costs[groups] for groups in alone], maximize=True)
    found = {groups[0]: solution.col_ind for groups, solution in zip(alone, solved, strict=True)}
    if tied:
        found |= _solve_nested(spec, {g: c for g, c in costs.items() if g not in alone}, seed)
    return {group: found[group] for group in spec.groups}


def _solve_nested(
    spec: PermutationSpec, costs: dict[tuple[str, ...], Tensor], seed: int
) -> Permutation:
    """Return the best permutation of groups inside groups, by weight matching of made-up weights.

    The inner product of a cost matrix C with the identity whose rows are permuted is the sum of
    C[i, permutation[i]].
    """
    axes = {"*".join(groups): ("*".join(groups), None) for groups in costs}
    groups = {group for names in costs for group in names}
    made_up = PermutationSpec.from_axes(
        axes,
        within={group: above for group, above in spec.within.items() if group in groups},
        sizes={group: spec.sizes[group] for group in groups},
    )
    params_a = {"*".join(names): matrix for names, matrix in costs.items()}
    params_b = {name: torch.eye(len(matrix)).to(matrix) for name, matrix in params_a.items()}
    return weight_matching(made_up, params_a, params_b, seed=seed).permutation


def _uneven(point: Point) -> ValueError:
    return ValueError(
        f"model_a and model_b must compute alike, but what passes '{point.module}:{point.side}' "
        "differs between them or from one batch to the next"
    )


def _check_options(
    cost: str, observe: Observe, precision: str, batch_size: int, max_examples: int | None
) -> None:
    problems = []
    if cost not in ("correlation", "covariance", "cosine"):
        problems.append(f"cost must be correlation, covariance or cosine, got {cost!r}")
    if isinstance(observe, str) and observe not in ("input", "output", "normalized"):
        problems.append(
            f"observe must be input, output, normalized, or points for some groups, got {observe!r}"
        )
    if precision not in ("highest", "high", "medium"):
        problems.append(f"precision must be highest, high or medium, got {precision!r}")
    if batch_size < 1:
        problems.append(f"batch_size must be at least 1, got {batch_size}")
    if max_examples is not None and max_examples < 1:
        problems.append(f"max_examples must be at least 1, got {max_examples}")
    if problems:
        raise ValueError("; ".join(problems))
