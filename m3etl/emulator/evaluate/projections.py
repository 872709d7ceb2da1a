"""Projections: affine arithmetic, cached coordinate transformations, and which native pixel lies under an output pixel.

A pixel (column, row) covers [column, column+1) x [row, row+1); an output pixel takes the native pixel under its centre.
Between different coordinate systems the centres of a grid are interpolated from a Chebyshev control grid, which is used
only where its measured error stays below 1e-6 output pixels; otherwise every centre is transformed.
"""

from __future__ import annotations

import functools
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from shapely.geometry.base import BaseGeometry

from m3etl.emulator.model import Grid, IntArray, Projection, crs_aliases, invalid

Affine = tuple[float, float, float, float, float, float]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

IDENTITY: Affine = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
LON_LAT = Projection(crs="EPSG:4326", transform=IDENTITY)
# The default projection of composites, constants and other images without pixels of their own: one degree of WGS84.
COMPOSITE = LON_LAT
METRES_PER_DEGREE = 111319.49079327358  # 2 pi 6378137 / 360, Earth Engine's nominal scale of one degree
SNAP = 1e-7  # coordinates this close to a pixel edge (in pixels) lie on it
OUTSIDE = -(1 << 40)


def compose(outer: Affine, inner: Affine) -> Affine:
    """The affine that applies `inner`, then `outer`."""
    a, b, c, d, e, f = outer
    p, q, r, s, t, u = inner
    return (a * p + b * s, a * q + b * t, a * r + b * u + c, d * p + e * s, d * q + e * t, d * r + e * u + f)


def invert(affine: Affine) -> Affine:
    """The inverse affine; a singular one is an invalid projection."""
    a, b, c, d, e, f = affine
    determinant = a * e - b * d
    if determinant == 0 or not math.isfinite(determinant):
        raise invalid(f"Projection: The transform {list(affine)} is not invertible.")
    p, q, s, t = e / determinant, -b / determinant, -d / determinant, a / determinant
    return (p, q, -(p * c + q * f), s, t, -(s * c + t * f))


def _snap(value: float) -> float:
    nearest = round(value)
    return float(nearest) if abs(value - nearest) <= SNAP else value


def relative(native: Projection, output: Projection) -> Affine:
    """The affine from output pixels to native pixels of one coordinate system, with float noise removed."""
    a, b, c, d, e, f = compose(invert(native.transform), output.transform)
    scale = max(abs(a), abs(b), abs(d), abs(e))
    a, b, d, e = (round(value / scale, 12) * scale if scale else value for value in (a, b, d, e))
    return (_snap(a), _snap(b), _snap(c), _snap(d), _snap(e), _snap(f))


def integer_shift(native: Projection, output: Projection) -> tuple[int, int] | None:
    """(columns, rows) by which output's pixels are shifted against native's, or None if the lattices differ."""
    if not same_crs(native.crs, output.crs):
        return None
    a, b, c, d, e, f = relative(native, output)
    if (a, b, d, e) != (1.0, 0.0, 0.0, 1.0) or c != round(c) or f != round(f):
        return None
    return round(c), round(f)


def shifted(projection: Projection, column: float, row: float) -> Projection:
    """The projection whose pixel (0, 0) is `projection`'s pixel (column, row)."""
    return Projection(crs=projection.crs, transform=compose(projection.transform, (1, 0, column, 0, 1, row)))


@functools.lru_cache(maxsize=512)
def crs_of(text: str) -> Any:
    """The pyproj CRS of an authority code or WKT; unknown ones are an invalid argument."""
    try:
        return pyproj.CRS.from_user_input(crs_aliases.get(text, text))
    except pyproj.exceptions.CRSError as error:
        raise invalid(f"Projection: The CRS of a map projection could not be parsed. CRS: {text!r}.") from error


@functools.lru_cache(maxsize=1024)
def same_crs(left: str, right: str) -> bool:
    """Whether two names mean one coordinate system."""
    return left == right or left.upper() == right.upper() or bool(crs_of(left) == crs_of(right))


