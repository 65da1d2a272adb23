"""Condensed sets: what is matched, how runs go on, and what the images teach."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from condensation_problems import blobs, condense, small
from torch import Tensor, nn
from torch.nn import functional

from fastrebasin import ReducedSet
from fastrebasin.experiments.condensed import train_on
from fastrebasin.experiments.data_sets import DataSet, idx_folder
from fastrebasin.experiments.models import convnet, mnist_mlp
from fastrebasin.experiments.training import train
from fastrebasin.reduction import distribution_matching, gradient_matching
from fastrebasin.reduction.condensation.gradient_matching import gradient_distance


def smooth() -> nn.Module:
    """Return a small float64 network without kinks."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 5), nn.Tanh(), nn.Linear(5, 3)
    ).double()


def convnet_small() -> nn.Module:
    return convnet(1, 3, size=6, width=4, depth=1)


def looped_distance(first: list[Tensor], second: list[Tensor]) -> float:
    """Return the distance of gradients, one output unit after the other."""
    total = 0.0
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True) if one.ndim > 1 else ():
            a, b = a.reshape(-1).double(), b.reshape(-1).double()
            total += 1 - float(a @ b) / (float(a.norm()) * float(b.norm()) + 1e-6)
    return total


class TestGradientMatching:
    def test_distance_is_that_of_rows(self) -> None:
        shapes = [(4, 3), (4,), (2, 3, 3, 3), (), (5, 1)]
        first, second = ([torch.randn(shape) for shape in shapes] for _ in range(2))
        found = float(gradient_distance(first, second))
        assert found == pytest.approx(looped_distance(first, second), abs=1e-5)
        assert float(gradient_distance(first, first)) == pytest.approx(0, abs=1e-4)
        assert gradient_distance([torch.zeros(3, 2)], [torch.zeros(3, 2)]) == 3

    def test_steps_go_down_the_distance(self) -> None:
        """The gradient of gradients, against finite differences of an independent loss."""
        network, (x, y) = smooth(), blobs(30)
        given: dict[str, Any] = {"factory": lambda: network, "data": (x, y), "momentum": 0.0}
        given |= {"per_class": 1, "batch_size": 100, "outer_loops": 1}
        before = condense(iterations=0, **given)
        after = condense(iterations=1, lr=0.25, **given)
        gradient = (before.images - after.images) / 0.25

        def gradients(images: Tensor, labels: Tensor) -> list[Tensor]:
            loss = functional.cross_entropy(network(images), labels)
            return list(torch.autograd.grad(loss, list(network.parameters())))

        def loss(images: Tensor) -> float:
            return sum(
                looped_distance(
                    gradients(x[y == label].double(), y[y == label]),
                    gradients(images[label : label + 1], torch.tensor([label])),
                )
                for label in range(3)
            )

        assert before.images.dtype == torch.float64
        for position in [(0, 0, 2, 3), (1, 0, 0, 0), (2, 0, 5, 4)]:
            moved = torch.zeros_like(before.images)
            moved[position] = 1e-5
            slope = (loss(before.images + moved) - loss(before.images - moved)) / 2e-5
            assert float(gradient[position]) == pytest.approx(slope, rel=1e-5)
        assert float(after.provenance["last loss"]) == pytest.approx(loss(before.images))

    def test_loops_are_the_published_ones(self) -> None:
        for per_class, epochs in {10: 50, 20: 25, 30: 20, 40: 15, 50: 10}.items():
            made = gradient_matching(small, blobs(), per_class=per_class, iterations=0)
            settings = json.loads(made.provenance["settings"])
            assert (settings["outer_loops"], settings["inner_epochs"]) == (per_class, epochs)

    def test_condensed_images_teach_more_than_noise(self) -> None:
        test = DataSet("blobs", blobs(), blobs(300, seed=1))
        made = condense(per_class=1, iterations=60, outer_loops=1, batch_size=30)
        noise = condense(per_class=1, iterations=0)
        accuracies = [
            train_on(few, test, small, epochs=60, progress=False) for few in (made, noise)
        ]
        assert accuracies[0] > 0.9
        assert accuracies[1] < 0.7


class TestDistributionMatching:
    def distance(self, made: ReducedSet) -> float:
        """Return the mean distance of features in networks that the run hasn't seen."""
        x, y = blobs()
        total = 0.0
        for seed in range(20):
            torch.manual_seed(1000 + seed)
            embed = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU()).requires_grad_(False)
            for label in range(3):
                real, few = embed(x[y == label]), embed(made.images[made.labels == label])
                total += float((real.mean(0) - few.mean(0)).square().sum())
        return total / 20

    def test_features_come_closer(self) -> None:
        start, end = (condense(distribution_matching, iterations=n) for n in (0, 100))
        assert self.distance(end) < 0.2 * self.distance(start)

    def test_whole_classes_are_where_they_shall_be(self) -> None:
        x, y = blobs(30)
        made = condense(distribution_matching, data=(x, y), per_class=10, init="real")
        assert float(made.provenance["last loss"]) < 1e-12
        for label in range(3):
            theirs = {tuple(image.flatten().tolist()) for image in x[y == label]}
            found = made.images[made.labels == label].flatten(1)
            assert all(
                min((image - torch.tensor(other)).abs().max() for other in theirs) < 1e-5
                for image in found
            )

    def test_a_layer_by_name(self) -> None:
        options: dict[str, Any] = {"factory": convnet_small, "iterations": 2}
        named = condense(distribution_matching, layer="4", **options)  # its input is flattened
        assert torch.equal(named.images, condense(distribution_matching, **options).images)
        first = condense(distribution_matching, layer="0", **options)
        assert not torch.equal(named.images, first.images)
        with pytest.raises(ValueError, match="the model has no layer 'fc'"):
            condense(distribution_matching, layer="fc")


@pytest.mark.parametrize(("size", "features"), [(28, 128 * 16), (32, 128 * 16), (16, 128 * 4)])
def test_convnet_is_the_published_one(size: int, features: int) -> None:
    network = convnet(3, 7, size)
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 7)
    shapes = [tuple(p.shape) for p in network.parameters() if p.ndim > 1]
    assert shapes == [(128, 3, 3, 3), (128, 128, 3, 3), (128, 128, 3, 3), (7, features)]


def test_the_rate_drops_after_an_epoch() -> None:
    options: dict[str, Any] = {"batch_size": 100, "momentum": 0.0, "progress": False}
    first, both = (train(small, blobs(), epochs=n, drops=[1], **options) for n in (1, 2))
    second = train(lambda: copy.deepcopy(first), blobs(), epochs=1, lr=0.01, **options)
    for name, tensor in both.state_dict().items():
        torch.testing.assert_close(tensor, second.state_dict()[name])


@pytest.mark.slow
def test_an_image_per_class_teaches_digits(data_dir: Path) -> None:
    data = idx_folder(data_dir, "MNIST")
    made = gradient_matching(mnist_mlp, data.train, per_class=1, iterations=30, progress=False)
    assert train_on(made, data, mnist_mlp, progress=False) > 0.74
