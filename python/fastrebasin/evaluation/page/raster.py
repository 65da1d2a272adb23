"""Matrices as small pictures inside a page: PNG, one pixel for each entry.

W3C, "Portable Network Graphics (PNG) Specification", third edition, 2025: colour type 6. Entries
are told apart by opacity, so that one picture does on a light and on a dark page.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

__all__ = ["data_uri"]

Colour = tuple[int, int, int]


def data_uri(rows: Sequence[Sequence[float]], positive: Colour, negative: Colour) -> str:
    """Return a matrix as a PNG in a `data:` address.

    Args:
        rows: entries in [-1, 1], the top row first; others are clipped, NaN is transparent.
        positive, negative: red, green and blue from 0 to 255 of entries above and below zero;
            their size is the opacity.

    Example:
        >>> data_uri([[0.0, 1.0]], (0, 0, 255), (255, 0, 0))[:30]
        'data:image/png;base64,iVBORw0K'
    """
    pixels = b"".join(
        b"\0" + b"".join(_pixel(entry, positive, negative) for entry in row) for row in rows
    )
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 6, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(pixels, 9)), (b"IEND", b"")
    picture = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")


def _pixel(entry: float, positive: Colour, negative: Colour) -> bytes:
    size = min(1.0, abs(entry)) if entry == entry else 0.0  # noqa: PLR0124 - NaN isn't itself
    return bytes((*(negative if entry < 0 else positive), round(255 * size)))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
