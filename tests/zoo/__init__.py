"""Small models of many architectures, one for each row of README's support table."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from . import attention, convolutional, generative, huggingface, recurrent, shuffle, vision
from .convolutional import resnet50
from .entry import Entry, enliven
from .huggingface import deep_llama

__all__ = ["ZOO", "Entry", "deep_llama", "resnet50"]


def _lively(entry: Entry) -> Entry:
    def build() -> nn.Module:
        return enliven(entry.build())

    return replace(entry, build=build)


ZOO: tuple[Entry, ...] = tuple(
    _lively(entry)
    for family in (
        convolutional,
        vision,
        shuffle,
        generative,
        recurrent,
        attention,
        huggingface,
    )
    for entry in family.ENTRIES
)
