"""A few examples per class that stand in for a data set."""

from fastrebasin.reduction.coreset import random_coreset

__all__ = ["random_coreset"]
