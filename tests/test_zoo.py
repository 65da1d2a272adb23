"""The zoo itself: every model runs, and no part of it is idle, so that a test on it can fail."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor, nn
from zoo import LARGE, ZOO, Entry

CASES = [
    pytest.param(entry, id=entry.name, marks=[pytest.mark.slow] if entry.requires else [])
    for entry in ZOO
]


def names(entries: tuple[Entry, ...]) -> list[str]:
    return [entry.name for entry in entries]


def build(entry: Entry) -> nn.Module:
    """Return the entry's model for one seed, or skip."""
    if entry.requires is not None and importlib.util.find_spec(entry.requires) is None:
        pytest.skip(f"{entry.requires} is not installed")
    torch.manual_seed(3)
    return entry.build()


def run(entry: Entry, model: nn.Module) -> Tensor:
    """Return what the model gives for the example inputs; of several outputs, the logits."""
    inputs = entry.inputs()
    output = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    result: Tensor = output if isinstance(output, Tensor) else output["logits"]
    return result


def test_every_name_is_one_row() -> None:
    assert len(set(names(ZOO + LARGE))) == len(ZOO + LARGE)


@pytest.mark.parametrize("entry", CASES)
def test_seed_decides_the_parameters(entry: Entry) -> None:
    model, twin = build(entry), build(entry)
    assert model.training
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert 1e3 <= sum(parameter.numel() for parameter in model.parameters()) <= 5e6
    state = twin.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("entry", CASES)
def test_output_is_finite_repeats_and_depends_on_the_input(entry: Entry) -> None:
    model = build(entry).eval()
    with torch.no_grad():
        output = run(entry, model)
        assert torch.equal(output, run(entry, model))
    assert bool(output.isfinite().all())
    assert len(output) == 2
    assert float((output[0] - output[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("entry", CASES)
def test_units_differ(entry: Entry) -> None:
    model = build(entry)
    tensors: list[Tensor] = [item for item in model.parameters() if item.requires_grad]
    tensors += [item for name, item in model.named_buffers() if "running" in name]
    for tensor in tensors:
        # An embedding's row for padding is zero.
        assert len(tensor.detach().unique()) > 0.9 * tensor.numel()


@pytest.mark.parametrize("entry", CASES)
def test_output_depends_on_the_parameters(entry: Entry) -> None:
    model = build(entry).eval()
    output = run(entry, model)
    (output * torch.randn(output.shape)).sum().backward()
    # Softmax forgets the biases of keys and a normalisation those of a sum over its axis; Whisper's
    # positions are constants.
    idle = sum(
        parameter.numel()
        for parameter in model.parameters()
        if parameter.grad is None or float(parameter.grad.abs().max()) < 1e-6
    )
    assert idle < 0.02 * sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("entry", LARGE, ids=names(LARGE))
def test_large_models_run(entry: Entry) -> None:
    model = build(entry).eval()
    with torch.no_grad():
        assert bool(run(entry, model).isfinite().all())
