def solve_assignment(
    cost: int,
    dtype: str,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    maximize: bool,
    col4row: int,
    row_duals: int,
    col_duals: int,
) -> None: ...
def cuda_built() -> bool: ...
