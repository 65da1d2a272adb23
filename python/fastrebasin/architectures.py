"""Permutation specs of known architectures, by the names of their tensors.

The tables are those of Yamada et al., ACML 2024, appendix B, for this package's own models.
`known` recognises them, and plain chains of layers under any names, in a user's model. What it
returns is a proposal: `PermutationSpec.verify` proves it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from fastrebasin.spec import PermutationSpec

__all__ = ["chain", "known", "mlp", "resnet", "vgg"]

_AxisTable = dict[str, tuple[str | None, ...]]

# Modules that treat every unit alike, so that units may change places on either side.
_UNITWISE = (
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU,
    nn.ELU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Hardtanh, nn.MaxPool1d, nn.MaxPool2d,
    nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
    nn.Flatten, nn.Softmax, nn.LogSoftmax,
)  # fmt: skip


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


def chain(model: nn.Module) -> PermutationSpec:
    """Propose a spec for a plain chain of layers, registered in the order in which they run.

    Linear and convolution layers with batch normalisation, pooling, dropout and elementwise
    activations between them.

    Raises:
        ValueError: the model has other modules, or widths that don't chain.
    """
    axes: _AxisTable = {}
    problems: list[str] = []
    group: str | None = None
    width = 0
    layers = [(n, m) for n, m in model.named_modules() if not any(True for _ in m.children())]
    weighted = [n for n, m in layers if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))]
    for name, module in layers:
        if name in weighted and not getattr(module, "transposed", False):
            weight = module.get_parameter("weight")
            if group is not None and weight.shape[1] != width:
                problems.append(
                    f"{name} reads {weight.shape[1]} units, the layer before has {width}"
                )
            before, group = group, f"P{weighted.index(name)}" if name != weighted[-1] else None
            width = weight.shape[0]
            fixed = (None,) * (weight.ndim - 2)
            axes[f"{name}.weight"] = (group, before, *fixed)
            if module.bias is not None:
                axes[f"{name}.bias"] = (group,)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            present = module.state_dict()  # affine parameters and statistics are optional
            axes |= {
                key: groups
                for key, groups in _batch_norm(name, group).items()
                if key.rpartition(".")[2] in present
            }
        elif not isinstance(module, _UNITWISE):
            problems.append(f"{name or 'the model'} is a {type(module).__name__}")
    if problems:
        raise ValueError("not a plain chain of layers: " + "; ".join(problems))
    return PermutationSpec.from_axes(axes)


def known(model: nn.Module) -> PermutationSpec:
    """Propose the spec of a model of a known architecture, bound to its sizes.

    Known are chains of layers under any names (MLP, VGG) and the residual network of
    `fastrebasin.experiments.models`. Prove the proposal with `PermutationSpec.verify`.

    Raises:
        ValueError: the architecture isn't known; says what is and what to do.

    Example:
        >>> known(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))).sizes["P0"]
        8
    """
    params = model.state_dict()
    blocks = re.findall(r"^layer(\d+)\.\d+\.conv1\.weight$", "\n".join(params), re.MULTILINE)
    if blocks:
        spec = resnet([blocks.count(stage) for stage in sorted(set(blocks), key=int)])
        counters = {name for name in params if name.endswith("num_batches_tracked")}
        if set(spec.axes) == set(params) - counters:
            return spec.bind(params)
    try:
        return chain(model).bind(params)
    except ValueError as error:
        raise ValueError(
            f"no spec is known for {type(model).__name__}: it is not the ResNet of "
            f"fastrebasin.experiments.models, and {error}. "
            "Write its spec with PermutationSpec.from_axes"
        ) from None


def _convolution(
    name: str, out: str | None, before: str | None, *, bias: bool = False
) -> _AxisTable:
    axes: _AxisTable = {f"{name}.weight": (out, before, None, None)}
    return axes | ({f"{name}.bias": (out,)} if bias else {})


def _batch_norm(name: str, group: str | None) -> _AxisTable:
    return {
        f"{name}.{part}": (group,) for part in ("weight", "bias", "running_mean", "running_var")
    }
