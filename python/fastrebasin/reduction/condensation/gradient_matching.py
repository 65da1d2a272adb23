"""Dataset condensation by matching gradients, with or without Siamese augmentation.

Source: Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021 (DC), and
Zhao and Bilen, ICML 2021 (DSA), which augments real and synthetic images alike. The distance, the
loops and their constants are those of the released code. We differ for BatchNorm, which uses the
statistics of real images as they are, and in that dropout is off; see `loop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastrebasin.data import Data
from fastrebasin.reduction.condensation.differentiable_augmentation import (
    DifferentiableAugmentation,
)
from fastrebasin.reduction.condensation.loop import Condensation, Factory, condense
from fastrebasin.reduction.condensation.settings import Init, Settings, as_augmentation
from fastrebasin.reduction.reduced import ReducedSet

__all__ = ["gradient_distance", "gradient_matching"]

_INNER_EPOCHS = {30: 20, 40: 15}
"""Per images per class, where the authors' table isn't 500 divided by them."""


def gradient_matching(
    factory: Factory,
    data: Data,
    *,
    per_class: int,
    iterations: int = 1000,
    init: Init = "noise",
    lr: float = 0.1,
    momentum: float = 0.5,
    batch_size: int = 256,
    outer_loops: int | None = None,
    inner_epochs: int | None = None,
    inner_lr: float = 0.01,
    inner_batch_size: int = 256,
    augment: DifferentiableAugmentation | str | None = None,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 10,
) -> ReducedSet:
    """Train a few images per class to give networks the gradients that real images give them.

    Each iteration makes a fresh network; in turns, the images take a step towards real gradients,
    and the network is trained on the images.

    Args:
        factory: returns an initialised network, images (n, ...) to logits (n, classes); called
            with torch's generator seeded, which is restored after. Its parameters' device is where
            everything runs. BatchNorm uses statistics of real images; dropout is off.
        data: one source of labelled floating-point images of any shape, raw or normalised.
        per_class: images for each class that occurs in the data; 0 gives an empty set.
        iterations: fresh networks. A run of fewer can go on to more from its `checkpoint`.
        init: start from "noise", N(0, 1), or from "real" images drawn at random.
        lr, momentum: of the images' gradient descent.
        batch_size: real images of a class whose gradient is matched; all, if there are fewer.
        outer_loops: steps of the images for each network; by default `per_class`. With 1 no
            network is trained, which is far cheaper; `lr` should then grow with `per_class`.
        inner_epochs: passes over the images that train the network between two of these; by
            default as published, about 500 / `per_class`.
        inner_lr, inner_batch_size: of the network's gradient descent.
        augment: transforms real and synthetic images of a class alike (DSA): names of strategies
            joined by "_", such as "color_crop_cutout_scale_rotate", or an augmentation with
            strengths of its own. Images only. None is DC.
        seed: of everything that is drawn.
        progress: show a bar on a terminal.
        checkpoint: a `.safetensors` file that keeps the state; where it exists, the run goes on
            from it, to the result that it would have had.
        checkpoint_every: iterations between two such states.

    Returns:
        Images grouped by class in ascending order, on the networks' device, in their parameters'
        dtype or float32 if that is wider. Pixels are unbounded: nothing is clamped.

    Raises:
        ValueError: options, data or network are wrong, the checkpoint belongs to another run, or
            the loss isn't finite; says which, and how.
        TypeError: `factory` returns no module.

    Example:
        >>> data = torch.rand(20, 1, 4, 4), torch.arange(20) % 2
        >>> net = lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        >>> condensed = gradient_matching(net, data, per_class=1, iterations=3)
        >>> condensed.images.shape, condensed.labels.tolist()
        (torch.Size([2, 1, 4, 4]), [0, 1])

    Source: Zhao, Mopuri and Bilen, ICLR 2021, algorithm 1; Zhao and Bilen, ICML 2021.
    """
    turns = max(per_class, 1) if outer_loops is None else outer_loops
    epochs = _epochs(per_class) if inner_epochs is None else inner_epochs
    inner = {"inner_epochs": epochs, "inner_lr": inner_lr, "inner_batch_size": inner_batch_size}
    settings = Settings(
        method="gradient matching", options={"outer_loops": turns, **inner}, per_class=per_class,
        iterations=iterations, init=init, lr=lr, momentum=momentum, batch_size=batch_size,
        augment=as_augmentation(augment), seed=seed, progress=progress, checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
    )  # fmt: skip
    settings.check(outer_loops=turns, **inner)

    def iteration(run: Condensation, network: nn.Module) -> float:
        loss = 0.0
        for turn in range(turns):
            if turn:
                _train(network, run, epochs, inner_lr, inner_batch_size)
            run.normalise(network)
            loss += _match(network, run)
        return loss / turns

    return condense(factory, data, settings, iteration)


def gradient_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Return the sum of 1 - cosine over the rows of two gradients, which are the output units'.

    Args:
        first, second: tensors of equal shapes, by parameter. Kernels are flattened; vectors and
            numbers (biases, scales) don't count.

    Returns:
        A number, at least float32. Rows far smaller than 1e-3 count as if they were orthogonal:
        1e-6 is added to the product of lengths.

    Example:
        >>> gradient_distance([torch.eye(3)], [torch.eye(3).flip(0)])
        tensor(2.0000)

    Source: Zhao, Mopuri and Bilen, ICLR 2021, section 3.4.
    """
    total = torch.zeros((), device=first[0].device if first else None)
    for one, other in zip(first, second, strict=True):
        if one.ndim < 2:
            continue
        wide = torch.promote_types(one.dtype, torch.float32)
        a, b = one.flatten(1).to(wide), other.flatten(1).to(wide)
        lengths = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
        total = total + (1 - (a * b).sum(1) / (lengths + 1e-6)).sum()
    return total


def _match(network: nn.Module, run: Condensation) -> float:
    weights = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    if not weights:
        raise ValueError("factory's network has no weight matrices whose gradients could match")

    def gradients(images: Tensor, label: int, *, differentiable: bool) -> list[Tensor]:
        labels = torch.full((len(images),), label, device=images.device)
        loss = functional.cross_entropy(network(images), labels)
        found = torch.autograd.grad(
            loss, weights, create_graph=differentiable, materialize_grads=True
        )
        return list(found)

    def distance(real: Tensor, synthetic: Tensor, label: int) -> Tensor:
        return gradient_distance(
            gradients(real, label, differentiable=False),
            gradients(synthetic, label, differentiable=True),
        )

    return run.step(distance)


def _train(network: nn.Module, run: Condensation, epochs: int, lr: float, batch_size: int) -> None:
    """Train the network on the images as they are now."""
    images, augment = run.images.detach(), run.settings.augment
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=run.generator)
        for rows in order.to(images.device).split(batch_size):
            x = images[rows]
            if augment is not None:
                x = augment(x, augment.draw(run.generator, len(x)))
            optimizer.zero_grad()
            functional.cross_entropy(network(run.as_input(x)), run.labels[rows]).backward()
            optimizer.step()


def _epochs(per_class: int) -> int:
    return _INNER_EPOCHS.get(per_class, max(1, round(500 / max(1, per_class))))
