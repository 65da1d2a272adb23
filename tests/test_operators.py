"""Operators on state dicts: slerp, task arithmetic, TIES and DARE."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastrebasin import apply_permutation, architectures, interpolate, invert
from fastrebasin.experiments.models import vgg11
from fastrebasin.merging import dare, slerp, task_arithmetic, ties

Params = dict[str, Tensor]
# The width of a number, and how far a merge may be from the model in it.
TOLERANCES = {
    torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2,
}  # fmt: skip
OPERATORS: dict[str, Callable[[Params, Params, Params], Params]] = {
    "interpolate": lambda _, a, b: interpolate(a, b, 0.3),
    "slerp": lambda _, a, b: slerp(a, b, 0.3),
    "task arithmetic": lambda base, a, b: task_arithmetic(base, [a, b]),
    "ties": lambda base, a, b: ties(base, [a, b], density=1),
    "dare": lambda base, a, b: dare(base, [a, b], drop=0),
}


def state(dtype: torch.dtype = torch.float32, device: str = "cpu") -> Params:
    model = vgg11(width=1 / 16)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor).abs() if "var" in name else 0.1)
            else:
                tensor.fill_(7)
    return {name: t.clone() for name, t in model.to(device, dtype).state_dict().items()}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_merging_a_model_with_its_aligned_copy_gives_it_back(
    operator: str, dtype: torch.dtype, device: str
) -> None:
    base, a = state(dtype, device), state(dtype, device)
    spec = architectures.vgg().bind(a)
    moved = spec.random_permutation(3)
    copy = apply_permutation(spec, invert(moved), apply_permutation(spec, moved, a))
    before = [{n: t.clone() for n, t in params.items()} for params in (base, a)]
    merged = OPERATORS[operator](base, a, copy)
    assert list(merged) == list(a)
    for name, tensor in merged.items():
        assert tensor.dtype == a[name].dtype
        assert tensor.device.type == device
        assert torch.allclose(tensor, a[name], rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])
        assert tensor.data_ptr() not in (a[name].data_ptr(), base[name].data_ptr())
    for params, kept in zip((base, a), before, strict=True):
        assert all(torch.equal(params[name], tensor) for name, tensor in kept.items())


@pytest.mark.parametrize("operator", OPERATORS)
def test_variances_stay_positive_and_integers_are_the_first_models(operator: str) -> None:
    base, a, b = (state() for _ in range(3))
    base["features.1.num_batches_tracked"] += 1
    merged = OPERATORS[operator](base, a, b)
    expected = a if operator in ("interpolate", "slerp") else base
    assert merged["features.1.num_batches_tracked"] == expected["features.1.num_batches_tracked"]
    for name, tensor in merged.items():
        if name.endswith("running_var"):
            low, high = torch.minimum(a[name], b[name]), torch.maximum(a[name], b[name])
            assert (tensor >= low - 1e-5).all()
            assert (tensor <= high + 1e-5).all()


@pytest.mark.parametrize("operator", OPERATORS)
def test_weights_that_are_not_finite_are_named(operator: str) -> None:
    base, a, b = (state() for _ in range(3))
    b["features.0.weight"][0, 0, 0, 0] = math.nan
    a["classifier.bias"][1] = math.inf
    label = "A" if operator in ("interpolate", "slerp") else r"models\[0\]"
    with pytest.raises(ValueError, match=f"classifier.bias of {label}, features.0.weight of"):
        OPERATORS[operator](base, a, b)


@pytest.mark.parametrize("operator", OPERATORS)
def test_models_that_do_not_fit_are_named(operator: str) -> None:
    base, a, b = (state() for _ in range(3))
    b["extra"] = b.pop("classifier.bias")
    with pytest.raises(ValueError, match=r"classifier.bias is only in .*; extra is only in"):
        OPERATORS[operator](base, a, b)


def test_slerp_keeps_unit_norms_and_turns_evenly(device: str) -> None:
    a, b = (torch.nn.functional.normalize(torch.randn(50), dim=0).to(device) for _ in range(2))
    whole = torch.acos(a @ b)
    for weight in (0.0, 0.2, 0.5, 0.9, 1.0, 1.3):
        found = slerp({"w": a}, {"w": b}, weight)["w"]
        assert found.norm().item() == pytest.approx(1, abs=1e-6)
        angle = torch.acos((a @ found).clamp(-1, 1)).item()
        assert angle == pytest.approx(weight * whole.item(), abs=1e-3)
    assert torch.equal(slerp({"w": a}, {"w": b}, 0)["w"], a)
    assert torch.equal(slerp({"w": a}, {"w": b}, 1)["w"], b)


def test_slerp_of_tensors_without_an_angle_is_linear() -> None:
    a = torch.randn(5, 3)
    for b in (torch.zeros(5, 3), 3 * a, -a, a * (1 + 1e-7)):
        for x, y in ((a, b), (b, a)):
            expected = interpolate({"w": x}, {"w": y}, 0.3)["w"]
            assert torch.allclose(slerp({"w": x}, {"w": y}, 0.3)["w"], expected, atol=1e-6)


def test_task_arithmetic_is_linear_in_every_model() -> None:
    base, *models = ({"w": torch.randn(6)} for _ in range(4))
    found = task_arithmetic(base, models, weights=[0.5, -1, 2], scale=0.7)["w"]
    tasks = [model["w"] - base["w"] for model in models]
    expected = base["w"] + 0.7 * (0.5 * tasks[0] - tasks[1] + 2 * tasks[2])
    assert torch.allclose(found, expected, atol=1e-5)
    mean = torch.stack([model["w"] for model in models]).mean(0)
    assert torch.allclose(task_arithmetic(base, models)["w"], mean, atol=1e-6)


def ties_of_numbers(tasks: list[list[float]], kept: int) -> list[float]:
    """Merge short task vectors by the words of the paper, one number at a time."""
    trimmed = []
    for task in tasks:
        largest = sorted(range(len(task)), key=lambda i: -abs(task[i]))[:kept]
        trimmed.append([value if i in largest else 0 for i, value in enumerate(task)])
    merged = []
    for values in zip(*trimmed, strict=True):
        positive = sum(v for v in values if v > 0)
        negative = -sum(v for v in values if v < 0)
        agreeing = [v for v in values if (v > 0 if positive > negative else v < 0)]
        merged.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
    return merged


@pytest.mark.parametrize("kept", [1, 4, 11, 20])
def test_ties_agrees_with_the_paper_number_by_number(kept: int, device: str) -> None:
    base = torch.randn(20, dtype=torch.float64, device=device)
    tasks = [torch.randn(20, dtype=torch.float64, device=device) for _ in range(3)]
    models = [{"w": base + task} for task in tasks]
    found = ties({"w": base}, models, density=kept / 20, scale=0.5)["w"]
    expected = torch.tensor(ties_of_numbers([t.tolist() for t in tasks], kept)).to(base)
    assert torch.allclose(found, base + 0.5 * expected)


def test_ties_does_not_depend_on_the_order_of_units() -> None:
    # Many magnitudes are equal: which of them are kept mustn't depend on where they are.
    base, *models = ({"w": torch.randint(-2, 3, (40,)).float()} for _ in range(3))
    order = torch.randperm(40)
    moved = [{"w": params["w"][order]} for params in (base, *models)]
    expected = ties(base, models, density=0.3)["w"][order]
    assert torch.equal(ties(moved[0], moved[1:], density=0.3)["w"], expected)


def test_dare_drops_its_share_and_keeps_the_expectation(device: str) -> None:
    base = {"w": torch.zeros(100_000, device=device)}
    models = [{"w": torch.ones(100_000, device=device)}]
    found = dare(base, models, drop=0.8, seed=1)["w"]
    values, counts = found.unique(return_counts=True)
    assert torch.allclose(values.cpu(), torch.tensor([0.0, 5.0]))
    assert counts[1].item() / 100_000 == pytest.approx(0.2, abs=0.01)
    assert torch.equal(dare(base, models, drop=0.8, seed=1)["w"], found)
    assert not torch.equal(dare(base, models, drop=0.8, seed=2)["w"], found)


def test_dare_drops_of_every_model_apart() -> None:
    base = {"w": torch.zeros(1000)}
    found = dare(base, [{"w": torch.ones(1000)}] * 2, drop=0.5)["w"]
    assert set(found.unique().tolist()) == {0.0, 1.0, 2.0}


def test_options_out_of_range_are_named_together() -> None:
    base = {"w": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\], got 0; scale must be fin"):
        ties(base, [base], density=0, scale=math.nan)
    with pytest.raises(ValueError, match=r"drop must be in \[0, 1\), got 1; models must hold"):
        dare(base, [], drop=1)
    with pytest.raises(ValueError, match="weights must be one for each of 2 models"):
        task_arithmetic(base, [base, base], weights=[1])
    with pytest.raises(ValueError, match="weights must be finite, got nan"):
        task_arithmetic(base, [base], weights=[math.nan])
