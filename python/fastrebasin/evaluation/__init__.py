"""How good models are, alone, merged, and in between."""

from fastrebasin.evaluation.calibration import Bin, Calibration, Reliability, calibration
from fastrebasin.evaluation.comparison import compare_models
from fastrebasin.evaluation.curves import barrier, interpolation_curve, midpoint_loss
from fastrebasin.evaluation.geometry import distance, sharpness
from fastrebasin.evaluation.landscape import Corner, Landscape, landscape
from fastrebasin.evaluation.moves import LayerMove, UnitMove, layer_moves, unit_moves
from fastrebasin.evaluation.report import Alignment, MergeReport
from fastrebasin.evaluation.scores import Ensemble, Evaluation, Score, evaluate

__all__ = [
    "Alignment",
    "Bin",
    "Calibration",
    "Corner",
    "Ensemble",
    "Evaluation",
    "Landscape",
    "LayerMove",
    "MergeReport",
    "Reliability",
    "Score",
    "UnitMove",
    "barrier",
    "calibration",
    "compare_models",
    "distance",
    "evaluate",
    "interpolation_curve",
    "landscape",
    "layer_moves",
    "midpoint_loss",
    "sharpness",
    "unit_moves",
]
