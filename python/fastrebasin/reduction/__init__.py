"""A few examples per class that stand in for a data set."""

from fastrebasin.reduction.coreset import select_coreset
from fastrebasin.reduction.reduced import ReducedSet

__all__ = ["ReducedSet", "select_coreset"]
