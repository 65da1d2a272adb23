"""Straight-through matching: align units so that the merged model does well on data.

Yamada et al., ACML 2024, algorithm 1 (section 3.2), after Ainsworth et al., ICLR 2023. Latent
weights are trained; at each step they are projected to the nearest permuted copy of B, the merged
model's value uses the projection, and its gradient goes to the latent weights. We differ from the
published code where that costs nothing: no pass over the data to reset BatchNorm statistics inside
a step (a forward pass in train mode doesn't read them), weight decay on parameters only and not on
statistics, models and parameters stay where they are.
"""

from __future__ import annotations

import copy
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from fastrebasin._progress import bar
from fastrebasin.data import Data, mixture, mixture_length, sources
from fastrebasin.matching.descent import WeightMatcher
from fastrebasin.matching.result import Matching
from fastrebasin.permutation import Permutation, apply_permutation, identity_permutation
from fastrebasin.spec import PermutationSpec

__all__ = ["straight_through_matching"]

Schedule = Literal["constant", "multistep", "cosine"]


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
    seed: int = 0,
    progress: bool = True,
) -> Matching:
    """Find the permutation of B's units whose midpoint with A has the lowest loss on `data`.

    Args:
        spec: which axes share a permutation.
        model_a, model_b: classifiers of one architecture, logits or log-probabilities out; on one
            device; not changed.
        data: labelled examples, or a pair (of A's data, of B's) drawn half and half.
        epochs: passes over `data`; one pass is a single step when it fits `batch_size`.
        lr, momentum, weight_decay: of stochastic gradient descent on the latent weights.
        batch_size: examples per step; batches go to the models' device.
        schedule: of `lr` over the steps: "constant", "multistep" (a tenth after half, a hundredth
            after three quarters) or "cosine" (to zero).
        max_sweeps: of the projection, a weight matching, at each step.
        seed: of the shuffling and of the order of groups.
        progress: show a bar on a terminal.

    Returns:
        The permutation of the step with the lowest loss on its batch, the inner product of A's
        weights with B's so permuted, sweeps over all steps, and the loss at each step.

    Raises:
        ValueError: the models don't fit each other or the spec, an option is out of range, or the
            loss is no longer finite.

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
    _check_options(epochs, lr, batch_size, max_sweeps, schedule)
    parts = sources(data)
    steps = epochs * mixture_length(parts, batch_size)
    search = _Search(spec, model_a, model_b, max_sweeps, seed)
    optimizer = torch.optim.SGD(
        list(search.latent.values()), lr=lr, momentum=momentum, weight_decay=weight_decay
    )
    scheduler = _scheduler(optimizer, schedule, steps)
    generator = torch.Generator().manual_seed(seed)
    stream = (batch for _ in range(epochs) for batch in mixture(parts, batch_size, generator))
    losses: list[float] = []
    best, best_permutation = math.inf, search.permutation
    for x, y in bar(stream, "straight-through", progress=progress, total=steps, unit="step"):
        search.project()
        loss = search.loss_and_gradient(x, y)
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss is {loss} at step {len(losses)}: try a smaller lr than {lr}"
            )
        if loss < best:
            best, best_permutation = loss, dict(search.permutation)
        optimizer.step()
        scheduler.step()
        losses.append(loss)
    return Matching(
        best_permutation, search.objective(best_permutation), search.sweeps, tuple(losses)
    )


class _Search:
    """The state of the search: latent weights and the permutation that they project to."""

    def __init__(
        self,
        spec: PermutationSpec,
        model_a: nn.Module,
        model_b: nn.Module,
        max_sweeps: int,
        seed: int,
    ) -> None:
        params_a, self._params_b = model_a.state_dict(), model_b.state_dict()
        self._spec = spec
        self._matcher = WeightMatcher(spec, params_a, self._params_b)
        self._max_sweeps = max_sweeps
        self._generator = torch.Generator().manual_seed(seed)
        self._model = _with_batch_statistics(copy.deepcopy(model_a))
        self._params_a = {name: params_a[name] for name, _ in self._model.named_parameters()}
        self._others = {n: t.clone() for n, t in params_a.items() if n not in self._params_a}
        self.latent = {name: tensor.clone() for name, tensor in self._params_a.items()}
        self.permutation: Permutation = identity_permutation(self._matcher.sizes)
        self.sweeps = 0

    def project(self) -> None:
        """Find the permutation of B that is nearest to the latent weights."""
        self._matcher.set_target({**self._others, **self.latent})
        self.permutation, sweeps = self._matcher.match(
            self.permutation, self._generator, self._max_sweeps
        )
        self.sweeps += sweeps

    def loss_and_gradient(self, x: Tensor, y: Tensor) -> float:
        """Return the merged model's loss, and leave its gradient in the latent weights."""
        moved = apply_permutation(self._spec, self.permutation, self._params_b)
        merged = {
            name: torch.lerp(a, moved[name], 0.5).requires_grad_()
            for name, a in self._params_a.items()
        }
        device = next(iter(merged.values())).device
        output = functional_call(self._model, {**self._others, **merged}, (x.to(device),))
        loss = functional.cross_entropy(output, y.to(device))
        gradients = torch.autograd.grad(loss, list(merged.values()))
        for latent, gradient in zip(self.latent.values(), gradients, strict=True):
            latent.grad = gradient.mul_(0.5)  # the latent weights are half of the merged ones
        return loss.item()

    def objective(self, permutation: Permutation) -> float:
        """Return the inner product of A's weights with B's permuted ones."""
        self._matcher.set_target({**self._others, **self._params_a})
        return self._matcher.objective(permutation)


def _with_batch_statistics(model: nn.Module) -> nn.Module:
    """Normalise by the batch, as the merged model's own statistics are unknown; no dropout."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    return model


def _scheduler(
    optimizer: torch.optim.Optimizer, schedule: Schedule, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if schedule == "multistep":
        milestones = [steps // 2, steps * 3 // 4]
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
    if schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _check_options(epochs: int, lr: float, batch_size: int, max_sweeps: int, schedule: str) -> None:
    positive = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "max_sweeps": max_sweeps}
    problems = [f"{name} must be positive, got {v}" for name, v in positive.items() if not v > 0]
    if schedule not in ("constant", "multistep", "cosine"):
        problems.append(f"schedule must be constant, multistep or cosine, got {schedule!r}")
    if problems:
        raise ValueError("; ".join(problems))
