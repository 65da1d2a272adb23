"""A model as a program in a file, which plain torch runs without the code that made it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from fastrebasin._calls import ExampleInputs, arguments
from fastrebasin._errors import first_line
from fastrebasin.checkpoints import atomic_output

__all__ = ["save_program"]


def save_program(model: nn.Module, example_inputs: ExampleInputs, path: str | Path) -> None:
    """Write a model in eval mode so that `torch.export.load(path).module()` gives it back.

    Any number of examples goes in where the first axes of all inputs agree.

    Args:
        model: any module that `torch.export` can capture; not changed. The program runs on its
            device.
        example_inputs: what `forward` takes, on that device.
        path: where to write, a name that ends in `.pt2`; the file appears whole or not at all.

    Raises:
        ValueError: the path has another suffix, or the model can't be captured.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "model.pt2"
        >>> model = nn.Linear(4, 2)
        >>> save_program(model, torch.zeros(2, 4), path)
        >>> loaded = torch.export.load(path).module()
        >>> torch.equal(loaded(torch.ones(5, 4)), model(torch.ones(5, 4)))
        True
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ValueError(f"path must end in .pt2, which torch.export.load asks for, got {path}")
    args, kwargs = arguments(example_inputs)
    inputs = [*args, *kwargs.values()]
    if all(isinstance(x, Tensor) and x.ndim and len(x) == 1 for x in inputs):
        # Of a single example, torch.export would make a rule.
        inputs = [torch.cat([x, x]) for x in cast(list[Tensor], inputs)]
    free = [{0: torch.export.Dim.AUTO} if isinstance(x, Tensor) else None for x in inputs]
    try:
        program = torch.export.export(
            copy.deepcopy(model).eval(),
            tuple(inputs[: len(args)]),
            dict(zip(kwargs, inputs[len(args) :], strict=True)),
            dynamic_shapes=dict(zip(kwargs, free, strict=True)) if kwargs else tuple(free),
        )
    except Exception as error:  # whatever a foreign model does
        raise ValueError(f"torch.export can't capture the model: {first_line(error)}") from error
    with atomic_output(path) as temporary:
        torch.export.save(program, temporary)
