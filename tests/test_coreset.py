"""Random coresets: balance, determinism, budgets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastrebasin import random_coreset

LABELS = torch.arange(300) % 7


@given(st.integers(0, 42), st.integers(0, 2**31))
def test_is_balanced_distinct_and_grouped_by_class(per_class: int, seed: int) -> None:
    chosen = random_coreset(LABELS, per_class, seed=seed)
    assert chosen.dtype == torch.int64
    assert len(chosen.unique()) == len(chosen)
    expected = [label for label in range(7) for _ in range(per_class)]
    assert LABELS[chosen].tolist() == expected


def test_the_seed_decides() -> None:
    assert torch.equal(random_coreset(LABELS, 5, seed=1), random_coreset(LABELS, 5, seed=1))
    assert not torch.equal(random_coreset(LABELS, 5, seed=1), random_coreset(LABELS, 5, seed=2))


def test_every_example_has_the_same_chance() -> None:
    counts = torch.zeros(20)
    for seed in range(2000):
        counts[random_coreset(torch.zeros(20).long(), 5, seed=seed)] += 1
    assert (counts / 2000 - 0.25).abs().max() < 0.05  # five standard deviations


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"these classes have fewer: \{1: 1\}"):
        random_coreset(torch.tensor([0, 0, 1]), 2)
    with pytest.raises(ValueError, match="must not be negative"):
        random_coreset(LABELS, -1)
    with pytest.raises(ValueError, match="vector of integers"):
        random_coreset(LABELS.float(), 1)
