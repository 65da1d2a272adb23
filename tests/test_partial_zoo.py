"""Partial merging of every architecture of the zoo."""

from __future__ import annotations

import pytest
import torch
from zoo import ZOO, Entry

from fastrebasin import partial_merge, trace
from fastrebasin._calls import arguments, tensors_in
from fastrebasin.merging.widening import widenable

# Whose units all reach recurrent cells, stacked experts or statistics across units.
FIXED = {
    "U-Net (GroupNorm)", "LSTM classifier (bidirectional)", "GRU classifier",
    "Mixture of experts", "Mixtral",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("entry", ZOO, ids=lambda entry: entry.name)
def test_a_model_merged_in_part_with_itself_is_itself(entry: Entry) -> None:
    if entry.requires is not None:
        pytest.importorskip(entry.requires)
    torch.manual_seed(0)
    model, inputs = entry.build().eval(), entry.inputs()
    spec = trace(model, inputs, verify=False).bind(model.state_dict())
    assert bool(widenable(spec, model, inputs)) == (entry.name not in FIXED)
    merged = partial_merge(model, model, width=1.3, spec=spec, example_inputs=inputs)
    sizes = [sum(p.numel() for p in each.parameters()) for each in (model, merged)]
    assert (sizes[0] == sizes[1]) == (entry.name in FIXED)
    args, kwargs = arguments(inputs)
    with torch.no_grad():
        before, after = (list(tensors_in(each(*args, **kwargs))) for each in (model, merged))
    for x, y in zip(before, after, strict=True):
        torch.testing.assert_close(y, x, rtol=1e-4, atol=1e-5 * x.abs().max().item())
