"""Where the pixels of one grid lie in another: PROJ on a net of nodes that is refined until it is exact to 0.01 source
pixels (GDAL's default allows 0.125).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj

from m3etl.compute.grids import PixelGrid, PixelWindow, parsed_crs, same_crs

Floats = npt.NDArray[np.float64]

node_step = 32  # target pixels between nodes at first
position_tolerance = 0.01  # source pixels
least_average = 1.5  # source pixels per target pixel from which on it has several sample points


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
