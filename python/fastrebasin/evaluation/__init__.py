"""How good models are, alone, merged, and in between."""

from fastrebasin.evaluation.curves import interpolation_curve
from fastrebasin.evaluation.scores import Ensemble, Evaluation, Score, evaluate

__all__ = ["Ensemble", "Evaluation", "Score", "evaluate", "interpolation_curve"]
