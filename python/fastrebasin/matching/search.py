"""The loop of every search on data: batches, optimiser, selection, and going on from a file.

A method says what is trained and how it becomes a permutation (`Search`); the rest is the same for
all, and is that of Yamada et al., ACML 2024, algorithm 1: project, evaluate, select, step.
"""

from __future__ import annotations

import functools
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LRScheduler,
    MultiStepLR,
)

from fastrebasin._progress import bar
from fastrebasin.data import (
    Batch,
    Data,
    Examples,
    WeightedBatch,
    held_tensors,
    mixture,
    mixture_length,
    on_device,
    sources,
    weighted_batches,
)
from fastrebasin.matching.midpoint import Midpoint
from fastrebasin.matching.readings import Number
from fastrebasin.matching.result import Matching
from fastrebasin.matching.selection import SELECTIONS, Select
from fastrebasin.permutation import Permutation, permutation_on
from fastrebasin.saved_state import digest, read_state, write_state

__all__ = ["OptimizerFactory", "Schedule", "SchedulerFactory", "Search", "Settings", "descend"]

Schedule = Literal["constant", "multistep", "cosine"]
OptimizerFactory: TypeAlias = Callable[[list[Tensor]], Optimizer]
SchedulerFactory: TypeAlias = Callable[[Optimizer], LRScheduler]


