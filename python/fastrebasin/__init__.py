"""Merge neural networks that were trained apart, on different data."""

from importlib.metadata import version as _version

import fastrebasin.operators  # noqa: F401 - registers torch.ops.fastrebasin
from fastrebasin.assignment import Assignment, linear_sum_assignment, solve_assignment
from fastrebasin.evaluation import (
    Ensemble,
    Evaluation,
    MergeReport,
    Score,
    compare_models,
    evaluate,
    interpolation_curve,
)
from fastrebasin.matching import (
    Matching,
    activation_matching,
    sinkhorn_matching,
    straight_through_matching,
    synchronised_matching,
    weight_matching,
)
from fastrebasin.merging import (
    MergeManyResult,
    MergeResult,
    distil,
    fit_widths,
    interpolate,
    least_squares,
    merge,
    merge_many,
    partial_merge,
)
from fastrebasin.nested_assignment import NestedAssignment, solve_nested_assignment
from fastrebasin.normalization import repair, reset_batch_norm
from fastrebasin.permutation import (
    Permutation,
    apply_permutation,
    compose,
    identity_permutation,
    invert,
    random_permutation,
)
from fastrebasin.programs import save_program
from fastrebasin.reduction import ReducedSet, select_coreset, synthesize
from fastrebasin.spec import PermutationSpec
from fastrebasin.tracing import TracingWarning, trace

__version__ = _version("fastrebasin")

__all__ = [
    "Assignment",
    "Ensemble",
    "Evaluation",
    "Matching",
    "MergeManyResult",
    "MergeReport",
    "MergeResult",
    "NestedAssignment",
    "Permutation",
    "PermutationSpec",
    "ReducedSet",
    "Score",
    "TracingWarning",
    "activation_matching",
    "apply_permutation",
    "compare_models",
    "compose",
    "distil",
    "evaluate",
    "fit_widths",
    "identity_permutation",
    "interpolate",
    "interpolation_curve",
    "invert",
    "least_squares",
    "linear_sum_assignment",
    "merge",
    "merge_many",
    "partial_merge",
    "random_permutation",
    "repair",
    "reset_batch_norm",
    "save_program",
    "select_coreset",
    "sinkhorn_matching",
    "solve_assignment",
    "solve_nested_assignment",
    "straight_through_matching",
    "synchronised_matching",
    "synthesize",
    "trace",
    "weight_matching",
]
