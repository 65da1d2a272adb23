"""Traced specs of whole architectures: every row of README's table, and the specs by hand."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from zoo import LARGE, ZOO, Entry

import fastrebasin as fr
from fastrebasin import PermutationSpec, architectures, trace
from fastrebasin._calls import arguments, tensors_in
from fastrebasin.experiments.models import MLP, resnet20, vgg11

# Those of transformers are slow to import, and many.
SLOW = [pytest.mark.slow]
ZOO_CASES = [
    pytest.param(entry, id=entry.name, marks=SLOW if entry.requires or entry.large else [])
    for entry in ZOO
]


# Whose units all reach recurrent cells, stacked experts or statistics across units: no layer of
# theirs can be wider.
FIXED = {
    "U-Net (GroupNorm)", "LSTM classifier (bidirectional)", "GRU classifier",
    "Mixture of experts", "Mixtral",
}  # fmt: skip


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def outputs(model: nn.Module, inputs: object) -> list[Tensor]:
    args, kwargs = arguments(inputs)  # type: ignore[arg-type]
    with torch.no_grad():
        return list(tensors_in(model.eval()(*args, **kwargs)))


@pytest.mark.parametrize("entry", ZOO_CASES)
def test_zoo(entry: Entry) -> None:
    """Each row of README's table: traced, proved, nearly all moves, planted permutations found.

    Merged in part, in a wider network, the model equals the original, too.
    """
    if entry.requires is not None:
        pytest.importorskip(entry.requires)
    torch.manual_seed(0)
    model = entry.build()
    inputs = entry.inputs()
    spec = trace(model, inputs)  # which proves it
    params = model.state_dict()
    assert not spec.notes
    assert spec.share(params) >= entry.movable
    assert PermutationSpec.from_json(spec.to_json()) == spec

    planted = spec.random_permutation(seed=1)
    scrambled = fr.apply_permutation(spec, planted, params)
    found = fr.weight_matching(spec, params, scrambled).permutation
    merged = fr.interpolate(params, fr.apply_permutation(spec, found, scrambled))
    twin = copy.deepcopy(model)
    twin.load_state_dict(merged)
    wide = fr.partial_merge(model, twin, width=1.3, spec=spec, example_inputs=inputs)
    assert (count(wide) > count(model)) == (entry.name not in FIXED)
    expected = outputs(model, inputs)
    for same in (twin, wide):
        for before, after in zip(expected, outputs(same, inputs), strict=True):
            limit = 1e-5 * before.abs().max().item()
            assert torch.allclose(before, after, rtol=1e-5, atol=limit)


def test_readme_lists_the_zoo() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    table = readme.split("| in plain torch |")[1].split("\n\n")[0].splitlines()[2:]
    rows = sorted(cell.strip() for row in table for cell in row.split("|") if cell.strip())
    assert rows == sorted(entry.name for entry in ZOO)


@pytest.mark.slow
@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry.name) for entry in LARGE])
def test_large_models(entry: Entry) -> None:
    torch.manual_seed(0)
    model = entry.build()
    spec = trace(model, entry.inputs())
    params = model.state_dict()
    assert spec.share(params) >= entry.movable
    scrambled = fr.apply_permutation(spec, spec.random_permutation(seed=1), params)
    found = fr.weight_matching(spec, params, scrambled).permutation
    aligned = fr.apply_permutation(spec, found, scrambled)
    assert all(torch.equal(params[name], aligned[name]) for name in params)


def renamed(spec: PermutationSpec) -> dict[str, tuple[str | None, ...]]:
    """Return the axes with groups named in the order in which they come."""
    names: dict[str, str] = {}
    return {
        name: tuple(None if g is None else names.setdefault(g, f"P{len(names)}") for g in groups)
        for name, groups in spec.axes.items()
        if any(groups)
    }


@pytest.mark.parametrize(
    ("model", "table", "shape"),
    [
        (MLP(12, (9, 8, 7), 5), architectures.mlp(3), (2, 12)),
        (vgg11(width=1 / 16), architectures.vgg(), (2, 3, 32, 32)),
        (resnet20(), architectures.resnet(), (2, 3, 16, 16)),
    ],
    ids=["MLP", "VGG11-BN", "ResNet20"],
)
def test_traced_specs_equal_those_written_by_hand(
    model: nn.Module, table: PermutationSpec, shape: tuple[int, ...]
) -> None:
    traced = trace(model, torch.randn(shape))
    order = {name: table.axes[name] for name in model.state_dict() if name in table.axes}
    assert renamed(traced) == renamed(PermutationSpec.from_axes(order))
