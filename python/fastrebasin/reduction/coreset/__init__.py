"""Coresets: a few examples of each class, chosen from a data set."""

from fastrebasin.reduction.coreset.chance import Random, Uniform
from fastrebasin.reduction.coreset.dynamics import EL2N, Forgetting, GraNd
from fastrebasin.reduction.coreset.geometry import Herding, KCenter
from fastrebasin.reduction.coreset.gradients import Craig, Glister, GradMatch
from fastrebasin.reduction.coreset.selection import SELECTORS, select_coreset
from fastrebasin.reduction.coreset.selector import Selector
from fastrebasin.reduction.coreset.submodular import FacilityLocation, GraphCut
from fastrebasin.reduction.coreset.uncertainty import Uncertainty

__all__ = [
    "EL2N",
    "SELECTORS",
    "Craig",
    "FacilityLocation",
    "Forgetting",
    "Glister",
    "GraNd",
    "GradMatch",
    "GraphCut",
    "Herding",
    "KCenter",
    "Random",
    "Selector",
    "Uncertainty",
    "Uniform",
    "select_coreset",
]
