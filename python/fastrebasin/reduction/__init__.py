"""A few examples per class that stand in for a data set."""

from fastrebasin.reduction.condensation import (
    DifferentiableAugmentation,
    distribution_matching,
    gradient_matching,
    kernel_inducing_points,
    kernel_ridge_scores,
)
from fastrebasin.reduction.coreset import select_coreset
from fastrebasin.reduction.reduced import ReducedSet
from fastrebasin.reduction.synthesis import synthesize

__all__ = [
    "DifferentiableAugmentation",
    "ReducedSet",
    "distribution_matching",
    "gradient_matching",
    "kernel_inducing_points",
    "kernel_ridge_scores",
    "select_coreset",
    "synthesize",
]
