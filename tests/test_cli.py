"""The command line: what it prints, what it writes, and how it refuses."""

from __future__ import annotations

import dataclasses
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from command_line import invoke

from fastrebasin import PermutationSpec, architectures, trace
from fastrebasin.checkpoints import load_checkpoint, save_checkpoint
from fastrebasin.cli import experiments
from fastrebasin.cli.inputs import load_model
from fastrebasin.experiments import few_images, pairs, steps
from fastrebasin.experiments.models import MLP, digits_mlp
from fastrebasin.merging import distil

MODEL = "fastrebasin.experiments.models:digits_mlp"


@pytest.fixture
def checkpoints(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "a.safetensors", tmp_path / "b.pt"
    for path in paths:
        save_checkpoint(digits_mlp().state_dict(), path)
    return paths


def test_merge_by_weights(checkpoints: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "merged.safetensors"
    code, text = invoke("merge", *checkpoints, "--model", MODEL, "--input", "2,64", "-o", out)
    assert code == 0, text
    assert "align: weights" in text
    assert f"wrote {out}" in text.replace("\n", "")
    merged = load_checkpoint(out)
    assert merged.keys() == digits_mlp().state_dict().keys()
    # The last bias has no permuted axis: it is the plain mean.
    a, b = (load_checkpoint(path) for path in checkpoints)
    assert torch.allclose(merged["layer3.bias"], (a["layer3.bias"] + b["layer3.bias"]) / 2)


def test_spec_prints_and_writes_what_moves_together(tmp_path: Path) -> None:
    code, text = invoke(
        "spec", "--model", MODEL, "--input", "2,64",
        "-o", tmp_path / "spec.json", "--dot", tmp_path / "spec.dot",
    )  # fmt: skip
    assert code == 0, text
    assert "P0       512  layer0.weight[0], layer0.bias[0], layer1.weight[1]" in text
    assert "100.00 % of the parameters are in tensors that move" in text
    spec = PermutationSpec.from_json((tmp_path / "spec.json").read_text())
    assert spec == trace(digits_mlp(), torch.rand(2, 64))
    drawing = (tmp_path / "spec.dot").read_text()
    assert '"layer0" -> "P0"' in drawing
    assert '"P0" -> "layer1"' in drawing


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "--input is needed"),
        (("--input", "2,64:complex64"), "must be of float32 or int64"),
        (("--input", "x=2,64", "--input", "2,64"), "must name all inputs"),
        (("--input", "y=2,64"), "can't run on example_inputs"),
        (
            ("--input", "2,64", "--outputs", "logits"),
            "outputs fails on what the model returns, a Tensor: 'Tensor' object has no attribute",
        ),
    ],
)
def test_spec_refuses_in_one_message(inputs: tuple[str, ...], message: str) -> None:
    code, text = invoke("spec", "--model", MODEL, *inputs)
    assert code == 1
    assert message in text


@pytest.mark.parametrize("align", ["activations", "straight-through"])
def test_merge_with_data_and_a_spec(
    align: str, checkpoints: tuple[Path, Path], tmp_path: Path
) -> None:
    for name in ("data_a", "data_b"):
        tensors = {"images": torch.rand(30, 1, 8, 8), "labels": torch.arange(30) % 10}
        safetensors.torch.save_file(tensors, tmp_path / f"{name}.safetensors")
    (tmp_path / "spec.json").write_text(architectures.mlp(3).to_json())
    code, text = invoke(
        "merge", *checkpoints, "--model", MODEL, "--align", align,
        "--data-a", tmp_path / "data_a.safetensors", "--data-b", tmp_path / "data_b.safetensors",
        "--spec", tmp_path / "spec.json", "-o", tmp_path / "merged.pt", "--quiet",
    )  # fmt: skip
    assert code == 0, text
    for row in ("A", "B", "naive average", "merged"):
        assert f"\n  {row} " in text
    assert load_checkpoint(tmp_path / "merged.pt").keys() == digits_mlp().state_dict().keys()


