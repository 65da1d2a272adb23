"""SciPy's door: code that calls `scipy.optimize.linear_sum_assignment` gets ours."""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastrebasin.assignment import linear_sum_assignment

__all__ = ["patched"]

_Function = Callable[..., Any]


class _Patch:
    """How many contexts are open in the process, and the two functions while any is."""

    lock = threading.Lock()
    depth = 0
    theirs: _Function
    ours: _Function


@contextmanager
def patched() -> Iterator[None]:
    """Let `scipy.optimize.linear_sum_assignment` be ours inside a `with` block.

    Every name in a loaded module that is SciPy's function is replaced, also those made by `from
    scipy.optimize import linear_sum_assignment`, and also in modules that are imported inside the
    block. The end of the block, however it comes, turns them all back. References that are no
    module's name (a default argument, an entry of a dict) stay SciPy's.

    The whole process is patched, not only this thread. Blocks may nest and overlap: the last one to
    end turns the names back.

    Raises:
        ImportError: SciPy is not installed.

    Example:
        >>> import scipy.optimize
        >>> theirs = scipy.optimize.linear_sum_assignment
        >>> with patched():
        ...     cols = scipy.optimize.linear_sum_assignment([[4, 1], [2, 0]])[1]
        ...     is_theirs = scipy.optimize.linear_sum_assignment is theirs
        >>> cols.tolist(), is_theirs, scipy.optimize.linear_sum_assignment is theirs
        ([1, 0], False, True)
    """
    optimize = importlib.import_module("scipy.optimize")
    with _Patch.lock:
        if _Patch.depth == 0:
            _Patch.theirs, _Patch.ours = optimize.linear_sum_assignment, _as_scipy()
            _rename(_Patch.theirs, _Patch.ours)
        _Patch.depth += 1
    try:
        yield
    finally:
        with _Patch.lock:
            _Patch.depth -= 1
            if _Patch.depth == 0:
                _rename(_Patch.ours, _Patch.theirs)


def _as_scipy() -> _Function:
    """Return a function of our own that no other code has a name for."""

    @functools.wraps(linear_sum_assignment)
    def ours(cost_matrix: Any, maximize: bool = False) -> Any:
        return linear_sum_assignment(np.asarray(cost_matrix), maximize)  # NumPy even for a tensor

    return ours


def _rename(old: _Function, new: _Function) -> None:
    """Let all names of loaded modules that mean `old` mean `new`."""
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        if not isinstance(names, dict):
            continue  # not every entry of sys.modules is a module
        for name in [name for name, value in list(names.items()) if value is old]:
            names[name] = new
