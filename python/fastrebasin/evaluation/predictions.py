"""What a classifier says of every example of a source, in eval mode and without gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastrebasin.data import Data, Examples, batches, on_device, sources

__all__ = [
    "check_batch_size", "device_of", "eval_mode", "log_probabilities", "resident_sources",
]  # fmt: skip


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode inside the block, and every module back as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def log_probabilities(
    model: nn.Module, source: Examples, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield log-probabilities, float64 of shape (batch, classes), and labels, where the model is.

    Args:
        model: in eval mode; returns logits or log-probabilities.
        source: labelled examples.
        batch_size: examples per forward pass.
    """
    device = device_of(model)
    for x, y in batches(source, batch_size):
        with torch.no_grad():
            # Idempotent: right for logits and for log-probabilities.
            log_probs = functional.log_softmax(model(x.to(device)).double(), dim=1)
        yield log_probs, y.to(device)


def resident_sources(data: Data, model: nn.Module) -> tuple[Examples, ...]:
    """Return the sources that `data` names, read once, small ones on the model's device."""
    return tuple(on_device(source, device_of(model)) for source in sources(data))


def device_of(model: nn.Module) -> torch.device:
    """Return where a model's parameters lie, the CPU if it has none."""
    return next(model.parameters(), torch.empty(0)).device


def check_batch_size(batch_size: int) -> list[str]:
    """Return what is wrong with a number of examples, as a list to add to."""
    return [] if batch_size >= 1 else [f"batch_size must be at least 1, got {batch_size}"]
