def solve_assignment(
    cost: int,
    dtype: str,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    maximize: bool,
    warm_col4row: int,
    warm_col_duals: int,
    col4row: int,
    row_duals: int,
    col_duals: int,
    gap: int,
) -> None: ...
def cuda_built() -> bool: ...