@functools.lru_cache(maxsize=512)
def is_geographic(crs: str) -> bool:
    """Whether coordinates are degrees of longitude and latitude."""
    return bool(crs_of(crs).is_geographic)


@functools.lru_cache(maxsize=512)
def metres_per_unit(crs: str) -> float:
    """Metres of one unit of the coordinate system (at the equator for degrees)."""
    if is_geographic(crs):
        return METRES_PER_DEGREE
    return float(crs_of(crs).axis_info[0].unit_conversion_factor or 1.0)


def nominal_scale(projection: Projection) -> float:
    """Width of a pixel in metres at the point of true scale."""
    a, _, _, d, _, _ = projection.transform
    return math.hypot(a, d) * metres_per_unit(projection.crs)


def at_scale(projection: Projection, metres: float) -> Projection:
    """The projection scaled so that its pixels measure `metres`; the origin stays."""
    if not metres > 0:
        raise invalid(f"Projection.atScale: The scale must be positive, got {metres}.")
    a, b, c, d, e, f = projection.transform
    unit = metres_per_unit(projection.crs)
    x, y = metres / (math.hypot(a, d) * unit), metres / (math.hypot(b, e) * unit)
    return Projection(crs=projection.crs, transform=(_tidy(a * x), _tidy(b * y), c, _tidy(d * x), _tidy(e * y), f))


def _tidy(value: float) -> float:
    nearest = round(value)
    return float(nearest) if nearest and abs(value - nearest) < 1e-9 * abs(value) else value


_local = threading.local()


def transformer(source: str, target: str) -> Any:
    """A transformer with (x, y) or (lon, lat) order, one per thread because PROJ contexts are not shared."""
    cache: dict[tuple[str, str], Any] | None = getattr(_local, "transformers", None)
    if cache is None:
        cache = _local.transformers = {}
    found = cache.get((source, target))
    if found is None:
        found = pyproj.Transformer.from_crs(crs_of(source), crs_of(target), always_xy=True)
        cache[source, target] = found
    return found


def transform_points(source: str, target: str, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Coordinates in `target` of points given in `source`; points that cannot be transformed become infinite."""
    if same_crs(source, target):
        return x, y
    outcome = transformer(source, target).transform(x, y)
    return np.asarray(outcome[0], dtype=np.float64), np.asarray(outcome[1], dtype=np.float64)


def pixel_axes(grid: Grid) -> tuple[FloatArray, FloatArray]:
    """Column and row coordinates of the pixel centres, each one-dimensional."""
    return np.arange(grid.width, dtype=np.float64) + 0.5, np.arange(grid.height, dtype=np.float64) + 0.5


def centre_coordinates(grid: Grid) -> tuple[FloatArray, FloatArray]:
    """Coordinates (height, width) of the pixel centres in the grid's own coordinate system."""
    a, b, c, d, e, f = grid.projection.transform
    column, row = pixel_axes(grid)
    shape = (grid.height, grid.width)
    if b == 0 and d == 0:
        return np.broadcast_to(a * column + c, shape), np.broadcast_to((e * row + f)[:, None], shape)
    return (a * column + c)[None, :] + (b * row)[:, None], (d * column + f)[None, :] + (e * row)[:, None]


@functools.lru_cache(maxsize=64)
def _interpolation_matrix(size: int, nodes: int) -> FloatArray:
    """(size, nodes) matrix from values at Chebyshev nodes on [0, size] to values at pixel centres, barycentric."""
    k = np.arange(nodes)
    positions = np.cos(np.pi * (k + 0.5) / nodes)
    weights = (-1.0) ** k * np.sin(np.pi * (k + 0.5) / nodes)
    points = 2 * (np.arange(size) + 0.5) / size - 1
    difference = points[:, None] - positions[None, :]
    exact = np.abs(difference) < 1e-15
    terms = weights / np.where(exact, 1.0, difference)
    matrix = terms / terms.sum(axis=1, keepdims=True)
    rows = exact.any(axis=1)
    matrix[rows] = exact[rows]
    return np.asarray(matrix, dtype=np.float64)


def _interpolated(grid: Grid, crs: str, nodes: int) -> tuple[FloatArray, FloatArray] | None:
    """Centre coordinates in `crs` from an (nodes x nodes) control grid, or None where its error is too large."""
    a, b, c, d, e, f = grid.projection.transform
    t = (np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes) + 1) / 2
    column, row = np.meshgrid(t * grid.width, t * grid.height)
    x, y = transform_points(grid.projection.crs, crs, a * column + b * row + c, d * column + e * row + f)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    across, down = _interpolation_matrix(grid.width, nodes), _interpolation_matrix(grid.height, nodes)
    full_x, full_y = down @ x @ across.T, down @ y @ across.T
    i = np.unique(np.linspace(0, grid.height - 1, 5).astype(int))
    j = np.unique(np.linspace(0, grid.width - 1, 5).astype(int))
    jj, ii = np.meshgrid(j, i)
    exact_x, exact_y = transform_points(
        grid.projection.crs, crs, a * (jj + 0.5) + b * (ii + 0.5) + c, d * (jj + 0.5) + e * (ii + 0.5) + f
    )
    pixel = max(np.ptp(x), np.ptp(y)) / max(grid.width, grid.height)
    error = max(np.abs(full_x[ii, jj] - exact_x).max(), np.abs(full_y[ii, jj] - exact_y).max())
    return (full_x, full_y) if error <= 1e-6 * pixel else None


