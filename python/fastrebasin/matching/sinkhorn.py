"""Sinkhorn matching: align units by gradient descent on soft permutations.

After the idea of Guerrero Pena et al., "Re-basin via implicit Sinkhorn differentiation", CVPR 2023
(doi:10.1109/CVPR52729.2023.01938): each permutation is relaxed to a doubly stochastic matrix, the
entropy-regularised assignment of latent scores, through which the loss of the merged model is
differentiated. The formulas below are derived here. Unlike theirs, each balancing starts from the
potentials of the last step; the gradient is that of the marginals that were reached, so it is exact
also where the balancing stops early; the search starts from weight matching; and the permutation
returned is the best by the loss of the network that it makes, not of the soft one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastrebasin import layout
from fastrebasin.assignment import Assignment, solve_assignment
from fastrebasin.data import Data
from fastrebasin.matching.midpoint import Midpoint
from fastrebasin.matching.result import Matching
from fastrebasin.matching.search import (
    OptimizerFactory,
    Schedule,
    SchedulerFactory,
    Settings,
    descend,
)
from fastrebasin.matching.selection import Select
from fastrebasin.matching.weights import WeightMatcher
from fastrebasin.permutation import Permutation, check_permutation, identity_permutation
from fastrebasin.spec import PermutationSpec

__all__ = ["sinkhorn_matching", "soft_permutation"]

_RIDGE = 1e-12  # keeps the system of a soft permutation that is all but hard regular


def sinkhorn_matching(
    spec: PermutationSpec,
    model_a: nn.Module,
    model_b: nn.Module,
    data: Data,
    *,
    epochs: int = 5,
    lr: float = 0.1,
    batch_size: int = 500,
    temperature: float = 1.0,
    iterations: int = 20,
    init: Mapping[str, object] | Literal["weights", "identity"] = "weights",
    schedule: Schedule = "constant",
    match_every: int = 10,
    select: Select = "batch",
    optimizer: OptimizerFactory | None = None,
    scheduler: SchedulerFactory | None = None,
    autocast: torch.dtype | None = None,
    compile: bool = False,  # noqa: A002 - torch's name
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> Matching:
    """Find a permutation of B's units by descending on soft ones; the best hard one is returned.

    Args:
        spec: which axes share a permutation. Groups must be flat: no attention heads with units.
        model_a, model_b, data, epochs, batch_size, schedule, scheduler, autocast, compile,
            checkpoint, checkpoint_every, seed, progress: as for `straight_through_matching`.
        lr: of Adam on the scores, an (n, n) matrix for each group of n units.
        temperature: scores are divided by it; the higher, the softer.
        iterations: of balancing a soft permutation at each step, at most. Rows then sum to one
            within half the digits of their dtype, or what was reached; columns do within rounding.
        init: where to start: by weight matching, at the identity, or at a permutation. Its pairs
            get half of each soft permutation.
        match_every: harden the scores every so many steps and at the last, by linear assignment.
        select: how the hard permutations are scored, as for `straight_through_matching`; the start
            is the first of them.
        optimizer: makes an optimiser of a list of tensors, in place of Adam and `lr`.

    Returns:
        The hard permutation that `select` finds best, the inner product of A's weights with B's so
        permuted, how often scores were hardened, and the soft network's loss at each step.

    Raises:
        ValueError: the models don't fit each other or the spec, groups lie inside others, `init`
            doesn't fit, an option is out of range, the loss is no longer finite, or `checkpoint`
            is damaged or of other arguments.

    Example:
        >>> from fastrebasin.architectures import mlp
        >>> from fastrebasin.experiments.models import MLP
        >>> a, b = MLP(4, (8,), 2), MLP(4, (8,), 2)
        >>> x, y = torch.randn(20, 4), torch.randint(2, (20,))
        >>> found = sinkhorn_matching(mlp(1), a, b, (x, y), epochs=3)
        >>> len(found.losses), sorted(found.permutation)
        (3, ['P0'])

    Source: Guerrero Pena et al., CVPR 2023, as idea.
    """

    def adam(trained: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(trained, lr=lr)

    midpoint = Midpoint(spec, model_a, model_b, autocast=autocast, compile=compile)
    if midpoint.spec.within:
        raise ValueError(
            "sinkhorn_matching needs flat groups, but these lie inside others: "
            + ", ".join(map(repr, midpoint.spec.within))
        )
    start = _start(midpoint, init, seed)
    own = {"temperature": temperature, "iterations": iterations, "compile": compile,
           "init": {group: p.tolist() for group, p in start.items()}}  # fmt: skip
    settings = Settings(
        "sinkhorn", own, optimizer or adam, scheduler, schedule, epochs, batch_size, match_every,
        select, autocast, checkpoint, checkpoint_every, seed, progress,
    )  # fmt: skip
    settings.check(lr=lr, temperature=temperature, iterations=iterations)
    return descend(_Sinkhorn(midpoint, start, temperature, iterations), data, settings)


class _Sinkhorn:
    """Scores of the pairs of each group, and what they become; see `search.Search`."""

    def __init__(
        self, midpoint: Midpoint, start: Permutation, temperature: float, iterations: int
    ) -> None:
        self.midpoint = midpoint
        self.sweeps = 0
        self._temperature, self._iterations = temperature, iterations
        first = next(iter(midpoint.a.values()))
        self._scores = {}
        self._potentials = {}
        self._former: dict[str, Assignment] = {}
        for group, permutation in start.items():
            size = len(permutation)
            dtype = torch.promote_types(first.dtype, torch.float32)
            scores = torch.zeros(size, size, dtype=dtype)
            # Softmax then leaves half of each row to this pair, and half to all others together.
            scores[torch.arange(size), permutation] = temperature * math.log(max(2, size - 1))
            self._scores[group] = scores.to(first.device).requires_grad_()
            self._potentials[group] = torch.zeros(size, dtype=dtype, device=first.device)
        self.trained = list(self._scores.values())

    def project(self) -> float:
        """Harden the scores: the assignment of the largest sum."""
        self.sweeps += 1
        for group, scores in self._scores.items():
            self._former[group] = solve_assignment(
                scores.detach().cpu(), maximize=True, warm_start=self._former.get(group)
            )
        return self.midpoint.move_to({group: a.col_ind for group, a in self._former.items()})

    def loss_and_gradient(self, x: Tensor, y: Tensor, scaler: torch.amp.GradScaler) -> float:
        """Return the loss of the network merged softly, and leave its gradient in the scores."""
        soft = {}
        for group, scores in self._scores.items():
            scores.grad = None
            soft[group], self._potentials[group] = soft_permutation(
                scores / self._temperature, self._potentials[group], self._iterations
            )
        merged = {
            name: torch.lerp(a, _mixed(self.midpoint, name, soft), 0.5)
            for name, a in self.midpoint.a.items()
        }
        loss = self.midpoint.loss(merged, x, y)
        torch.autograd.backward([scaler.scale(loss)], inputs=self.trained)
        return loss.item()

    def hard_loss(self, x: Tensor, y: Tensor) -> float:
        """Return the loss under the permutation in force."""
        return self.midpoint.hard_loss(x, y)

    def objective(self, permutation: Permutation) -> float:
        """Return the inner product of A's weights with B's permuted ones."""
        return _matcher(self.midpoint).objective(permutation)

    def forget(self) -> None:
        """Begin with no assignment to start the next ones from."""
        self._former.clear()

    def state(self) -> dict[str, Any]:
        """Return how often scores were hardened, and where balancing starts."""
        return {"sweeps": self.sweeps, "potentials": self._potentials}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.sweeps = state["sweeps"]
        for group, potential in self._potentials.items():
            potential.copy_(state["potentials"][group])


def soft_permutation(logits: Tensor, potential: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Scale exp(logits) by factors of rows and columns until all of them sum to one.

    Args:
        logits: shape (n, n), float32 or float64; may require a gradient.
        potential: shape (n,), logarithms of the columns' factors to start from, such as those that
            were found for similar logits.
        iterations: at most so many times all rows, then all columns.

    Returns:
        The doubly stochastic matrix, differentiable in `logits`, and the columns' potential.

    Example:
        >>> soft, _ = soft_permutation(torch.randn(3, 3), torch.zeros(3), iterations=100)
        >>> [torch.allclose(soft.sum(axis), torch.ones(3), atol=1e-3) for axis in (0, 1)]
        [True, True]

    Source: Sinkhorn and Knopp 1967, doi:10.2140/pjm.1967.21.343, in the logarithms.
    """
    fixed, columns = logits.detach(), potential
    tolerance = torch.finfo(logits.dtype).eps ** 0.5
    rows = -torch.logsumexp(fixed + columns, 1)
    for _ in range(iterations):
        columns = -torch.logsumexp(fixed + rows[:, None], 0)
        better = -torch.logsumexp(fixed + columns, 1)
        if (better - rows).abs().max() < tolerance:
            break  # columns sum to one, and rows nearly do
        rows = better
    else:
        columns = -torch.logsumexp(fixed + rows[:, None], 0)
    soft: Tensor = _Balanced.apply(logits, rows, columns)  # type: ignore[no-untyped-call]
    return soft, columns


