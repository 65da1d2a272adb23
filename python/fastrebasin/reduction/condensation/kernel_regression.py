"""Kernel ridge regression of classes on a few examples."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from fastrebasin.reduction.condensation.kernels import NetworkKernel
from fastrebasin.reduction.reduced import ReducedSet

__all__ = ["centred", "coefficients_of", "kernel_ridge_scores"]


def kernel_ridge_scores(
    data: ReducedSet,
    x: Tensor,
    *,
    kernel: str = "ntk",
    depth: int = 1,
    weight_variance: float = 2.0,
    bias_variance: float = 0.01,
    ridge: float = 1e-6,
    block_size: int = 1000,
) -> Tensor:
    """Return the class scores that kernel ridge regression on a few examples predicts.

    Args:
        data: the examples; `extras["targets"]` are what is regressed on, one-hot labels less
            1 / classes where there are none.
        x: (n, ...), like the examples, on their device.
        kernel, depth, weight_variance, bias_variance, ridge: as in `kernel_inducing_points`.
        block_size: rows of the kernel in memory at a time.

    Returns:
        float64 (n, classes), columns in the ascending order of labels.

    Raises:
        ValueError: an option is out of range, there are no examples, or shapes don't fit.

    Example:
        >>> few = ReducedSet(torch.eye(2), torch.tensor([3, 7]), {})
        >>> kernel_ridge_scores(few, torch.eye(2)).argmax(1).tolist()
        [0, 1]

    Source: Nguyen, Chen and Lee, ICLR 2021, equation 2.
    """
    function = NetworkKernel(kernel, depth, weight_variance, bias_variance)
    if not 0 < ridge < math.inf:
        raise ValueError(f"ridge must be positive and finite, got {ridge}")
    if not len(data):
        raise ValueError("data must not be empty")
    targets = data.extras.get("targets")
    if targets is None:
        targets = centred(data.labels, data.labels.unique())
    coefficients = coefficients_of(function, data.images, targets, ridge)
    return function.product(x, data.images, coefficients, block_size=block_size)


def coefficients_of(kernel: NetworkKernel, images: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Return (K + ridge tr(K) / n I)^-1 targets."""
    gram = kernel(images, images)
    gram = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
    factor, _ = torch.linalg.cholesky_ex(gram)
    return torch.cholesky_solve(targets.to(gram), factor)


def centred(labels: Tensor, classes: Tensor) -> Tensor:
    """Return one-hot labels less their mean over classes, float64 (n, classes)."""
    columns = torch.searchsorted(classes, labels.to(classes))
    return functional.one_hot(columns, len(classes)).double() - 1 / len(classes)
