"""Tables, parameters and the published descent, in the terms of git-re-basin and its ports."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import scipy.optimize
import torch

from fastrebasin.compat.git_re_basin import PermutationSpec

Table = dict[str, tuple[str | None, ...]]
Arrays = dict[str, Any]

SIZES = (6, 9, 8, 7, 4)


def dense_table(depth: int) -> Table:
    """Return a table in the style of JAX: kernels of shape (inputs, outputs), slashes in names."""
    table: Table = {}
    for i in range(depth + 1):
        out = f"P_{i}" if i < depth else None
        table |= {
            f"Dense_{i}/kernel": (f"P_{i - 1}" if i else None, out),
            f"Dense_{i}/bias": (out,),
        }
    return table


def mlp_table(depth: int = 3) -> Table:
    table: Table = {"layer0.weight": ("P_0", None), "layer0.bias": ("P_0",)}
    for i in range(1, depth):
        table |= {f"layer{i}.weight": (f"P_{i}", f"P_{i - 1}"), f"layer{i}.bias": (f"P_{i}",)}
    return table | {f"layer{depth}.weight": (None, f"P_{depth - 1}"), f"layer{depth}.bias": (None,)}


def vgg_table() -> Table:
    """Return a table in which BatchNorm's vectors have an axis too many, as in the ports."""
    table: Table = {}
    before = None
    for i in (0, 4, 8, 11, 15, 18, 22, 25):
        group = f"P_Conv_{i}"
        table |= {f"features.{i}.weight": (group, before, None, None),
                  f"features.{i}.bias": (group,),
                  f"features.{i + 1}.num_batches_tracked": ()}  # fmt: skip
        for name in ("weight", "bias", "running_mean", "running_var"):
            table[f"features.{i + 1}.{name}"] = (group, None)
        before = group
    return table | {"classifier.weight": (None, before), "classifier.bias": (None,)}


def resnet20_table() -> Table:
    def conv(name: str, p_in: str | None, p_out: str) -> Table:
        return {f"{name}.weight": (p_out, p_in, None, None)}

    def norm(name: str, p: str) -> Table:
        return {f"{name}.{part}": (p,)
                for part in ("weight", "bias", "running_mean", "running_var")}  # fmt: skip

    def block(name: str, p_in: str, p_out: str) -> Table:
        inner = f"P_{name}_inner"
        shortcut = {**conv(f"{name}.shortcut.0", p_in, p_out), **norm(f"{name}.shortcut.1", p_out)}
        return {**conv(f"{name}.conv1", p_in, inner), **norm(f"{name}.bn1", inner),
                **conv(f"{name}.conv2", inner, p_out), **norm(f"{name}.bn2", p_out),
                **(shortcut if p_in != p_out else {})}  # fmt: skip

    table = conv("conv1", None, "P_bg1") | norm("bn1", "P_bg1")
    for k in (1, 2, 3):
        table |= block(f"layer{k}.0", f"P_bg{max(1, k - 1)}", f"P_bg{k}")
        table |= block(f"layer{k}.1", f"P_bg{k}", f"P_bg{k}")
        table |= block(f"layer{k}.2", f"P_bg{k}", f"P_bg{k}")
    return table | {"linear.weight": (None, "P_bg3"), "linear.bias": (None,)}


def dense_pair(seed: int) -> tuple[Arrays, Arrays]:
    """Return two models' normally distributed parameters for `dense_table(3)`."""
    rng = np.random.default_rng(seed)
    models: tuple[Arrays, Arrays] = ({}, {})
    for params in models:
        for i, shape in enumerate(itertools.pairwise(SIZES)):
            params[f"Dense_{i}/kernel"] = rng.normal(size=shape)
            params[f"Dense_{i}/bias"] = rng.normal(size=shape[1])
    return models


def random_perm(seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return {f"P_{i}": rng.permutation(size) for i, size in enumerate(SIZES[1:-1])}


def same(first: Arrays, second: Arrays) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(np.asarray(first[name]), np.asarray(second[name])) for name in first
    )


def as_torch(arrays: Arrays) -> Arrays:
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


class Foreign:
    """What other libraries' arrays are to NumPy: convertible, and read-only."""

    def __init__(self, array: Any) -> None:
        self.array = np.array(array)
        self.array.flags.writeable = False

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.array if dtype is None else self.array.astype(dtype)


class Standard(Foreign):
    """An array of the array API standard, whose functions take no other library's."""

    ndim = property(lambda self: self.array.ndim)
    shape = property(lambda self: self.array.shape)

    def __array_namespace__(self) -> Any:
        return StandardLibrary


class StandardLibrary:
    @staticmethod
    def asarray(array: Any, copy: bool = False) -> Standard:
        if isinstance(array, Standard) and not copy:
            return array
        return Standard(np.asarray(array))

    @staticmethod
    def take(array: Standard, indices: Standard, *, axis: int) -> Standard:
        return Standard(np.take(array.array, indices.array, axis))


def published(ps: PermutationSpec, a: Arrays, b: Arrays, seed: int) -> Arrays:
    """Restate the published descent in NumPy: every matrix anew, SciPy, no shortcut."""
    first = {group: axes[0] for group, axes in ps.perm_to_axes.items()}
    perm = {group: np.arange(a[name].shape[axis]) for group, (name, axis) in first.items()}
    generator = torch.Generator().manual_seed(seed)
    groups, progress = list(perm), True
    while progress:
        progress = False
        for index in torch.randperm(len(groups), generator=generator).tolist():
            group, cost = groups[index], np.zeros(())
            for name, axis in ps.perm_to_axes[group]:
                moved = b[name]
                for other, label in enumerate(ps.axes_to_perm[name]):
                    if label is not None and other != axis:
                        moved = np.moveaxis(np.moveaxis(moved, other, 0)[perm[label]], 0, other)
                rest = [k for k in range(moved.ndim) if k != axis]
                cost = cost + np.tensordot(a[name], moved, (rest, rest))
            rows, best = scipy.optimize.linear_sum_assignment(cost, maximize=True)
            gain = cost[rows, best].sum() - cost[rows, perm[group]].sum()
            if gain > 1e-12:
                perm[group], progress = best, True
    return perm
