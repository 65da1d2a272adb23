"""What every condensation holds to: files, seeds, budgets, shapes, errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from condensation_problems import METHODS, blobs, condense, normalising, small
from torch import Tensor, nn

from fastrebasin import ReducedSet
from fastrebasin.experiments.models import MLP
from fastrebasin.reduction import DifferentiableAugmentation, gradient_matching
from fastrebasin.reduction.condensation.differentiable_augmentation import Drawn
from fastrebasin.reduction.condensation.loop import Condensation
from fastrebasin.reduction.condensation.settings import Settings


class Interruption:
    """Data that raise KeyboardInterrupt when they are asked for the n-th time."""

    def __init__(self, calls: int | None) -> None:
        self.x, self.y = blobs()
        self.calls = calls

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self.calls is not None:
            self.calls -= 1
            if self.calls < 0:
                raise KeyboardInterrupt
        return self.x[index], int(self.y[index])


class Deaf(nn.Module):
    """A network through which no gradient goes."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits(x.detach().flatten(1))
        return logits


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factory", [small, normalising])
@pytest.mark.parametrize("augment", [None, "color_crop_cutout_flip_scale_rotate"])
def test_an_interrupted_run_ends_as_one_that_was_not(
    method: Callable[..., ReducedSet], factory: Callable[[], nn.Module],
    augment: str | None, tmp_path: Path,
) -> None:  # fmt: skip
    def run(calls: int | None, name: str, iterations: int = 7) -> ReducedSet:
        return condense(
            method, factory, Interruption(calls), augment=augment, iterations=iterations,
            checkpoint=tmp_path / f"{name}.safetensors", checkpoint_every=2,
        )  # fmt: skip

    whole = run(None, "whole")
    per_iteration = 16 * 3 * (2 if method is gradient_matching else 1)
    with pytest.raises(KeyboardInterrupt):
        run(90 + 5 * per_iteration + 20, "parts")
    run(None, "fewer", iterations=3)
    for made in (run(None, "parts"), run(None, "parts"), run(None, "fewer")):
        assert torch.equal(made.images, whole.images)
        assert made.provenance == whole.provenance
    plain = condense(method, factory, augment=augment, iterations=7)
    assert torch.equal(plain.images, whole.images)


