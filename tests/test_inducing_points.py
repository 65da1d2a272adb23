"""Kernel inducing points: better than the images they start from, and the same after a break."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastrebasin.experiments.pairs import load_pair
from fastrebasin.reduction import ReducedSet
from fastrebasin.reduction.condensation import (
    NetworkKernel,
    kernel_inducing_points,
    kernel_ridge_scores,
)


def examples(count: int = 90, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Return three classes, of which two lie on both sides of the third."""
    y = torch.arange(count) % 3
    x = torch.randn(count, 5)
    x[:, 0] += 3.0 * y
    return x.to(device), y.to(device)


def points(data: Any, **options: Any) -> ReducedSet:
    options = {"per_class": 2, "iterations": 30, "batch_size": 60, "progress": False} | options
    return kernel_inducing_points(data, **options)


def error(found: ReducedSet, data: tuple[Tensor, Tensor], **options: Any) -> float:
    x, y = data
    wanted = torch.eye(3).double()[y.cpu()] - 1 / 3
    return float((kernel_ridge_scores(found, x, **options).cpu() - wanted).square().sum(1).mean())


@pytest.mark.parametrize(
    ("kernel", "init", "learn_labels"),
    [("ntk", "real", False), ("nngp", "real", True), ("ntk", "noise", True)],
)
def test_the_error_falls(kernel: str, init: str, learn_labels: bool, device: str) -> None:
    data = examples(device=device)
    options = {"kernel": kernel, "depth": 2}
    before, after = (
        error(
            points(data, init=init, learn_labels=learn_labels, iterations=count, **options),
            data, **options,
        )
        for count in (0, 60)
    )  # fmt: skip
    assert after < 0.6 * before


def test_scores_are_those_of_kernel_ridge_regression() -> None:
    (x, _), support, labels = examples(), torch.randn(4, 5), torch.tensor([7, 2, 2, 5])
    found = kernel_ridge_scores(
        ReducedSet(support, labels, {}), x, kernel="nngp", depth=3, ridge=0.1, block_size=7
    )
    kernel = NetworkKernel("nngp", 3)
    gram, cross = kernel(support, support).numpy(), kernel(x, support).numpy()
    targets = np.array([[0, 0, 1], [1, 0, 0], [1, 0, 0], [0, 1, 0]]) - 1 / 3
    inverse = np.linalg.inv(gram + 0.1 * np.trace(gram) / 4 * np.eye(4))
    np.testing.assert_allclose(found.numpy(), cross @ inverse @ targets, rtol=1e-9, atol=1e-12)


def test_teach_digits_better_than_the_images_they_start_from() -> None:
    pytest.importorskip("sklearn")
    digits = load_pair("rotated").a
    x, y = digits.test
    accuracies = [
        float((kernel_ridge_scores(points(digits.train, iterations=count, per_class=1,
               batch_size=200), x)
               .argmax(1) == y).double().mean())
        for count in (0, 40)
    ]  # fmt: skip
    assert accuracies[1] > accuracies[0] + 0.1


def test_labels_that_were_learned_are_kept() -> None:
    data = examples()
    fixed, learned = (points(data, learn_labels=value) for value in (False, True))
    expected = torch.eye(3).double().repeat_interleave(2, 0) - 1 / 3
    torch.testing.assert_close(fixed.extras["targets"], expected)
    assert (learned.extras["targets"] - expected).abs().max() > 0.01
    assert learned.labels.tolist() == fixed.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_the_seed_decides_and_data_stays_as_it_is() -> None:
    data = examples()
    before = data[0].clone()
    first, second, other = (points(data, seed=seed).images for seed in (4, 4, 5))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(data[0], before)


@pytest.mark.parametrize("learn_labels", [False, True])
def test_goes_on_from_its_file_to_the_same_bits(tmp_path: Path, learn_labels: bool) -> None:
    data, path = examples(), tmp_path / "points.safetensors"
    options = {"learn_labels": learn_labels, "checkpoint_every": 4}
    whole = points(data, iterations=11, **options)
    points(data, iterations=6, checkpoint=path, **options)
    resumed = points(data, iterations=11, checkpoint=path, **options)
    assert torch.equal(resumed.images, whole.images)
    assert torch.equal(resumed.extras["targets"], whole.extras["targets"])
    assert resumed.provenance == whole.provenance
    with pytest.raises(ValueError, match="iterations is 7, but the checkpoint holds 11"):
        points(data, iterations=7, checkpoint=path, **options)
    with pytest.raises(ValueError, match=r"data was .*; lr was 0.04, is 0.1"):
        points(examples(), iterations=11, checkpoint=path, lr=0.1, **options)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float64])
def test_images_of_any_shape_and_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    images = (9 * torch.rand(20, 2, 3, 4)).to(dtype)
    found = points((images, torch.arange(20) % 2 * 6), iterations=3)
    assert found.images.shape == (4, 2, 3, 4)
    assert found.images.dtype == (dtype if dtype.is_floating_point else torch.float32)
    assert found.labels.tolist() == [0, 0, 6, 6]
    found.save(tmp_path / "few.safetensors")
    kept = ReducedSet.load(tmp_path / "few.safetensors")
    assert json.loads(kept.provenance["classes"]) == [0, 6]
    assert torch.equal(kept.images, found.images)
    assert torch.equal(kept.extras["targets"], found.extras["targets"])
    # To the last bit a product may depend on where its factors lie in memory.
    scores = kernel_ridge_scores(kept, images)
    torch.testing.assert_close(scores, kernel_ridge_scores(found, images), rtol=1e-9, atol=1e-9)


def test_errors_name_everything_wrong() -> None:
    data = examples()
    with pytest.raises(
        ValueError,
        match=r"got 'rbf'; depth .* -1; per_class .* got 0; ridge .* got 0; lr .* inf; "
        r"iterations must not be negative, got -1; init .* 'zero'; checkpoint must end",
    ):
        points(
            data, kernel="rbf", depth=-1, per_class=0, ridge=0, lr=float("inf"), iterations=-1,
            init="zero", checkpoint="x.pt",
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"per_class is 31, but .* fewer"):
        points(data, per_class=31)
    with pytest.raises(ValueError, match=r"two classes or more, got \[4\]"):
        points((torch.zeros(3, 2), torch.full((3,), 4)))
    with pytest.raises(ValueError, match="images in data must be finite"):
        points((data[0].log(), data[1]))
    with pytest.raises(ValueError, match="try a smaller lr than 1e\\+200"):
        points((data[0].double(), data[1]), lr=1e200)
    few = ReducedSet(*data, {})
    with pytest.raises(ValueError, match="ridge must be positive"):
        kernel_ridge_scores(few, data[0], ridge=-1)
    with pytest.raises(ValueError, match="must not be empty"):
        kernel_ridge_scores(ReducedSet(data[0][:0], data[1][:0], {}), data[0])
