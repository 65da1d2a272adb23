"""Images made from trained models alone, for merging where there are no data.

Yin et al., "Dreaming to distill" (DeepInversion, CVPR 2020): images that a model puts into the
wanted classes, whose activations have the means and variances that its BatchNorm layers keep, and
that are smooth and small. We differ in that images are deformed and blurred with noise before each
look at them. Where there is no BatchNorm, that alone keeps them from becoming the faint patterns
that fool a network. They are no substitute for data there: fully connected networks for MNIST and
for MNIST turned by 90 degrees merge worse by them than by weight matching without any images.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastrebasin._errors import first_line
from fastrebasin._progress import bar
from fastrebasin.augmentation import deform
from fastrebasin.checkpoints import check_finite
from fastrebasin.normalization import batch_norm_layers, has_batch_norm
from fastrebasin.normalization.layers import on_input
from fastrebasin.reduction.reduced import ReducedSet

__all__ = ["synthesize"]

_START = 0.1  # standard deviation of the noise that images begin as


def synthesize(
    models: nn.Module | Sequence[nn.Module],
    *,
    per_class: int,
    shape: Sequence[int] | None = None,
    classes: Collection[int] | None = None,
    bounds: tuple[float, float] | None = None,
    steps: int = 200,
    lr: float = 0.05,
    noise: float | None = None,
    smoothness: float | None = None,
    l2: float | None = None,
    statistics: float = 10.0,
    batch_size: int = 500,
    seed: int = 0,
    progress: bool = True,
) -> ReducedSet:
    """Make images that trained classifiers put into given classes, without any data.

    With BatchNorm, merging by them is better than by weights alone, though a few real images are
    far better. Without it they are worse than weight matching: use that where there are no data.

    Args:
        models: one, or several on one device that shall agree; each takes a batch and returns
            logits or log-probabilities (batch, classes). They run in eval mode and aren't changed.
        per_class: so many images of every class.
        shape: of one image, (channels, height, width), or of one flat input, (d,); by default flat,
            as the first layer wants it, where that is an `nn.Linear`.
        classes: the classes; all that the models tell apart by default.
        bounds: lowest and highest value of a pixel, if there are any.
        steps: of Adam, for each batch.
        lr: its rate, in the units of the pixels.
        noise: standard deviation of what is added to the images, anew in every step; 0.3 by
            default where there is no BatchNorm, else 0.1.
        smoothness: weight of the mean squared difference of neighbouring pixels, beside the
            cross-entropy; 20 by default where there is no BatchNorm, else 0.1.
        l2: weight of the mean square of pixels; 20 by default where there is no BatchNorm, else
            0.01.
        statistics: weight of how far batches are from what BatchNorm layers keep.
        batch_size: images that are made together, classes in equal shares.
        seed: of everything that is drawn.
        progress: show a bar on a terminal.

    Returns:
        Images on the models' device and in their dtype, grouped by class in ascending order; the
        provenance tells which share of them the models classify as intended.

    Raises:
        ValueError: an option is out of range, weights or the loss aren't finite, or a model can't
            run on inputs of that shape.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> images = synthesize(model, per_class=2, bounds=(0, 1), noise=0.0)
        >>> images.images.shape, images.labels.tolist()
        (torch.Size([6, 4]), [0, 0, 1, 1, 2, 2])

    Source: Yin et al., CVPR 2020, sections 3.2 and 3.3, as the head of this file says.
    """
    given = [models] if isinstance(models, nn.Module) else list(models)
    noise, smoothness, l2 = (
        default if value is None else value
        for value, default in zip((noise, smoothness, l2), _defaults(given), strict=True)
    )
    settings = _Settings(steps, lr, noise, smoothness, l2, statistics, bounds)
    shape = _checked(given, settings, per_class, shape, batch_size)
    check_finite({f"model {k}": model.state_dict() for k, model in enumerate(given)})
    experts = [copy.deepcopy(model).eval().requires_grad_(False) for model in given]
    found = _classes(experts, shape)
    wanted = list(range(found)) if classes is None else sorted(set(classes))
    if foreign := [label for label in wanted if not 0 <= label < found]:
        raise ValueError(f"classes must be in [0, {found}), got {foreign}")
    labels = torch.tensor(wanted, dtype=torch.int64).repeat(per_class)  # each batch has all classes
    inversion = _Inversion(experts, shape, settings, torch.Generator().manual_seed(seed))
    parts = labels.split(batch_size)
    made = [
        inversion.images(part, f"images {k + 1}/{len(parts)}", progress)
        for k, part in enumerate(parts)
    ]
    order = labels.argsort(stable=True)
    images, labels = torch.cat(made)[order.to(made[0].device)], labels[order]
    provenance = {
        "made by": f"fastrebasin {version('fastrebasin')}",
        "method": "synthesis",
        "models": ", ".join(type(model).__name__ for model in given),
        "settings": json.dumps(asdict(settings) | {"batch_size": batch_size}),
        "budget": json.dumps({"per_class": per_class}),
        "classified as intended": str(inversion.agreement / len(labels)),
        "seed": str(seed),
    }
    return ReducedSet(images, labels, provenance)


@dataclass(frozen=True)
class _Settings:
    """The options that an image depends on, as `synthesize` documents them."""

    steps: int
    lr: float
    noise: float
    smoothness: float
    l2: float
    statistics: float
    bounds: tuple[float, float] | None


class _Inversion:
    """Makes images, batch by batch.

    Attributes:
        agreement: how many so far all models classify as intended.
    """

    def __init__(
        self,
        experts: Sequence[nn.Module],
        shape: Sequence[int],
        settings: _Settings,
        generator: torch.Generator,
    ) -> None:
        self._experts, self._shape = experts, tuple(shape)
        self._settings, self._generator = settings, generator
        self._like = _like(experts[0])
        self._mismatches: list[Tensor] = []
        for expert in experts:
            for layer in batch_norm_layers(expert):
                on_input(layer, self._observer(layer))
        self.agreement = 0

    def images(self, labels: Tensor, name: str, progress: bool) -> Tensor:
        """Return an image for each label."""
        labels = labels.to(self._like.device)
        images = self._inside(_START * self._normal((len(labels), *self._shape))).requires_grad_()
        optimizer = torch.optim.Adam([images], lr=self._settings.lr)
        for _ in bar(range(self._settings.steps), name, progress=progress, unit="step"):
            loss = self._loss(images, labels)
            if not math.isfinite(loss.item()):
                raise ValueError(
                    f"the loss must be finite, got {loss.item()}: try a smaller lr than "
                    f"{self._settings.lr}"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self._inside(images.detach())
        made = images.detach().to(self._like.dtype)
        with torch.no_grad():
            right = [expert(made).argmax(1) == labels for expert in self._experts]
        self.agreement += int(torch.stack(right).all(0).sum())
        return made

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        settings = self._settings
        seen = deform(images, self._generator) if _are_pictures(images) else images
        if settings.noise:
            seen = seen + settings.noise * self._normal(images.shape)
        self._mismatches.clear()
        loss = settings.l2 * images.square().mean()
        for expert in self._experts:
            answer = expert(seen.to(self._like.dtype)).float()
            loss = loss + functional.cross_entropy(answer, labels) / len(self._experts)
        if self._mismatches:
            loss = loss + settings.statistics * torch.stack(self._mismatches).mean()
        if _are_pictures(images):
            steps = (images.diff(dim=axis).square().mean() for axis in (2, 3))
            loss = loss + settings.smoothness * sum(steps)
        return loss

    def _normal(self, shape: Sequence[int]) -> Tensor:
        drawn = torch.randn(tuple(shape), generator=self._generator)
        return drawn.to(self._like.device, torch.promote_types(self._like.dtype, torch.float32))

    def _inside(self, images: Tensor) -> Tensor:
        return images if self._settings.bounds is None else images.clamp_(*self._settings.bounds)

    def _observer(self, layer: Any) -> Callable[[Tensor], None]:
        """Return what notes how far a batch is from the layer's statistics, in its deviations."""
        mean, variance = layer.running_mean.float(), layer.running_var.float()
        deviation = (variance + layer.eps).sqrt()

        def see(x: Tensor) -> None:
            rows = x.float().transpose(0, 1).flatten(1)
            shift = (rows.mean(1) - mean) / deviation
            stretch = (rows.var(1, unbiased=False) + layer.eps).sqrt() / deviation - 1
            self._mismatches.append((shift.square() + stretch.square()).mean())

        return see


