"""How good models are, alone, merged, and in between."""

from fastrebasin.evaluation.calibration import Bin, Calibration, Reliability, calibration
from fastrebasin.evaluation.curves import barrier, interpolation_curve, midpoint_loss
from fastrebasin.evaluation.geometry import distance, sharpness
from fastrebasin.evaluation.landscape import Corner, Landscape, landscape
from fastrebasin.evaluation.scores import Ensemble, Evaluation, Score, evaluate

__all__ = [
    "Bin",
    "Calibration",
    "Corner",
    "Ensemble",
    "Evaluation",
    "Landscape",
    "Reliability",
    "Score",
    "barrier",
    "calibration",
    "distance",
    "evaluate",
    "interpolation_curve",
    "landscape",
    "midpoint_loss",
    "sharpness",
]
