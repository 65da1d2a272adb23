from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

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
def cuda_built() -> bool: ...
