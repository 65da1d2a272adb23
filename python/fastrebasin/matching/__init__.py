"""Find the permutation that aligns B with A: one module for each method."""

from fastrebasin.matching.activations import activation_matching
from fastrebasin.matching.result import Matching
from fastrebasin.matching.sinkhorn import sinkhorn_matching
from fastrebasin.matching.straight_through import straight_through_matching
from fastrebasin.matching.synchronised import SynchronisedMatching, synchronised_matching
from fastrebasin.matching.weights import weight_matching

__all__ = [
    "Matching",
    "SynchronisedMatching",
    "activation_matching",
    "sinkhorn_matching",
    "straight_through_matching",
    "synchronised_matching",
    "weight_matching",
]
