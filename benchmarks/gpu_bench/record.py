"""The record of a run: JSON and a table, written anew after every row, as a run may be killed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpu_bench import ceilings
from gpu_bench.checks import Check
from gpu_bench.row import Row, Target

__all__ = ["Record"]

COLUMNS = ("what", "time", "kernels", "TFLOP/s", "GB/s", "share", "beside", "target", "checked")
CEILINGS = (ceilings.COPY, ceilings.FP32, ceilings.TF32, ceilings.BF16)


class Record:
    """All that a run found so far, kept in `gpu.json` and `gpu.md`.

    Attributes:
        about: of which device, versions, commit and date.
        rows: by name.
        checks: of correctness, before any time.
        complete: whether the run came to its end.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.about = about
        self.rows: dict[str, Row] = {}
        self.checks: list[Check] = []
        self.complete = False
        self._folder = folder

    @property
    def ceilings(self) -> dict[str, float]:
        """What was reached where nothing is in the way, by name."""
        reached = {name: self.rows[name] for name in CEILINGS if name in self.rows}
        rates = {name: row.flops or row.bandwidth for name, row in reached.items()}
        return {name: rate for name, rate in rates.items() if rate}

    @property
    def failures(self) -> list[str]:
        """What failed, was wrong or gave no answer."""
        checks = [f"{check.name}: {check.found}" for check in self.checks if check.passed is False]
        return checks + [
            f"{row.name}: {row.error or row.checked}" for row in self.rows.values() if row.failed
        ]

    @property
    def missed(self) -> list[str]:
        """The targets that weren't met."""
        return [
            f"{row.name}: {target_text(target)}"
            for row in self.rows.values()
            for target in row.targets
            if target.holds is False
        ]

    def add(self, found: Row | Check) -> None:
        """Take a row or a check, print it, and write the files."""
        if isinstance(found, Row):
            self.rows[found.name] = found
            print(" | ".join(filter(None, cells(found))), flush=True)
        else:
            self.checks.append(found)
            print(f"{found.name}: {found.found}", flush=True)
        self.write()

    def write(self) -> None:
        """Write both files, each whole or not at all."""
        rows = [
            asdict(row)
            | {"flops": row.flops, "bandwidth": row.bandwidth}
            | {"targets": [asdict(t) | {"holds": t.holds} for t in row.targets]}
            for row in self.rows.values()
        ]
        record = self.about | {
            "complete": self.complete,
            "ceilings": self.ceilings,
            "checks": [asdict(check) for check in self.checks],
            "rows": rows,
        }
        _replace(self._folder / "gpu.json", json.dumps(record, indent=1, default=str) + "\n")
        _replace(self._folder / "gpu.md", self.markdown())

    def markdown(self) -> str:
        """Return the table, under what it's of."""
        about = self.about["device"] | self.about["versions"]
        facts = ", ".join(f"{name} {value}" for name, value in about.items() if name != "name")
        lines = [
            f"# {about['name']}", "",
            f"Commit {self.about['commit']}, {self.about['date']}; {facts}.", "",
            *(f"- {check.name}: {check.found}" for check in self.checks), "",
            _line(COLUMNS), _line(["---", *["--:"] * 4, *["---"] * 4]),
            *(_line(cells(row)) for row in self.rows.values()), "",
        ]  # fmt: skip
        return "\n".join(lines)


def cells(row: Row) -> list[str]:
    """Return a row's cells, in the order of `COLUMNS`."""
    if row.error:
        return [row.name, *[""] * 7, f"**{row.error}**"]
    beside = []
    for name, peer in row.peers.items():
        ratio = f" (x{peer / row.seconds:.3g})" if row.seconds and isinstance(peer, float) else ""
        beside.append(f"{name} {shown(peer)}{ratio}")
    return [
        row.name,
        shown(row.seconds),
        shown(row.device_seconds),
        "" if row.flops is None else f"{row.flops / 1e12:.3g}",
        "" if row.bandwidth is None else f"{row.bandwidth / 1e9:.4g}",
        ", ".join(f"{100 * share:.0f} % of {name}" for name, share in row.shares.items()),
        "; ".join(beside),
        "; ".join(map(target_text, row.targets)),
        f"**WRONG: {row.checked}**" if row.wrong else row.checked,
    ]


def target_text(target: Target) -> str:
    """Return what was wanted, what came, and whether that's enough."""
    wanted = f"{target.what} {'>=' if target.least else '<='} {target.bound:g}"
    if target.value is None:
        return f"{wanted}: not measured"
    return f"{wanted}: {target.value:.3g} {'holds' if target.holds else '**missed**'}"


def shown(value: float | str | None) -> str:
    """Return seconds in a unit that suits them, or why there are none."""
    if value is None or isinstance(value, str):
        return value or ""
    unit, size = next(
        (entry for entry in (("s", 1.0), ("ms", 1e-3)) if value >= entry[1]), ("us", 1e-6)
    )
    return f"{value / size:.3g} {unit}"


def _line(entries: Any) -> str:
    return "| " + " | ".join(str(entry).replace("|", "/") for entry in entries) + " |"


def _replace(path: Path, text: str) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text)
    part.replace(path)
