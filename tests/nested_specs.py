"""Hand-written specs with groups inside groups, and random parameters of the shapes they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from fastrebasin import PermutationSpec
from fastrebasin.layout import length, parse

Axes = dict[str, tuple[str | None, ...]]


@dataclass
class Case:
    """A spec's table, with the extents of its groups and the sizes of its fixed axes."""

    axes: Axes
    own: Mapping[str, int]
    within: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fixed: int = 7

    def params(self, seed: int) -> dict[str, torch.Tensor]:
        """Return normally distributed parameters."""
        generator = torch.Generator().manual_seed(seed)
        return {
            name: torch.randn(
                [length(parse(text), self.own) if text else self.fixed for text in texts],
                generator=generator,
            )
            for name, texts in self.axes.items()
        }

    def spec(self) -> PermutationSpec:
        """Return the spec, bound."""
        sizes = {}
        for group, own in self.own.items():
            sizes[group] = own
            for parent in self.within.get(group, ()):
                sizes[group] *= self.own[parent]
        spec = PermutationSpec.from_axes(self.axes, within=self.within, sizes=sizes)
        return spec.bind(self.params(0))


def linear(name: str, out: str | None, into: str | None, *, bias: bool = True) -> Axes:
    """Return the axes of a linear layer."""
    return {f"{name}.weight": (out, into)} | ({f"{name}.bias": (out,)} if bias else {})


def attention(prefix: str, stream: str | None, h: str, qk: str, vo: str) -> Axes:
    """Return the axes of multi-head attention."""
    return (
        linear(f"{prefix}q", f"{h}*{qk}", stream)
        | linear(f"{prefix}k", f"{h}*{qk}", stream)
        | linear(f"{prefix}v", f"{h}*{vo}", stream)
        | linear(f"{prefix}o", stream, f"{h}*{vo}")
    )


def transformer(
    layers: int = 2,
    stream: int = 48,
    heads: int = 4,
    head: int = 12,
    mlp: int = 96,
    fixed: int = 50,
    tied: bool = False,
) -> Case:
    """Return pre-norm blocks between an embedding and an output layer, perhaps the same."""
    axes: Axes = {"embedding.weight": (None, "S")}
    own = {"S": stream}
    within: dict[str, Sequence[str]] = {}
    for k in range(layers):
        axes |= {f"{k}.norm1.weight": ("S",), f"{k}.norm1.bias": ("S",)}
        axes |= attention(f"{k}.", "S", f"H{k}", f"QK{k}", f"VO{k}")
        axes |= {f"{k}.norm2.weight": ("S",), f"{k}.norm2.bias": ("S",)}
        axes |= linear(f"{k}.up", f"M{k}", "S") | linear(f"{k}.down", "S", f"M{k}")
        own |= {f"H{k}": heads, f"QK{k}": head, f"VO{k}": head, f"M{k}": mlp}
        within |= {f"QK{k}": (f"H{k}",), f"VO{k}": (f"H{k}",)}
    if not tied:
        axes |= {"output.weight": (None, "S")}
    return Case(axes, own, within, fixed)


_HEADS = {"QK": ("H",), "VO": ("H",)}
_STREAM: Axes = {"embedding": (None, "S"), "output": (None, "S")}
_ATTENTION = {"S": 20, "H": 4, "QK": 6, "VO": 5}

CASES = {
    "multi-head attention": Case(
        _STREAM | attention("", "S", "H", "QK", "VO"), _ATTENTION, _HEADS, fixed=20
    ),
    "fused projections": Case(
        _STREAM | linear("qkv", "H*QK + H*QK + H*VO", "S") | linear("o", "S", "H*VO"),
        _ATTENTION, _HEADS, fixed=20,
    ),
    "projections fused in each head": Case(
        _STREAM | linear("qkv", "H*(QK + QK + VO)", "S") | linear("o", "S", "H*VO"),
        _ATTENTION, _HEADS, fixed=20,
    ),
    "grouped-query attention": Case(
        _STREAM | linear("q", "G*R*QK", "S") | linear("k", "G*QK", "S")
        | linear("v", "G*VO", "S") | linear("o", "S", "G*R*VO"),
        {"S": 20, "G": 3, "R": 3, "QK": 6, "VO": 5},
        {"R": ("G",), "QK": ("G",), "VO": ("G",)}, fixed=20,
    ),
    "group norm": Case(
        {"stem": ("G*C", None, "3"), "norm1": ("G*C",), "conv1": ("G*C", "G*C", "9"),
         "conv2": ("F*D", "G*C", "9"), "norm2": ("F*D",), "output": (None, "F*D")},
        {"G": 4, "C": 5, "F": 6, "D": 3}, {"C": ("G",), "D": ("F",)},
    ),
    "grouped convolution": Case(
        {"stem": ("S", None, "9"), "conv1": ("G*I", "S"), "norm1": ("G*I",),
         "conv2": ("G*O", "I", "9"), "norm2": ("G*O",), "conv3": ("S", "G*O"),
         "output": (None, "S")},
        {"S": 16, "G": 4, "I": 5, "O": 6}, {"I": ("G",), "O": ("G",)},
    ),
    "depthwise convolution": Case(
        {"stem": ("S", None, "9"), "conv1": ("G*I", "S"), "conv2": ("G*O", "I", "9"),
         "norm2": ("G*O",), "conv3": ("S", "G*O"), "output": (None, "S")},
        {"S": 16, "G": 24, "I": 1, "O": 1}, {"I": ("G",), "O": ("G",)},
    ),
    "experts": Case(
        _STREAM | {"router": ("E", "S"), "up": ("E", "S", "I + I"), "down": ("E", "I", "S")},
        {"S": 16, "E": 6, "I": 8}, {"I": ("E",)},
    ),
    "LSTM": Case(
        {"input": ("H + H + H + H", None), "recurrent": ("H + H + H + H", "H"),
         "bias": ("H + H + H + H",), "output": (None, "H")}, {"H": 24},
    ),
    "stacked GRU": Case(
        {"input1": ("H + H + H", None), "recurrent1": ("H + H + H", "H"),
         "input2": ("K + K + K", "H"), "recurrent2": ("K + K + K", "K"), "output": (None, "K")},
        {"H": 24, "K": 20},
    ),
    "recurrent weights in blocks": Case(
        {"recurrent": ("G*D", "D"), "input": ("G*D", None), "output": (None, "G*D")},
        {"G": 3, "D": 8}, {"D": ("G",)},
    ),
    "flattened convolution": Case(
        {"conv": ("C", None, "9"), "hidden": ("P", "C*49"), "output": (None, "P")},
        {"C": 8, "P": 12},
    ),
    "concatenation": Case(
        {"left": ("P0", None), "right": ("P1", None), "hidden": ("Q", "P0 + P1"),
         "output": (None, "Q")}, {"P0": 9, "P1": 7, "Q": 10},
    ),
    "three levels": Case(
        {"a": ("G*R*D", None), "b": ("G*R", None), "c": ("G*Q", None), "d": ("G*R*Q", None),
         "e": ("S", "G*R*D"), "output": (None, "S")},
        {"G": 3, "R": 3, "D": 4, "Q": 4, "S": 8}, {"R": ("G",), "D": ("G", "R"), "Q": ("G",)},
    ),
    "two roots": Case(
        {"a": ("E*G*D", None), "b": ("E", None), "c": ("G", None)},
        {"E": 3, "G": 3, "D": 4}, {"D": ("E", "G")},
    ),
    "transformer": transformer(),
}  # fmt: skip