def project_centres(grid: Grid, crs: str) -> tuple[FloatArray, FloatArray]:
    """Coordinates (height, width) in `crs` of the grid's pixel centres; infinite where undefined."""
    if same_crs(grid.projection.crs, crs):
        x, y = centre_coordinates(grid)
        return (_wrap(x), y) if is_geographic(crs) else (x, y)
    if grid.width * grid.height > 256:
        for nodes in (8, 14):
            found = _interpolated(grid, crs, nodes)
            if found is not None:
                return found
    x, y = centre_coordinates(grid)
    return transform_points(grid.projection.crs, crs, np.ascontiguousarray(x), np.ascontiguousarray(y))


def _wrap(longitude: FloatArray) -> FloatArray:
    if longitude.size and (longitude.min() < -180 or longitude.max() > 180):
        return np.where(np.abs(longitude) > 180, (longitude + 180) % 360 - 180, longitude)
    return longitude


@dataclass(frozen=True, slots=True, kw_only=True)
class NativePixels:
    """Where the output pixel centres of a grid lie in a native projection: fractional pixels, (height, width)."""

    column: FloatArray
    row: FloatArray
    finite: BoolArray | None

    def indices(self) -> tuple[IntArray, IntArray]:
        """Native (column, row) under each output pixel centre; `OUTSIDE` where undefined."""
        return _floor(self.column, self.finite), _floor(self.row, self.finite)


def _floor(values: FloatArray, finite: BoolArray | None) -> IntArray:
    base = values if finite is None else np.where(finite, values, OUTSIDE)
    if base.ndim == 2 and 0 in base.strides:  # a broadcast axis: floor the one-dimensional original
        axis = 0 if base.strides[0] == 0 else 1
        line = np.take(base, 0, axis=axis)
        floored = np.floor(line + SNAP).astype(np.int64)
        return np.broadcast_to(floored if axis == 0 else floored[:, None], base.shape)
    return np.floor(base + SNAP).astype(np.int64)


