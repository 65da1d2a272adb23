"""Combine aligned models: one file per way."""

from fastrebasin.merging.fisher import fisher_information, fisher_mean
from fastrebasin.merging.interpolation import interpolate, slerp
from fastrebasin.merging.pairwise import MergeResult, merge
from fastrebasin.merging.task_vectors import dare, task_arithmetic, ties

__all__ = [
    "MergeResult",
    "dare",
    "fisher_information",
    "fisher_mean",
    "interpolate",
    "merge",
    "slerp",
    "task_arithmetic",
    "ties",
]
