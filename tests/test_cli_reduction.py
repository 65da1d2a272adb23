"""The commands that make a few examples out of a data set."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from command_line import invoke
from PIL import Image

from fastrebasin import ReducedSet
from fastrebasin.checkpoints import save_checkpoint
from fastrebasin.cli import experiments
from fastrebasin.experiments import pairs, steps
from fastrebasin.experiments.data_sets import digits
from fastrebasin.experiments.models import MLP, digits_mlp

MODEL = "fastrebasin.experiments.models:digits_mlp"


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    images, labels = digits().train
    path = tmp_path / "digits.safetensors"
    safetensors.torch.save_file({"images": images[:300], "labels": labels[:300]}, path)
    return path


def test_coreset_writes_what_it_chose(examples: Path, tmp_path: Path) -> None:
    checkpoint, out, drawn = (tmp_path / name for name in ("a.pt", "few.safetensors", "few.png"))
    save_checkpoint(digits_mlp().state_dict(), checkpoint)
    code, text = invoke(
        "coreset", examples, "--method", "herding", "--per-class", 3, "--model", MODEL,
        "--checkpoint", checkpoint, "--layer", "layer1", "-o", out, "--picture", drawn,
    )  # fmt: skip
    assert code == 0, text
    assert "30 examples of 10 classes" in text
    chosen = ReducedSet.load(out)
    assert torch.equal(chosen.images, ReducedSet.load(examples).images[chosen.extras["indices"]])
    assert chosen.provenance["method"] == "Herding"
    assert chosen.provenance["data"] == "digits.safetensors"
    with Image.open(drawn) as picture:
        assert picture.size == (3 * 9, 10 * 9)


def test_coreset_refuses(examples: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (("--method", "herd"), "method must be a selector or one of"),
        (("--model", MODEL), "--model and --checkpoint go together"),
        ((), "give per_class or fraction"),
        (("--per-class", 1000), "these classes have fewer examples"),
    ):
        code, text = invoke("coreset", examples, *arguments, "-o", tmp_path / "few.safetensors")
        assert code == 1
        assert message in text
    code, text = invoke("coreset", tmp_path, "--per-class", 1)
    assert code == 1
    assert "must have raw/ with idx files" in text
    assert not (tmp_path / "few.safetensors").exists()


def test_condense_goes_on_where_it_was(examples: Path, tmp_path: Path) -> None:
    common = ("condense", examples, "--model", MODEL, "--per-class", 1, "--seed", 3, "--quiet")
    code, text = invoke(*common, "--iterations", 4, "-o", tmp_path / "whole.safetensors")
    assert code == 0, text
    state = ("--checkpoint", tmp_path / "state.safetensors")
    for iterations in (2, 4):
        code, text = invoke(
            *common, *state, "--iterations", iterations, "-o", tmp_path / "parts.safetensors"
        )
        assert code == 0, text
    whole, parts = (ReducedSet.load(tmp_path / f"{n}.safetensors") for n in ("whole", "parts"))
    assert torch.equal(whole.images, parts.images)
    assert whole.images.shape == (10, 1, 8, 8)


@pytest.mark.parametrize("method", ["distribution-matching", "kernel-inducing-points"])
def test_condense_by_other_methods(examples: Path, tmp_path: Path, method: str) -> None:
    out, drawn = tmp_path / "few.safetensors", tmp_path / "few.png"
    model = () if method.startswith("kernel") else ("--model", MODEL)
    code, text = invoke(
        "condense", examples, "--method", method, *model, "--per-class", 2, "--iterations", 2,
        "-o", out, "--picture", drawn, "--quiet",
    )  # fmt: skip
    assert code == 0, text
    assert len(ReducedSet.load(out)) == 20
    assert drawn.exists()


def test_condense_refuses(examples: Path) -> None:
    for arguments, message in (
        ((), "--method gradient-matching needs --model"),
        (("--method", "magic"), "--method must be one of gradient-matching"),
        (("--method", "kernel-inducing-points", "--model", MODEL), "takes neither --model"),
    ):
        code, text = invoke("condense", examples, *arguments)
        assert code == 1
        assert message in text


def test_reproduce_by_surrogates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(name: str, data_dir: Path | None) -> pairs.Pair:
        pair = pairs.load_pair(name, data_dir)
        recipe = dataclasses.replace(
            pair.recipe, factory=lambda: MLP(64, (32,)), train_epochs=(5, 5), coreset_epochs=3
        )
        return dataclasses.replace(pair, recipe=recipe)

    monkeypatch.setattr(experiments, "load_pair", small)
    arguments = (
        "reproduce", "rotated", "--surrogate", "random", "--surrogate", "graph-cut",
        "--surrogate", "condensed", "--per-class", 1, "--iterations", 2, "-o", tmp_path / "out",
    )  # fmt: skip
    code, text = invoke(*arguments)
    assert code == 0, text
    path = tmp_path / "out" / "rotated-surrogates.json"
    (run,) = json.loads(path.read_text())["runs"]
    assert list(run["scores"]) == ["random", "graph-cut", "condensed"]
    monkeypatch.setattr(steps, "train", None)  # what is there isn't made again
    code, text = invoke(*arguments)
    assert code == 0, text
    assert json.loads(path.read_text())["runs"][0]["scores"] == run["scores"]
    code, text = invoke("reproduce", "rotated", "--surrogate", "magic", "-o", tmp_path / "out")
    assert code == 1
    assert "kinds of surrogate must be among" in text
