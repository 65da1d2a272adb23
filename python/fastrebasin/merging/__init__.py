"""Combine aligned models: one file per way."""

from fastrebasin.merging.fisher import fisher_information, fisher_mean
from fastrebasin.merging.interpolation import interpolate, slerp
from fastrebasin.merging.many import MergeManyResult, merge_many
from fastrebasin.merging.pairwise import MergeResult, merge
from fastrebasin.merging.task_vectors import dare, task_arithmetic, ties

__all__ = [
    "MergeManyResult",
    "MergeResult",
    "dare",
    "fisher_information",
    "fisher_mean",
    "interpolate",
    "merge",
    "merge_many",
    "slerp",
    "task_arithmetic",
    "ties",
]
