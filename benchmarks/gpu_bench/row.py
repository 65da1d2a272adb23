"""One line of the record: a time, what it is worth, and what it should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Row", "Target", "at_least", "at_most"]


@dataclass(frozen=True)
class Target:
    """A number that has a bound; None where it couldn't be measured."""

    what: str
    value: float | None
    bound: float
    least: bool  # whether the bound is from below

    @property
    def holds(self) -> bool | None:
        """Whether the bound is kept; None where there is no number."""
        if self.value is None:
            return None
        return self.value >= self.bound if self.least else self.value <= self.bound


def at_least(what: str, value: float | None, bound: float) -> Target:
    """Return a target from below."""
    return Target(what, value, bound, least=True)


def at_most(what: str, value: float | None, bound: float) -> Target:
    """Return a target from above."""
    return Target(what, value, bound, least=False)


@dataclass(frozen=True)
class Row:
    """What one benchmark found.

    Attributes:
        name: of what was done; a later row of this name takes its place.
        seconds: from a call to the end of its work, on an idle device: what one waits.
        device_seconds: of the kernels alone, which all rates are of.
        flop, nbytes: operations in the work, and bytes that it has to move.
        shares: of what the device reaches, by the name of the ceiling.
        peers: seconds of others for the same, or why there are none.
        checked: what was compared with float64, and how far it was off.
        wrong: whether that was too far.
        targets: what the numbers should be.
        facts: other numbers.
        error: why there are no numbers.
    """

    name: str
    seconds: float | None = None
    device_seconds: float | None = None
    flop: float = 0.0
    nbytes: float = 0.0
    shares: Mapping[str, float] = field(default_factory=dict)
    peers: Mapping[str, float | str] = field(default_factory=dict)
    checked: str = ""
    wrong: bool = False
    targets: tuple[Target, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def flops(self) -> float | None:
        """Operations a second."""
        return self.flop / self.device_seconds if self.flop and self.device_seconds else None

    @property
    def bandwidth(self) -> float | None:
        """Bytes a second."""
        return self.nbytes / self.device_seconds if self.nbytes and self.device_seconds else None

    @property
    def failed(self) -> bool:
        """Whether there is no answer, or a wrong one."""
        return bool(self.error) or self.wrong
