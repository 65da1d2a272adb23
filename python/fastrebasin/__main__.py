"""`python -m fastrebasin` is the command `fastrebasin`."""

from fastrebasin.cli import app

if __name__ == "__main__":
    app()
