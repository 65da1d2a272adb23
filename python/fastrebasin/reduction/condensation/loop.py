"""The loop of every condensation that trains images: compare in fresh networks, step, save.

A method says what a pair of real and synthetic batches differ by in a network, and what happens
to the network meanwhile; the rest is the same for all. Networks run in eval mode: dropout is off,
and BatchNorm normalises with the statistics of real images of all classes, set before they are
compared, as the released code of Zhao et al. (ICLR 2021) does in part: there, with a momentum of
0.1, initial statistics keep most of the weight.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from fastrebasin._errors import first_line
from fastrebasin._progress import bar
from fastrebasin.checkpoints import check_finite
from fastrebasin.data import Data
from fastrebasin.normalization.batch_norm import has_batch_norm, resetting
from fastrebasin.reduction.condensation.real_images import RealImages
from fastrebasin.reduction.condensation.settings import Settings
from fastrebasin.reduction.reduced import ReducedSet
from fastrebasin.saved_state import digest, read_state, write_state

__all__ = ["Condensation", "Distance", "Factory", "condense"]

Factory: TypeAlias = Callable[[], nn.Module]
Distance: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]
"""Of a real and a synthetic batch of one class, and its label: a number."""

_NORMALISING = 16  # real images of each class that set BatchNorm's statistics


class Condensation:
    """Synthetic images on their way, beside the real ones that they shall stand in for.

    Attributes:
        images: (classes * per_class, ...), at least float32, on the networks' device.
        labels: int64 (classes * per_class,), ascending, likewise.
        real: the real images.
        settings: the options.
        generator: of all that is drawn, on the CPU.
        done: iterations so far.
        loss: of the last one.
    """

    def __init__(self, factory: Factory, data: Data, settings: Settings) -> None:
        self.settings, self._factory = settings, factory
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.real = RealImages(data, progress=settings.progress)
        _check_data(self.real, settings)
        with _network(factory, 0) as network:
            _check_network(network, self.real)
            parameter = next(network.parameters())
            self._device, self._dtype = parameter.device, parameter.dtype
            self._name = type(network).__name__
            self._about = _description(network, self.real, settings)
        self.real.move_to(self._device)
        self.images = self._initial().requires_grad_()
        classes = torch.tensor(self.real.classes, device=self._device)
        self.labels = classes.repeat_interleave(settings.per_class)
        self._optimizer = torch.optim.SGD([self.images], lr=settings.lr, momentum=settings.momentum)
        self.done, self.loss = 0, math.nan

    @contextmanager
    def fresh_network(self) -> Iterator[nn.Module]:
        """Make a network in eval mode; whatever the block draws follows from `generator`."""
        seed = int(torch.randint(2**62, (), generator=self.generator))
        with _network(self._factory, seed) as network:
            yield network

    def normalise(self, network: nn.Module) -> None:
        """Set the statistics of BatchNorm layers to those of real images of all classes."""
        if not has_batch_norm(network):
            return
        drawn = [self._drawn(k, _NORMALISING) for k in range(len(self.real.classes))]
        with torch.no_grad(), resetting(network):
            network(self.as_input(torch.cat(drawn)))

    def as_input(self, images: Tensor) -> Tensor:
        """Return images in the dtype of the networks."""
        return images.to(self._dtype)

    def step(self, distance: Distance) -> float:
        """Move the images once against the gradient of the sum over classes; return that sum."""
        per_class, augment = self.settings.per_class, self.settings.augment
        gradients: list[Tensor] = []
        total = 0.0
        for k, label in enumerate(self.real.classes):
            real = self._drawn(k, self.settings.batch_size)
            own = self.images.detach()[k * per_class : (k + 1) * per_class].requires_grad_()
            synthetic = own
            if augment is not None:
                drawn = augment.draw(self.generator)
                real, synthetic = augment(real, drawn), augment(own, drawn)
            found = distance(self.as_input(real), self.as_input(synthetic), label)
            gradient = None
            if found.requires_grad:
                (gradient,) = torch.autograd.grad(found, own, allow_unused=True)
            if gradient is None:
                raise ValueError("factory's network passes no gradient on to its images")
            gradients.append(gradient)
            total += float(found.detach())
        self.images.grad = torch.cat(gradients)
        self._optimizer.step()
        return total

    def finish(self, loss: float) -> None:
        """Note an iteration, and save the state if it is time."""
        if not (math.isfinite(loss) and torch.isfinite(self.images).all()):
            raise ValueError(
                f"the loss is {loss} at iteration {self.done}, or leads to images that aren't "
                f"finite: try a smaller lr than {self.settings.lr}"
            )
        self.done, self.loss = self.done + 1, loss
        path, every = self.settings.checkpoint, self.settings.checkpoint_every
        if path is None or (self.done % every and self.done < self.settings.iterations):
            return
        state = {
            "images": self.images,
            "optimizer": self._optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "done": self.done,
            "loss": self.loss,
        }
        write_state(Path(path), state, self._about)

    def resume(self) -> None:
        """Go on from the file, if there is one."""
        path = self.settings.checkpoint
        if path is None or not Path(path).exists():
            return
        state = read_state(Path(path), self._about)
        if state["done"] > self.settings.iterations:
            raise ValueError(
                f"checkpoint {path} has {state['done']} iterations behind it, more than "
                f"iterations, {self.settings.iterations}"
            )
        self.images.detach().copy_(state["images"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.done, self.loss = state["done"], state["loss"]

    def result(self) -> ReducedSet:
        """Return what has become of the images."""
        settings = self.settings
        provenance = {
            "made by": f"fastrebasin {version('fastrebasin')}",
            "method": settings.method,
            "settings": json.dumps(settings.described),
            "budget": json.dumps({"per_class": settings.per_class}),
            "condensed from": f"{len(self.real)} examples",
            "model": self._name,
            "iterations": str(self.done),
            "last loss": str(self.loss),
            "seed": str(settings.seed),
        }
        return ReducedSet(self.images.detach().clone(), self.labels, provenance)

    def _drawn(self, k: int, count: int) -> Tensor:
        return self.real.draw(k, count, self.generator).to(self.images)

    def _initial(self) -> Tensor:
        per_class, dtype = self.settings.per_class, torch.promote_types(self._dtype, torch.float32)
        shape = len(self.real.classes) * per_class, *self.real.shape
        if self.settings.init == "noise":
            images = torch.randn(shape, generator=self.generator, dtype=dtype)
        else:
            classes = range(len(self.real.classes))
            images = torch.cat([self.real.draw(k, per_class, self.generator) for k in classes])
        return images.to(self._device, dtype, copy=True)


def condense(
    factory: Factory,
    data: Data,
    settings: Settings,
    iteration: Callable[[Condensation, nn.Module], float],
) -> ReducedSet:
    """Go through all iterations, or those that are left, each with a fresh network.

    Args:
        factory: makes networks.
        data: one source.
        settings: checked options.
        iteration: what a method does with a network; returns its loss.
    """
    run = Condensation(factory, data, settings)
    run.resume()
    left = range(run.done, settings.iterations if settings.per_class else 0)
    for _ in bar(
        left, settings.method, progress=settings.progress, total=settings.iterations,
        unit="iteration", done=run.done,
    ):  # fmt: skip
        with run.fresh_network() as network:
            loss = iteration(run, network)
        run.finish(loss)
    return run.result()


@contextmanager
def _network(factory: Factory, seed: int) -> Iterator[nn.Module]:
    """Make a network of our own in eval mode; torch's generators are seeded inside the block."""
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        torch.manual_seed(seed)
        network = factory()
        if not isinstance(network, nn.Module):
            raise TypeError(f"factory must return a module, got {type(network).__name__}")
        yield copy.deepcopy(network).eval()


