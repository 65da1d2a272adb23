"""Kernel inducing points: the images from which kernel ridge regression learns the most.

Nguyen, Chen and Lee, "Dataset meta-learning from kernel ridge-regression" (ICLR 2021), for fully
connected networks. Images are those with the least squared error of kernel ridge regression on
them, over targets drawn from a data set, found by Adam. Yamada et al., ACML 2024, merge by images
that were made so (section 3.7), with the kernel of a convolutional network, which costs thousands
of times as much. We differ in that half-done work can go on from a file, to the same bits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrebasin._progress import bar
from fastrebasin.data import Batch, Data, held_tensors
from fastrebasin.reduction.condensation.kernel_regression import centred, coefficients_of
from fastrebasin.reduction.condensation.kernels import NetworkKernel
from fastrebasin.reduction.coreset.candidates import Candidates
from fastrebasin.reduction.coreset.chance import Random
from fastrebasin.reduction.coreset.selector import class_counts
from fastrebasin.reduction.reduced import ReducedSet
from fastrebasin.saved_state import digest, read_state, write_state

__all__ = ["kernel_inducing_points"]


def kernel_inducing_points(
    data: Data,
    *,
    per_class: int,
    kernel: str = "ntk",
    depth: int = 1,
    weight_variance: float = 2.0,
    bias_variance: float = 0.01,
    ridge: float = 1e-6,
    iterations: int = 500,
    lr: float = 0.04,
    batch_size: int = 500,
    init: str = "real",
    learn_labels: bool = False,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> ReducedSet:
    """Make images from which kernel ridge regression predicts the labels of a data set best.

    Args:
        data: one source of labelled examples; work is done on the device that they lie on.
        per_class: so many images of every class.
        kernel: "ntk" or "nngp" of a fully connected ReLU network, see `ntk_kernel`.
        depth: its hidden layers.
        weight_variance: of its weights, times fan-in.
        bias_variance: of its biases.
        ridge: of the regression, in means of the kernel's diagonal.
        iterations: steps of Adam.
        lr: its rate, in the units of the pixels.
        batch_size: examples that the error is measured on in one step, as many of every class.
        init: "real" (examples drawn from the data) or "noise" (normal, with the data's mean and
            deviation).
        learn_labels: learn the targets of the images too.
        checkpoint: a `.safetensors` file to go on from, and to keep what was reached in; a run may
            be resumed with more iterations.
        checkpoint_every: iterations from one write to the next.
        seed: of everything that is drawn.
        progress: show a bar on a terminal.

    Returns:
        The images, grouped by class in ascending order; `extras["targets"]` are the values that
        regression learns, float64 (n, classes), one-hot less 1 / classes unless they were learned.

    Raises:
        ValueError: an option is out of range, a class has too few examples, the checkpoint is of
            another run, or the error isn't finite any more.

    Example:
        >>> from fastrebasin.reduction.condensation import kernel_ridge_scores
        >>> x = torch.randn(100, 4)
        >>> points = kernel_inducing_points((x, (x[:, 0] > 0).long()), per_class=2, iterations=20)
        >>> bool((kernel_ridge_scores(points, x).argmax(1) == (x[:, 0] > 0)).float().mean() > 0.8)
        True

    Source: Nguyen, Chen and Lee, ICLR 2021, algorithm 1; Yamada et al., ACML 2024, section 3.7.
    """
    settings = _Settings(
        kernel, depth, weight_variance, bias_variance, ridge, per_class, batch_size, lr, init,
        learn_labels, seed,
    )  # fmt: skip
    _check(settings, iterations, checkpoint, checkpoint_every)
    run = _Run(Candidates(data, progress=progress), settings)
    path = None if checkpoint is None else Path(checkpoint)
    about = {} if path is None else run.description()
    if path is not None and path.exists():
        run.restore(read_state(path, about), iterations)
    left = range(len(run.losses), iterations)
    for number in bar(
        left, "inducing points", progress=progress, total=iterations, unit="step", done=left.start
    ):
        run.step()
        if path is not None and ((number + 1) % checkpoint_every == 0 or number + 1 == iterations):
            write_state(path, run.state(), about)
    provenance = {
        "made by": f"fastrebasin {version('fastrebasin')}",
        "method": "kernel inducing points",
        "settings": json.dumps(asdict(settings)),
        "iterations": str(iterations),
        "loss": json.dumps(run.losses[-1:]),
        "classes": json.dumps(run.classes.tolist()),
        "made from": f"{len(run.candidates)} examples",
        "seed": str(seed),
    }
    return ReducedSet(
        run.images.detach().to(run.dtype, copy=True), run.labels, provenance,
        {"targets": run.targets.detach().clone()},
    )  # fmt: skip


@dataclass(frozen=True)
class _Settings:
    """What the result depends on, besides the number of iterations and the data."""

    kernel: str
    depth: int
    weight_variance: float
    bias_variance: float
    ridge: float
    per_class: int
    batch_size: int
    lr: float
    init: str
    learn_labels: bool
    seed: int

    def function(self) -> NetworkKernel:
        """Return the kernel; raise an error if an option of it is out of range."""
        return NetworkKernel(self.kernel, self.depth, self.weight_variance, self.bias_variance)


class _Run:
    """Images on their way, and what their next step depends on."""

    def __init__(self, candidates: Candidates, settings: _Settings) -> None:
        self.candidates, self._settings = candidates, settings
        self._kernel = settings.function()
        self.classes = candidates.labels.unique()
        if len(self.classes) < 2:
            raise ValueError(f"data must be of two classes or more, got {self.classes.tolist()}")
        self._members = [(candidates.labels == label).nonzero().flatten() for label in self.classes]
        self._generator = torch.Generator().manual_seed(settings.seed)
        counts = class_counts(candidates.labels, per_class=settings.per_class, fraction=None)
        chosen = Random().select(candidates, counts, self._generator).indices
        images, self.labels = self._take(chosen)
        self.dtype = images.dtype if images.is_floating_point() else torch.float32
        images = images.to(torch.promote_types(images.dtype, torch.float32), copy=True)
        if settings.init == "noise":
            draw = torch.randn(images.shape, generator=self._generator).to(images)
            images = draw * images.std() + images.mean()
        self.images = images.requires_grad_()
        self.targets = centred(self.labels, self.classes).to(images.device)
        learned = [self.images]
        if settings.learn_labels:
            learned.append(self.targets.requires_grad_())
        self._optimizer = torch.optim.Adam(learned, lr=settings.lr)
        self.losses: list[float] = []

    def step(self) -> None:
        """Take one step against the error on examples drawn anew."""
        x, labels = self._take(self._draw())
        wanted = centred(labels, self.classes).to(x.device)
        coefficients = coefficients_of(
            self._kernel, self.images, self.targets, self._settings.ridge
        )
        found = self._kernel(x, self.images) @ coefficients
        loss = (found - wanted).square().sum(1).mean() / 2
        if not math.isfinite(loss.item()):
            raise ValueError(
                f"the error is {loss.item()} at iteration {len(self.losses)}: try a smaller lr "
                f"than {self._settings.lr}, or a larger ridge than {self._settings.ridge}"
            )
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self.losses.append(loss.item())

    def description(self) -> dict[str, str]:
        """Return what the result depends on, besides the number of iterations, as short texts."""
        held = held_tensors(self.candidates.source) or (self.candidates.labels, self.images)
        about = {"method": "kernel inducing points", **asdict(self._settings), "data": digest(held)}
        return {name: str(value) for name, value in about.items()}

    def state(self) -> dict[str, object]:
        """Return what `restore` needs."""
        return {
            "images": self.images,
            "targets": self.targets,
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }

    def restore(self, state: Mapping[str, Any], iterations: int) -> None:
        """Go on from what `state` returned."""
        self.losses = state["losses"].tolist()
        if len(self.losses) > iterations:
            raise ValueError(
                f"iterations is {iterations}, but the checkpoint holds {len(self.losses)}"
            )
        self.images.detach().copy_(state["images"])
        self.targets.detach().copy_(state["targets"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])

    def _take(self, indices: Tensor) -> Batch:
        images, labels = self.candidates.source.take(indices)
        if not torch.isfinite(images).all():
            raise ValueError("images in data must be finite")
        return images, labels.long().cpu()

    def _draw(self) -> Tensor:
        """Return indices of examples, as many of every class, each at most once if they suffice."""
        share = -(-self._settings.batch_size // len(self.classes))
        parts = []
        for members in self._members:
            order = torch.randperm(len(members), generator=self._generator)
            parts.append(members[order.repeat(-(-share // len(members)))[:share]])
        return torch.cat(parts)


def _check(
    settings: _Settings, iterations: int, checkpoint: str | Path | None, checkpoint_every: int
) -> None:
    """Raise an error that names every option out of range."""
    problems = []
    try:
        settings.function()
    except ValueError as error:
        problems.append(str(error))
    names = ("per_class", "batch_size", "ridge", "lr")
    positive = {name: getattr(settings, name) for name in names}
    problems += [
        f"{name} must be positive and finite, got {value}"
        for name, value in {**positive, "checkpoint_every": checkpoint_every}.items()
        if not 0 < value < math.inf
    ]
    if iterations < 0:
        problems.append(f"iterations must not be negative, got {iterations}")
    if settings.init not in ("real", "noise"):
        problems.append(f"init must be real or noise, got {settings.init!r}")
    if checkpoint is not None and Path(checkpoint).suffix != ".safetensors":
        problems.append(f"checkpoint must end in .safetensors, got {checkpoint}")
    if problems:
        raise ValueError("; ".join(problems))
