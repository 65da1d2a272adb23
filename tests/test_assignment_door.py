"""The door of the assignment solver: layouts, dtypes, errors, threads, and SciPy's own tests."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.optimize
import torch

from fastrebasin import _native, linear_sum_assignment

Matrix = npt.NDArray[Any]


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
    cost = torch.rand(4, 4, device="cuda")
    if _native.cuda_built():
        rows, cols = linear_sum_assignment(cost)
        assert rows.is_cuda
        assert cols.tolist() == linear_sum_assignment(cost.cpu())[1].tolist()
        return
    with pytest.raises(ValueError, match="no CUDA kernels"):
        linear_sum_assignment(cost)


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


@pytest.mark.parametrize("maximize", [0, 1, np.True_, np.False_, None, "yes", [], np.array(1)])
def test_maximize_may_be_anything_that_is_true_or_false(maximize: Any) -> None:
    cost = np.random.default_rng(0).random((6, 6))
    expected = scipy.optimize.linear_sum_assignment(cost, bool(maximize))[1]
    for same in (cost, cost.tolist(), torch.from_numpy(cost)):
        assert np.array_equal(linear_sum_assignment(same, maximize)[1], expected)


def test_what_is_neither_true_nor_false_is_refused() -> None:
    with pytest.raises(ValueError, match="truth value"):
        linear_sum_assignment(np.eye(2), np.ones(2))  # type: ignore[call-overload]


@pytest.mark.parametrize("arguments", [(), (np.eye(2),), (np.eye(2), False, "many")])
def test_the_core_refuses_a_wrong_call(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        _native.linear_sum_assignment(*arguments)


@pytest.mark.parametrize("kind", [np.matrix, np.ma.MaskedArray, np.memmap])
def test_kinds_of_arrays_are_read_as_arrays(kind: type[Matrix], tmp_path: Path) -> None:
    cost = np.random.default_rng(0).random((5, 5))
    if kind is np.memmap:
        cost.tofile(tmp_path / "cost")
        view: Matrix = np.memmap(tmp_path / "cost", dtype=np.float64, shape=(5, 5), mode="r")
    else:
        view = cost.view(kind)
    rows, cols = linear_sum_assignment(view)
    assert type(rows) is type(cols) is np.ndarray
    assert np.array_equal(cols, scipy.optimize.linear_sum_assignment(cost)[1])


def test_results_belong_to_the_caller() -> None:
    for shape in ((3, 5), (5, 3), (40, 40)):
        for part in linear_sum_assignment(np.random.default_rng(0).random(shape)):
            assert part.flags.owndata
            assert part.flags.writeable


@pytest.mark.parametrize("n", range(1, 18))  # around where the smallest problems end
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_small_problems_equal_scipy(n: int, dtype: type) -> None:
    rng = np.random.default_rng(n)
    for m in range(1, 18):
        for cost in (rng.normal(size=(n, m)), rng.integers(0, 4, (n, m)), np.ones((n, m))):
            matrix: Matrix = cost.astype(dtype)
            for maximize in (False, True):
                pairs = linear_sum_assignment(matrix, maximize)
                reference = scipy.optimize.linear_sum_assignment(matrix, maximize)
                assert np.array_equal(pairs[0], reference[0]) or n > m
                assert matrix[pairs].sum() == pytest.approx(matrix[reference].sum(), rel=1e-5)
        assert np.array_equal(linear_sum_assignment(np.ones((n, m)))[1], np.arange(min(n, m)))


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
import signal, sys, time, numpy as np
from fastrebasin import _native, linear_sum_assignment
cost = np.outer(np.arange(6000.0), np.arange(6000.0))  # minutes of work
signal.signal(signal.SIGALRM, signal.default_int_handler)
start = time.perf_counter()
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[1]))
try:
    linear_sum_assignment(cost, maximize=True)
except KeyboardInterrupt:
    print("interrupted after", time.perf_counter() - start)
"""


@pytest.mark.parametrize("delay", [0.05, 0.3, 2.0])
def test_ctrl_c_stops_a_solve(delay: float) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, str(delay)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.stdout.startswith("interrupted after"), run.stderr
    assert float(run.stdout.split()[-1]) < delay + 10


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
