"""Where the pixels of a raster lie: grids, windows of pixels, and whether one grid is another one shifted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj

from m3etl.errors import InputError

Floats = npt.NDArray[np.float64]
Affine = tuple[float, float, float, float, float, float]

same_pixel_tolerance = 1e-3  # pixels; rounding of written corners is far below, a half-pixel convention far above


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelWindow:
    """A rectangle of pixels; `column` and `row` are its first ones and may lie before the raster's."""

    column: int
    row: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a window needs at least one pixel, found {self.width} x {self.height}")

    def intersection(self, other: PixelWindow) -> PixelWindow | None:
        """What both cover; None where they do not meet."""
        left, top = max(self.column, other.column), max(self.row, other.row)
        right = min(self.column + self.width, other.column + other.width)
        bottom = min(self.row + self.height, other.row + other.height)
        if left >= right or top >= bottom:
            return None
        return PixelWindow(column=left, row=top, width=right - left, height=bottom - top)

    def slices(self, inside: PixelWindow) -> tuple[slice, slice]:
        """(rows, columns) of `inside` in an array that holds this window."""
        top, left = inside.row - self.row, inside.column - self.column
        return slice(top, top + inside.height), slice(left, left + inside.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelGrid:
    """Pixels of a raster in its coordinate system.

    crs: `EPSG:32632` or WKT. affine: (a, b, c, d, e, f) with x = a column + b row + c and y = d column + e row + f of
    pixel corners; x is easting or longitude whatever the axis order of the CRS.
    """

    crs: str
    affine: Affine
    width: int
    height: int

    def __post_init__(self) -> None:
        a, b, _, d, e, _ = self.affine
        if not np.isfinite(self.affine).all() or a * e - b * d == 0:
            raise InputError(f"the raster's affine transform {self.affine} has no inverse")

    @property
    def window(self) -> PixelWindow:
        """All of it."""
        return PixelWindow(column=0, row=0, width=self.width, height=self.height)

    def xy_of(self, column: npt.ArrayLike, row: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Coordinates of fractional pixel positions; (0, 0) is the outer corner of the first pixel."""
        a, b, c, d, e, f = self.affine
        column, row = np.asarray(column, dtype=np.float64), np.asarray(row, dtype=np.float64)
        return a * column + b * row + c, d * column + e * row + f

    def pixel_of(self, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
        """(column, row), fractional; the inverse of `xy_of`."""
        a, b, c, d, e, f = self.affine
        x, y = np.asarray(x, dtype=np.float64) - c, np.asarray(y, dtype=np.float64) - f
        determinant = a * e - b * d
        return (e * x - b * y) / determinant, (a * y - d * x) / determinant


def chip_grid(*, epsg: int, xmin: float, ymax: float, chip_m: float, pixels: int) -> PixelGrid:
    """The grid of one chip stored with `pixels` a side: north up, corners on the lattice."""
    size = chip_m / pixels
    return PixelGrid(crs=f"EPSG:{epsg}", affine=(size, 0.0, xmin, 0.0, -size, ymax), width=pixels, height=pixels)


def whole_pixel_offset(source: PixelGrid, target: PixelGrid) -> tuple[int, int] | None:
    """(column, row) in `source` of the first pixel of `target` where their pixels coincide; None where they do not.

    Then pixels are copied and nothing is resampled.
    """
    if not same_crs(source.crs, target.crs):
        return None
    a, b, c, d, e, f = source.affine
    determinant = a * e - b * d
    first = (0, 0)
    for number, (column, row) in enumerate(((0, 0), (target.width, target.height), (target.width, 0))):
        ta, tb, tc, td, te, tf = target.affine  # in plain numbers: this is asked for every chip
        x, y = ta * column + tb * row + tc - c, td * column + te * row + tf - f
        found = (e * x - b * y) / determinant, (a * y - d * x) / determinant
        if number == 0:
            first = round(found[0]), round(found[1])
        away = max(abs(found[0] - first[0] - column), abs(found[1] - first[1] - row))
        if not away <= same_pixel_tolerance:
            return None
    return first


@lru_cache(maxsize=1024)
def same_crs(first: str, second: str) -> bool:
    """Whether two coordinate systems are the same, whatever the order of their axes."""
    return first == second or bool(parsed_crs(first).equals(parsed_crs(second), ignore_axis_order=True))


@lru_cache(maxsize=256)
def parsed_crs(crs: str) -> Any:
    """The coordinate system of an `EPSG:` code or WKT; InputError where it is none."""
    try:
        return pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError as error:
        raise InputError(f"not a coordinate system: {crs[:80]}", hint="Use an EPSG code or WKT.") from error