def test_merge_by_least_squares_and_draw_a_page(
    checkpoints: tuple[Path, Path], tmp_path: Path
) -> None:
    tensors = {"images": torch.rand(30, 1, 8, 8), "labels": torch.arange(30) % 10}
    safetensors.torch.save_file(tensors, tmp_path / "data.safetensors")
    out, page = tmp_path / "merged.safetensors", tmp_path / "page.html"
    code, text = invoke(
        "merge", *checkpoints, "--model", MODEL, "--combine", "least-squares", "--augment", 1,
        "--data-a", tmp_path / "data.safetensors", "--data-b", tmp_path / "data.safetensors",
        "-o", out, "--html", page, "--quiet",
    )  # fmt: skip
    assert code == 0, text
    assert "combine: least-squares" in text
    assert f"wrote {page}" in text.replace("\n", "")
    assert "<svg" in page.read_text()
    assert load_checkpoint(out).keys() == digits_mlp().state_dict().keys()


def test_a_wider_merge_runs_in_plain_torch(checkpoints: tuple[Path, Path], tmp_path: Path) -> None:
    out, x = tmp_path / "merged.pt2", torch.rand(7, 64)
    options = "--model", MODEL, "--combine", "partial", "--width", 2, "-o", out
    code, text = invoke("merge", *checkpoints, *options, "--input", "1,64")
    assert code == 0, text
    assert "parameters: 3" in text
    loaded = torch.export.load(out).module()
    a, b = (load_model(MODEL, path) for path in checkpoints)
    mean = ((a(x) + b(x)) / 2).log_softmax(1)
    torch.testing.assert_close(loaded(x), mean, rtol=1e-4, atol=1e-4)


def test_merge_of_models_from_one_base(checkpoints: tuple[Path, Path], tmp_path: Path) -> None:
    base = tmp_path / "base.safetensors"
    save_checkpoint(digits_mlp().state_dict(), base)
    out = tmp_path / "merged.safetensors"
    code, text = invoke(
        "merge", *checkpoints, "--model", MODEL, "--input", "2,64", "--combine", "task-arithmetic",
        "--align", "none", "--base", base, "-o", out,
    )  # fmt: skip
    assert code == 0, text
    merged, (a, b) = load_checkpoint(out), (load_checkpoint(path) for path in checkpoints)
    assert all(torch.allclose(merged[n], (a[n] + b[n]) / 2, atol=1e-6) for n in merged)


def test_a_users_own_factory_is_found_in_the_current_folder(
    checkpoints: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "from fastrebasin.experiments.models import MLP\ndef make():\n    return MLP(64)\n"
    )
    command = [sys.executable, "-m", "fastrebasin", "merge", *map(str, checkpoints)]
    run = subprocess.run(
        [*command, "--model", "mine:make", "--input", "2,64"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "merged.safetensors").is_file()
    assert run.stderr == ""  # no progress bar in a pipe


def test_a_checkpoint_that_does_not_fit_is_described_whole(
    checkpoints: tuple[Path, Path], tmp_path: Path
) -> None:
    params = dict(digits_mlp().state_dict())
    del params["layer0.bias"]
    params["layer1.bias"] = torch.zeros(5)
    params["head.weight"] = torch.zeros(1)
    save_checkpoint(params, checkpoints[1])
    code, text = invoke("merge", *checkpoints, "--model", MODEL, "--input", "2,64")
    assert code == 1
    for part in ("missing: layer0.bias", "unexpected: head.weight", "misshapen: layer1.bias"):
        assert part in text
    assert not (tmp_path / "merged.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "nothing"), "must be package.module:factory"),
        (("--model", "no.such.module:f"), "No module named 'no'"),
        (("--model", "fastrebasin:nothing"), "has no callable 'nothing'"),
        (("--model", "builtins:dict"), "must return a torch module, got dict"),
        (("--model", MODEL), "give example_inputs or data"),
        (("--model", MODEL, "--input", "2,x"), "must be a shape such as"),
        (("--model", MODEL, "--input", "0,64"), "positive sizes"),
        (("--model", MODEL, "--input", "2,63"), "mat1 and mat2 shapes cannot be multiplied"),
        (("--model", MODEL, "--align", "luck", "--input", "2,64"), "align must be one of"),
        (("--model", MODEL, "--data-a", "x.npz"), "go together"),
        (("--model", MODEL, "--input", "2,64", "--combine", "ties"), 'combine="ties" needs base'),
        (("--model", MODEL, "--input", "2,64", "--html", "x.html"), "--html needs --data-a"),
        (("--model", MODEL, "--spec", "nowhere.json"), "nowhere.json"),
        (("--model", MODEL, "--input", "2,64", "--width", "3"), "width must be from 1 to 2"),
        (("--model", MODEL, "-o", "x.pt2"), "needs --input, or --data-a and --data-b"),
    ],
)
def test_mistakes_get_one_message(
    checkpoints: tuple[Path, Path], arguments: tuple[str, ...], message: str
) -> None:
    code, text = invoke("merge", *checkpoints, *arguments)
    assert code == 1
    assert message in text
    assert text.startswith("fastrebasin: ")


