"""Permutations: direction, group laws, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastrebasin import (
    PermutationSpec,
    apply_permutation,
    compose,
    identity_permutation,
    invert,
    random_permutation,
)
from fastrebasin.permutation import check_permutation

SIZES = {"P0": 7, "P1": 4}
seeds = st.integers(0, 2**31)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[group], second[group]) for group in first
    )


def test_direction_moves_b_onto_a(device: str) -> None:
    spec = PermutationSpec.from_axes({"w": ("P", None)})
    b = {"w": torch.tensor([[10.0], [20.0], [30.0]], device=device)}
    perm = [2, 0, 1]
    out = apply_permutation(spec, {"P": perm}, b)
    assert out["w"].device == b["w"].device
    for i, j in enumerate(perm):
        assert torch.equal(out["w"][i], b["w"][j])


@given(seeds)
def test_inverse_undoes(seed: int) -> None:
    permutation = random_permutation(SIZES, seed)
    assert same(compose(permutation, invert(permutation)), identity_permutation(SIZES))
    assert same(compose(invert(permutation), permutation), identity_permutation(SIZES))


@given(seeds, seeds)
def test_composition_is_applying_one_after_the_other(first: int, second: int) -> None:
    spec = PermutationSpec.from_axes({"w": ("P0", "P1"), "v": ("P1",)})
    params = {"w": torch.arange(28.0).reshape(7, 4), "v": torch.arange(4.0)}
    one, two = random_permutation(SIZES, first), random_permutation(SIZES, second)
    in_turn = apply_permutation(spec, two, apply_permutation(spec, one, params))
    assert same(apply_permutation(spec, compose(one, two), params), in_turn)


def test_random_permutation_depends_on_the_seed_alone() -> None:
    torch.rand(3)
    first = random_permutation({"P": 50}, seed=3)
    torch.rand(5)
    assert same(first, random_permutation({"P": 50}, seed=3))
    assert not same(first, random_permutation({"P": 50}, seed=4))


def test_results_are_new_tensors() -> None:
    spec = PermutationSpec.from_axes({"w": ("P",)})
    params = {"w": torch.arange(3.0), "free": torch.zeros(2), "count": torch.tensor(4)}
    permutation = {"P": torch.tensor([0, 1, 2])}
    out = apply_permutation(spec, permutation, params)
    for tensor in out.values():
        tensor += 1
    assert params["w"].tolist() == [0, 1, 2]
    assert params["free"].tolist() == [0, 0]
    assert params["count"].item() == 4
    assert check_permutation(permutation, {"P": 3})["P"] is not permutation["P"]


def test_everything_wrong_is_named_at_once() -> None:
    wrong = {"P0": [0, 0], "P1": [0.0, 1.0], "P2": [0], "extra": [0]}
    with pytest.raises(ValueError, match="doesn't fit") as caught:
        check_permutation(wrong, {"P0": 2, "P1": 2, "P2": 2, "P3": 2})
    message = str(caught.value)
    for part in ("'P0' is not a permutation", "'P1' must hold integers", "'P2' must have shape",
                 "'P3' is missing", "'extra' is unknown"):  # fmt: skip
        assert part in message


@pytest.mark.parametrize("indices", [[0, 3, 1], [-1, 0, 1], [0, 1, 1]])
def test_what_is_no_permutation_is_refused(indices: list[int]) -> None:
    with pytest.raises(ValueError, match="not a permutation"):
        check_permutation({"P": indices}, {"P": 3})


def test_compose_refuses_other_groups() -> None:
    with pytest.raises(ValueError, match="same groups and sizes"):
        compose(random_permutation({"P": 3}), random_permutation({"Q": 3}))