class Search(Protocol):
    """What a method trains, and how that becomes a permutation.

    Attributes:
        midpoint: the network halfway between A and B under the permutation in force.
        trained: what the optimiser moves.
        sweeps: passes over all groups so far.
    """

    midpoint: Midpoint
    trained: list[Tensor]
    sweeps: int

    def project(self) -> Number:
        """Put the permutation of what is trained in force; return the share of units kept."""
        ...

    def loss_and_gradient(self, x: Tensor, y: Tensor, scaler: torch.amp.GradScaler) -> Tensor:
        """Return the loss that is trained, and leave its scaled gradient in `trained`."""
        ...

    def hard_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss under the permutation in force, on the batch of `loss_and_gradient`."""
        ...

    def objective(self, permutation: Permutation) -> float:
        """Return the inner product of A's weights with B's permuted ones."""
        ...

    def forget(self) -> None:
        """Drop what only saves time, as it is not stored and could decide between equals."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what else `restore` needs besides `trained` and the permutation in force."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options that all searches share, as the methods document them.

    Attributes:
        method: its name.
        options: those of the method alone, and what else its result depends on.
        optimizer: makes the optimiser of what is trained.
        autocast: dtype of the forward pass, or None for that of the parameters.
    """

    method: str
    options: Mapping[str, object]
    optimizer: OptimizerFactory
    scheduler: SchedulerFactory | None
    schedule: Schedule
    epochs: int
    batch_size: int
    match_every: int
    select: Select
    autocast: torch.dtype | None
    checkpoint: str | Path | None
    checkpoint_every: int
    seed: int
    progress: bool

    def check(self, **positive: float) -> None:
        """Raise a `ValueError` that names every option out of range, also of others given."""
        names = ("epochs", "batch_size", "match_every", "checkpoint_every")
        positive = {**{name: getattr(self, name) for name in names}, **positive}
        problems = [
            f"{name} must be positive, got {v}" for name, v in positive.items() if not v > 0
        ]
        if self.schedule not in ("constant", "multistep", "cosine"):
            problems.append(
                f"schedule must be constant, multistep or cosine, got {self.schedule!r}"
            )
        if self.select not in SELECTIONS:
            *others, last = SELECTIONS
            problems.append(f"select must be {', '.join(others)} or {last}, got {self.select!r}")
        if self.autocast not in (None, torch.bfloat16, torch.float16):
            problems.append(f"autocast must be bfloat16, float16 or None, got {self.autocast}")
        if self.checkpoint is not None and Path(self.checkpoint).suffix != ".safetensors":
            problems.append(f"checkpoint must end in .safetensors, got {self.checkpoint}")
        if problems:
            raise ValueError("; ".join(problems))


def descend(search: Search, data: Data, settings: Settings) -> Matching:
    """Take all steps, or those that are left, and return the best permutation."""
    run = _Run(search, sources(data), settings)
    run.resume()
    left, done = run.batches(), run.done
    for x, y in bar(
        left, settings.method, progress=settings.progress, total=run.steps, unit="step", done=done
    ):
        run.step(x, y)
    search.midpoint.readings.now([])
    run.selection.finish()
    best = permutation_on(run.selection.permutation, torch.device("cpu"))
    return Matching(best, search.objective(best), search.sweeps, tuple(run.losses))


class _Run:
    """One search from its first step, or from a stored one, to its last.

    Attributes:
        steps: how many there are.
        done: how many were taken.
        losses: of those whose loss has been read.
        selection: what is best so far.
    """

    def __init__(self, search: Search, parts: tuple[Examples, ...], settings: Settings) -> None:
        midpoint = search.midpoint
        self._search, self._settings, self._given = search, settings, parts
        self._parts = [on_device(part, midpoint.device) for part in parts]
        self._length = mixture_length(parts, settings.batch_size)
        self.steps, self.done = settings.epochs * self._length, 0
        self.losses: list[float] = []
        self.selection = SELECTIONS[settings.select](midpoint, self._all_data)
        self._optimizer = settings.optimizer(search.trained)
        self._scheduler = (
            _scheduler(self._optimizer, settings.schedule, self.steps)
            if settings.scheduler is None
            else settings.scheduler(self._optimizer)
        )
        # The gradients of small activations underflow in float16, though not in bfloat16.
        self._scaler = torch.amp.GradScaler(
            midpoint.device.type, enabled=settings.autocast == torch.float16
        )
        self._everything: list[WeightedBatch] = []
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._epoch_state = self._generator.get_state()
        self._path = None if settings.checkpoint is None else Path(settings.checkpoint)
        self._about = {} if self._path is None else self._description()

    def batches(self) -> Iterator[Batch]:
        """Yield the batches of all steps that are left."""
        while self.done < self.steps:
            self._epoch_state = self._generator.get_state()
            first = self.done % self._length
            yield from mixture(self._parts, self._settings.batch_size, self._generator, first=first)

    def step(self, x: Tensor, y: Tensor) -> None:
        """Project if it is time, evaluate, select, and move what is trained."""
        number, every = self.done, self._settings.match_every
        due = number % every == 0 or number == self.steps - 1
        kept = self._search.project() if due else 1.0
        loss = self._search.loss_and_gradient(x, y, self._scaler)
        note = functools.partial(self._note, number, self._optimizer.param_groups[0]["lr"])
        self._search.midpoint.readings.later([loss], note)
        self.selection.observe(kept, lambda: self._search.hard_loss(x, y))
        scale = self._scaler.get_scale()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._scaler.get_scale() >= scale:  # else float16 overflowed, and no step was taken
            self._scheduler.step()
        self.done += 1
        self._save()

    def _note(self, number: int, lr: float, loss: float) -> None:
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss} at step {number}: try a smaller lr than {lr}")
        self.losses.append(loss)

    def resume(self) -> None:
        """Go on from the file, if there is one."""
        if self._path is None or not self._path.exists():
            return
        state = read_state(self._path, self._about)
        for tensor, stored in zip(self._search.trained, state["trained"], strict=True):
            tensor.detach().copy_(stored)
        self._search.midpoint.move_to(state["permutation"])
        self._search.restore(state["search"])
        self.selection.restore(state["selection"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])
        self._scaler.load_state_dict(state["scaler"])
        self._generator.set_state(state["generator"])
        self.losses = state["losses"].tolist()
        self.done = len(self.losses)

    def _save(self) -> None:
        due = self.done % self._settings.checkpoint_every == 0 or self.done == self.steps
        if self._path is None or not due:
            return
        self._search.midpoint.readings.now([])  # what has been observed is part of the state
        # Inside an epoch its order is drawn again, and what was seen of it is passed over.
        within = self.done % self._length != 0
        state = {
            "trained": self._search.trained,
            "permutation": self._search.midpoint.permutation,
            "search": self._search.state(),
            "selection": self.selection.state(),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "scaler": self._scaler.state_dict(),
            "generator": self._epoch_state if within else self._generator.get_state(),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }
        write_state(self._path, state, self._about)
        self._search.forget()

    def _description(self) -> dict[str, str]:
        """Return what the result depends on, as short texts."""
        settings, midpoint = self._settings, self._search.midpoint
        names = ("method", "epochs", "batch_size", "match_every", "select", "autocast",
                 "checkpoint_every", "seed")  # fmt: skip
        schedule = self._scheduler.state_dict()
        about = {
            "format": 1,
            **{name: getattr(settings, name) for name in names},
            **settings.options,
            "optimizer": f"{type(self._optimizer).__name__} {self._optimizer.defaults}",
            "scheduler": f"{type(self._scheduler).__name__} "
            + json.dumps(schedule, default=lambda value: type(value).__name__),
            "spec": zlib.crc32(midpoint.spec.to_json().encode()),
            "model_a": digest(midpoint.state_dict(midpoint.a).values()),
            "model_b": digest(midpoint.params_b.values()),
            "data": [f"{len(part)} examples {digest(held_tensors(part))}" for part in self._given],
        }
        return {name: str(value) for name, value in about.items()}

    def _all_data(self) -> list[WeightedBatch]:
        """Return all examples, taken and put on the device once."""
        if not self._everything:
            size, device = self._settings.batch_size, self._search.midpoint.device
            generator = torch.Generator().manual_seed(self._settings.seed)
            self._everything = [
                (x.to(device), y.to(device), weight.to(device))
                for x, y, weight in weighted_batches(self._parts, size, generator)
            ]
        return self._everything


def _scheduler(optimizer: Optimizer, schedule: Schedule, steps: int) -> LRScheduler:
    if schedule == "multistep":
        return MultiStepLR(optimizer, [steps // 2, steps * 3 // 4])
    if schedule == "cosine":
        return CosineAnnealingLR(optimizer, steps)
    return ConstantLR(optimizer, factor=1.0)
