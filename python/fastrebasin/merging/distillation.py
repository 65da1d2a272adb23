"""Distillation: a merged network learns to answer as A does on A's data and as B does on B's.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015), with several
teachers, each on its own data, from a few images that are warped and mixed again and again. A
network that least squares merged is a good start: a few hundred steps suffice.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastrebasin._progress import bar
from fastrebasin.augmentation import Augment, augmented
from fastrebasin.checkpoints import check_finite
from fastrebasin.data import Data, Examples, sources

__all__ = ["distil"]


def distil(
    model: nn.Module,
    teachers: Sequence[nn.Module],
    data: Data,
    *,
    steps: int = 1000,
    lr: float = 1e-3,
    temperature: float = 2.0,
    batch_size: int = 500,
    augment: Augment = "auto",
    seed: int = 0,
    progress: bool = True,
) -> nn.Module:
    """Train a classifier to give its teachers' class probabilities, each teacher's on its data.

    The network stays in eval mode: what BatchNorm keeps doesn't change, and nothing is dropped.
    Labels aren't used.

    Args:
        model: returns logits or log-probabilities (batch, classes); not changed.
        teachers: the same, on the model's device; not changed.
        data: as many sources as teachers, each of which weighs the same; of a single source all
            teachers see all. Batches go to the model's device.
        steps: of Adam.
        lr: its rate at first, which falls to zero along a cosine.
        temperature: that logits are divided by before they are compared.
        batch_size: examples per step, of all sources together.
        augment: see `least_squares`.
        seed: of shuffling and copies.
        progress: show a bar on a terminal.

    Returns:
        A new model in eval mode.

    Raises:
        ValueError: an option is out of range, sources and teachers aren't equally many, or weights
            or the loss aren't finite.

    Example:
        >>> from fastrebasin.experiments.models import MLP
        >>> student, teacher, x = MLP(4, (8,), 2), MLP(4, (8,), 2), torch.randn(50, 4)
        >>> learned = distil(student, [teacher], (x, torch.zeros(50)), steps=100)
        >>> before, after = ((m(x) - teacher(x)).abs().mean() for m in (student, learned))
        >>> bool(after < before)
        True

    Source: Hinton, Vinyals and Dean, 2015, arXiv:1503.02531.
    """
    parts = sources(data)
    parts = parts * len(teachers) if len(parts) == 1 else parts
    _check(model, teachers, len(parts), steps, lr, temperature, batch_size)
    student = copy.deepcopy(model).eval()
    experts = [copy.deepcopy(teacher).eval() for teacher in teachers]
    share = -(-batch_size // len(parts))
    streams = [
        _batches(augmented(part, augment, seed), share, torch.Generator().manual_seed(seed))
        for part in parts
    ]
    device = next(student.parameters()).device
    optimizer = torch.optim.Adam(student.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for _ in bar(range(steps), "distillation", progress=progress, unit="step"):
        batches = [next(stream).to(device) for stream in streams]
        with torch.no_grad():
            answers = [expert(x) for expert, x in zip(experts, batches, strict=True)]
            target = functional.log_softmax(torch.cat(answers).float() / temperature, dim=1)
        output = functional.log_softmax(student(torch.cat(batches)).float() / temperature, dim=1)
        loss = functional.kl_div(output, target, reduction="batchmean", log_target=True)
        if not math.isfinite(loss.item()):
            raise ValueError(f"the loss must be finite, got {loss.item()}: try a smaller lr")
        optimizer.zero_grad()
        (temperature**2 * loss).backward()
        optimizer.step()
        schedule.step()
    return student


def _batches(source: Examples, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield shuffled batches without end, all of a size that the source can give."""
    size = min(size, len(source))
    while True:
        order = torch.randperm(len(source), generator=generator)
        for chosen in order[: len(order) // size * size].split(size):
            yield source.take(chosen)[0]


def _check(
    model: nn.Module,
    teachers: Sequence[nn.Module],
    parts: int,
    steps: int,
    lr: float,
    temperature: float,
    batch_size: int,
) -> None:
    named = {"model": model} | {f"teacher {k}": teacher for k, teacher in enumerate(teachers)}
    check_finite({name: each.state_dict() for name, each in named.items()})
    problems = []
    if parts != len(teachers):
        problems.append(
            f"data must have a source for each of {len(teachers)} teachers, got {parts}"
        )
    if steps < 0:
        problems.append(f"steps must not be negative, got {steps}")
    if not 0 < lr < math.inf:
        problems.append(f"lr must be positive and finite, got {lr}")
    if not 0 < temperature < math.inf:
        problems.append(f"temperature must be positive and finite, got {temperature}")
    if batch_size < 1:
        problems.append(f"batch_size must be at least 1, got {batch_size}")
    if problems:
        raise ValueError("; ".join(problems))
