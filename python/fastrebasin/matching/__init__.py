"""Find the permutation that aligns B with A: one module for each method."""

from fastrebasin.matching.result import Matching
from fastrebasin.matching.straight_through import straight_through_matching
from fastrebasin.matching.weights import weight_matching

__all__ = ["Matching", "straight_through_matching", "weight_matching"]
