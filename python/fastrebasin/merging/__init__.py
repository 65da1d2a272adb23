"""Combine aligned models: one file per way."""

from fastrebasin.merging.interpolation import interpolate
from fastrebasin.merging.pairwise import MergeResult, merge

__all__ = ["MergeResult", "interpolate", "merge"]
