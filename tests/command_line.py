"""The command, called as a user calls it."""

from __future__ import annotations

from typer.testing import CliRunner

from fastrebasin.cli import app


def invoke(*arguments: object) -> tuple[int, str]:
    """Return the exit code, and all that was printed; errors that no user causes are raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output
