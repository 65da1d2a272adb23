"""Condensation: a few images of each class, made so that learning from them is like from all."""

from fastrebasin.reduction.condensation.differentiable_augmentation import (
    DifferentiableAugmentation,
)
from fastrebasin.reduction.condensation.distribution_matching import distribution_matching
from fastrebasin.reduction.condensation.gradient_matching import gradient_matching
from fastrebasin.reduction.condensation.inducing_points import kernel_inducing_points
from fastrebasin.reduction.condensation.kernel_regression import kernel_ridge_scores
from fastrebasin.reduction.condensation.kernels import NetworkKernel, nngp_kernel, ntk_kernel

__all__ = [
    "DifferentiableAugmentation",
    "NetworkKernel",
    "distribution_matching",
    "gradient_matching",
    "kernel_inducing_points",
    "kernel_ridge_scores",
    "nngp_kernel",
    "ntk_kernel",
]