def test_another_runs_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    condense(checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"another run: lr was 0.1, is 0.2; seed was 0, is 1"):
        condense(checkpoint=path, lr=0.2, seed=1)
    with pytest.raises(ValueError, match=r"data was 90 examples .*, is 60 examples"):
        condense(checkpoint=path, data=blobs(60))
    with pytest.raises(ValueError, match="network was"):
        condense(checkpoint=path, factory=lambda: MLP(36, (15,), 3))
    with pytest.raises(ValueError, match="has 4 iterations behind it, more than iterations, 3"):
        condense(checkpoint=path, iterations=3)
    assert path.read_bytes() == before


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides_and_nothing_else_is_touched(method: Callable[..., ReducedSet]) -> None:
    x, y = blobs()
    kept, one = x.clone(), normalising().train()
    state = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    before = torch.get_rng_state()
    made = [
        condense(method, lambda: one, (x, y), seed=seed, augment="flip_crop").images
        for seed in (1, 1, 2)
    ]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, kept)
    assert one.training
    assert all(p.requires_grad and p.grad is None for p in one.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_any_shape_dtype_and_labels(method: Callable[..., ReducedSet], device: str) -> None:
    x, y = blobs()
    for images, dtype in [
        (x.flatten(1), torch.float32), (x[:, 0].half(), torch.float64), (x, torch.bfloat16),
    ]:  # fmt: skip
        made = condense(
            method,
            lambda dtype=dtype: MLP(36, (16,), 8).to(device, dtype),  # type: ignore[misc]
            (images, 3 * y + 1),
        )
        assert made.images.shape == (6, *images.shape[1:])
        assert made.images.dtype == torch.promote_types(dtype, torch.float32)
        assert made.images.device.type == device
        assert torch.isfinite(made.images).all()
        assert made.labels.tolist() == [1, 1, 4, 4, 7, 7]


@pytest.mark.parametrize("method", METHODS)
def test_budgets_of_nothing(method: Callable[..., ReducedSet]) -> None:
    for init in ("noise", "real"):
        assert condense(method, per_class=0, init=init).images.shape == (0, 1, 6, 6)
    x, _ = blobs()
    start = condense(method, iterations=0, init="real").images
    assert all(any(torch.equal(image, other) for other in x) for image in start)
    assert len(start.flatten(1).unique(dim=0)) == 6


def test_goes_through_its_file(tmp_path: Path) -> None:
    made = condense(augment="flip", iterations=2)
    made.save(tmp_path / "few.safetensors")
    loaded = ReducedSet.load(tmp_path / "few.safetensors")
    assert torch.equal(loaded.images, made.images)
    assert loaded.provenance == made.provenance
    assert made.provenance["method"] == "gradient matching"
    assert made.provenance["iterations"] == "2"
    assert json.loads(made.provenance["settings"])["lr"] == 0.1


def test_batch_norm_uses_real_statistics() -> None:
    x, y = blobs(48)  # 16 of each class
    settings = Settings(
        method="none", options={}, per_class=1, iterations=1, init="noise", lr=1, momentum=0,
        batch_size=1, augment=None, seed=0, progress=False, checkpoint=None, checkpoint_every=1,
    )  # fmt: skip
    run = Condensation(normalising, (x, y), settings)
    with run.fresh_network() as network:
        run.normalise(network)
        convolution, norm = network.get_submodule("0"), network.get_submodule("1")
        assert not norm.training
        expected = convolution(x).mean((0, 2, 3))
    assert torch.allclose(norm.running_mean, expected, atol=1e-5)  # type: ignore[arg-type]


def test_real_and_synthetic_images_are_augmented_alike() -> None:
    seen: list[tuple[str, tuple[float, ...], int]] = []

    class Spy(DifferentiableAugmentation):
        def __call__(self, images: Tensor, drawn: Drawn) -> Tensor:
            seen.append((drawn.strategy, tuple(drawn.chances.flatten().tolist()), len(images)))
            return super().__call__(images, drawn)

    for method in METHODS:
        seen.clear()
        turns: dict[str, Any] = {"outer_loops": 1} if method is gradient_matching else {}
        condense(method, augment=Spy(), iterations=3, **turns)
        assert len(seen) == 18
        for real, synthetic in zip(seen[::2], seen[1::2], strict=True):
            assert real[:2] == synthetic[:2]
            assert (real[2], synthetic[2]) == (16, 2)
        assert len({real[1] for real in seen}) == 9


def test_errors() -> None:
    with pytest.raises(
        ValueError,
        match=r"per_class must not be negative, got -1; iterations must not be negative, got -2; "
        r".*lr must be positive, got 0; .*momentum must be .* got 1; init must be .* got 'zeros'; "
        r"checkpoint must end in .safetensors",
    ):
        condense(per_class=-1, iterations=-2, lr=0, momentum=1, init="zeros", checkpoint="x.pt")
    with pytest.raises(ValueError, match="outer_loops must be positive, got 0; inner_epochs"):
        condense(outer_loops=0, inner_epochs=0)
    with pytest.raises(ValueError, match=r"augment must join names of color, .* got 'colour'"):
        condense(augment="colour_flip")
    with pytest.raises(ValueError, match=r"the loss is .* try a smaller lr than 1e\+30"):
        condense(lr=1e30, iterations=20)


def test_data_that_do_not_serve() -> None:
    x, y = blobs()
    broken = x.flatten(1).clone()
    broken[4, 7] = float("nan")
    with pytest.raises(
        ValueError,
        match=r"fewer images to start from: \{0: 30.*; augment needs images .* got \(n, 36\); "
        r"data must be finite",
    ):
        condense(data=(broken, y), per_class=31, init="real", augment="flip")
    lazy = [(image if k != 7 else image / 0, int(y[k])) for k, image in enumerate(x)]
    with pytest.raises(ValueError, match="image number 7, of class 1, isn't"):
        condense(data=lazy, batch_size=100)
    with pytest.raises(ValueError, match=r"floating-point images, got torch.uint8"):
        condense(data=(x.byte(), y))
    with pytest.raises(ValueError, match="data must be one source, got 2"):
        condense(data=((x, y), (x, y)))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (nn.Flatten, "Flatten has no parameters"),
        (lambda: nn.Linear(5, 3), "can't run on images .2, 1, 6, 6.: "),
        (lambda: nn.Conv2d(1, 3, 3), r"must return logits \(batch, classes\), got \(2, 3, 4"),
        (lambda: MLP(36, (4,), 2), r"labels must be in \[0, 2\), .* got 0 to 2"),
        (Deaf, "passes no gradient on to its images"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_networks_that_do_not_serve(
    method: Callable[..., ReducedSet], factory: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        condense(method, factory)


def test_what_is_no_network() -> None:
    with pytest.raises(TypeError, match="factory must return a module, got function"):
        condense(factory=lambda: small)  # type: ignore[arg-type,return-value]
    broken = MLP(36, (4,), 3)
    torch.nn.init.constant_(broken.layer1.bias, torch.inf)  # type: ignore[arg-type, union-attr]
    with pytest.raises(ValueError, match=r"are not: layer1.bias of factory's network"):
        condense(factory=lambda: broken)