def _defaults(models: Sequence[nn.Module]) -> tuple[float, float, float]:
    """Return noise, smoothness and l2: much where nothing else tells what inputs are like."""
    return (0.1, 0.1, 0.01) if any(map(has_batch_norm, models)) else (0.3, 20.0, 20.0)


def _are_pictures(images: Tensor) -> bool:
    return images.ndim == 4 and min(images.shape[2:]) > 1


def _like(model: nn.Module) -> Tensor:
    """Return a tensor of the model's dtype on its device."""
    return next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))


def _classes(experts: Sequence[nn.Module], shape: Sequence[int]) -> int:
    """Return how many classes all models tell apart, or raise an error if they don't agree."""
    like = _like(experts[0])
    widths, problems = set(), []
    for number, expert in enumerate(experts):
        try:
            with torch.no_grad():
                answer = expert(torch.zeros(2, *shape).to(like))
        except Exception as error:
            tried = (2, *shape)
            problems.append(f"model {number} can't run on {tried}: {first_line(error)}")
            continue
        if not isinstance(answer, Tensor) or answer.ndim != 2 or len(answer) != 2:
            got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            problems.append(f"model {number} must return logits (batch, classes), got {got}")
        else:
            widths.add(answer.shape[1])
    if len(widths) > 1:
        problems.append(f"models must tell as many classes apart, got {sorted(widths)}")
    if problems:
        raise ValueError("; ".join(problems))
    return int(widths.pop())


