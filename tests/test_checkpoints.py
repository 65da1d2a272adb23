"""Checkpoints: round trips, refusals, and no half file ever."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import torch
from torch import nn

from fastrebasin.checkpoints import atomic_output, check_fit, load_checkpoint, save_checkpoint
from fastrebasin.experiments.models import MLP


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    params = {"w": torch.randn(3, 4).T, "n": torch.tensor(5), "h": torch.randn(2).bfloat16()}
    params["tied"] = params["w"]
    path = tmp_path / "new folder" / f"a{suffix}"
    save_checkpoint(params, path, {"made": "here"})
    found = load_checkpoint(path)
    assert found.keys() == params.keys()
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in params.items())
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_metadata_is_kept(tmp_path: Path) -> None:
    save_checkpoint({"w": torch.zeros(1)}, tmp_path / "a.safetensors", {"made": "here"})
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "made": "here"}


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "params"])
def test_state_dicts_inside_training_checkpoints(tmp_path: Path, wrapper: str) -> None:
    params = {"module.w": torch.ones(2)}
    torch.save({"epoch": 3, wrapper: params}, tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt")["w"].tolist() == [1, 1]


def test_code_is_never_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(marker),))

    torch.save({"w": Evil()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps({"w": Evil()}))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(ValueError, match="weights_only=True"):
            load_checkpoint(tmp_path / name)
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(ValueError, match="Save the state dict itself"):
        load_checkpoint(tmp_path / "module.pt")
    assert not marker.exists()


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "nothing.pt")
    save_checkpoint({"w": torch.randn(1000)}, tmp_path / "whole.safetensors")
    save_checkpoint({"w": torch.randn(1000)}, tmp_path / "whole.pt")
    for name in ("whole.safetensors", "whole.pt"):
        content = (tmp_path / name).read_bytes()
        for part in (content[: len(content) // 2], b"", b"junk" * 100):
            (tmp_path / name).write_bytes(part)
            with pytest.raises(ValueError, match=r"can't be read|not a readable"):
                load_checkpoint(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds no state dict, got list"):
        load_checkpoint(tmp_path / "list.pt")


def test_every_misfit_is_listed_in_one_message() -> None:
    model = MLP(4, (3,), 2)
    params = dict(model.state_dict())
    del params["layer0.bias"]
    params["layer1.bias"] = torch.zeros(5)
    params["head.weight"] = torch.zeros(1, 1)
    with pytest.raises(ValueError, match=r"a\.pt doesn't fit MLP") as caught:
        check_fit(params, model, "a.pt")
    message = str(caught.value)
    assert "missing: layer0.bias (3,)" in message
    assert "unexpected: head.weight (1, 1)" in message
    assert "misshapen: layer1.bias is (5,), the model has (2,)" in message


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_output(path) as temporary:
            temporary.write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


_KILLED = """
import os, signal, sys
from fastrebasin.checkpoints import atomic_output
with atomic_output(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    run = subprocess.run([sys.executable, "-c", _KILLED, str(path)], timeout=60, check=False)
    assert run.returncode != 0
    assert path.read_text() == "old"
