"""Coresets: a few examples of each class, chosen from a data set."""

from fastrebasin.reduction.coreset.chance import Random, Uniform
from fastrebasin.reduction.coreset.selection import SELECTORS, select_coreset
from fastrebasin.reduction.coreset.selector import Selector

__all__ = ["SELECTORS", "Random", "Selector", "Uniform", "select_coreset"]
