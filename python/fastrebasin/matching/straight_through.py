"""Straight-through matching: align units so that the merged model does well on data.

Yamada et al., ACML 2024, algorithm 1 (section 3.2), after Ainsworth et al., ICLR 2023. Latent
weights are trained; at each step they are projected to the nearest permuted copy of B, the merged
model's value uses the projection, and its gradient goes to the latent weights. We differ from the
published code where that costs nothing (see `midpoint`), and decay the weights of parameters only,
not statistics. Fewer projections, other scores, optimisers and precisions are options of our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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
from fastrebasin.permutation import Permutation
from fastrebasin.spec import PermutationSpec

__all__ = ["straight_through_matching"]


def straight_through_matching(
    spec: PermutationSpec,
    model_a: nn.Module,
    model_b: nn.Module,
    data: Data,
    *,
    epochs: int = 5,
    lr: float = 0.1,
    batch_size: int = 500,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    schedule: Schedule = "constant",
    max_sweeps: int = 100,
    match_every: int = 1,
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
    """Find the permutation of B's units whose midpoint with A has the lowest loss on `data`.

    Args:
        spec: which axes share a permutation.
        model_a, model_b: classifiers of one architecture, logits or log-probabilities out; on one
            device; not changed.
        data: labelled examples, or several sources (A's, B's) drawn evenly. Tensors of up
            to 1 GiB are copied to the models' device, else each batch is.
        epochs: passes over `data`; one pass is a single step when it fits `batch_size`.
        lr, momentum, weight_decay: of stochastic gradient descent on the latent weights.
        batch_size: examples per step.
        schedule: of `lr` over the steps: "constant", "multistep" (a tenth after half, a hundredth
            after three quarters) or "cosine" (to zero).
        max_sweeps: of the projection, a weight matching.
        match_every: project every so many steps and at the last; the permutation is kept between.
        select: the best permutation has the lowest loss on a single "batch", as published; or the
            lowest moving "average" over about ten batches, which forgets as much as units change
            partners; or the lowest on all of `data` ("surrogate", as it should be a small one),
            evaluated when the permutation has changed.
        optimizer: makes an optimiser of a list of tensors, in place of `lr`, `momentum` and
            `weight_decay`.
        scheduler: makes of the optimiser what is stepped after each step, in place of `schedule`.
        autocast: `torch.bfloat16` or `torch.float16`: precision of the forward pass. The loss, the
            latent weights and, in float16, a scale of the loss are in float32.
        compile: pass the forward pass to `torch.compile`.
        checkpoint: a file, `.safetensors`, for the state of the search. If it is there, the search
            goes on from it, to the same result as without interruption, as long as `data` doesn't
            draw random numbers itself. The file remains at the end and then gives the result.
        checkpoint_every: steps from one writing of the file to the next.
        seed: of the shuffling and of the order of groups.
        progress: show a bar on a terminal.

    Returns:
        The permutation that `select` finds best, the inner product of A's weights with B's so
        permuted, sweeps over all steps, and the loss at each step.

    Raises:
        ValueError: the models don't fit each other or the spec, an option is out of range, the
            loss is no longer finite, or `checkpoint` is damaged or of other arguments.

    Example:
        >>> from fastrebasin.architectures import mlp
        >>> from fastrebasin.experiments.models import MLP
        >>> a, b = MLP(4, (8,), 2), MLP(4, (8,), 2)
        >>> x, y = torch.randn(20, 4), torch.randint(2, (20,))
        >>> found = straight_through_matching(mlp(1), a, b, (x, y), epochs=3)
        >>> len(found.losses), sorted(found.permutation)
        (3, ['P0'])

    Source: Yamada et al., ACML 2024, algorithm 1.
    """

    def descent(trained: list[Tensor]) -> torch.optim.Optimizer:
        fused = midpoint.device.type in ("cpu", "cuda")
        return torch.optim.SGD(
            trained, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused
        )

    settings = Settings(
        method="straight-through", options={"max_sweeps": max_sweeps, "compile": compile},
        optimizer=optimizer or descent, scheduler=scheduler, schedule=schedule, epochs=epochs,
        batch_size=batch_size, match_every=match_every, select=select, autocast=autocast,
        checkpoint=checkpoint, checkpoint_every=checkpoint_every, seed=seed, progress=progress,
    )  # fmt: skip
    settings.check(lr=lr, max_sweeps=max_sweeps)
    midpoint = Midpoint(spec, model_a, model_b, autocast=autocast, compile=compile)
    return descend(_StraightThrough(midpoint, max_sweeps, seed), data, settings)


class _StraightThrough:
    """Latent weights, and their projection on the permuted copies of B; see `search.Search`."""

    def __init__(self, midpoint: Midpoint, max_sweeps: int, seed: int) -> None:
        self.midpoint = midpoint
        latent = {name: a.clone() for name, a in midpoint.a.items()}
        self.trained = list(latent.values())
        self.sweeps = 0
        self._target = midpoint.state_dict(latent)
        self._max_sweeps = max_sweeps
        self._generator = torch.Generator().manual_seed(seed)
        self.forget()

    def project(self) -> Number:
        """Find the permutation of B that is nearest to the latent weights."""
        self._matcher.set_target(self._target)
        permutation, sweeps = self._matcher.match(
            self.midpoint.permutation, self._generator, self._max_sweeps
        )
        self.sweeps += sweeps
        return self.midpoint.move_to(permutation)

    def loss_and_gradient(self, x: Tensor, y: Tensor, scaler: torch.amp.GradScaler) -> Tensor:
        """Return the midpoint's loss; its gradient goes straight through to the latent weights."""
        merged = list(self.midpoint.merged.values())
        loss = self.midpoint.loss(self.midpoint.merged, x, y)
        scaled: Tensor = scaler.scale(loss)
        # The latent weights are half of the merged ones.
        torch.autograd.backward([scaled], [torch.full_like(scaled, 0.5)], inputs=merged)
        for latent, leaf in zip(self.trained, merged, strict=True):
            latent.grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            leaf.grad = None
        self._loss = loss.detach()
        return self._loss

    def hard_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss under the permutation in force, which is the one that is trained."""
        del x, y
        return self._loss

    def objective(self, permutation: Permutation) -> float:
        """Return the inner product of A's weights with B's permuted ones."""
        self._matcher.set_target(self.midpoint.state_dict(self.midpoint.a))
        return self._matcher.objective(permutation)

    def forget(self) -> None:
        """Begin with no assignment to start the next ones from."""
        target = self.midpoint.state_dict(self.midpoint.a)
        self._matcher = WeightMatcher(
            self.midpoint.spec, target, self.midpoint.params_b, self.midpoint.readings
        )

    def state(self) -> dict[str, Any]:
        """Return the sweeps so far, and where the order of groups comes from."""
        return {"sweeps": self.sweeps, "order": self._generator.get_state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.sweeps = state["sweeps"]
        self._generator.set_state(state["order"])
