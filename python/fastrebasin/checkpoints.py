"""State dicts in and out of files. Nothing is ever unpickled that could run code."""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from fastrebasin._errors import first_line

__all__ = [
    "atomic_output",
    "check_finite",
    "check_fit",
    "check_same_shapes",
    "load_checkpoint",
    "misfits",
    "save_checkpoint",
]

# Where training scripts keep the state dict inside a checkpoint.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "params")


def load_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a state dict onto the CPU.

    Args:
        path: a `.safetensors` file, or anything `torch.save` wrote: a state dict, or a dict that
            holds one under "state_dict", "model_state_dict", "model" or "params". Read with
            `weights_only=True`. A prefix "module." on all names (DataParallel) is dropped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds no state dict, or would need code to unpickle.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such checkpoint: {path}")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd pickle is read or refused all the same
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a foreign file may trip the unpickler in any way
        raise ValueError(
            f"{path} can't be read as plain tensors (weights_only=True): {first_line(error)}. "
            "Save the state dict itself: torch.save(model.state_dict(), path)"
        ) from error
    params = _state_dict(content)
    if params is None:
        raise ValueError(f"{path} holds no state dict, got {type(content).__name__}")
    if all(name.startswith("module.") for name in params):
        params = {name.removeprefix("module."): tensor for name, tensor in params.items()}
    return params


def save_checkpoint(
    params: Mapping[str, torch.Tensor],
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a state dict as `.safetensors`, or with `torch.save` under any other suffix.

    The file appears whole or not at all; an older one is replaced only by a whole one.

    Args:
        params: tensors on any device.
        path: where to write.
        metadata: strings kept in the header of a safetensors file.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in params.items()}
    with atomic_output(path) as temporary:
        if path.suffix == ".safetensors":
            distinct = {name: tensor.clone() for name, tensor in tensors.items()}  # tied ones too
            safetensors.torch.save_file(distinct, temporary, {"format": "pt", **(metadata or {})})
        else:
            torch.save(tensors, temporary)


def check_fit(params: Mapping[str, torch.Tensor], model: nn.Module, source: str) -> None:
    """Check that a state dict is one of `model`'s.

    Args:
        params: the state dict.
        model: the module that it should fit.
        source: what to call the state dict in the message.

    Raises:
        ValueError: every missing, unexpected and misshapen tensor, in one message.
    """
    expected = model.state_dict()
    problems = [
        f"missing: {name} {_shape(t)}" for name, t in expected.items() if name not in params
    ]
    problems += [f"unexpected: {n} {_shape(t)}" for n, t in params.items() if n not in expected]
    problems += [
        f"misshapen: {name} is {_shape(params[name])}, the model has {_shape(tensor)}"
        for name, tensor in expected.items()
        if name in params and params[name].shape != tensor.shape
    ]
    if problems:
        raise ValueError(
            f"{source} doesn't fit {type(model).__name__}:\n  " + "\n  ".join(problems)
        )


def misfits(
    params_a: Mapping[str, torch.Tensor],
    params_b: Mapping[str, torch.Tensor],
    labels: tuple[str, str] = ("A", "B"),
) -> list[str]:
    """Name every tensor that only one of two state dicts has, or of another shape."""
    a, b = labels
    problems = [f"{name} is only in {a}" for name in params_a if name not in params_b]
    problems += [f"{name} is only in {b}" for name in params_b if name not in params_a]
    problems += [
        f"{name} has shape {tuple(tensor.shape)} in {a} and {tuple(params_b[name].shape)} in {b}"
        for name, tensor in params_a.items()
        if name in params_b and tensor.shape != params_b[name].shape
    ]
    return problems


def check_same_shapes(
    params_a: Mapping[str, torch.Tensor], params_b: Mapping[str, torch.Tensor]
) -> None:
    """Check that two state dicts have the same names and shapes.

    Raises:
        ValueError: every tensor that only one of them has, or of another shape, in one message.
    """
    if problems := misfits(params_a, params_b):
        raise ValueError("params_a and params_b don't fit together: " + "; ".join(problems))


def check_finite(
    models: Mapping[str, Mapping[str, torch.Tensor]], names: Collection[str] | None = None
) -> None:
    """Check that no weight is infinite or NaN.

    Args:
        models: state dicts, each by what the message calls it.
        names: the tensors to check; all that hold floating-point numbers by default.

    Raises:
        ValueError: every tensor with such an entry, in one message.

    Example:
        >>> check_finite({"A": {"w": torch.tensor([1.0, float("nan")])}})
        Traceback (most recent call last):
            ...
        ValueError: weights must be finite, but these are not: w of A
    """
    asked = None if names is None else set(names)
    tensors = {
        f"{name} of {label}": tensor
        for label, params in models.items()
        for name, tensor in params.items()
        if (tensor.is_floating_point() if asked is None else name in asked)
    }
    # A sum tells in one pass, and is finite almost always where its terms are.
    finite = _read({what: torch.isfinite(tensor.sum()) for what, tensor in tensors.items()})
    broken = [
        what
        for what, tensor in tensors.items()
        if not (finite[what] or torch.isfinite(tensor).all())
    ]
    if broken:
        raise ValueError("weights must be finite, but these are not: " + ", ".join(broken))


def _read(flags: Mapping[str, torch.Tensor]) -> dict[str, bool]:
    """Read flags, those of each device in one transfer."""
    found: dict[str, bool] = {}
    for device in {flag.device for flag in flags.values()}:
        here = {what: flag for what, flag in flags.items() if flag.device == device}
        found |= dict(zip(here, torch.stack(list(here.values())).cpu().tolist(), strict=True))
    return found


@contextlib.contextmanager
def atomic_output(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its name when the block ends well.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_output(folder / "a.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> [entry.name for entry in folder.iterdir()]
        ['a.txt']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp's files are private
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _state_dict(content: object) -> dict[str, torch.Tensor] | None:
    """Find the state dict in what `torch.load` returned."""
    if not isinstance(content, Mapping):
        return None
    if content and all(isinstance(value, torch.Tensor) for value in content.values()):
        return {str(name): tensor for name, tensor in content.items()}
    for wrapper in _WRAPPERS:
        if wrapper in content:
            return _state_dict(content[wrapper])
    return None


def _shape(tensor: torch.Tensor) -> str:
    return str(tuple(tensor.shape))