def test_a_missing_checkpoint_is_named() -> None:
    code, text = invoke("merge", "a.pt", "b.pt", "--model", MODEL)
    assert (code, text) == (1, "fastrebasin: no such checkpoint: a.pt\n")


def test_demo_refuses_before_it_works(tmp_path: Path) -> None:
    code, text = invoke("demo", "--pair", "cats", "-o", tmp_path / "out")
    assert code == 1
    assert "pair must be one of" in text
    code, text = invoke("demo", "--data-dir", tmp_path / "nowhere", "-o", tmp_path / "out")
    assert code == 1
    assert "nowhere" in text


def small_pair(name: str, data_dir: Path | None) -> pairs.Pair:
    pair = pairs.load_pair(name, data_dir)
    recipe = dataclasses.replace(pair.recipe, factory=lambda: MLP(64, (48,)), train_epochs=(8, 8))
    return dataclasses.replace(pair, recipe=recipe)


def test_reproduce_shows_what_each_step_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "load_pair", small_pair)
    monkeypatch.setattr(few_images, "distil", functools.partial(distil, steps=150))
    arguments = ("reproduce", "rotated", "--per-class", 2, "-o", tmp_path / "out", "--quiet")
    code, text = invoke(*arguments)
    assert code == 0, text
    rows = "average", "weight matching", "activation matching", "least squares", "distillation"
    for row in (*rows, "one network trained on all data"):
        assert f"\n  {row} " in text
    found = json.loads((tmp_path / "out" / "rotated.json").read_text())["runs"][0]
    ways = found["per class"]["2"]
    accuracy = {name: way["mixture"]["accuracy"] for name, way in ways.items()}
    assert (
        accuracy["average"]
        < accuracy["least squares"]
        < found["trained on both"]["mixture"]["accuracy"]
    )
    kept = sorted((tmp_path / "out").glob("*.safetensors"))
    assert [path.name for path in kept] == [
        f"rotated-{name}.safetensors" for name in ("A-0", "B-1", "both-0")
    ]
    monkeypatch.setattr(steps, "train", None)  # what is there isn't trained again
    again, _ = invoke(*arguments)
    assert again == 0
    repeated = json.loads((tmp_path / "out" / "rotated.json").read_text())["runs"][0]
    assert repeated["per class"]["2"]["distillation"]["mixture"] == ways["distillation"]["mixture"]


def test_reproduce_refuses_before_it_trains(tmp_path: Path) -> None:
    code, text = invoke("reproduce", "rotate", "-o", tmp_path / "out")
    assert code == 1
    assert "pair must be one of" in text
    assert not (tmp_path / "out").exists()
    code, text = invoke("reproduce", "rotated", "--per-class", 1000, "-o", tmp_path / "out")
    assert code == 1
    assert "per_class is 1000, but these classes have fewer" in text
    assert not list((tmp_path / "out").iterdir())


def test_reproduce_shows_what_width_gains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "load_pair", small_pair)
    out = tmp_path / "out"
    arguments = ("reproduce", "rotated", "--width", 1, "--width", 1.5, "--per-class", 1)
    code, text = invoke(*arguments, "-o", out, "--quiet")
    assert code == 0, text
    found = json.loads((out / "rotated-widths.json").read_text())["runs"][0]["scores"]
    accuracy = [score["mixture"]["accuracy"] for score in found.values()]
    narrow, wide, fitted, widely_fitted, ensemble = accuracy
    assert narrow < wide < ensemble
    assert fitted < widely_fitted
    assert "1.5 times the units, 1.50 the parameters" in "".join(found)
    for wrong, message in (
        (("--width", 3), "--width must be from 1 to 2"),
        (("--surrogate", "random"), "don't go together"),
        (("--per-class", 2), "take one --per-class"),
    ):
        code, text = invoke(*arguments, *wrong, "-o", out)
        assert code == 1
        assert message in text
