"""Models as programs that plain torch runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastrebasin import save_program
from fastrebasin.experiments.models import ResNet


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.drop = nn.Linear(4, 3), nn.Linear(5, 3), nn.Dropout(0.5)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        out = self.first(x)
        found: Tensor = self.drop(out if y is None else out + self.second(y))
        return found


@pytest.mark.parametrize("examples", [1, 2])
def test_any_number_of_examples_goes_in(examples: int, tmp_path: Path) -> None:
    model, path = TwoInputs(), tmp_path / "model.pt2"
    x, y = torch.randn(6, 4), torch.randn(6, 5)
    save_program(model, {"x": x[:examples], "y": y[:examples]}, path)
    assert model.training
    loaded = torch.export.load(path).module()
    for count in (1, 6):
        torch.testing.assert_close(
            loaded(x=x[:count], y=y[:count]), model.eval()(x[:count], y[:count])
        )
        model.train()


def test_a_process_that_imports_torch_alone_runs_it(tmp_path: Path) -> None:
    model, x = ResNet(blocks=(1, 1, 1)).eval(), torch.randn(3, 3, 8, 8)
    save_program(model, x, tmp_path / "model.pt2")
    torch.save(x, tmp_path / "x.pt")
    script = """
import sys, torch
out = torch.export.load("model.pt2").module()(torch.load("x.pt"))
assert not any(name.startswith("fastrebasin") for name in sys.modules)
torch.save(out, "out.pt")
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), model(x))


def test_what_can_not_be_written_leaves_no_file(tmp_path: Path) -> None:
    class Undecided(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"path must end in \.pt2"):
        save_program(nn.Linear(4, 2), torch.zeros(2, 4), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"torch\.export can't capture the model"):
        save_program(Undecided(), torch.ones(2, 4), tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []
