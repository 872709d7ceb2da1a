"""Resampling from one pixel grid to another: the value of each target pixel from the source pixels around it.

Pixels that were not observed never bleed: every value is a mean weighted by what is observed, and a target pixel
counts as observed where at least half of its weight is. GDAL would smooth on turned grids unless told not to.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from m3etl.compute.grids import PixelWindow
from m3etl.compute.positions import Positions, find_positions, transformer
from m3etl.spec.modality import ArraySpec, Resampling, Values

__all__ = ["Method", "Positions", "find_positions", "margin_of", "method_for", "resample", "transformer"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

least_weight = 0.5


class Method(StrEnum):
    """How a target pixel follows from source pixels."""

    NEAREST = "nearest"
    MODE = "mode"  # the most frequent class within the target pixel, of equally frequent ones the smallest code
    BILINEAR = "bilinear"
    CUBIC = "cubic"  # Keys, a = -0.5; bilinear beside pixels that were not observed
    AVERAGE = "average"  # mean of the bilinear surface within the target pixel


def method_for(spec: ArraySpec, samples: tuple[int, int]) -> Method:
    """The method for an array: classes stay classes, and smaller source pixels are averaged (or counted)."""
    finer = samples != (1, 1)
    if spec.values is Values.CLASSES or spec.resampling is Resampling.NEAREST:
        return Method.MODE if finer and spec.values is Values.CLASSES else Method.NEAREST
    return Method.AVERAGE if finer else Method.BILINEAR


def margin_of(method: Method) -> int:
    """Source pixels needed around a position."""
    return {Method.NEAREST: 0, Method.MODE: 0, Method.CUBIC: 2}.get(method, 1)


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
def _mode(values: Array, columns: Floats, rows: Floats, down: int, across: int, fill: int, result: Array) -> None:
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
def _weighted(values: Array, columns: Floats, rows: Floats, down: int, across: int, cubic: bool, result: Array) -> None:
    """Every pixel in the common case first, all of whose source pixels were observed; NaN marks the others."""
    bands, height, width = values.shape
    index, parts = _neighbours(columns, rows, height, width)
    keys = np.empty((2, 4))
    for band in range(bands):
        if cubic or height < 2 or width < 2:
            result[band] = np.nan
        else:
            _means(values[band].reshape(-1), index, parts, width, down, across, result[band])
    for band in range(bands):
        for y in range(result.shape[1]):
            for x in range(result.shape[2]):
                if result[band, y, x] != result[band, y, x]:
                    result[band, y, x] = _mean_of_known(
                        values[band], columns, rows, (y, x), (down, across), cubic, keys
                    )


@numba.njit(nogil=True, cache=True)
def _means(flat: Array, index: Array, parts: Array, width: int, down: int, across: int, result: Array) -> None:
    """No function calls and no signed indexes in here: that makes it several times as quick."""
    below, one = np.uint64(width), np.uint64(1)
    if down == 1 and across == 1:
        line = result.reshape(-1)
        for place in range(line.size):
            point = np.uint64(place)
            first = index[point]
            line[point] = (
                parts[0, point] * flat[first]
                + parts[1, point] * flat[first + one]
                + parts[2, point] * flat[first + below]
                + parts[3, point] * flat[first + below + one]
            )
        return
    points = np.uint64(result.shape[1] * across)
    for y in range(result.shape[0]):
        for x in range(result.shape[1]):
            total = 0.0
            for i in range(y * down, (y + 1) * down):
                for j in range(x * across, (x + 1) * across):
                    point = np.uint64(i) * points + np.uint64(j)
                    first = index[point]
                    total += (
                        parts[0, point] * flat[first]
                        + parts[1, point] * flat[first + one]
                        + parts[2, point] * flat[first + below]
                        + parts[3, point] * flat[first + below + one]
                    )
            result[y, x] = total / (down * across)


@numba.njit(nogil=True, cache=True)
def _neighbours(columns: Floats, rows: Floats, height: int, width: int) -> tuple[Array, Array]:
    """For each point the number of the first of its four pixels in a line of all, and the share of each; NaN shares
    where they do not all lie in the window.
    """
    index = np.zeros(columns.size, np.uint64)
    parts = np.full((4, columns.size), np.float32(np.nan))
    for i in range(columns.shape[0]):
        for j in range(columns.shape[1]):
            column, row = columns[i, j] - 0.5, rows[i, j] - 0.5
            if column >= 0.0 and column < width - 1 and row >= 0.0 and row < height - 1:  # NaN is not
                point, left, top = i * columns.shape[1] + j, int(column), int(row)
                x, y = column - left, row - top
                parts[0, point], parts[1, point] = (1.0 - y) * (1.0 - x), (1.0 - y) * x
                parts[2, point], parts[3, point] = y * (1.0 - x), y * x
                index[point] = top * width + left
    return index, parts


@numba.njit(nogil=True, cache=True)
def _mean_of_known(
    plane: Array,
    columns: Floats,
    rows: Floats,
    pixel: tuple[int, int],
    samples: tuple[int, int],
    cubic: bool,
    keys: Array,
) -> float:
    """One target pixel from what was observed and lies within the window; NaN where that is too little."""
    total, weight = 0.0, 0.0
    for i in range(pixel[0] * samples[0], (pixel[0] + 1) * samples[0]):
        for j in range(pixel[1] * samples[1], (pixel[1] + 1) * samples[1]):
            column, row = columns[i, j] - 0.5, rows[i, j] - 0.5
            if not (column > -1.0 and column < plane.shape[1] and row > -1.0 and row < plane.shape[0]):
                continue
            if cubic:
                found = _cubic(plane, column, row, keys)
                if found == found:
                    total += found
                    weight += 1.0
                    continue
            left, top = int(np.floor(column)), int(np.floor(row))
            for number in range(4):
                y, x = top + number // 2, left + number % 2
                part = (1.0 - abs(row - y)) * (1.0 - abs(column - x))
                if 0 <= y < plane.shape[0] and 0 <= x < plane.shape[1] and part > 0.0 and plane[y, x] == plane[y, x]:
                    total += part * plane[y, x]
                    weight += part
    return total / weight if weight >= (least_weight - 1e-6) * samples[0] * samples[1] else np.nan


@numba.njit(nogil=True, cache=True)
def _cubic(plane: Array, column: float, row: float, keys: Array) -> float:
    """The value from 4 x 4 pixels, by their centres; NaN where not all of them are there. keys: (2, 4), scratch."""
    left, top = int(np.floor(column)), int(np.floor(row))
    if not (1 <= left < plane.shape[1] - 2 and 1 <= top < plane.shape[0] - 2):
        return np.nan
    # Cubic convolution, a = -0.5: R. Keys, 1981, doi 10.1109/TASSP.1981.1163711.
    for axis in range(2):
        share = row - top if axis else column - left
        keys[axis, 0] = ((-0.5 * share + 1.0) * share - 0.5) * share
        keys[axis, 1] = (1.5 * share - 2.5) * share * share + 1.0
        keys[axis, 2] = ((-1.5 * share + 2.0) * share + 0.5) * share
        keys[axis, 3] = (0.5 * share - 0.5) * share * share
    found = 0.0
    for p in range(4):
        line = 0.0
        for q in range(4):
            line += keys[0, q] * plane[top - 1 + p, left - 1 + q]
        found += keys[1, p] * line
    return found
