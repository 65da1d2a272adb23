"""Sinkhorn matching: align units by gradient descent on soft permutations.

The idea is that of Guerrero Pena et al., "Re-basin via implicit Sinkhorn differentiation", CVPR
2023 (arXiv:2212.12042): each permutation is relaxed to a doubly stochastic matrix, the
entropy-regularised assignment of latent scores, through which the loss of the merged model is
differentiated. The rest is ours: each balancing starts from the potentials of the last step (see
`soft` for it and its gradient), the search starts from weight matching, and the permutation
returned is the best by the loss of the network that it makes, not of the soft one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastrebasin.assignment import Assignment
from fastrebasin.data import Data
from fastrebasin.matching.descent import WeightMatcher
from fastrebasin.matching.midpoint import Midpoint
from fastrebasin.matching.readings import Number
from fastrebasin.matching.result import Matching
from fastrebasin.matching.search import (
    OptimizerFactory,
    Schedule,
    SchedulerFactory,
    Settings,
    descend,
)
from fastrebasin.matching.selection import Select
from fastrebasin.matching.soft import mix_units, soft_permutation
from fastrebasin.matching.solving import solve
from fastrebasin.matching.weights import weight_matching
from fastrebasin.permutation import Permutation, check_permutation, identity_permutation
from fastrebasin.saved_state import digest
from fastrebasin.spec import PermutationSpec

__all__ = ["sinkhorn_matching"]


def sinkhorn_matching(
    spec: PermutationSpec,
    model_a: nn.Module,
    model_b: nn.Module,
    data: Data,
    *,
    epochs: int = 5,
    lr: float = 1.0,
    batch_size: int = 500,
    temperature: float = 1.0,
    iterations: int = 5,
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

    own = {"temperature": temperature, "iterations": iterations, "compile": compile}
    settings = Settings(
        method="sinkhorn", options=own, optimizer=optimizer or adam, scheduler=scheduler,
        schedule=schedule, epochs=epochs, batch_size=batch_size, match_every=match_every,
        select=select, autocast=autocast, checkpoint=checkpoint,
        checkpoint_every=checkpoint_every, seed=seed, progress=progress,
    )  # fmt: skip
    settings.check(lr=lr, temperature=temperature, iterations=iterations)
    midpoint = Midpoint(spec, model_a, model_b, autocast=autocast, compile=compile)
    if midpoint.spec.within:
        raise ValueError(
            "sinkhorn_matching needs flat groups, but these lie inside others: "
            + ", ".join(map(repr, midpoint.spec.within))
        )
    start = _start(midpoint, model_a.state_dict(), init, seed)
    settings = replace(settings, options={**own, "start": digest(start.values())})
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

    def project(self) -> Number:
        """Harden the scores: the assignment of the largest sum."""
        self.sweeps += 1
        midpoint = self.midpoint
        found = solve(
            [scores.detach() for scores in self.trained],
            [self._former.get(group) for group in self._scores],
            midpoint.readings,
        )
        self._former = dict(zip(self._scores, found, strict=True))
        orders = {group: assignment.col_ind for group, assignment in self._former.items()}
        moved = {g: (order != midpoint.permutation[g]).any() for g, order in orders.items()}
        for group, moves in zip(moved, midpoint.readings.now(moved.values()), strict=True):
            if not moves:
                orders[group] = midpoint.permutation[group]
        return midpoint.move_to(orders)

    def loss_and_gradient(self, x: Tensor, y: Tensor, scaler: torch.amp.GradScaler) -> Tensor:
        """Return the loss of the network merged softly, and leave its gradient in the scores."""
        soft = {}
        for group, scores in self._scores.items():
            scores.grad = None
            soft[group], self._potentials[group] = soft_permutation(
                scores / self._temperature, self._potentials[group], self._iterations
            )
        merged = {
            name: torch.lerp(
                a, mix_units(self.midpoint.b[name], self.midpoint.spec, name, soft), 0.5
            )
            for name, a in self.midpoint.a.items()
        }
        loss = self.midpoint.loss(merged, x, y)
        torch.autograd.backward([scaler.scale(loss)], inputs=self.trained)
        return loss.detach()

    def hard_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss under the permutation in force."""
        return self.midpoint.hard_loss(x, y)

    def objective(self, permutation: Permutation) -> float:
        """Return the inner product of A's weights with B's permuted ones."""
        midpoint = self.midpoint
        params_a = midpoint.state_dict(midpoint.a)
        return WeightMatcher(midpoint.spec, params_a, midpoint.params_b).objective(permutation)

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


def _start(
    midpoint: Midpoint, params_a: Mapping[str, Tensor], init: Mapping[str, object] | str, seed: int
) -> Permutation:
    if init == "identity":
        return identity_permutation(midpoint.spec.sizes)
    if init == "weights":
        return weight_matching(midpoint.spec, params_a, midpoint.params_b, seed=seed).permutation
    if not isinstance(init, Mapping):
        raise ValueError(f'init must be "weights", "identity" or a permutation, got {init!r}')
    return check_permutation(init, midpoint.spec.sizes)
