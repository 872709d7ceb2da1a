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

    columns, rows: float64 (height x samples[0], width x samples[1]), not finite where there is no such place.
    samples: points per target pixel down and across, more than one where source pixels are smaller.
    """

    columns: Floats
    rows: Floats
    samples: tuple[int, int]

    def window(self, margin: int) -> PixelWindow | None:
        """The source pixels within `margin` of any position; None where no position exists."""
        known = np.isfinite(self.columns) & np.isfinite(self.rows)
        if not known.any():
            return None
        left, top = (math.floor(part[known].min()) - margin for part in (self.columns, self.rows))
        right, bottom = (math.floor(part[known].max()) + margin + 1 for part in (self.columns, self.rows))
        return PixelWindow(column=left, row=top, width=right - left, height=bottom - top)


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
    samples = place.samples()
    height, width = target.height * samples[0], target.width * samples[1]
    # Centres of the sample points, in target pixels.
    x = (np.arange(width) + 0.5) / samples[1]
    y = (np.arange(height) + 0.5) / samples[0]
    step = node_step
    while True:
        nodes_x, nodes_y = _nodes(target.width, step), _nodes(target.height, step)
        net = place.source_pixels(nodes_x[None, :], nodes_y[:, None])
        if step == 1 or _net_error(place, nodes_x, nodes_y, net) <= position_tolerance:
            break
        step //= 2
    if step > 1:
        columns, rows = (_interpolated(part, nodes_x, nodes_y, x, y) for part in net)
    else:
        columns, rows = place.source_pixels(x[None, :], y[:, None])
    return Positions(columns=columns, rows=rows, samples=samples)


def resample(values: Array, positions: Positions, window: PixelWindow, method: Method, *, fill: Any) -> Array:
    """The target's values (band, y, x), of the dtype of `values`, from those of a window of the source (band, y, x).

    fill: marks what was not observed, NaN for floats. Raises ValueError for integers by a method that computes means,
    which are for float32.
    """
    columns, rows = positions.columns - window.column, positions.rows - window.row
    if method is Method.NEAREST:
        return _nearest(values, columns, rows, positions.samples, fill)
    down, across = positions.samples if method in (Method.AVERAGE, Method.MODE) else (1, 1)
    if (down, across) != positions.samples:
        columns, rows = (_centres(part, positions.samples) for part in (columns, rows))
    shape = (values.shape[0], columns.shape[0] // down, columns.shape[1] // across)
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


def _net_error(place: _Placing, x: Floats, y: Floats, net: tuple[Floats, Floats]) -> float:
    """Largest deviation of the net from the truth, in source pixels, at the middles of its meshes and their edges."""
    fine_x, fine_y = (np.sort(np.concatenate([part, (part[1:] + part[:-1]) / 2])) for part in (x, y))
    truth = place.source_pixels(fine_x[None, :], fine_y[:, None])
    found = [_interpolated(part, x, y, fine_x, fine_y) for part in net]
    error = np.hypot(found[0] - truth[0], found[1] - truth[1])
    return float(np.where(np.isfinite(error), error, np.inf).max())


def _interpolated(net: Floats, nodes_x: Floats, nodes_y: Floats, x: Floats, y: Floats) -> Floats:
    """Bilinear between the nodes of a net, at every (y, x)."""
    left, share_x = _between(nodes_x, x)
    top, share_y = _between(nodes_y, y)
    across = net[:, left] * (1 - share_x) + net[:, left + 1] * share_x
    found: Floats = across[top] * (1 - share_y)[:, None] + across[top + 1] * share_y[:, None]
    return found


def _between(nodes: Floats, places: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
    first = np.clip(np.searchsorted(nodes, places, side="right") - 1, 0, len(nodes) - 2)
    return first, (places - nodes[first]) / (nodes[first + 1] - nodes[first])


def _centres(positions: Floats, samples: tuple[int, int]) -> Floats:
    """Positions of the target pixels' centres from those of the points within them."""
    height, width = positions.shape[0] // samples[0], positions.shape[1] // samples[1]
    return np.ascontiguousarray(positions.reshape(height, samples[0], width, samples[1]).mean(axis=(1, 3)))


# --- values -----------------------------------------------------------------------------------------------------------


def _nearest(values: Array, columns: Floats, rows: Floats, samples: tuple[int, int], fill: Any) -> Array:
    if samples != (1, 1):
        columns, rows = _centres(columns, samples), _centres(rows, samples)
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
    across_weights, down_weights = np.empty(4), np.empty(4)
    for y in range(result.shape[1]):
        for x in range(result.shape[2]):
            total[:] = 0.0
            weight[:] = 0.0
            for i in range(y * down, (y + 1) * down):
                for j in range(x * across, (x + 1) * across):
                    column, row = columns[i, j] - 0.5, rows[i, j] - 0.5
                    if not (np.isfinite(column) and np.isfinite(row)):
                        continue
                    left, top = int(np.floor(column)), int(np.floor(row))
                    share_x, share_y = column - left, row - top
                    if cubic and 1 <= left < width - 2 and 1 <= top < height - 2:
                        _keys(share_x, across_weights)
                        _keys(share_y, down_weights)
                        for band in range(bands):
                            found = 0.0
                            for p in range(4):
                                line = 0.0
                                for q in range(4):
                                    line += across_weights[q] * values[band, top - 1 + p, left - 1 + q]
                                found += down_weights[p] * line
                            if found == found:
                                total[band] += found
                                weight[band] += 1.0
                            else:
                                _add_bilinear(values, band, left, top, share_x, share_y, total, weight)
                        continue
                    for band in range(bands):
                        _add_bilinear(values, band, left, top, share_x, share_y, total, weight)
            for band in range(bands):
                enough = weight[band] >= (least_weight - 1e-6) * down * across
                result[band, y, x] = total[band] / weight[band] if enough else np.nan


@numba.njit(nogil=True, cache=True, inline="always")
def _add_bilinear(
    values: Array,
    band: int,
    left: int,
    top: int,
    share_x: float,
    share_y: float,
    total: Array,
    weight: Array,
) -> None:  # pragma: no cover - compiled
    height, width = values.shape[1], values.shape[2]
    for p in range(2):
        row = top + p
        if row < 0 or row >= height:
            continue
        part_y = share_y if p else 1.0 - share_y
        for q in range(2):
            column = left + q
            if column < 0 or column >= width:
                continue
            part = part_y * (share_x if q else 1.0 - share_x)
            value = values[band, row, column]
            if value == value and part > 0.0:
                total[band] += part * value
                weight[band] += part


@numba.njit(nogil=True, cache=True, inline="always")
def _keys(share: float, weights: Array) -> None:  # pragma: no cover - compiled
    """Cubic convolution, a = -0.5: R. Keys, 1981, doi 10.1109/TASSP.1981.1163711."""
    weights[0] = ((-0.5 * share + 1.0) * share - 0.5) * share
    weights[1] = (1.5 * share - 2.5) * share * share + 1.0
    weights[2] = ((-1.5 * share + 2.0) * share + 0.5) * share
    weights[3] = (0.5 * share - 0.5) * share * share
