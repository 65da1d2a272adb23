"""Linear assignment: a cost matrix becomes a permutation. SciPy's door, for NumPy and torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
import torch
from numpy import ndarray
from torch import from_numpy, get_num_threads
from torch.compiler import is_compiling

from fastrebasin import _native
from fastrebasin._costs import Costs, as_costs
from fastrebasin.assignment_result import Assignment, check_axes, check_start
from fastrebasin.device_assignment import DeviceStack, as_device_stack, solve_stacks

__all__ = ["Assignment", "linear_sum_assignment", "solve_assignment"]

_NO_MATRIX = "expected a matrix (2-D array), got a {} array"  # in SciPy's words


@overload
def linear_sum_assignment(
    cost_matrix: torch.Tensor, maximize: bool = ...
) -> tuple[torch.Tensor, torch.Tensor]: ...
@overload
def linear_sum_assignment(
    cost_matrix: npt.ArrayLike, maximize: bool = ...
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]: ...
def linear_sum_assignment(
    cost_matrix: npt.ArrayLike | torch.Tensor, maximize: bool = False
) -> tuple[torch.Tensor, torch.Tensor] | tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Solve the linear sum assignment problem exactly, with the signature of SciPy's function.

    Args:
        cost_matrix: shape (n, m), any real dtype and strides; an array, anything NumPy makes one
            of, or a torch tensor. Computed with float64 duals, on a CUDA tensor's device. An entry
            of +inf (-inf with `maximize`) forbids its pair.
        maximize: find the assignment of largest instead of smallest sum.

    Returns:
        (row_ind, col_ind), int64 arrays of length min(n, m), `row_ind` ascending; torch tensors
        for a torch input. Equal costs everywhere give the identity.

    Raises:
        ValueError: not a matrix, NaN or infinitely good entries, no complete assignment, integers
            too far apart for float64, or a tensor on a device that this build has no kernels for.
        TypeError: a dtype that float64 can't hold, such as complex or object.

    Ctrl-C stops a running solve, and other Python threads run during it. For a tensor inside of
    `torch.compile` this is the operator `fastrebasin.operators.linear_assignment`.

    Example:
        >>> import numpy as np
        >>> from fastrebasin import linear_sum_assignment
        >>> cost = np.array([[4, 1, 3], [2, 0, 5], [3, 2, 2]])
        >>> rows, cols = linear_sum_assignment(cost)
        >>> cols.tolist(), int(cost[rows, cols].sum())
        ([1, 0, 2], 5)

    Source: Jonker and Volgenant 1987, doi:10.1007/BF02278710; rectangular problems as in Crouse
    2016, doi:10.1109/TAES.2016.140952.
    """
    if isinstance(cost_matrix, ndarray):
        pairs = _native.linear_sum_assignment(cost_matrix, maximize, get_num_threads())
        if pairs is not None:  # the usual case, in which every check in Python would be felt
            return pairs
    elif isinstance(cost_matrix, torch.Tensor):
        if is_compiling() or cost_matrix.is_cuda:
            return _elsewhere(cost_matrix, bool(maximize))
        return solve_tensor(cost_matrix, "cost_matrix", maximize)
    return _pairs(np.asarray(cost_matrix), "cost_matrix", maximize)


