from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Addresses and strides, as csrc/bindings/correlation.cpp takes them.
_Axes = tuple[int, int, int]
_Side = tuple[int, int, int, int, _Axes, int, int, int]
_Pair = tuple[_Side, _Side, _Axes, int, int, int]

# And as csrc/bindings/device_assignment.cpp takes them.
_Found = tuple[int, int, int, int, int]
_Stack = tuple[int, bool, tuple[int, int, int, int, int], tuple[int, int], _Found]

def linear_sum_assignment(
    cost: object, maximize: object, threads: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None: ...
def solve_assignments(
    stacks: Sequence[npt.NDArray[np.float32] | npt.NDArray[np.float64]],
    warm: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]] | None],
    maximize: bool,
    threads: int,
) -> tuple[
    tuple[int, str] | None,
    list[
        tuple[
            npt.NDArray[np.int64],
            npt.NDArray[np.float64],
            npt.NDArray[np.float64],
            npt.NDArray[np.float64],
            npt.NDArray[np.float64],
        ]
    ],
]: ...
def gather_kernels(
    array: npt.NDArray[np.generic],
    units: int,
    index: npt.NDArray[np.int64],
    out: npt.NDArray[np.generic],
) -> None: ...
def cross_moments_workspace(pairs: Sequence[_Pair], precision: int, device: int) -> int: ...
def find_shifts(pairs: Sequence[_Pair], device: int, stream: int) -> None: ...
def add_cross_moments(
    pairs: Sequence[_Pair], precision: int, workspace: int, device: int, stream: int
) -> None: ...
def device_assignments_workspace(stacks: Sequence[_Stack]) -> int: ...
def solve_device_assignments(
    stacks: Sequence[_Stack], maximize: bool, workspace: int, device: int, stream: int
) -> None: ...
def cuda_built() -> bool: ...
def cuda_build() -> tuple[str, str]: ...
