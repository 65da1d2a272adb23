"""Merge neural networks that were trained apart, on different data."""

from importlib.metadata import version as _version

from fastrebasin.assignment import Assignment, linear_sum_assignment, solve_assignment
from fastrebasin.evaluation import Ensemble, Evaluation, Score, evaluate, interpolation_curve
from fastrebasin.matching import (
    Matching,
    activation_matching,
    sinkhorn_matching,
    straight_through_matching,
    weight_matching,
)
from fastrebasin.merging import MergeResult, interpolate, merge
from fastrebasin.nested_assignment import NestedAssignment, solve_nested_assignment
from fastrebasin.normalization import reset_batch_norm
from fastrebasin.permutation import (
    Permutation,
    apply_permutation,
    compose,
    identity_permutation,
    invert,
    random_permutation,
)
from fastrebasin.reduction import random_coreset
from fastrebasin.spec import PermutationSpec
from fastrebasin.tracing import TracingWarning, trace

__version__ = _version("fastrebasin")

__all__ = [
    "Assignment",
    "Ensemble",
    "Evaluation",
    "Matching",
    "MergeResult",
    "NestedAssignment",
    "Permutation",
    "PermutationSpec",
    "Score",
    "TracingWarning",
    "activation_matching",
    "apply_permutation",
    "compose",
    "evaluate",
    "identity_permutation",
    "interpolate",
    "interpolation_curve",
    "invert",
    "linear_sum_assignment",
    "merge",
    "random_coreset",
    "random_permutation",
    "reset_batch_norm",
    "sinkhorn_matching",
    "solve_assignment",
    "solve_nested_assignment",
    "straight_through_matching",
    "trace",
    "weight_matching",
]
