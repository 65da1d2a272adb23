"""A device that is none: its tensors are computed on the CPU, with an account of what would wait.

So a machine without a GPU shows what crosses between host and device, and which operations would
make the host wait for a device. Tensors of the two don't mix, as on a real one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

from fastrebasin.assignment import Assignment, solve_assignment
from fastrebasin.device_assignment import DeviceSolutions
from fastrebasin.matching import solving

__all__ = ["DEVICE", "Crossing", "PretendDevice", "is_one_flag", "pretended"]

DEVICE = torch.device("meta")  # the one that every build of torch knows besides the CPU

# What these return, or its shape, depends on values.
_READING = {
    "_local_scalar_dense", "_unique2", "bincount", "equal", "is_nonzero", "masked_select",
    "nonzero", "repeat_interleave", "unique_consecutive", "unique_dim",
}  # fmt: skip
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class Crossing(NamedTuple):
    """What goes from the host to the device, or the other way, by any operation."""

    operator: str
    to_host: bool
    waits: bool  # whether the host waits for the device
    size: int
    dtype: torch.dtype


class _PretendTensor(Tensor):
    """A tensor on the device; `inside` is the one on the CPU that it stands for."""

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor) -> Any:
        made: Any = Tensor._make_wrapper_subclass(
            cls, inside.shape, inside.stride(), inside.storage_offset(), dtype=inside.dtype,
            device=DEVICE,
        )  # fmt: skip
        made.inside = inside.detach()
        return made

    @property
    def data(self) -> Any:
        return super().data

    @data.setter
    def data(self, other: Any) -> None:
        torch._C.TensorBase.data.__set__(self, other)  # type: ignore[attr-defined]
        self.inside = other.inside

    def data_ptr(self) -> int:
        return self.inside.data_ptr()

    def new_tensor(self, data: Any, **options: Any) -> Any:  # type: ignore[override]
        return torch.tensor(data, **{"dtype": self.dtype, "device": DEVICE, **options})

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __deepcopy__(self, memo: Any) -> Any:
        made = self.detach().clone().requires_grad_(self.requires_grad)
        own = {name: value for name, value in self.__dict__.items() if name != "inside"}
        made.__dict__.update(copy.deepcopy(own, memo))
        memo[id(self)] = made
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{func} when the device is no longer pretended")


class PretendDevice(TorchDispatchMode):
    """Computes what is asked of the device, and notes in `crossings` what comes and goes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.crossings: list[Crossing] = []

    def taken(self) -> list[Crossing]:
        """Return the crossings since the last call."""
        found, self.crossings = self.crossings, []
        return found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        is_there = any(isinstance(tensor, _PretendTensor) for tensor in tensors)
        goes_there = is_there
        if kwargs.get("device") is not None:
            goes_there = torch.device(kwargs["device"]) == DEVICE
            kwargs["device"] = torch.device("cpu")
        if not is_there and not goes_there:
            return func(*args, **kwargs)
        self._note(func.overloadpacket.__name__, args, kwargs, tensors, goes_there)
        out = func(*_inside(args), **_inside(kwargs))
        if goes_there:
            out = tree_map_only(Tensor, _PretendTensor, out)
        return return_and_correct_aliasing(func, args, kwargs, out) if is_there else out

    def _note(
        self, name: str, args: Any, kwargs: Any, tensors: Sequence[Tensor], goes_there: bool
    ) -> None:
        strangers = [tensor for tensor in tensors if not isinstance(tensor, _PretendTensor)]
        if name in ("_to_copy", "copy_"):
            source, *_ = tensors if name == "_to_copy" else tensors[1:]
            to = goes_there if name == "_to_copy" else isinstance(args[0], _PretendTensor)
            if isinstance(source, _PretendTensor) != to:
                is_free = kwargs.get("non_blocking", False) or True in args[2:]
                self._cross(name, source, to_host=not to, waits=not (to and is_free))
            return
        masks = [t for t in tensors[1:] if t.dtype in (torch.bool, torch.uint8)]
        if name in _READING or (name in _INDEXING and masks):
            self._cross(name, tensors[0], to_host=True, waits=True)
        elif name in _INDEXING or name == "where":  # both take what lies elsewhere, and wait for it
            for stranger in strangers:
                self._cross(name, stranger, to_host=False, waits=True)
        elif any(stranger.ndim for stranger in strangers):
            raise RuntimeError(f"{name} of tensors on {DEVICE} and cpu")

    def _cross(self, name: str, tensor: Tensor, *, to_host: bool, waits: bool) -> None:
        self.crossings.append(Crossing(name, to_host, waits, tensor.numel(), tensor.dtype))


def _inside(tree: Any) -> Any:
    return tree_map_only(_PretendTensor, lambda tensor: tensor.inside, tree)


def _solve(
    costs: Sequence[Tensor], warm: Sequence[tuple[Tensor, Tensor] | None], maximize: bool
) -> list[DeviceSolutions]:
    """Stand in for the device's solver: the same promises, by the CPU's."""
    solved = []
    for cost, start in zip(_inside(costs), _inside(warm), strict=True):
        batch, n, _ = cost.shape
        former = None
        if start is not None:
            rows = torch.arange(n).expand(batch, n)
            former = Assignment(rows, start[0], torch.zeros(batch, n), start[1], None, None)
        broken = (~cost.isfinite()).flatten(1).any(1)
        found = solve_assignment(cost.nan_to_num(), maximize=maximize, warm_start=former)
        pairs = torch.where(broken[:, None], -1, found.col_ind)
        fields = (pairs, found.row_duals, found.col_duals, found.gap, broken.int())
        solved.append(DeviceSolutions(*map(_PretendTensor, fields)))
    return solved


@contextmanager
def pretended() -> Iterator[PretendDevice]:
    """Have the device inside of the block."""
    tensor = torch.tensor

    def made(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        return tensor(data, **options).to(device or "cpu")  # torch's own would hold nothing

    with (
        mock.patch.object(torch, "tensor", made),
        mock.patch.object(torch, "autocast", return_value=nullcontext()),
        mock.patch.object(solving, "solve_on_device", _solve),
        PretendDevice() as device,
    ):
        yield device


def is_one_flag(crossings: Sequence[Crossing], most: int) -> bool:
    """Tell whether all that crossed was one small vector."""
    return (
        len(crossings) == 1
        and crossings[0].to_host
        and crossings[0].dtype == torch.float64
        and crossings[0].size <= most
    )
