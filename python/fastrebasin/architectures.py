"""Permutation specs of the paper's architectures, written by hand.

The tables are those of Yamada et al., ACML 2024, appendix B, for the models of
`fastrebasin.experiments.models`. Any other model's spec comes from `fastrebasin.trace`.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastrebasin.spec import PermutationSpec

__all__ = ["mlp", "resnet", "vgg"]

_AxisTable = dict[str, tuple[str | None, ...]]


def mlp(hidden_layers: int = 3) -> PermutationSpec:
    """Return the spec of `fastrebasin.experiments.models.MLP`: groups P0, P1, ...

    Example:
        >>> mlp(1).axes["layer1.weight"]
        (None, 'P0')
    """
    axes: _AxisTable = {}
    for i in range(hidden_layers + 1):
        out = f"P{i}" if i < hidden_layers else None
        axes[f"layer{i}.weight"] = (out, f"P{i - 1}" if i else None)
        axes[f"layer{i}.bias"] = (out,)
    return PermutationSpec.from_axes(axes)


def vgg(convolutions: Sequence[int] = (0, 4, 8, 11, 15, 18, 22, 25)) -> PermutationSpec:
    """Return the spec of `fastrebasin.experiments.models.VGG`: groups C0, C1, ...

    Args:
        convolutions: positions of the convolutions in `features`, each with its BatchNorm behind
            it; VGG11's by default.
    """
    axes: _AxisTable = {}
    group = None
    for i, position in enumerate(convolutions):
        before, group = group, f"C{i}"
        axes |= _convolution(f"features.{position}", group, before, bias=True)
        axes |= _batch_norm(f"features.{position + 1}", group)
    axes |= {"classifier.weight": (None, group), "classifier.bias": (None,)}
    return PermutationSpec.from_axes(axes)


def resnet(blocks: Sequence[int] = (3, 3, 3)) -> PermutationSpec:
    """Return the spec of `fastrebasin.experiments.models.ResNet`.

    Groups R1, R2, R3 are the residual streams of the stages, I<stage><block> the inner channels
    of the blocks: 12 groups for ResNet20.

    Example:
        >>> len(resnet((3, 3, 3)).groups)
        12
    """
    axes = _convolution("conv1", "R1", None) | _batch_norm("bn1", "R1")
    stream = "R1"
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            name, inner = f"layer{stage}.{block}", f"I{stage}{block}"
            before, stream = stream, f"R{stage}"
            axes |= _convolution(f"{name}.conv1", inner, before) | _batch_norm(f"{name}.bn1", inner)
            axes |= _convolution(f"{name}.conv2", stream, inner)
            axes |= _batch_norm(f"{name}.bn2", stream)
            if before != stream:
                axes |= _convolution(f"{name}.shortcut.0", stream, before)
                axes |= _batch_norm(f"{name}.shortcut.1", stream)
    axes |= {"linear.weight": (None, stream), "linear.bias": (None,)}
    return PermutationSpec.from_axes(axes)


def _convolution(
    name: str, out: str | None, before: str | None, *, bias: bool = False
) -> _AxisTable:
    axes: _AxisTable = {f"{name}.weight": (out, before, None, None)}
    return axes | ({f"{name}.bias": (out,)} if bias else {})


def _batch_norm(name: str, group: str | None) -> _AxisTable:
    return {
        f"{name}.{part}": (group,) for part in ("weight", "bias", "running_mean", "running_var")
    }
