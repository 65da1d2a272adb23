"""Arrays of any kind: torch tensors, those of the array API standard, and what NumPy takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

__all__ = ["Params", "as_array", "as_indices", "real_tensors", "take"]

Params: TypeAlias = Mapping[str, Any]
"""Parameters by name."""


def as_array(value: Any) -> Any:
    """Return torch tensors and arrays of the standard (JAX's) as they are, the rest as NumPy's."""
    known = isinstance(value, torch.Tensor) or hasattr(value, "__array_namespace__")
    return value if known else np.asarray(value)


def as_indices(perm: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return index vectors as CPU tensors; whole numbers in floats become int64.

    Raises:
        ValueError: every vector that doesn't hold numbers, in one message.

    Example:
        >>> as_indices({"P_0": np.array([1.0, 0.0], np.float32)})
        {'P_0': tensor([1, 0])}
    """
    found = {group: _index(value) for group, value in perm.items()}
    problems = [
        f"group {group!r} must hold integers, got {np.asarray(perm[group]).dtype}"
        for group, indices in found.items()
        if indices is None
    ]
    if problems:
        raise ValueError("permutation doesn't fit: " + "; ".join(problems))
    return {group: indices for group, indices in found.items() if indices is not None}


def _index(value: Any) -> torch.Tensor | None:
    if isinstance(value, torch.Tensor):
        found = value.detach().cpu()
    else:
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            return None
        found = torch.from_numpy(array.astype(np.float64 if array.dtype.kind == "f" else np.int64))
    whole = found.is_floating_point() and bool((found == found.floor()).all())
    return found.to(torch.int64) if whole else found


def real_tensors(models: Mapping[str, Mapping[str, Any]]) -> list[dict[str, torch.Tensor]]:
    """Return each model's parameters as tensors of floats, sharing memory where torch can.

    Args:
        models: parameters by the label that messages give the model. What isn't float32 or float64
            becomes float32 if its entries have up to 16 bits, float64 otherwise; torch's own
            floats stay.

    Raises:
        ValueError: every parameter that doesn't hold real numbers, in one message.
    """
    found = [{name: _real(p) for name, p in params.items()} for params in models.values()]
    problems = [
        f"{name} of {label} holds {as_array(models[label][name]).dtype}"
        for label, tensors in zip(models, found, strict=True)
        for name, tensor in tensors.items()
        if tensor is None
    ]
    if problems:
        raise ValueError("parameters must be real numbers: " + "; ".join(problems))
    return [{n: t for n, t in tensors.items() if t is not None} for tensors in found]


def _real(value: Any) -> torch.Tensor | None:
    if isinstance(value, torch.Tensor):
        tensor = value.detach()
        if tensor.is_complex():
            return None
        return tensor if tensor.is_floating_point() else tensor.double()
    array = np.asarray(value)
    if np.iscomplexobj(array):
        return None
    single = array.dtype.itemsize <= 2 or array.dtype == np.float32
    try:
        array = np.asarray(array, np.float32 if single else np.float64)
    except (TypeError, ValueError):
        return None
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()  # torch warns of the one and refuses the other
    return torch.from_numpy(array)


def take(array: Any, groups: Sequence[str | None], indices: Mapping[str, torch.Tensor]) -> Any:
    """Return a new array of the same kind, each axis that has a group gathered by its indices.

    Example:
        >>> take(np.array([[1, 2], [3, 4]]), ("P", None), {"P": torch.tensor([1, 0])}).tolist()
        [[3, 4], [1, 2]]
    """
    # Other libraries' own functions keep their arrays on their device and their gradients flowing.
    standard = hasattr(array, "__array_namespace__")
    library: Any = array.__array_namespace__() if standard else np
    moved = array
    for axis, group in enumerate(groups):
        if group is None:
            continue
        if isinstance(moved, torch.Tensor):
            moved = moved.index_select(axis, indices[group].to(moved.device))
        else:
            indices_there = library.asarray(indices[group].cpu().numpy())
            moved = library.take(moved, indices_there, axis=axis)
    if moved is not array:
        return moved
    if isinstance(array, torch.Tensor):
        return array.clone()
    return library.asarray(array, copy=True) if standard else array.copy()
