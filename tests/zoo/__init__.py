"""Small models of many architectures, one for each row of README's support table."""

from __future__ import annotations

from . import attention, convolutional, dense, generative, huggingface, recurrent, shuffle, vision
from .convolutional import resnet50
from .entry import Entry, lively
from .huggingface import deep_llama

__all__ = ["LARGE", "ZOO", "Entry", "deep_llama", "resnet50"]

_FAMILIES = (
    convolutional,
    dense,
    vision,
    shuffle,
    generative,
    recurrent,
    attention,
    huggingface,
)

ZOO: tuple[Entry, ...] = tuple(lively(entry) for family in _FAMILIES for entry in family.ENTRIES)

# The same structures at sizes that people train: for timing, and for tests that may take minutes.
LARGE: tuple[Entry, ...] = tuple(
    lively(entry) for family in (convolutional, huggingface) for entry in family.LARGE
)
