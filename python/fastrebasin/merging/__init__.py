"""Combine aligned models: one file per way."""

from fastrebasin.merging.distillation import distil
from fastrebasin.merging.fisher import fisher_information, fisher_mean
from fastrebasin.merging.interpolation import interpolate, slerp
from fastrebasin.merging.least_squares import least_squares
from fastrebasin.merging.many import MergeManyResult, merge_many
from fastrebasin.merging.pairwise import MergeResult, merge
from fastrebasin.merging.partial import partial_merge
from fastrebasin.merging.regmean import regmean
from fastrebasin.merging.task_vectors import dare, task_arithmetic, ties
from fastrebasin.merging.widths import fit_widths

__all__ = [
    "MergeManyResult",
    "MergeResult",
    "dare",
    "distil",
    "fisher_information",
    "fisher_mean",
    "fit_widths",
    "interpolate",
    "least_squares",
    "merge",
    "merge_many",
    "partial_merge",
    "regmean",
    "slerp",
    "task_arithmetic",
    "ties",
]
