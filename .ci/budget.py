"""Fail when a file or function outgrows its budget: small rooms are a rule, not a wish."""

import ast
import subprocess
import sys
from pathlib import Path

FILE_LINES = {".py": 300, ".cpp": 450, ".hpp": 450, ".cu": 450, ".cuh": 450}
BINDINGS_LINES = 200
FUNCTION_LINES = 40  # without the docstring


def function_lines(node: ast.FunctionDef) -> int:
    """Count the lines of a function's body, less its docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def problems(path: Path) -> list[str]:
    """Return what is too long in one file."""
    text = path.read_text()
    lines = len(text.splitlines())
    budget = BINDINGS_LINES if path.name == "bindings.cpp" else FILE_LINES[path.suffix]
    found = [f"{path}: {lines} lines, budget {budget}"] if lines > budget else []
    if path.suffix == ".py":
        found += [
            f"{path}:{node.lineno}: {node.name} has {length} lines, budget {FUNCTION_LINES}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef)
            and (length := function_lines(node)) > FUNCTION_LINES
        ]
    return found


files = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True).stdout
too_long = [
    problem
    for name in files.splitlines()
    if Path(name).suffix in FILE_LINES and Path(name).exists()
    for problem in problems(Path(name))
]
print("\n".join(too_long) or "every file and function is within budget")
sys.exit(bool(too_long))
