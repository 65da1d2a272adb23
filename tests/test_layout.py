"""Layouts of axes, and permutations of groups inside groups."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastrebasin import PermutationSpec, apply_permutation, compose, invert
from fastrebasin.layout import (
    Concatenation,
    Fixed,
    Layout,
    Product,
    Units,
    blocks,
    length,
    parse,
)
from fastrebasin.permutation import check_permutation

EXTENTS = {"A": 3, "B": 2, "H": 2}


def layouts() -> st.SearchStrategy[Layout]:
    leaves: st.SearchStrategy[Layout] = st.sampled_from(
        [Fixed(2), Fixed(5), Units("A"), Units("B"), Units("H")]
    )

    def bigger(inner: st.SearchStrategy[Layout]) -> st.SearchStrategy[Layout]:
        several = st.lists(inner, min_size=2, max_size=3).map(tuple)
        return st.builds(Product, several) | st.builds(Concatenation, several)

    return st.recursive(leaves, bigger, max_leaves=5)


def units(layout: Layout) -> list[tuple[object, ...]]:
    """Return what each entry of an axis is, from a plain reading of the layout."""
    match layout:
        case Fixed(size):
            return [("fixed", k) for k in range(size)]
        case Units(group):
            return [(group, k) for k in range(EXTENTS[group])]
        case Product(factors):
            found: list[tuple[object, ...]] = [()]
            for factor in factors:
                found = [(*one, other) for one in found for other in units(factor)]
            return found
        case Concatenation(parts):
            return [(k, entry) for k, part in enumerate(parts) for entry in units(part)]


def moved(entry: object, permutation: dict[str, torch.Tensor]) -> object:
    """Return where an entry of A comes from in B."""
    if isinstance(entry, tuple) and len(entry) == 2 and entry[0] in EXTENTS:
        return (entry[0], permutation[entry[0]][entry[1]].item())
    return tuple(moved(e, permutation) for e in entry) if isinstance(entry, tuple) else entry


@given(layout=layouts())
def test_notation_says_the_same(layout: Layout) -> None:
    again = parse(str(layout))
    assert length(again, EXTENTS) == length(layout, EXTENTS)
    assert str(parse(str(again))) == str(again)


@given(layout=layouts(), seed=st.integers(0, 9))
def test_permutations_move_what_the_layout_names(layout: Layout, seed: int) -> None:
    size = length(layout, EXTENTS)
    spec = PermutationSpec.from_axes({"w": (str(layout),), "A": ("A",), "B": ("B",), "H": ("H",)})
    params = {"w": torch.arange(size)} | {g: torch.zeros(n) for g, n in EXTENTS.items()}
    permutation = spec.bind(params).random_permutation(seed)
    found = apply_permutation(spec, permutation, params)["w"]
    names = units(parse(str(layout)))
    assert [names[k] for k in found.tolist()] == [moved(name, permutation) for name in names]


@given(layout=layouts())
def test_blocks_cover_a_tensor_once(layout: Layout) -> None:
    tensor = torch.zeros(length(layout, EXTENTS))
    for view, groups in blocks(tensor, [layout], EXTENTS):
        assert [EXTENTS[g] for g in groups if g] == [
            n for n, g in zip(view.shape, groups, strict=True) if g
        ]
        view += 1
    assert bool((tensor == 1).all())


@pytest.mark.parametrize("text", ["", "+", "A*", "A B", "(A", "A)", "0", "A*0 + B"])
def test_malformed_layouts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="layout of an axis must be like"):
        parse(text)


HEADS = PermutationSpec.from_axes(
    {"q": ("H*Q", None), "k": ("H*Q", None), "v": ("H*V", None), "o": (None, "H*V"), "h": ("H",)},
    within={"Q": ["H"], "V": ["H"]},
)


def heads() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shapes = {"q": (12, 5), "k": (12, 5), "v": (6, 5), "o": (5, 6), "h": (3,)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


@given(seed=st.integers(0, 99), other=st.integers(0, 99))
def test_nested_permutations_form_a_group(seed: int, other: int) -> None:
    params = heads()
    spec = HEADS.bind(params)
    assert spec.sizes == {"H": 3, "Q": 12, "V": 6}
    one, two = spec.random_permutation(seed), spec.random_permutation(other)
    both = compose(one, two)
    check_permutation(both, spec.sizes, spec.within)
    step = apply_permutation(spec, two, apply_permutation(spec, one, params))
    at_once = apply_permutation(spec, both, params)
    back = apply_permutation(spec, invert(both), at_once)
    for name, tensor in params.items():
        assert torch.equal(step[name], at_once[name])
        assert torch.equal(back[name], tensor)


def test_attention_is_the_same_after_a_nested_permutation() -> None:
    params = {name: tensor.double() for name, tensor in heads().items()}
    spec = HEADS.bind(params)

    def attention(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        q, k, v = ((x @ p[name].T).unflatten(1, (3, -1)) for name in "qkv")
        scores = torch.einsum("nhd,mhd->hnm", q, k).softmax(-1) * p["h"][:, None, None]
        return torch.einsum("hnm,mhd->nhd", scores, v).flatten(1) @ p["o"].T

    x = torch.randn(7, 5, dtype=torch.float64)
    after = apply_permutation(spec, spec.random_permutation(4), params)
    assert torch.allclose(attention(params, x), attention(after, x))


def test_what_leaves_its_parent_is_refused() -> None:
    spec = HEADS.bind(heads())
    wrong = spec.random_permutation(1) | {"Q": torch.arange(12).roll(1)}
    with pytest.raises(ValueError, match="'Q' doesn't move with 'H', which it lies within"):
        apply_permutation(spec, wrong, heads())


def test_sizes_that_tensors_cannot_tell_are_asked_for() -> None:
    axes = {"q": ("H*Q",)}
    with pytest.raises(ValueError, match="the sizes of 'H', 'Q' can't be told"):
        PermutationSpec.from_axes(axes, {"q": torch.zeros(12)})
    spec = PermutationSpec.from_axes(axes, {"q": torch.zeros(12)}, sizes={"H": 3, "Q": 4})
    assert spec.sizes == {"H": 3, "Q": 4}


def test_nesting_that_names_no_group_is_refused() -> None:
    with pytest.raises(ValueError, match="'G' is on no axis"):
        PermutationSpec.from_axes({"w": ("H*Q",)}, within={"Q": ["G"]})
    with pytest.raises(ValueError, match="must also name what that lies within"):
        PermutationSpec.from_axes({"w": ("A*B*C",)}, within={"C": ["B"], "B": ["A"]})
