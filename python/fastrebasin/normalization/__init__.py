"""Repair the statistics of a merged model's units: BatchNorm reset and REPAIR."""

from fastrebasin.normalization.batch_norm import (
    batch_norm_layers,
    has_batch_norm,
    reset_batch_norm,
)
from fastrebasin.normalization.repair import repair

__all__ = ["batch_norm_layers", "has_batch_norm", "repair", "reset_batch_norm"]
