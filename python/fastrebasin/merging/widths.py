"""The layers that can have another width, and which axes of their parameters follow it."""

from __future__ import annotations

import collections
import copy
from collections.abc import Mapping

from torch import Tensor, nn

from fastrebasin.checkpoints import check_fit

__all__ = ["fit_widths", "roles"]


def fit_widths(model: nn.Module, params: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a model with a state dict's parameters, its layers as wide as these are.

    Args:
        model: what the state dict is of, but for the widths of its layers; not changed.
        params: as a merge that keeps units apart gives them.

    Raises:
        ValueError: a tensor is missing, or of a layer that can't have another width.

    Example:
        >>> narrow = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> wide = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 2))
        >>> fit_widths(narrow, wide.state_dict())
        Sequential(
          (0): Linear(in_features=4, out_features=10, bias=True)
          (1): ReLU()
          (2): Linear(in_features=10, out_features=2, bias=True)
        )
    """
    fitted = copy.deepcopy(model)
    for name, module in fitted.named_modules():
        if _weight_axes(module)[0] is None:
            continue
        changed = False
        for kind in (module._parameters, module._buffers):
            for part, old in kind.items():
                new = params.get(_join(name, part))
                if old is None or new is None or new.shape == old.shape:
                    continue
                changed, wide = True, old.new_empty(new.shape)
                is_parameter = isinstance(old, nn.Parameter)
                kind[part] = nn.Parameter(wide, old.requires_grad) if is_parameter else wide
        if changed:
            _set_width(module)
    check_fit(params, fitted, "params")
    fitted.load_state_dict(params)
    return fitted


def _set_width(module: nn.Module) -> None:
    """Make what a layer says of its width agree with its parameters."""
    match module:
        case nn.Linear():
            module.out_features, module.in_features = module.weight.shape
        case nn.modules.conv._ConvTransposeNd():
            module.in_channels, module.out_channels = module.weight.shape[:2]
        case nn.modules.conv._ConvNd() if module.groups > 1:
            module.in_channels = module.out_channels = module.groups = module.weight.shape[0]
        case nn.modules.conv._ConvNd():
            module.out_channels, module.in_channels = module.weight.shape[:2]
        case nn.modules.batchnorm._NormBase():
            module.num_features = len(next(iter(module.state_dict().values())))
        case nn.PReLU():
            module.num_parameters = len(module.weight)
        case nn.Embedding():
            module.embedding_dim = module.weight.shape[1]
        case _ if _is_transposed_linear(module):
            module.nx, module.nf = module.state_dict()["weight"].shape


def roles(model: nn.Module) -> dict[tuple[str, int], bool]:
    """Tell of axes, by tensor and number, whether the layer makes the units there or reads them.

    Left out are tensors of other layers and those that several layers share.
    """
    uses = collections.Counter(id(p) for m in model.modules() for p in m._parameters.values())
    found: dict[tuple[str, int], bool] = {}
    for name, module in model.named_modules():
        makes, reads = _weight_axes(module)
        if makes is None:
            continue
        for part, tensor in module.state_dict(keep_vars=True).items():
            if tensor.ndim and uses[id(tensor)] < 2:
                found[_join(name, part), makes if part == "weight" else 0] = True
                if part == "weight" and reads is not None:
                    found[_join(name, part), reads] = False
    return found


def _weight_axes(module: nn.Module) -> tuple[int | None, int | None]:
    """Return which axis of a layer's weight makes units and which reads them."""
    makes: int | None = None
    reads: int | None = None
    match module:
        case nn.modules.conv._ConvTransposeNd() if module.groups == 1:
            makes, reads = 1, 0
        case nn.modules.conv._ConvTransposeNd():
            pass
        case nn.modules.conv._ConvNd() if module.groups > 1:
            depthwise = module.groups == module.in_channels == module.out_channels
            makes = 0 if depthwise else None
        case nn.Linear() | nn.modules.conv._ConvNd():
            makes, reads = 0, 1
        case nn.modules.batchnorm._NormBase() | nn.PReLU():
            makes = 0
        case nn.Embedding():
            makes = 1
        case _ if _is_transposed_linear(module):
            makes, reads = 1, 0
    return makes, reads


def _is_transposed_linear(module: nn.Module) -> bool:
    """Tell whether this is the linear layer of transformers' GPT-2."""
    return type(module).__name__ == "Conv1D" and "nf" in vars(module)


def _join(module: str, part: str) -> str:
    return f"{module}.{part}" if module else part
