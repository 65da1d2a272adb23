"""Apply permutations to flat dicts of torch or NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastrebasin import spec as native
from fastrebasin.compat.git_re_basin.arrays import Params, as_array, as_indices, take
from fastrebasin.compat.git_re_basin.spec import PermutationSpec, fit
from fastrebasin.permutation import check_permutation

__all__ = ["apply_permutation", "get_permuted_param"]


def get_permuted_param(
    ps: PermutationSpec,
    perm: Mapping[str, Any],
    k: str,
    params: Params,
    except_axis: int | None = None,
) -> Any:
    """Return the parameter `k`, every axis but `except_axis` gathered: `out[i] = b[perm[i]]`.

    Args:
        ps: which axes share a permutation.
        perm: an index vector for each permutation on the axes that move.
        k: name of the parameter.
        params: parameters by name; only `k` is looked at.
        except_axis: an axis to leave as it is.

    Returns:
        A new array of the same dtype. Gradients flow through that of a tensor.

    Raises:
        ValueError: `k` is not in `params` or not in `ps`, has no axis `except_axis`, or `perm`
            doesn't fit it.

    Example:
        >>> import numpy as np
        >>> from fastrebasin.compat.git_re_basin import permutation_spec_from_axes_to_perm
        >>> ps = permutation_spec_from_axes_to_perm({"w": ("P_0", "P_1")})
        >>> perm = {"P_0": [1, 0], "P_1": [2, 0, 1]}
        >>> w = np.array([[1, 2, 3], [4, 5, 6]])
        >>> get_permuted_param(ps, perm, "w", {"w": w}).tolist()
        [[6, 4, 5], [3, 1, 2]]
        >>> get_permuted_param(ps, perm, "w", {"w": w}, except_axis=1).tolist()
        [[4, 5, 6], [1, 2, 3]]

    Source: git-re-basin.
    """
    if k not in params:
        raise ValueError(f"{k} is not in params")
    ndim = as_array(params[k]).ndim
    if except_axis is not None and not 0 <= except_axis < ndim:
        raise ValueError(f"except_axis must be an axis of {k}, 0 to {ndim - 1}, got {except_axis}")
    return _moved(ps, perm, {k: params[k]}, except_axis)[k]


def apply_permutation(
    ps: PermutationSpec, perm: Mapping[str, Any], params: Params
) -> dict[str, Any]:
    """Return a copy of `params`, every axis that has a permutation gathered: `out[i] = b[perm[i]]`.

    Args:
        ps: which axes share a permutation. It must have an entry for each tensor that has axes,
            also for one whose axes are all fixed; other entries may be missing from `params`.
        perm: an index vector for each permutation, of integers, torch or NumPy.
        params: parameters by name.

    Returns:
        New arrays of the same dtypes, on the same devices. Gradients flow through tensors.

    Raises:
        ValueError: every tensor that is not in `ps` or doesn't fit it, or every index vector that
            is missing or doesn't fit `params`, in one message.

    Example:
        >>> import torch
        >>> from fastrebasin.compat.git_re_basin import permutation_spec_from_axes_to_perm
        >>> ps = permutation_spec_from_axes_to_perm({"w": ("P_0", None)})
        >>> apply_permutation(ps, {"P_0": torch.tensor([1, 0])}, {"w": torch.tensor([[1.], [2.]])})
        {'w': tensor([[2.],
                [1.]])}

    Source: git-re-basin.
    """
    return _moved(ps, perm, params)


def _moved(
    ps: PermutationSpec, perm: Mapping[str, Any], params: Params, except_axis: int | None = None
) -> dict[str, Any]:
    arrays = {name: as_array(value) for name, value in params.items()}
    axes = fit(ps.axes_to_perm, arrays)
    if except_axis is not None:
        axes = {
            name: tuple(None if axis == except_axis else g for axis, g in enumerate(groups))
            for name, groups in axes.items()
        }
    sizes = native.PermutationSpec.from_axes(axes, arrays).sizes
    indices = check_permutation(as_indices({g: perm[g] for g in sizes if g in perm}), sizes)
    return {name: take(array, axes[name], indices) for name, array in arrays.items()}
