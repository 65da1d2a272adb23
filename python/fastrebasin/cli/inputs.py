"""What options name: modules, checkpoints, examples, and inputs of given shapes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from fastrebasin.checkpoints import check_fit, load_checkpoint
from fastrebasin.data import Batch, Data, load_examples
from fastrebasin.experiments.data_sets import cifar10, idx_folder

__all__ = [
    "Inputs", "Outputs", "examples", "load_model", "make_model", "random_inputs",
    "training_examples",
]  # fmt: skip

Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help="Shape of an input, as 1,3,32,32, or input_ids=1,16:int64 for a keyword argument of "
        "integers; once for each input.",
    ),
]

Outputs = Annotated[
    str | None, typer.Option(help="Attribute of the model's output that counts, as logits.")
]


def load_model(target: str, checkpoint: Path) -> nn.Module:
    """Make the module that `target` names and load the checkpoint into it."""
    model = make_model(target)
    params = load_checkpoint(checkpoint)
    check_fit(params, model, str(checkpoint))
    model.load_state_dict(params)
    return model.eval()


def make_model(target: str) -> nn.Module:
    """Make the module that `target` names."""
    model = _factory(target)()
    if not isinstance(model, nn.Module):
        raise TypeError(f"--model {target} must return a torch module, got {type(model).__name__}")
    return model


def _factory(target: str) -> Callable[[], object]:
    module_name, separator, name = target.partition(":")
    if not separator or not module_name or not name:
        raise ValueError(f"--model must be package.module:factory, got {target!r}")
    sys.path.insert(0, "")  # the user's own modules, as `python -m` finds them
    try:
        module = importlib.import_module(module_name)
    finally:
        sys.path.remove("")
    factory = getattr(module, name, None)
    if not callable(factory):
        raise ValueError(f"--model: module {module_name} has no callable {name!r}")
    return factory  # type: ignore[no-any-return]


def examples(data_a: Path | None, data_b: Path | None) -> Data | None:
    """Read both files, if any are named."""
    if data_a is None and data_b is None:
        return None
    if data_a is None or data_b is None:
        raise ValueError("--data-a and --data-b go together")
    return load_examples(data_a), load_examples(data_b)


def training_examples(path: Path) -> Batch:
    """Read a file of examples, or the training images of a folder as torchvision keeps it."""
    if (path / "raw").is_dir():
        return idx_folder(path.resolve().parent, path.resolve().name).train
    if path.resolve().name == "cifar-10-batches-bin":
        return cifar10(path.resolve().parent).train
    if path.is_dir():
        raise ValueError(f"{path} must have raw/ with idx files, or be cifar-10-batches-bin")
    return load_examples(path)


def random_inputs(
    texts: list[str], seed: int
) -> tuple[torch.Tensor, ...] | dict[str, torch.Tensor]:
    """Make inputs of the shapes given, as positional or as keyword arguments."""
    generator = torch.Generator().manual_seed(seed)
    named = [text.rpartition("=")[::2] for text in texts]
    tensors = [_random_input(text, generator) for _, text in named]
    names = [name for name, _ in named]
    if not any(names):
        return tuple(tensors)
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(f"--input must name all inputs, each once, or none, got {texts}")
    return dict(zip(names, tensors, strict=True))


def _random_input(text: str, generator: torch.Generator) -> torch.Tensor:
    shape_text, _, kind = text.partition(":")
    try:
        shape = [int(part) for part in shape_text.split(",")]
    except ValueError:
        raise ValueError(f"--input must be a shape such as 1,3,32,32, got {text!r}") from None
    if any(size < 1 for size in shape):
        raise ValueError(f"--input must have positive sizes, got {text!r}")
    if kind == "int64":
        return torch.randint(10, shape, generator=generator)
    if kind not in {"", "float32"}:
        raise ValueError(f"--input must be of float32 or int64, got {text!r}")
    return torch.rand(shape, generator=generator)
