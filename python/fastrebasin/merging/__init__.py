"""Combine aligned models: one file per way."""

from fastrebasin.merging.interpolation import interpolate, slerp
from fastrebasin.merging.pairwise import MergeResult, merge
from fastrebasin.merging.task_vectors import dare, task_arithmetic, ties

__all__ = ["MergeResult", "dare", "interpolate", "merge", "slerp", "task_arithmetic", "ties"]
