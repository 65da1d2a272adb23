"""Weight matching behind git-re-basin's signature, and behind that of its PyTorch port."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, overload

import numpy as np
import torch

from fastrebasin import matching
from fastrebasin.compat.git_re_basin.arrays import Params, as_indices, real_tensors
from fastrebasin.compat.git_re_basin.spec import PermutationSpec, from_git_re_basin

__all__ = ["weight_matching"]


def _after_rng(function: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Let a function also take a JAX key before all else, which becomes its seed."""

    @functools.wraps(function)
    def taking_rng(*args: Any, **kwargs: Any) -> dict[str, Any]:
        if len(args) > 1 and hasattr(args[1], "axes_to_perm"):  # no parameters have that
            return function(*args[1:], **kwargs, seed=_seed(args[0]))
        if "rng" in kwargs:
            return function(*args, seed=_seed(kwargs.pop("rng")), **kwargs)
        return function(*args, **kwargs)

    return taking_rng


@overload
def weight_matching(
    ps: PermutationSpec, params_a: Params, params_b: Params, max_iter: int = ...,
    init_perm: Mapping[str, Any] | None = ..., silent: bool = ..., *, seed: int = ...,
) -> dict[str, Any]: ...  # fmt: skip
@overload
def weight_matching(
    rng: Any, ps: PermutationSpec, params_a: Params, params_b: Params, max_iter: int = ...,
    init_perm: Mapping[str, Any] | None = ..., silent: bool = ...,
) -> dict[str, Any]: ...  # fmt: skip
@_after_rng
def weight_matching(
    ps: PermutationSpec,
    params_a: Params,
    params_b: Params,
    max_iter: int = 100,
    init_perm: Mapping[str, Any] | None = None,
    silent: bool = True,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Find the permutation of B that makes the inner product of weights with A's locally largest.

    The signature is the PyTorch port's. git-re-basin's own, with a random key before `ps`, works
    too: `weight_matching(rng, ps, params_a, params_b, ...)`, where `rng` is what
    `jax.random.PRNGKey` returns, or an integer.

    Args:
        ps: which axes share a permutation. Parameters that it gives none are not looked at.
        params_a, params_b: parameters by name, of equal shapes.
        max_iter: stop after so many passes over all permutations even if some would still move.
        init_perm: where to start, torch or NumPy; the identity by default. It is not changed.
        silent: nothing is printed, whatever it says.
        seed: of the order in which permutations are visited. The port draws it from torch's global
            generator.

    Returns:
        An int64 vector for each permutation: torch on the CPU if `params_b` holds tensors, else
        NumPy.

    Raises:
        ValueError: A, B and `ps` don't fit together, `init_perm` doesn't fit, or weights are not
            real and finite.
        TypeError: `rng` is neither an integer nor an array of integers.

    Example:
        >>> from fastrebasin.compat.git_re_basin import (
        ...     apply_permutation, permutation_spec_from_axes_to_perm)
        >>> ps = permutation_spec_from_axes_to_perm({"w1": ("P_0", None), "w2": (None, "P_0")})
        >>> a = {"w1": np.random.randn(8, 4), "w2": np.random.randn(2, 8)}
        >>> b = apply_permutation(ps, {"P_0": np.random.permutation(8)}, a)
        >>> perm = weight_matching(ps, a, b)
        >>> np.array_equal(apply_permutation(ps, perm, b)["w1"], a["w1"])
        True

    Source: Ainsworth et al., ICLR 2023, algorithm 1.
    """
    del silent
    names = [name for name, groups in ps.axes_to_perm.items() if any(groups)]
    models = {"A": params_a, "B": params_b}
    a, b = real_tensors(
        {label: {n: params[n] for n in names if n in params} for label, params in models.items()}
    )
    found = matching.weight_matching(
        from_git_re_basin(ps, a),
        a,
        b,
        init="identity" if init_perm is None else as_indices(init_perm),
        order="serial",
        seed=seed,
        max_sweeps=max_iter,
    ).permutation
    if any(isinstance(value, torch.Tensor) for value in params_b.values()):
        return dict(found)
    return {group: indices.numpy() for group, indices in found.items()}


def _seed(rng: Any) -> int:
    key = np.asarray(rng)
    if key.dtype.kind not in "iu":
        raise TypeError(
            "rng must be an integer or a key of integers such as jax.random.PRNGKey's, "
            f"got {type(rng).__name__}"
        )
    return int.from_bytes(key.tobytes(), "little") % 2**63
