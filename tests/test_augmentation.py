"""Warped copies of images."""

from __future__ import annotations

import pytest
import torch

from fastrebasin.augmentation import augmented, warp
from fastrebasin.data import sources


def source(count: int = 6, shape: tuple[int, ...] = (2, 8, 9)):  # type: ignore[no-untyped-def]
    return sources((torch.rand(count, *shape), torch.arange(count)))[0]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_warps_keep_images_plausible(device: str) -> None:
    images = torch.rand(30, 3, 12, 10, device=device)
    warped = warp(images, generator())
    assert warped.shape == images.shape
    assert warped.device == images.device
    assert float(warped.min()) >= 0
    assert float(warped.max()) <= 1
    assert not torch.isclose(warped, images).flatten(1).all(1).any()
    constant = torch.full((9, 1, 8, 8), 0.3, device=device)
    assert torch.allclose(warp(constant, generator()), constant)
    assert torch.equal(warp(images, generator()), warped)
    assert not torch.equal(warp(images, generator(1)), warped)


def test_every_third_image_is_mixed_with_another() -> None:
    images = torch.zeros(9, 1, 8, 8)
    images += torch.arange(9.0)[:, None, None, None]
    means = warp(images, generator()).mean((1, 2, 3))
    mixed = (means - torch.arange(9)).abs() > 1e-4
    assert not mixed.reshape(3, 3)[:, 1:].any()
    assert mixed.reshape(3, 3)[:, 0].any()


def test_the_originals_come_first_and_copies_keep_their_labels() -> None:
    few = source()
    more = augmented(few, 4, seed=3)
    assert len(more) == 30
    x, y = more.take(torch.arange(30))
    assert torch.equal(x[:6], few.take(torch.arange(6))[0])
    assert torch.equal(y, torch.arange(6).repeat(5))
    again, _ = augmented(few, 4, seed=3).take(torch.arange(30))
    assert torch.equal(again, x)
    other, _ = augmented(few, 4, seed=4).take(torch.arange(30))
    assert torch.equal(other[:6], x[:6])
    assert not torch.equal(other[6:], x[6:])


def test_auto_makes_up_to_a_hundred_copies_of_images_and_none_of_else() -> None:
    assert len(augmented(source(6), "auto", 0)) == 606
    assert len(augmented(source(3000, (1, 4, 4)), "auto", 0)) == 18_000
    assert len(augmented(source(15_000, (1, 2, 2)), "auto", 0)) == 15_000
    assert len(augmented(source(6, (5,)), "auto", 0)) == 6
    assert len(augmented(source(6), None, 0)) == len(augmented(source(6), 0, 0)) == 6


def test_a_function_makes_the_copies_of_anything() -> None:
    more = augmented(source(4, (5,)), lambda x, _: x + 1, seed=0)
    x, _ = more.take(torch.tensor([0, 4, 8]))
    assert len(more) == 404
    assert torch.equal(x[1], x[0] + 1)
    assert torch.equal(x[2], x[1])


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="augment must be a number, a function"):
        augmented(source(), "much", 0)
    with pytest.raises(ValueError, match="augment must not be negative, got -1"):
        augmented(source(), -1, 0)
    with pytest.raises(ValueError, match=r"needs images.*got \(1, 5\)"):
        augmented(source(6, (5,)), 3, 0)
