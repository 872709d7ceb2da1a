"""Resampling from one pixel grid to another: where each target pixel lies in the source, and its value there.

Pixels that were not observed never bleed: every value is a mean weighted by what is observed, and a target pixel
counts as observed where at least half of its weight is. Positions come from PROJ on a net of nodes that is refined
until it is exact to 0.01 source pixels (GDAL's default allows 0.125, and on turned grids it smooths unasked).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyproj

from m3etl.compute.grids import PixelGrid, PixelWindow, parsed_crs, same_crs
from m3etl.spec.modality import ArraySpec, Resampling, Values

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

node_step = 32  # target pixels between nodes at first
position_tolerance = 0.01  # source pixels
least_average = 1.5  # source pixels per target pixel from which on they are averaged rather than interpolated
least_weight = 0.5


class Method(StrEnum):
    """How a target pixel follows from source pixels."""

    NEAREST = "nearest"
    MODE = "mode"  # the most frequent class within the target pixel, of equally frequent ones the smallest code
    BILINEAR = "bilinear"
    CUBIC = "cubic"  # Keys, a = -0.5; bilinear beside pixels that were not observed
    AVERAGE = "average"  # mean of the bilinear surface within the target pixel


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """Where target pixels lie in the source, in source pixels; (0, 0) is the outer corner of the first one.

    nodes_x, nodes_y: places in target pixels at which the source's `columns` and `rows` (float64, (y, x)) are known,
    not finite where there is no such place; in between they are interpolated. height, width: of the target. samples:
    points per target pixel down and across, more than one where source pixels are smaller.
    """

    nodes_x: Floats
    nodes_y: Floats
    columns: Floats
    rows: Floats
    height: int
    width: int
    samples: tuple[int, int]

    def window(self, margin: int) -> PixelWindow | None:
        """The source pixels within `margin` of any position; None where no position exists."""
        known = np.isfinite(self.columns) & np.isfinite(self.rows)
        if not known.any():
            return None
        left, top = (math.floor(part[known].min()) - margin for part in (self.columns, self.rows))
        right, bottom = (math.floor(part[known].max()) + margin + 1 for part in (self.columns, self.rows))
        return PixelWindow(column=left, row=top, width=right - left, height=bottom - top)

    def points(self, samples: tuple[int, int]) -> tuple[Floats, Floats]:
        """(columns, rows) of points spread evenly over each target pixel: (height x down, width x across)."""
        x = (np.arange(self.width * samples[1]) + 0.5) / samples[1]
        y = (np.arange(self.height * samples[0]) + 0.5) / samples[0]
        return self.at(x, y)

    def at(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """(columns, rows) at every place (y, x) in target pixels."""
        left, share_x = _between(self.nodes_x, x)
        top, share_y = _between(self.nodes_y, y)
        found = []
        with np.errstate(invalid="ignore"):  # a node that is nowhere makes the points around it unknown
            for net in (self.columns, self.rows):
                lines = net[:, left] * (1.0 - share_x) + net[:, left + 1] * share_x
                upper, lower = lines[top], lines[top + 1]
                lower -= upper
                lower *= share_y[:, None]
                lower += upper
                found.append(lower)
        return found[0], found[1]


def method_for(spec: ArraySpec, samples: tuple[int, int]) -> Method:
    """The method for an array: classes stay classes, and smaller source pixels are averaged (or counted)."""
    finer = samples != (1, 1)
    if spec.values is Values.CLASSES or spec.resampling is Resampling.NEAREST:
        return Method.MODE if finer and spec.values is Values.CLASSES else Method.NEAREST
    return Method.AVERAGE if finer else Method.BILINEAR


def margin_of(method: Method) -> int:
    """Source pixels needed around a position."""
    return {Method.NEAREST: 0, Method.MODE: 0, Method.CUBIC: 2}.get(method, 1)


def find_positions(source: PixelGrid, target: PixelGrid) -> Positions:
    """The places of the target's pixels in the source, exact to 0.01 source pixels.

    Longitudes of a geographic source lie within 180 degrees of the target's centre, which lies in [-180, 180).
    """
    place = _Placing(source, target)
    step, samples = node_step, place.samples()
    while True:
        x, y = _nodes(target.width, step), _nodes(target.height, step)
        columns, rows = place.source_pixels(x[None, :], y[:, None])
        found = Positions(
            nodes_x=x,
            nodes_y=y,
            columns=columns,
            rows=rows,
            height=target.height,
            width=target.width,
            samples=samples,
        )
        if step == 1 or _error(place, found) <= position_tolerance:
            return found
        step //= 2


def resample(values: Array, positions: Positions, window: PixelWindow, method: Method, *, fill: Any) -> Array:
    """The target's values (band, y, x), of the dtype of `values`, from those of a window of the source (band, y, x).

    fill: marks what was not observed, NaN for floats. Raises ValueError for integers by a method that computes means,
    which are for float32.
    """
    down, across = positions.samples if method in (Method.AVERAGE, Method.MODE) else (1, 1)
    columns, rows = positions.points((down, across))
    columns -= window.column
    rows -= window.row
    if method is Method.NEAREST:
        return _nearest(values, columns, rows, fill)
    shape = (values.shape[0], positions.height, positions.width)
    if method is Method.MODE:
        codes = np.empty(shape, np.int64)
        _mode(values.astype(np.int64), columns, rows, down, across, int(fill), codes)
        return codes.astype(values.dtype)
    if values.dtype != np.float32 or not np.isnan(fill):
        raise ValueError(f"{method} is for float32 with NaN, found {values.dtype} with fill {fill}")
    result = np.empty(shape, np.float32)
    _weighted(np.ascontiguousarray(values), columns, rows, down, across, method is Method.CUBIC, result)
    return result


# --- positions --------------------------------------------------------------------------------------------------------


class _Placing:
    """Target pixels to source pixels through both coordinate systems."""

    def __init__(self, source: PixelGrid, target: PixelGrid) -> None:
        self._source = source
        self._target = target
        self._transform = None if same_crs(source.crs, target.crs) else transformer(target.crs, source.crs)
        self._centre_x: float | None = None
        if parsed_crs(source.crs).is_geographic:
            x, _ = self._projected(np.array([[target.width / 2]]), np.array([[target.height / 2]]))
            self._centre_x = (float(x[0, 0]) + 180.0) % 360.0 - 180.0

    def source_pixels(self, column: Floats, row: Floats) -> tuple[Floats, Floats]:
        """(columns, rows) in the source of fractional positions in the target."""
        x, y = self._projected(column, row)
        if self._centre_x is not None:
            x = x - 360.0 * np.round((x - self._centre_x) / 360.0)
        return self._source.pixel_of(x, y)

    def samples(self) -> tuple[int, int]:
        """Points per target pixel (down, across), from the size of the central one in source pixels."""
        middle_x, middle_y = self._target.width / 2, self._target.height / 2
        counts = []
        for dx, dy in ((0.0, 0.5), (0.5, 0.0)):
            columns, rows = self.source_pixels(
                np.array([[middle_x - dx, middle_x + dx]]), np.array([[middle_y - dy, middle_y + dy]])
            )
            length = math.hypot(float(np.diff(columns)[0, 0]), float(np.diff(rows)[0, 0]))
            # A hair above a whole number is that number: scales of neighbouring zones differ by 0.1 %.
            counts.append(math.ceil(length - 0.05) if least_average <= length < math.inf else 1)
        return counts[0], counts[1]

    def _projected(self, column: Floats, row: Floats) -> tuple[Floats, Floats]:
        column, row = np.broadcast_arrays(column, row)
        x, y = self._target.xy_of(column, row)
        if self._transform is None:
            return x, y
        x, y = self._transform.transform(x, y)
        return np.asarray(x), np.asarray(y)


@lru_cache(maxsize=256)
def transformer(source: str, target: str) -> Any:
    """From one coordinate system to another, x first; safe to share between threads since pyproj 3.1."""
    return pyproj.Transformer.from_crs(parsed_crs(source), parsed_crs(target), always_xy=True)


def _nodes(length: int, step: int) -> Floats:
    """Positions from edge to edge, at most `step` apart."""
    return np.linspace(0.0, length, max(1, math.ceil(length / step)) + 1)


def _error(place: _Placing, found: Positions) -> float:
    """Largest deviation from the truth, in source pixels, at the middles between nodes."""
    x, y = (np.sort(np.concatenate([part, (part[1:] + part[:-1]) / 2])) for part in (found.nodes_x, found.nodes_y))
    truth = place.source_pixels(x[None, :], y[:, None])
    columns, rows = found.at(x, y)
    error = np.hypot(columns - truth[0], rows - truth[1])
    return float(np.where(np.isfinite(error), error, np.inf).max())


def _between(nodes: Floats, places: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
    """The node before each place and how far the place is on its way to the next."""
    first = np.clip(np.searchsorted(nodes, places, side="right") - 1, 0, len(nodes) - 2)
    return first, (places - nodes[first]) / (nodes[first + 1] - nodes[first])


# --- values -----------------------------------------------------------------------------------------------------------


def _nearest(values: Array, columns: Floats, rows: Floats, fill: Any) -> Array:
    height, width = values.shape[1:]
    with np.errstate(invalid="ignore"):
        # A position on the edge of two pixels belongs to the later one, whatever the last digit says.
        column, row = (np.floor(part + 1e-6) for part in (columns, rows))
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    column, row = (np.where(inside, part, 0).astype(np.int64) for part in (column, row))
    found = values[:, row, column]
    found[:, ~inside] = fill
    return found


@numba.njit(nogil=True, cache=True)
def _mode(
    values: Array, columns: Floats, rows: Floats, down: int, across: int, fill: int, result: Array
) -> None:  # pragma: no cover - compiled
    bands, height, width = values.shape
    codes = np.empty(down * across, np.int64)
    for band in range(bands):
        for y in range(result.shape[1]):
            for x in range(result.shape[2]):
                count = 0
                for i in range(y * down, (y + 1) * down):
                    for j in range(x * across, (x + 1) * across):
                        if not (np.isfinite(columns[i, j]) and np.isfinite(rows[i, j])):
                            continue
                        column, row = int(np.floor(columns[i, j] + 1e-6)), int(np.floor(rows[i, j] + 1e-6))
                        if 0 <= column < width and 0 <= row < height and values[band, row, column] != fill:
                            codes[count] = values[band, row, column]
                            count += 1
                best, best_count = fill, 0
                if 2 * count >= down * across:
                    found = np.sort(codes[:count])
                    start = 0
                    for place in range(1, count + 1):
                        if place == count or found[place] != found[start]:
                            if place - start > best_count:
                                best, best_count = found[start], place - start
                            start = place
                result[band, y, x] = best


@numba.njit(nogil=True, cache=True)
def _weighted(
    values: Array, columns: Floats, rows: Floats, down: int, across: int, cubic: bool, result: Array
) -> None:  # pragma: no cover - compiled
    bands, height, width = values.shape
    total, weight = np.empty(bands), np.empty(bands)
    keys_x, keys_y = np.empty(4), np.empty(4)
    least = (least_weight - 1e-6) * down * across
    for y in range(result.shape[1]):
        for x in range(result.shape[2]):
            total[:] = 0.0
            weight[:] = 0.0
            for i in range(y * down, (y + 1) * down):
                for j in range(x * across, (x + 1) * across):
                    column, row = columns[i, j] - 0.5, rows[i, j] - 0.5
                    if not (column > -1.0 and column < width and row > -1.0 and row < height):  # NaN neither
                        continue
                    left, top = int(np.floor(column)), int(np.floor(row))
                    share_x, share_y = column - left, row - top
                    if cubic and 1 <= left < width - 2 and 1 <= top < height - 2:
                        _keys(share_x, keys_x)
                        _keys(share_y, keys_y)
                        _add_cubic(values, left, top, share_x, share_y, keys_x, keys_y, total, weight)
                    else:
                        _add_bilinear(values, left, top, share_x, share_y, total, weight)
            for band in range(bands):
                result[band, y, x] = total[band] / weight[band] if weight[band] >= least else np.nan


@numba.njit(nogil=True, cache=True)
def _add_bilinear(
    values: Array, left: int, top: int, share_x: float, share_y: float, total: Array, weight: Array
) -> None:  # pragma: no cover - compiled
    bands, height, width = values.shape
    a, b = (1.0 - share_y) * (1.0 - share_x), (1.0 - share_y) * share_x
    c, d = share_y * (1.0 - share_x), share_y * share_x
    if 0 <= left < width - 1 and 0 <= top < height - 1:
        for band in range(bands):
            sum_of_four = (
                a * values[band, top, left]
                + b * values[band, top, left + 1]
                + c * values[band, top + 1, left]
                + d * values[band, top + 1, left + 1]
            )
            if sum_of_four == sum_of_four:
                total[band] += sum_of_four
                weight[band] += 1.0
            else:
                _add_known(values, band, left, top, (a, b, c, d), total, weight)
    else:
        for band in range(bands):
            _add_known(values, band, left, top, (a, b, c, d), total, weight)


@numba.njit(nogil=True, cache=True)
def _add_known(
    values: Array,
    band: int,
    left: int,
    top: int,
    parts: tuple[float, float, float, float],
    total: Array,
    weight: Array,
) -> None:  # pragma: no cover - compiled
    """The observed ones of four pixels, those within the window."""
    height, width = values.shape[1], values.shape[2]
    for number in range(4):
        row, column = top + number // 2, left + number % 2
        part = parts[number]
        if 0 <= row < height and 0 <= column < width and part > 0.0:
            value = values[band, row, column]
            if value == value:
                total[band] += part * value
                weight[band] += part


@numba.njit(nogil=True, cache=True)
def _add_cubic(
    values: Array,
    left: int,
    top: int,
    share_x: float,
    share_y: float,
    keys_x: Array,
    keys_y: Array,
    total: Array,
    weight: Array,
) -> None:  # pragma: no cover - compiled
    a, b = (1.0 - share_y) * (1.0 - share_x), (1.0 - share_y) * share_x
    c, d = share_y * (1.0 - share_x), share_y * share_x
    for band in range(values.shape[0]):
        found = 0.0
        for p in range(4):
            line = 0.0
            for q in range(4):
                line += keys_x[q] * values[band, top - 1 + p, left - 1 + q]
            found += keys_y[p] * line
        if found == found:
            total[band] += found
            weight[band] += 1.0
        else:
            _add_known(values, band, left, top, (a, b, c, d), total, weight)


@numba.njit(nogil=True, cache=True)
def _keys(share: float, weights: Array) -> None:  # pragma: no cover - compiled
    """Cubic convolution, a = -0.5: R. Keys, 1981, doi 10.1109/TASSP.1981.1163711."""
    weights[0] = ((-0.5 * share + 1.0) * share - 0.5) * share
    weights[1] = (1.5 * share - 2.5) * share * share + 1.0
    weights[2] = ((-1.5 * share + 2.0) * share + 0.5) * share
    weights[3] = (0.5 * share - 0.5) * share * share
