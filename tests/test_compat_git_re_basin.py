"""git-re-basin's door: its tables, its descent, both kinds of arrays, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from git_re_basin_cases import (
    Foreign,
    Standard,
    Table,
    as_torch,
    dense_pair,
    dense_table,
    mlp_table,
    published,
    random_perm,
    resnet20_table,
    same,
    vgg_table,
)
from hypothesis import given
from hypothesis import strategies as st

import fastrebasin as fr
from fastrebasin import architectures
from fastrebasin.compat.git_re_basin import (
    PermutationSpec,
    apply_permutation,
    from_git_re_basin,
    get_permuted_param,
    permutation_spec_from_axes_to_perm,
    to_git_re_basin,
    weight_matching,
)
from fastrebasin.experiments.models import MLP, resnet20, vgg11

MODELS = [
    pytest.param(mlp_table(), lambda: MLP(64, (12, 11, 10)), architectures.mlp(), id="mlp"),
    pytest.param(vgg_table(), lambda: vgg11(0.125), architectures.vgg(), id="vgg11"),
    pytest.param(resnet20_table(), resnet20, architectures.resnet(), id="resnet20"),
]
Make = Callable[[], torch.nn.Module]
DENSE = permutation_spec_from_axes_to_perm(dense_table(3))


@pytest.mark.parametrize("seed", range(10))
def test_decides_as_the_published_descent_and_as_ours(seed: int) -> None:
    a, b = dense_pair(seed)
    found = weight_matching(DENSE, a, b, seed=seed)
    assert same(found, published(DENSE, a, b, seed))
    spec = fr.PermutationSpec.from_axes(dense_table(3))
    ours = fr.weight_matching(
        spec, as_torch(a), as_torch(b), init="identity", order="serial", seed=seed
    )
    assert same(found, ours.permutation)


@pytest.mark.parametrize(("table", "make", "spec"), MODELS)
def test_tables_of_models_are_read_and_planted_permutations_recovered(
    table: Table, make: Make, spec: fr.PermutationSpec
) -> None:
    ps, model = permutation_spec_from_axes_to_perm(table), make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    b = model.state_dict()
    ours = from_git_re_basin(ps, b)
    assert set(map(frozenset, ours.groups.values())) == set(map(frozenset, spec.groups.values()))
    answer = ours.random_permutation(1)
    a = apply_permutation(ps, answer, b)
    found = weight_matching(ps, a, b)
    assert all(indices.dtype == torch.int64 for indices in found.values())
    assert same(found, answer)
    images = torch.rand(2, *((64,) if isinstance(model, MLP) else (3, 32, 32)))
    with torch.no_grad():
        before = model.eval()(images)
        model.load_state_dict(apply_permutation(ps, found, b))
        assert torch.allclose(model(images), before, atol=1e-4)


@pytest.mark.parametrize(("table", "make", "spec"), [MODELS[0], MODELS[2]])
def test_our_own_spec_takes_the_same_tables(
    table: Table, make: Make, spec: fr.PermutationSpec
) -> None:
    state, ps = make().state_dict(), permutation_spec_from_axes_to_perm(table)
    ours = fr.PermutationSpec.from_axes(table, state)
    assert ours.axes == from_git_re_basin(ps).axes
    assert sorted(ours.sizes.values()) == sorted(spec.bind(state).sizes.values())


def test_axes_too_many_or_too_few_are_fixed_ones() -> None:
    state = vgg11(0.125).state_dict()
    with pytest.raises(ValueError, match="has 2 axes in the spec"):
        fr.PermutationSpec.from_axes(vgg_table(), state)
    ps = permutation_spec_from_axes_to_perm(
        {"conv": ("P",), "norm": ("P", None), "absent": (None,)}
    )
    spec = from_git_re_basin(ps, {"conv": np.zeros((3, 2, 1)), "norm": np.zeros(3)})
    assert dict(spec.axes) == {"conv": ("P", None, None), "norm": ("P",)}
    assert spec.sizes == {"P": 3}


@given(st.integers(0, 2**32), st.booleans())
def test_permuting_follows_the_direction_and_is_undone(seed: int, torch_params: bool) -> None:
    arrays, perm = dense_pair(seed)[0], random_perm(seed)
    params = as_torch(arrays) if torch_params else arrays
    given_perm = as_torch(perm) if torch_params else perm
    moved = apply_permutation(DENSE, given_perm, params)
    kind = torch.Tensor if torch_params else np.ndarray
    assert all(isinstance(value, kind) for value in moved.values())
    kernel = arrays["Dense_1/kernel"][perm["P_0"]][:, perm["P_1"]]  # out[i] = b[perm[i]]
    assert np.array_equal(np.asarray(moved["Dense_1/kernel"]), kernel)
    inverse = {group: np.argsort(indices) for group, indices in perm.items()}
    back = apply_permutation(DENSE, inverse, moved)
    assert same(back, arrays)
    assert not any(np.shares_memory(np.asarray(back[n]), np.asarray(moved[n])) for n in back)


def test_one_parameter_is_permuted_but_for_an_axis() -> None:
    params, perm = dense_pair(0)[0], random_perm(0)
    kernel, name = params["Dense_2/kernel"], "Dense_2/kernel"
    for given_perm in (perm, as_torch(perm), {n: p.astype(np.float32) for n, p in perm.items()}):
        both = get_permuted_param(DENSE, given_perm, name, params)
        assert np.array_equal(both, kernel[perm["P_1"]][:, perm["P_2"]])
        first = get_permuted_param(DENSE, given_perm, name, params, except_axis=1)
        assert np.array_equal(first, kernel[perm["P_1"]])
    del perm["P_1"]  # isn't needed where it doesn't move anything
    last = get_permuted_param(DENSE, perm, name, params, except_axis=0)
    assert np.array_equal(last, kernel[:, perm["P_2"]])


def test_arrays_of_all_kinds_give_the_same_permutation() -> None:
    a, b = dense_pair(3)
    expected = weight_matching(DENSE, a, b)
    assert all(type(p) is np.ndarray and p.dtype == np.int64 for p in expected.values())
    makers = (Foreign, Standard, np.ndarray.tolist, lambda x: x[::-1].copy()[::-1])
    for make in makers:
        first, second = ({name: make(array) for name, array in p.items()} for p in (a, b))
        found = weight_matching(DENSE, first, second)
        assert all(type(indices) is np.ndarray for indices in found.values())
        assert same(found, expected)
        foreign = {group: Foreign(indices) for group, indices in found.items()}
        moved = apply_permutation(DENSE, foreign, second)
        kind = Standard if make is Standard else np.ndarray
        assert all(type(value) is kind for value in moved.values())
        assert all(moved[name] is not second[name] for name in moved)
        assert same(moved, apply_permutation(DENSE, found, b))
    found = weight_matching(DENSE, a, as_torch(b))
    assert all(type(indices) is torch.Tensor for indices in found.values())
    assert same(found, expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.longdouble, np.int8, np.int64])
def test_every_dtype_takes_part_and_is_kept(dtype: Any) -> None:
    b = {name: (array * 40).astype(dtype) for name, array in dense_pair(5)[0].items()}
    answer = random_perm(5)
    a = apply_permutation(DENSE, answer, b)
    assert {array.dtype for array in a.values()} == {np.dtype(dtype)}
    assert same(weight_matching(DENSE, a, b), answer)
    if dtype is not np.longdouble:
        assert same(weight_matching(DENSE, as_torch(a), as_torch(b)), answer)


def test_on_every_device(device: str) -> None:
    b = {name: tensor.to(device) for name, tensor in as_torch(dense_pair(2)[0]).items()}
    answer = random_perm(2)
    a = apply_permutation(DENSE, answer, b)
    assert all(tensor.device.type == device for tensor in a.values())
    assert same(weight_matching(DENSE, a, b), answer)


def test_gradients_flow_through_what_moves() -> None:
    params = {name: t.requires_grad_() for name, t in as_torch(dense_pair(0)[0]).items()}
    moved = apply_permutation(DENSE, random_perm(0), params)
    sum((tensor**2).sum() for tensor in moved.values()).backward()
    assert all(torch.equal(p.grad, 2 * p) for p in params.values())


def test_a_key_before_the_spec_is_the_seed() -> None:
    a, b = dense_pair(7)
    expected = weight_matching(DENSE, a, b, 100, None, seed=11)
    assert same(weight_matching(11, DENSE, a, b), expected)
    assert same(weight_matching(11, DENSE, a, b, max_iter=100, silent=True), expected)
    assert same(weight_matching(rng=11, ps=DENSE, params_a=a, params_b=b), expected)
    key = np.array([0, 11], np.uint32)  # jax.random.PRNGKey(11)
    expected = weight_matching(DENSE, a, b, seed=11 << 32)
    assert same(weight_matching(key, DENSE, a, b, 100, None, True), expected)
    with pytest.raises(TypeError, match="rng must be an integer or a key"):
        weight_matching(torch.Generator(), DENSE, a, b)


def test_the_start_is_used_and_nothing_is_changed_or_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (a, b), start = dense_pair(1), random_perm(1)
    copies = [{name: array.copy() for name, array in p.items()} for p in (a, b, start)]
    assert same(weight_matching(DENSE, a, b, max_iter=0, init_perm=as_torch(start)), start)
    floats = {group: indices.astype(np.float32) for group, indices in start.items()}
    assert same(weight_matching(DENSE, a, b, max_iter=0, init_perm=floats), start)
    weight_matching(DENSE, a, b, init_perm=start, silent=False)
    assert all(same(before, after) for before, after in zip(copies, (a, b, start), strict=True))
    assert capsys.readouterr() == ("", "")


def test_parameters_without_a_permutation_are_not_looked_at() -> None:
    a, b = dense_pair(4)
    expected = weight_matching(DENSE, a, b)
    a |= {"Dense_3/bias": np.full(4, np.nan), "counter": np.array(3)}
    b["other"] = np.array(["text"])
    assert same(weight_matching(DENSE, a, b), expected)
    assert apply_permutation(DENSE, expected, {"counter": np.array(3)}) == {"counter": 3}


def test_specs_go_both_ways() -> None:
    for table in (mlp_table(), resnet20_table(), dense_table(2)):
        ps = permutation_spec_from_axes_to_perm(table)
        assert to_git_re_basin(from_git_re_basin(ps)) == ps
    for spec in (architectures.mlp(), architectures.vgg(), architectures.resnet()):
        assert from_git_re_basin(to_git_re_basin(spec)).axes == spec.axes
    fixed = fr.PermutationSpec.from_axes({"w": (" P0 ", "16", "3*4 + 1", None)})
    assert to_git_re_basin(fixed) == ({"P0": [("w", 0)]}, {"w": ("P0", None, None, None)})


def test_layouts_without_a_counterpart_are_all_named() -> None:
    spec = fr.PermutationSpec.from_axes(
        {"flat": (None, "P*49"), "cat": ("P", "P + Q"), "query": ("H", "K"), "fine": ("P", "Q")},
        within={"K": ("H",)},
    )
    with pytest.raises(ValueError, match="None for each axis") as caught:
        to_git_re_basin(spec)
    message = str(caught.value)
    for part in ("flat axis 1 is 'P*49'", "cat axis 1 is 'P + Q'", "query axis 1 is 'K', and 'K'"):
        assert part in message
    assert "fine" not in message
    assert "cat axis 0" not in message


def test_two_dicts_that_disagree_are_refused() -> None:
    a, b = dense_pair(0)
    axes = {**DENSE.perm_to_axes}
    axes["P_0"] = [*axes["P_0"][1:], axes["P_0"][1], ("Dense_3/bias", 0)]
    with pytest.raises(ValueError, match="the spec is wrong") as caught:
        weight_matching(PermutationSpec(axes, DENSE.axes_to_perm), a, b)
    for part in (
        "'P_0' on Dense_0/bias axis 0 is listed 2 times",
        "'P_0' on Dense_3/bias axis 0 is only in perm_to_axes",
        "'P_0' on Dense_0/kernel axis 1 is only in axes_to_perm",
    ):
        assert part in str(caught.value)


def test_names_that_are_no_names_are_refused() -> None:
    for name in ("16", "P + Q", "P*2", " ", ""):
        ps = permutation_spec_from_axes_to_perm({"w": (name,)})
        with pytest.raises(ValueError, match="can't be a name: it reads as a layout"):
            from_git_re_basin(ps)
        with pytest.raises(ValueError, match="can't be a name: it reads as a layout"):
            apply_permutation(ps, {name: [0]}, {"w": [1.0]})


def test_entries_that_lack_a_comma_are_named() -> None:
    with pytest.raises(ValueError, match=r"'a'\] must be a sequence.*'P_0'; .*'b'\].*\(1,\)"):
        permutation_spec_from_axes_to_perm({"a": ("P_0"), "b": (1,)})  # type: ignore[dict-item]


def test_parameters_that_do_not_fit_are_all_named() -> None:
    (a, b), perm = dense_pair(0), random_perm(0)
    extra = a | {"left": np.ones(2), "out": np.ones(1), "Dense_0/kernel": np.ones(6)}
    with pytest.raises(ValueError, match=r"(?s)Dense_0/kernel has shape \(6,\).*left is.*out is"):
        apply_permutation(DENSE, perm, extra)
    with pytest.raises(ValueError, match=r"Dense_1/bias is missing"):
        weight_matching(DENSE, {n: v for n, v in a.items() if n != "Dense_1/bias"}, b)
    broken = b | {"Dense_1/bias": np.array(["x"] * 8), "Dense_2/bias": np.ones(7) * 1j}
    with pytest.raises(ValueError, match=r"Dense_1/bias of B holds <U1; Dense_2/bias of B holds c"):
        weight_matching(DENSE, a, broken)
    complex_tensors = {n: t + 0j for n, t in as_torch(b).items()}
    with pytest.raises(ValueError, match=r"Dense_0/bias of B holds torch.complex128"):
        weight_matching(DENSE, as_torch(a), complex_tensors)
    with pytest.raises(ValueError, match="'P_0' has several sizes"):
        apply_permutation(DENSE, perm, a | {"Dense_0/bias": np.ones(3)})


def test_permutations_that_do_not_fit_are_all_named() -> None:
    a, b = dense_pair(0)
    wrong = {"P_0": np.zeros(9, int), "P_1": np.arange(8) + 0.5}
    with pytest.raises(ValueError, match=r"'P_2' is missing.*'P_0' is not a.*'P_1' must hold"):
        apply_permutation(DENSE, wrong, a)
    with pytest.raises(ValueError, match=r"'Q' is unknown"):
        weight_matching(DENSE, a, b, init_perm={**random_perm(0), "Q": [0]})
    with pytest.raises(ValueError, match=r"'P_0' must hold integers, got <U1; group 'P_1' must"):
        apply_permutation(DENSE, {"P_0": ["x"], "P_1": [None]}, a)
    with pytest.raises(ValueError, match="nowhere is not in params"):
        get_permuted_param(DENSE, {}, "nowhere", a)
    with pytest.raises(ValueError, match="except_axis must be an axis of Dense_0/bias, 0 to 0"):
        get_permuted_param(DENSE, random_perm(0), "Dense_0/bias", a, except_axis=1)
