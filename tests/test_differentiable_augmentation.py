"""Transforms of images with gradients: what each does, and the same for all where it shall be."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from fastrebasin.reduction.condensation import DifferentiableAugmentation
from fastrebasin.reduction.condensation.differentiable_augmentation import Drawn


def drawn(strategy: str, *chances: float) -> Drawn:
    given = torch.tensor([*chances, 0, 0, 0], dtype=torch.float64)[:3]
    return Drawn(strategy, given[:, None])


@pytest.mark.parametrize("name", ["color", "crop", "cutout", "flip", "scale", "rotate"])
def test_gradients_and_shapes(name: str, device: str) -> None:
    augment = DifferentiableAugmentation(name)
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(3, 2, 5, 4, dtype=torch.float64, device=device, requires_grad=True)
    for count in (1, 3):
        given = augment.draw(generator, count)
        assert torch.autograd.gradcheck(lambda x, given=given: augment(x, given), (images,))
        whole = augment(images, given)
        assert whole.shape == images.shape
        alone = [
            augment(images[k : k + 1], Drawn(name, given.chances[:, min(k, count - 1), None]))
            for k in range(3)
        ]
        assert torch.allclose(whole, torch.cat(alone))
    flat = images[:, 0].detach()
    given = augment.draw(generator)
    assert torch.equal(augment(flat, given), augment(flat[:, None], given)[:, 0])


def test_no_strength_no_change() -> None:
    still = DifferentiableAugmentation(
        brightness=0, saturation=0, contrast=0, crop=0, cutout=0, flip=0, scale=1, rotate=0
    )
    images, generator = torch.randn(7, 3, 6, 9), torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(40):
        given = still.draw(generator, 7)
        seen.add(given.strategy)
        assert torch.allclose(still(images, given), images, atol=1e-5)
    assert seen == set(still.strategies.split("_"))


def test_each_does_what_it_says() -> None:
    x, augment = torch.rand(2, 3, 8, 8), DifferentiableAugmentation()
    assert torch.allclose(augment(x, drawn("color", 1, 0.5, 0.5)), x + 0.5)
    grey = x.mean(1, keepdim=True).expand_as(x)
    assert torch.allclose(augment(x, drawn("color", 0.5, 0, 0.5)), grey, atol=1e-6)
    soft = augment(x, drawn("color", 0.5, 0.5, 0))
    assert torch.allclose(soft.std((1, 2, 3)), x.std((1, 2, 3)) / 2)
    shifted = augment(x, drawn("crop", 0.99, 0))  # a row up, a column to the right
    assert torch.equal(shifted, functional.pad(x, (1, 0, 0, 1))[:, :, 1:, :-1])
    holed = augment(x, drawn("cutout", 0.45, 0))  # rows from 2 on, the two first columns
    assert (holed == 0).nonzero()[:, 2:].unique(dim=0).tolist() == [
        [row, column] for row in range(2, 6) for column in (0, 1)
    ]
    assert torch.equal(augment(x, drawn("flip", 0.49)), x.flip(3))
    assert torch.equal(augment(x, drawn("flip", 0.5)), x)


def test_the_plane_is_zoomed_and_turned() -> None:
    down, across = torch.meshgrid(torch.arange(6.0) - 2.5, torch.arange(8.0) - 3.5,
                                  indexing="ij")  # fmt: skip
    plane = torch.stack([across, down])[None]
    right_angle = DifferentiableAugmentation(rotate=90, scale=2)
    zoomed = right_angle(plane, drawn("scale", 0, 0))  # half as far
    assert torch.allclose(zoomed, plane / 2, atol=1e-5)
    turned = right_angle(plane[..., 1:7], drawn("rotate", 1))
    assert torch.allclose(turned, torch.stack([-down, across], 0)[None, ..., 1:7], atol=1e-5)
    inside = slice(2, 4), slice(2, 6)  # nothing comes in from beyond the border
    tilted = DifferentiableAugmentation(rotate=30)(plane, drawn("rotate", 1))[0]
    expected = (3**0.5 * across - down) / 2, (across + 3**0.5 * down) / 2
    for found, wanted in zip(tilted, expected, strict=True):
        assert torch.allclose(found[inside], wanted[inside], atol=1e-5)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"got 'mixup'; crop must be in \[0, 1\], got 2; scale"):
        DifferentiableAugmentation("flip_mixup", crop=2, scale=0.5)
    flip = DifferentiableAugmentation("flip")
    with pytest.raises(ValueError, match=r"needs images .*, got \(4, 9\)"):
        flip(torch.zeros(4, 9), drawn("flip", 0))
    with pytest.raises(ValueError, match="drawn for 3 images, got 4"):
        flip(torch.zeros(4, 9, 9), flip.draw(torch.Generator(), 3))
