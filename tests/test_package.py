"""The package as a whole: examples run, layers point one way, it imports on its own."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastrebasin

MODULES = [
    info.name
    for info in pkgutil.walk_packages(fastrebasin.__path__, "fastrebasin.")
    if info.name not in ("fastrebasin._core", "fastrebasin.__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0


def test_public_functions_have_examples() -> None:
    lacking = [
        name
        for name in fastrebasin.__all__
        if inspect.isfunction(getattr(fastrebasin, name))
        and "Example:" not in (getattr(fastrebasin, name).__doc__ or "")
    ]
    assert lacking == []


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_one_room_imports_the_core() -> None:
    root = Path(fastrebasin.__file__).parent
    importers = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if "fastrebasin._core" in imports_of(path)
    }
    assert importers == {"_native/__init__.py", "_native/device.py"}


def test_the_library_does_not_import_the_experiments() -> None:
    root = Path(fastrebasin.__file__).parent
    for path in root.rglob("*.py"):
        name = str(path.relative_to(root))
        if name.startswith(("experiments", "cli")) or name == "__main__.py":
            continue
        assert not any(i.startswith("fastrebasin.experiments") for i in imports_of(path)), name


def test_importing_needs_no_optional_package() -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(['matplotlib', 'sklearn', 'scipy']));"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", blocked + "import fastrebasin.cli"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def test_the_core_keeps_its_layers() -> None:
    csrc = Path(__file__).parents[1] / "csrc"
    paths = [
        path
        for room in ("cpu", "cuda")
        for path in (csrc / room).rglob("*")
        if path.suffix in (".cpp", ".hpp", ".inl", ".cu", ".cuh")
    ]
    assert len(paths) > 10
    assert any(path.suffix == ".cu" for path in paths)
    for path in paths:
        assert not re.search(r"pybind11|torch|Python\.h|#ifdef", path.read_text()), path.name


def test_seeds_are_the_tests_own() -> None:
    assert torch.initial_seed() == 0


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_says_that_a_compiler_is_missing(tmp_path: Path) -> None:
    (tmp_path / "sh").symlink_to("/bin/sh")
    run = subprocess.run(
        [str(shutil.which("make")), "check-tools", f"PYTHON={sys.executable}", "SHELL=/bin/sh"],
        cwd=Path(__file__).parents[1], env={"PATH": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode != 0
    assert "this is missing:\n  a C++17 compiler: c++, g++ or clang++" in run.stderr
    assert "Python" not in run.stderr


def test_the_readmes_python_runs(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert len(blocks) == 5
    assert run.returncode == 0, run.stderr
    assert "layer0.weight[0]" in run.stdout
