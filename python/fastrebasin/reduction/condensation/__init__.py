"""Condensation: a few images of each class, made so that learning from them is like from all."""

from fastrebasin.reduction.condensation.inducing_points import kernel_inducing_points
from fastrebasin.reduction.condensation.kernel_regression import kernel_ridge_scores
from fastrebasin.reduction.condensation.kernels import NetworkKernel, nngp_kernel, ntk_kernel

__all__ = [
    "NetworkKernel",
    "kernel_inducing_points",
    "kernel_ridge_scores",
    "nngp_kernel",
    "ntk_kernel",
]