def _checked(
    models: Sequence[nn.Module],
    settings: _Settings,
    per_class: int,
    shape: Sequence[int] | None,
    batch_size: int,
) -> tuple[int, ...]:
    """Return the shape of an image, or raise an error that names every option out of range."""
    problems = []
    at_least_one = {"per_class": per_class, "batch_size": batch_size, "steps": settings.steps}
    problems += [
        f"{name} must be at least 1, got {value}"
        for name, value in at_least_one.items()
        if value < 1
    ]
    if not 0 < settings.lr < math.inf:
        problems.append(f"lr must be positive and finite, got {settings.lr}")
    for name in ("noise", "smoothness", "l2", "statistics"):
        if not 0 <= (value := getattr(settings, name)) < math.inf:
            problems.append(f"{name} must be finite and not negative, got {value}")
    if settings.bounds is not None and not settings.bounds[0] < settings.bounds[1]:
        problems.append(f"bounds must be (low, high) with low < high, got {settings.bounds}")
    if not models:
        problems.append("models must not be empty")
    if shape is None:
        weighted = [m for model in models[:1] for m in model.modules() if hasattr(m, "weight")]
        if weighted and isinstance(weighted[0], nn.Linear):
            shape = (weighted[0].in_features,)
        elif models:
            problems.append("give shape: the model doesn't begin with an nn.Linear")
    elif len(shape) not in (1, 3) or min(shape) < 1:
        problems.append(f"shape must be (channels, height, width) or (d,), got {tuple(shape)}")
    if problems:
        raise ValueError("; ".join(problems))
    return tuple(shape or ())
