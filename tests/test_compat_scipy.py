"""SciPy's door: patched everywhere inside the block, and nowhere after it."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch

from fastrebasin import linear_sum_assignment
from fastrebasin.compat.scipy import patched

THEIRS = (scipy.optimize.linear_sum_assignment,)  # in a tuple: no module's name for it
COST = np.array([[4.0, 1.0], [2.0, 0.0]])


def loaded(name: str) -> Any:
    """Load a module that has the function under a name of its own, as third parties do."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec("from scipy.optimize import linear_sum_assignment as lsa", module.__dict__)
    return module


@pytest.fixture
def third_party() -> Iterator[Any]:
    before = set(sys.modules)
    yield loaded("third_party")
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_all_names_are_ours_inside_and_theirs_outside(third_party: Any) -> None:
    with patched():
        ours = scipy.optimize.linear_sum_assignment
        assert ours is not THEIRS[0]
        assert third_party.lsa is ours
        assert ours(COST)[1].tolist() == [1, 0]
        assert ours(cost_matrix=COST, maximize=True)[1].tolist() == [0, 1]
    assert scipy.optimize.linear_sum_assignment is THEIRS[0]
    assert third_party.lsa is THEIRS[0]


def test_no_module_keeps_ours_not_even_one_imported_inside(third_party: Any) -> None:
    with patched():
        ours = scipy.optimize.linear_sum_assignment
        late = loaded("third_party_late")
        assert late.lsa is third_party.lsa is ours
    assert late.lsa is THEIRS[0]
    names = [vars(module) for module in list(sys.modules.values()) if hasattr(module, "__dict__")]
    assert not any(value is ours for found in names for value in list(found.values()))
    assert linear_sum_assignment is not THEIRS[0]


def test_an_exception_restores_and_passes(third_party: Any) -> None:
    with pytest.raises(KeyError, match="passes"), patched():
        raise KeyError("passes")
    assert third_party.lsa is scipy.optimize.linear_sum_assignment is THEIRS[0]


def test_blocks_nest(third_party: Any) -> None:
    with patched():
        ours = third_party.lsa
        with patched():
            assert third_party.lsa is ours
        assert third_party.lsa is scipy.optimize.linear_sum_assignment is ours
    assert third_party.lsa is THEIRS[0]


def test_blocks_of_two_threads_overlap(third_party: Any) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with patched():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    with patched():
        thread.start()
        assert inside.wait(60)
    assert third_party.lsa is not THEIRS[0]  # the other block is still open
    leave.set()
    thread.join()
    assert third_party.lsa is THEIRS[0]


def test_a_name_replaced_by_others_meanwhile_is_left_alone(third_party: Any) -> None:
    with patched():
        third_party.lsa = len
    assert third_party.lsa is len


def test_results_and_errors_are_scipys() -> None:
    rng = np.random.default_rng(0)
    costs: list[Any] = [rng.random((20, 30)), rng.random((30, 20)), [[1, 2], [3, 1]],
                        torch.rand(9, 9)]  # fmt: skip
    for cost in costs:
        with patched():
            ours = scipy.optimize.linear_sum_assignment(cost)
        assert all(isinstance(part, np.ndarray) for part in ours)
        for mine, reference in zip(ours, THEIRS[0](cost), strict=True):
            assert mine.dtype == reference.dtype
            assert np.array_equal(mine, reference)
    with patched(), pytest.raises(ValueError, match="expected a matrix"):
        scipy.optimize.linear_sum_assignment([1.0])