class _Balanced(torch.autograd.Function):
    """exp(logits + rows + columns), differentiated with its own sums of rows and columns held."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        soft = (logits + rows[:, None] + columns).exp()
        ctx.save_for_backward(soft)
        return soft

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient, minus what the potentials' answer to a change takes away.

        With G the gradient at P = exp(logits + f + g), it is P * (G - u - v), u by rows and v by
        columns such that all its rows and columns sum to zero. Of these 2n linear equations, those
        for u are solved by hand, which leaves n for v, singular in a constant that cancels.
        """
        (gradient,) = gradients
        soft = ctx.saved_tensors[0].double()
        weighted = soft * gradient.double()
        rows, columns = soft.sum(1), soft.sum(0)
        by_row = weighted.sum(1) / rows
        system = torch.diag(columns + _RIDGE) - soft.T @ (soft / rows[:, None])
        system += 1 / len(soft)  # a constant is answered by itself
        factor: Tensor = torch.linalg.cholesky_ex(system).L
        v = torch.cholesky_solve((weighted.sum(0) - soft.T @ by_row)[:, None], factor)[:, 0]
        u = by_row - soft @ v / rows
        found: Tensor = weighted - soft * (u[:, None] + v)
        return found.to(gradient.dtype), None, None


def _mixed(midpoint: Midpoint, name: str, soft: Mapping[str, Tensor]) -> Tensor:
    """Return a parameter of B with each unit replaced by a mean of units: out = P b per axis."""
    tensor, spec = midpoint.b[name], midpoint.spec
    layouts = spec.layouts(name, tensor.ndim)
    if not any(layouts):
        return tensor
    mixed = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    sources = list(layout.blocks(tensor, layouts, spec.extents))
    if len(sources) == 1:
        return _mixed_block(*sources[0], soft).reshape(tensor.shape)
    targets = layout.blocks(mixed, layouts, spec.extents)
    for (source, groups), (target, _) in zip(sources, targets, strict=True):
        target.copy_(_mixed_block(source, groups, soft))
    return mixed


def _mixed_block(
    block: Tensor, groups: tuple[str | None, ...], soft: Mapping[str, Tensor]
) -> Tensor:
    for axis, group in enumerate(groups):
        if group is not None:
            mean = torch.tensordot(soft[group].to(block.dtype), block, ([1], [axis]))
            block = mean.movedim(0, axis)
    return block


def _matcher(midpoint: Midpoint) -> WeightMatcher:
    return WeightMatcher(midpoint.spec, midpoint.state_dict(midpoint.a), midpoint.params_b)


def _start(midpoint: Midpoint, init: Mapping[str, object] | str, seed: int) -> Permutation:
    if init == "identity":
        return identity_permutation(midpoint.spec.sizes)
    if init == "weights":
        matcher = _matcher(midpoint)
        generator = torch.Generator().manual_seed(seed)
        return matcher.match(matcher.anchored(), generator, 1000)[0]
    if not isinstance(init, Mapping):
        raise ValueError(f'init must be "weights", "identity" or a permutation, got {init!r}')
    return check_permutation(init, midpoint.spec.sizes, midpoint.spec.within)
