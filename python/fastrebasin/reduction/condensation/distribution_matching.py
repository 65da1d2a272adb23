"""Dataset condensation by matching mean features.

Source: Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023 (DM), whose
released code gives the constants. We differ for BatchNorm, which uses the statistics of real
images, and in that dropout is off; see `loop`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from fastrebasin.data import Data
from fastrebasin.reduction.condensation.differentiable_augmentation import (
    DifferentiableAugmentation,
)
from fastrebasin.reduction.condensation.loop import Condensation, Factory, condense
from fastrebasin.reduction.condensation.settings import Init, Settings, as_augmentation
from fastrebasin.reduction.features import FeatureExtractor
from fastrebasin.reduction.reduced import ReducedSet

__all__ = ["distribution_matching"]


def distribution_matching(
    factory: Factory,
    data: Data,
    *,
    per_class: int,
    iterations: int = 20_000,
    init: Init = "real",
    lr: float = 1.0,
    momentum: float = 0.5,
    batch_size: int = 256,
    layer: str | None = None,
    augment: DifferentiableAugmentation | str | None = None,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
) -> ReducedSet:
    """Train a few images per class to have the mean features of the real ones in random networks.

    No network is ever trained, which makes it the cheapest for many images per class.

    Args:
        factory: returns an initialised network, images (n, ...) to logits (n, classes); called
            once for each iteration, with torch's generator seeded, which is restored after. Its
            parameters' device is where everything runs. BatchNorm uses statistics of real images;
            dropout is off.
        data: one source of labelled floating-point images of any shape, raw or normalised.
        per_class: images for each class that occurs in the data; 0 gives an empty set.
        iterations: fresh networks. A run of fewer can go on to more from its `checkpoint`.
        init: start from "noise", N(0, 1), or from "real" images drawn at random.
        lr, momentum: of the images' gradient descent.
        batch_size: real images of a class that features are taken of; all, if there are fewer.
        layer: the module whose output, flattened, is the features; by default the input of the
            last `nn.Linear` that runs.
        augment: transforms real and synthetic images of a class alike: names of strategies joined
            by "_", such as "color_crop_cutout_flip_scale_rotate", which the paper uses (digits:
            no flip), or an augmentation with strengths of its own. Images only.
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
        >>> net = lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> condensed = distribution_matching(net, data, per_class=1, iterations=3)
        >>> condensed.images.shape, condensed.labels.tolist()
        (torch.Size([2, 1, 4, 4]), [0, 1])

    Source: Zhao and Bilen, WACV 2023, algorithm 1.
    """
    settings = Settings(
        method="distribution matching", options={"layer": str(layer)}, per_class=per_class,
        iterations=iterations, init=init, lr=lr, momentum=momentum, batch_size=batch_size,
        augment=as_augmentation(augment), seed=seed, progress=progress, checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
    )  # fmt: skip
    settings.check()

    def iteration(run: Condensation, network: nn.Module) -> float:
        run.normalise(network)
        extract = FeatureExtractor(network.requires_grad_(False), layer)

        def distance(real: Tensor, synthetic: Tensor, _: int) -> Tensor:
            with torch.no_grad():
                wanted = _mean(extract(real)[0])
            return (wanted - _mean(extract(synthetic)[0])).square().sum()

        return run.step(distance)

    return condense(factory, data, settings, iteration)


def _mean(features: Tensor) -> Tensor:
    wide = torch.promote_types(features.dtype, torch.float32)
    return features.flatten(1).to(wide).mean(0)