def _check_data(real: RealImages, settings: Settings) -> None:
    problems = []
    scarce = {
        label: len(members)
        for label, members in zip(real.classes, real.members, strict=True)
        if len(members) < settings.per_class
    }
    if settings.init == "real" and scarce:
        problems.append(
            f"per_class is {settings.per_class}, but these classes have fewer images to start "
            f"from: {scarce}"
        )
    if settings.augment is not None and len(real.shape) not in (2, 3):
        problems.append(
            "augment needs images (n, channels, height, width) or (n, height, width), got "
            f"(n, {', '.join(map(str, real.shape))})"
        )
    # A sum tells in one pass, and is finite almost always where its terms are.
    if not all(torch.isfinite(t.sum()) or torch.isfinite(t).all() for t in real.held):
        problems.append("data must be finite, but they aren't")
    if problems:
        raise ValueError("; ".join(problems))


def _check_network(network: nn.Module, real: RealImages) -> None:
    """Refuse a network that doesn't give logits of the classes that the data have."""
    parameter = next(network.parameters(), None)
    if parameter is None:
        raise ValueError(f"factory's {type(network).__name__} has no parameters")
    check_finite({"factory's network": network.state_dict()})
    x = torch.zeros(2, *real.shape, dtype=parameter.dtype, device=parameter.device)
    try:
        with torch.no_grad():
            logits = network(x)
    except Exception as error:
        raise ValueError(
            f"factory's {type(network).__name__} can't run on images {tuple(x.shape)}: "
            f"{first_line(error)}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"factory's network must return logits (batch, classes), got {shape}")
    if not 0 <= real.classes[0] <= real.classes[-1] < logits.shape[1]:
        raise ValueError(
            f"labels must be in [0, {logits.shape[1]}), which factory's network tells apart, got "
            f"{real.classes[0]} to {real.classes[-1]}"
        )


def _description(network: nn.Module, real: RealImages, settings: Settings) -> dict[str, str]:
    """Return what an iteration's result depends on, as short texts."""
    about = {
        "format": 1,
        "method": settings.method,
        "seed": settings.seed,
        **settings.described,
        "network": digest(network.state_dict().values()),
        "data": f"{len(real)} examples {digest(real.held)}",
    }
    return {name: str(value) for name, value in about.items()}
