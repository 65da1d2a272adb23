"""A few examples per class that stand in for a data set."""

from fastrebasin.reduction.condensation import kernel_inducing_points, kernel_ridge_scores
from fastrebasin.reduction.coreset import select_coreset
from fastrebasin.reduction.reduced import ReducedSet
from fastrebasin.reduction.synthesis import synthesize

__all__ = [
    "ReducedSet",
    "kernel_inducing_points",
    "kernel_ridge_scores",
    "select_coreset",
    "synthesize",
]