def _elsewhere(cost: torch.Tensor, maximize: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve a matrix on its CUDA device, or by an operator: compilers can't read native code."""
    if cost.ndim != 2:
        raise ValueError(_NO_MATRIX.format(cost.ndim))
    if is_compiling():
        pairs: tuple[torch.Tensor, torch.Tensor]
        pairs = torch.ops.fastrebasin.linear_assignment(cost, maximize)
        return pairs
    stack = as_device_stack(cost, None, "cost_matrix", "", (2,))
    found = solve_stacks([stack], maximize, _unnamed)[0]
    return found.row_ind, found.col_ind


def solve_tensor(
    cost: torch.Tensor, argument: str, maximize: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `linear_sum_assignment` does for a matrix, which messages name `argument`."""
    rows, cols = _pairs(_native.as_array(cost, argument), argument, maximize)
    return from_numpy(rows), from_numpy(cols)


_Matrix = npt.NDArray[Any] | torch.Tensor


@overload
def solve_assignment(
    cost: list[_Matrix] | tuple[_Matrix, ...],
    *,
    maximize: bool = ...,
    warm_start: Sequence[Assignment | None] | None = ...,
) -> list[Assignment]: ...
@overload
def solve_assignment(
    cost: npt.ArrayLike | torch.Tensor,
    *,
    maximize: bool = ...,
    warm_start: Assignment | None = ...,
) -> Assignment: ...
def solve_assignment(
    cost: Any, *, maximize: bool = False, warm_start: Any = None
) -> Assignment | list[Assignment]:
    """Solve assignment problems exactly, with duals, and from former results; many at once.

    Args:
        cost: shape (n, m) or (batch, n, m), as for `linear_sum_assignment`; or a list or tuple of
            matrices, arrays or tensors of any sizes and dtypes. A batch or a list is solved on
            `torch.get_num_threads()` threads, which change nothing in the result.
        maximize: find the assignment of largest instead of smallest sum.
        warm_start: the result of a similar problem of the same shape, such as this one a training
            step ago; for a list of matrices, a list of such results or None. It only saves time:
            the answer is the optimum of `cost` whatever it was.

    Returns:
        The assignment, its duals, objective and gap; a list of them for a list.

    Raises:
        ValueError: not a matrix or a batch of matrices, a warm start of another shape, NaN or
            infinitely good entries, no complete assignment, integers too far apart for float64,
            or a tensor on a device that this build has no kernels for.
        TypeError: a dtype that float64 can't hold, or a warm start that is no `Assignment`.

    Ctrl-C stops a running solve, and other Python threads run during it.

    Example:
        >>> import numpy as np
        >>> cost = np.random.default_rng(0).normal(size=(300, 300))
        >>> first = solve_assignment(cost)
        >>> again = solve_assignment(cost + 1e-3 * cost**2, warm_start=first)
        >>> bool(again.gap < 1e-9)
        True
        >>> [found.col_ind.tolist() for found in solve_assignment([np.eye(2), -np.eye(3)])]
        [[1, 0], [0, 1, 2]]

    Source: as `linear_sum_assignment`; candidate lists, auction and dead units are our own.
    """
    if not _is_list_of_matrices(cost):
        stack = _as_stack(cost, warm_start, "cost", "warm_start")
        return _solve([stack], bool(maximize), _matrix if stack.is_batch else _unnamed)[0]
    starts = [None] * len(cost) if warm_start is None else warm_start
    return _solve(_as_stacks(cost, starts), bool(maximize), _matrix)


def solve_batch(costs: npt.NDArray[Any], maximize: bool, name: Callable[[int], str]) -> Assignment:
    """Solve matrices of shape (batch, n, m); `name` begins the message about one of them."""
    return _solve([_as_stack(costs, None, "cost", "", (3,))], bool(maximize), name)[0]


class _Stack(NamedTuple):
    """Problems of one shape, as the user gave them and as the core takes them."""

    costs: Costs  # (batch, n, m)
    warm: _native.WarmStart | None
    is_batch: bool  # whether the user's costs had the first axis
    is_tensor: bool

    def assignment(self, solved: _native.Solutions) -> Assignment:
        """Return the result in the user's terms."""
        batch, n, m = self.costs.values.shape
        row_ind, col_ind = np.arange(n)[None].repeat(batch, axis=0), solved.col4row
        pair_costs = solved.row_costs
        if n > m:
            row_ind = np.nonzero(col_ind >= 0)[1].reshape(batch, m)
            col_ind = np.take_along_axis(col_ind, row_ind, axis=1)
            pair_costs = np.take_along_axis(pair_costs, row_ind, axis=1)
        row_duals, col_duals = solved.row_duals, solved.col_duals
        if self.costs.shift is not None and n <= m:
            row_duals = row_duals + self.costs.shift[:, :, 0]
        elif self.costs.shift is not None:
            col_duals = col_duals + self.costs.shift[:, 0, :]
        objective = self.costs.objective(pair_costs)
        fields: list[Any] = [row_ind, col_ind, row_duals, col_duals, objective, solved.gap]
        if not self.is_batch:
            fields = [field[0] for field in fields]
        if self.is_tensor:
            fields = [from_numpy(np.asarray(field)) for field in fields]
        return Assignment(*fields)


def _solve(
    stacks: Sequence[_Stack | DeviceStack], maximize: bool, name: Callable[[int], str]
) -> list[Assignment]:
    on_device = [stack for stack in stacks if isinstance(stack, DeviceStack)]
    here = [stack for stack in stacks if isinstance(stack, _Stack)]
    if on_device and here:
        raise ValueError(
            f"cost must lie on one device, got {len(here)} matrices on the CPU and "
            f"{len(on_device)} on {on_device[0].costs.device}"
        )
    if on_device:
        return solve_stacks(on_device, maximize, name)
    values = [stack.costs.values for stack in here]
    solved = _native.solve_assignments(values, [stack.warm for stack in here], maximize, name)
    return [stack.assignment(parts) for stack, parts in zip(here, solved, strict=True)]


def _matrix(index: int) -> str:
    return f"matrix {index}: "


def _unnamed(_: int) -> str:
    return ""


def _is_list_of_matrices(cost: object) -> bool:
    """Tell a list of matrices, or of nothing, from nested lists of numbers."""
    return isinstance(cost, (list, tuple)) and (
        not cost or any(isinstance(c, (np.ndarray, torch.Tensor)) and c.ndim == 2 for c in cost)
    )


def _as_stacks(costs: Sequence[object], starts: object) -> list[_Stack | DeviceStack]:
    """Return a stack for each matrix of a list; reports all that don't fit at once."""
    if not isinstance(starts, (list, tuple)) or len(starts) != len(costs):
        came = f"{len(starts)}" if isinstance(starts, (list, tuple)) else type(starts).__name__
        raise ValueError(
            f"warm_start must be a list of {len(costs)} for as many matrices, got {came}"
        )
    stacks, errors = [], []
    for k, (cost, start) in enumerate(zip(costs, starts, strict=True)):
        try:
            stacks.append(_as_stack(cost, start, f"cost[{k}]", f"warm_start[{k}]", (2,)))
        except (TypeError, ValueError) as error:  # noqa: PERF203 - all are reported at once
            errors.append(error)
    if errors:
        raise type(errors[0])("; ".join(map(str, errors)))
    return stacks


def _as_stack(
    cost: Any, start: object, argument: str, start_argument: str, ndims: tuple[int, ...] = (2, 3)
) -> _Stack | DeviceStack:
    is_tensor = isinstance(cost, torch.Tensor)
    if is_tensor and cost.is_cuda:
        return as_device_stack(cost, start, argument, start_argument, ndims)
    array = _native.as_array(cost, argument) if is_tensor else np.asarray(cost)
    values, shift = as_costs(array, argument)
    check_axes(values.ndim, ndims, argument)
    warm = None if start is None else _warm(start, values.shape, start_argument)
    is_batch = values.ndim == 3
    if not is_batch:
        values, shift = values[None], None if shift is None else shift[None]
    return _Stack(Costs(values, shift), warm, is_batch, is_tensor)


def _warm(start: object, shape: tuple[int, ...], argument: str) -> _native.WarmStart | None:
    former = check_start(start, shape, argument)
    if shape[-2] != shape[-1]:
        return None  # the core starts others cold
    stacked = (shape[0] if len(shape) == 3 else 1, shape[-1])
    return (
        np.asarray(former.col_ind, np.int64).reshape(stacked),
        np.asarray(former.col_duals, np.float64).reshape(stacked),
    )


def _pairs(
    array: npt.NDArray[Any], argument: str, maximize: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    threads = get_num_threads()
    pairs = _native.linear_sum_assignment(array, maximize, threads)
    if pairs is None:
        array = as_costs(array, argument).values
        pairs = _native.linear_sum_assignment(array, maximize, threads)
    if pairs is None:  # as_costs leaves no other reason
        raise ValueError(_NO_MATRIX.format(array.ndim))
    return pairs