def native_pixels(grid: Grid, native: Projection, maps: ProjectionMaps) -> NativePixels:
    """Fractional native pixel coordinates of the grid's pixel centres."""
    if same_crs(grid.projection.crs, native.crs) and not _needs_wrap(grid):
        a, b, c, d, e, f = relative(native, grid.projection)
        column, row = pixel_axes(grid)
        shape = (grid.height, grid.width)
        if b == 0 and d == 0:
            return NativePixels(
                column=np.broadcast_to(a * column + c, shape),
                row=np.broadcast_to((e * row + f)[:, None], shape),
                finite=None,
            )
        return NativePixels(
            column=(a * column + c)[None, :] + (b * row)[:, None],
            row=(d * column + f)[None, :] + (e * row)[:, None],
            finite=None,
        )
    x, y = maps.coordinates(grid, native.crs)
    a, b, c, d, e, f = invert(native.transform)
    finite = np.isfinite(x) & np.isfinite(y)
    all_finite = bool(finite.all())
    if not all_finite:
        x, y = np.where(finite, x, 0.0), np.where(finite, y, 0.0)
    return NativePixels(column=a * x + b * y + c, row=d * x + e * y + f, finite=None if all_finite else finite)


def _needs_wrap(grid: Grid) -> bool:
    if not is_geographic(grid.projection.crs):
        return False
    a, b, c, *_ = grid.projection.transform
    ends = (c, c + a * grid.width, c + b * grid.height, c + a * grid.width + b * grid.height)
    return min(ends) < -180 - 1e-9 or max(ends) > 180 + 1e-9


def grid_outline(grid: Grid) -> BaseGeometry | None:
    """Lon/lat polygon around a grid, or None where it cannot be told (poles, antimeridian, whole globe)."""
    t = np.linspace(0, 1, 9)
    zero, one = np.zeros_like(t), np.ones_like(t)
    column = np.concatenate([t, one, t[::-1], zero]) * grid.width
    row = np.concatenate([zero, t, one, t[::-1]]) * grid.height
    a, b, c, d, e, f = grid.projection.transform
    x, y = transform_points(grid.projection.crs, "EPSG:4326", a * column + b * row + c, d * column + e * row + f)
    if not (np.isfinite(x).all() and np.isfinite(y).all()) or np.ptp(x) > 90 or np.abs(y).max() > 89:
        return None
    if np.abs(x).max() > 180:
        return None
    polygon = shapely.Polygon(np.column_stack([x, y]))
    return polygon if polygon.is_valid else None


class ProjectionMaps:
    """Projected centre coordinates and native index arrays of recent grids, shared by requests and threads."""

    def __init__(self, max_bytes: int = 96 << 20) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def _get(self, key: Any) -> Any:
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                return None
            self._entries.move_to_end(key)
            return found[0]

    def _put(self, key: Any, value: Any, size: int) -> None:
        if size > self._max_bytes // 4:
            return
        with self._lock:
            if key not in self._entries:
                self._entries[key] = (value, size)
                self._bytes += size
            while self._bytes > self._max_bytes:
                _, (_, freed) = self._entries.popitem(last=False)
                self._bytes -= freed

    def coordinates(self, grid: Grid, crs: str) -> tuple[FloatArray, FloatArray]:
        """`project_centres`, remembered."""
        key = ("centres", grid, crs)
        found: tuple[FloatArray, FloatArray] | None = self._get(key)
        if found is None:
            found = project_centres(grid, crs)
            self._put(key, found, 16 * grid.width * grid.height)
        return found

    def indices(self, grid: Grid, native: Projection) -> tuple[IntArray, IntArray, BoolArray | None]:
        """Native (column, row) under each pixel centre and where they are defined (None: everywhere), remembered."""
        key = ("indices", grid, native)
        found: tuple[IntArray, IntArray, BoolArray | None] | None = self._get(key)
        if found is None:
            pixels = native_pixels(grid, native, self)
            column, row = pixels.indices()
            found = (column, row, pixels.finite)
            self._put(key, found, 16 * grid.width * grid.height)
        return found

    def outline(self, grid: Grid) -> BaseGeometry | None:
        """`grid_outline`, remembered."""
        key = ("outline", grid)
        found: tuple[BaseGeometry | None] | None = self._get(key)
        if found is None:
            found = (grid_outline(grid),)
            self._put(key, found, 1024)
        return found[0]
