"""Names of the tiles of M3LEO, which are hashes of the text of their corner coordinates (geetiles 0.1.7)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_decimals = 5


def tile_ids(bounds_lonlat: Floats) -> list[str]:
    """The identifier of each tile from west, south, east and north in degrees, (N, 4)."""
    west, south, east, north = np.round(bounds_lonlat, _decimals).T
    corners = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    rings = np.stack([np.stack(corner, axis=1) for corner in corners], axis=1)
    # numpy's own settings, whatever the program has set: the text is what is hashed.
    with np.printoptions(
        precision=8,
        threshold=1000,
        edgeitems=3,
        linewidth=75,
        suppress=False,
        sign="-",
        floatmode="maxprec",
        legacy=False,
    ):
        return [_short_hash(str(ring)) for ring in rings]


def grid_id(identifiers: Iterable[str]) -> str:
    """The identifier of a set of tiles in the order of its file, as file names carry it."""
    return _short_hash(" ".join(identifiers))


def _short_hash(text: str) -> str:
    number = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10**15
    return f"{number:013x}"
