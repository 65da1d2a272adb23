"""The assignment solver: optimal by its own certificate and by SciPy, and SciPy's door."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastrebasin import _native, linear_sum_assignment

Matrix = npt.NDArray[Any]


def total(cost: Matrix, pairs: tuple[Matrix, Matrix]) -> float:
    return float(cost.astype(np.float64)[pairs].sum())


def assert_certified(cost: Matrix, maximize: bool) -> None:
    """Check feasibility, and optimality by the duals: no independent solver can be fooled alike."""
    solution = _native.solve_assignment(cost, maximize)
    rows, cols = linear_sum_assignment(cost, maximize)
    assert len(rows) == min(cost.shape)
    assert len(set(cols.tolist())) == len(cols)
    sign = -1.0 if maximize else 1.0
    signed = sign * cost.astype(np.float64)
    u, v = sign * solution.row_duals, sign * solution.col_duals
    slack = signed - u[:, None] - v[None, :]
    finite = np.abs(signed[np.isfinite(signed)])
    tolerance = 1e-12 * (finite.max(initial=0.0) + 1e-300) * max(cost.shape)
    assert slack.min() >= -tolerance
    assert np.abs(slack[rows, cols]).max() <= tolerance
    # What is left over has a dual of zero, and no dual of the longer side is positive.
    longer, used = (v, cols) if cost.shape[0] <= cost.shape[1] else (u, rows)
    if cost.shape[0] != cost.shape[1]:
        assert longer.max() <= 0
        assert not longer[np.setdiff1d(np.arange(len(longer)), used)].any()


def brute_force(cost: Matrix) -> float:
    short = cost if cost.shape[0] <= cost.shape[1] else cost.T
    rows = np.arange(short.shape[0])
    choices = itertools.permutations(range(short.shape[1]), short.shape[0])
    return min(float(short[rows, list(cols)].sum()) for cols in choices)


shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)
# Few distinct values make ties; wide ones make magnitudes meet.
entries = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e30, 1e30, allow_subnormal=False))


@given(hnp.arrays(np.float64, shapes, elements=entries), st.booleans())
def test_is_certified_optimal(cost: Matrix, maximize: bool) -> None:
    assert_certified(cost, maximize)


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5),
                  elements=st.integers(-9, 9).map(float)))  # fmt: skip
def test_equals_brute_force(cost: Matrix) -> None:
    assert total(cost, linear_sum_assignment(cost)) == brute_force(cost)


@pytest.mark.parametrize("n", [1, 2, 10, 64, 128, 257, 512])
@pytest.mark.parametrize(
    "kind", ["uniform", "low rank", "rank 1", "ties", "constant", "dead units"]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_objective_equals_scipy(n: int, kind: str, dtype: type) -> None:
    rng = np.random.default_rng(n)
    kinds: dict[str, Callable[[], Matrix]] = {
        "uniform": lambda: rng.random((n, n)),
        "low rank": lambda: rng.normal(size=(n, 8)) @ rng.normal(size=(8, n)),
        "rank 1": lambda: np.outer(rng.random(n), rng.random(n)),
        "ties": lambda: rng.integers(0, 5, (n, n)),
        "constant": lambda: np.ones((n, n)),
        "dead units": lambda: rng.normal(size=(n, n)) * (rng.random(n) < 0.7)[:, None]
        * (rng.random(n) < 0.7)[None, :],
    }  # fmt: skip
    cost: Matrix = kinds[kind]().astype(dtype)
    for maximize in (False, True):
        ours = total(cost, linear_sum_assignment(cost, maximize))
        reference = total(cost, scipy.optimize.linear_sum_assignment(cost, maximize))
        assert ours == pytest.approx(reference, rel=1e-12, abs=1e-12 * n)
    assert_certified(cost, True)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=300)
def test_forbidden_edges_agree_with_scipy(n: int, m: int, seed: int, maximize: bool) -> None:
    rng = np.random.default_rng(seed)
    forbidden = -np.inf if maximize else np.inf
    cost = np.where(rng.random((n, m)) < 0.4, forbidden, rng.integers(0, 9, (n, m)))
    try:
        reference = total(cost, scipy.optimize.linear_sum_assignment(cost, maximize))
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)):
            linear_sum_assignment(cost, maximize)
    else:
        assert total(cost, linear_sum_assignment(cost, maximize)) == reference


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e300])
def test_scale_does_not_matter(scale: float) -> None:
    cost = np.random.default_rng(0).normal(size=(50, 60))
    expected = linear_sum_assignment(cost)[1]
    assert np.array_equal(linear_sum_assignment(cost * scale)[1], expected)


def test_negation_is_maximisation() -> None:
    cost = np.random.default_rng(0).normal(size=(40, 30))
    for ours, negated in zip(
        linear_sum_assignment(cost, maximize=True), linear_sum_assignment(-cost), strict=True
    ):
        assert np.array_equal(ours, negated)


@pytest.mark.parametrize("n", [1, 5, 100])
def test_constant_costs_give_the_identity(n: int) -> None:
    assert np.array_equal(linear_sum_assignment(np.full((n, n), 7.0))[1], np.arange(n))


@pytest.mark.parametrize(
    "view",
    [
        lambda c: c.T,
        lambda c: c[::-1, ::-1],
        lambda c: c[::2, 1::3],
        np.asfortranarray,
        lambda c: np.broadcast_to(c[0], c.shape),
        lambda c: c.astype(c.dtype.newbyteorder()),
        lambda c: np.lib.stride_tricks.as_strided(
            np.frombuffer(b"x" + c.tobytes(), np.uint8)[1:].view(c.dtype).reshape(c.shape), c.shape
        ),
    ],
    ids=["transposed", "reversed", "strided", "fortran", "broadcast", "byte-swapped", "unaligned"],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_layout_gives_the_result_of_a_copy(view: Any, dtype: type) -> None:
    cost = view(np.random.default_rng(0).normal(size=(30, 30)).astype(dtype))
    plain: Matrix = np.ascontiguousarray(cost, dtype=dtype)
    for ours, copied in zip(linear_sum_assignment(cost), linear_sum_assignment(plain), strict=True):
        assert np.array_equal(ours, copied)


def test_field_of_a_record_array() -> None:
    records = np.zeros((6, 6), dtype=[("tag", "u1"), ("cost", "f8")])
    records["cost"] = np.random.default_rng(0).normal(size=(6, 6))
    expected = linear_sum_assignment(records["cost"].copy())[1]
    assert np.array_equal(linear_sum_assignment(records["cost"])[1], expected)


def test_the_input_is_only_read() -> None:
    cost = np.random.default_rng(0).normal(size=(20, 20))
    before = cost.copy()
    cost.flags.writeable = False
    linear_sum_assignment(cost, maximize=True)
    assert np.array_equal(cost, before)


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8,
     torch.bool],
)  # fmt: skip
def test_torch_tensors_give_what_numpy_gives(dtype: torch.dtype) -> None:
    cost = (torch.rand(20, 30) * 10).to(dtype)
    rows, cols = linear_sum_assignment(cost.T, maximize=True)
    expected = linear_sum_assignment(cost.double().numpy().T, maximize=True)
    assert rows.dtype == cols.dtype == torch.int64
    assert np.array_equal(rows.numpy(), expected[0])
    assert np.array_equal(cols.numpy(), expected[1])


def test_a_tensor_that_requires_grad_is_accepted() -> None:
    cost = torch.rand(4, 4, requires_grad=True)
    assert sorted(linear_sum_assignment(cost)[1].tolist()) == [0, 1, 2, 3]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device found")
def test_a_cuda_tensor_is_answered_on_its_device_or_refused() -> None:
    with pytest.raises(ValueError, match="no CUDA kernels"):
        linear_sum_assignment(torch.rand(4, 4, device="cuda"))


def test_a_tensor_elsewhere_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"on meta.*\.cpu\(\)"):
        linear_sum_assignment(torch.rand(4, 4, device="meta"))


@pytest.mark.parametrize(
    "cost",
    [
        [1.0, 2.0],
        np.zeros((2, 2, 2)),
        np.float64(1),
        [[np.nan, 1], [1, 1]],
        [[-np.inf, 1], [1, 1]],
        [[np.inf, np.inf], [1, 1]],
        np.eye(2).astype(str),
        np.eye(2) * 1j,
        np.empty((2, 2), dtype=object),
    ],
)
def test_refuses_what_scipy_refuses_in_its_words(cost: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as reference:
        scipy.optimize.linear_sum_assignment(cost)
    with pytest.raises(reference.type) as ours:
        linear_sum_assignment(cost)
    assert str(ours.value) == str(reference.value)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_infinitely_good_entries_are_refused_when_maximising(bad: float) -> None:
    with pytest.raises(ValueError, match="invalid numeric entries"):
        linear_sum_assignment([[bad, 1.0], [1.0, 1.0]], maximize=True)


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_nothing_to_assign(shape: tuple[int, int]) -> None:
    rows, cols = linear_sum_assignment(np.zeros(shape))
    assert len(rows) == len(cols) == 0
    assert rows.dtype == cols.dtype == np.int64


def test_other_threads_run_during_a_solve() -> None:
    cost = np.outer(np.arange(700.0), np.arange(700.0))
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    ticker = threading.Thread(target=tick)
    ticker.start()
    start = time.perf_counter()
    linear_sum_assignment(cost)
    end = time.perf_counter()
    done.set()
    ticker.join()
    assert any(start < t < end for t in ticks)


def test_concurrent_solves_give_the_results_of_serial_ones() -> None:
    costs = [np.random.default_rng(seed).normal(size=(150, 150)) for seed in range(8)]
    expected = [linear_sum_assignment(cost)[1] for cost in costs]
    found: dict[int, Matrix] = {}

    def solve(number: int) -> None:
        found[number] = linear_sum_assignment(costs[number])[1]

    threads = [threading.Thread(target=solve, args=(k,)) for k in range(len(costs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[k], expected[k]) for k in range(len(costs)))


_INTERRUPTED = """
import signal, time, numpy as np
from fastrebasin import linear_sum_assignment
cost = np.outer(np.arange(6000.0), np.arange(6000.0))  # minutes of work
signal.setitimer(signal.ITIMER_REAL, 0.5)
signal.signal(signal.SIGALRM, signal.default_int_handler)
try:
    linear_sum_assignment(cost, maximize=True)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_stops_a_solve() -> None:
    start = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.stdout.strip() == "interrupted", run.stderr
    assert time.perf_counter() - start < 50


_SCIPY_TESTS_OVER_OURS = """
import os, sys, pytest, scipy.optimize
import fastrebasin
calls = 0
def ours(*args, **kwargs):
    global calls
    calls += 1
    return fastrebasin.linear_sum_assignment(*args, **kwargs)
scipy.optimize.linear_sum_assignment = ours
# Without our own configuration, which is stricter than SciPy's tests expect.
status = pytest.main(["-q", "-c", os.devnull, "-p", "no:cacheprovider", "--pyargs",
                      "scipy.optimize.tests.test_linear_assignment"])
print(f"{calls} calls")
sys.exit(status)
"""


def test_scipys_own_tests_pass_with_our_function() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _SCIPY_TESTS_OVER_OURS],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout
    assert int(run.stdout.split()[-2]) > 100  # a hundred sparse problems alone
