"""Where the pixels of a request are: unit vectors and coarse fields of a window of a native grid, made once and kept.

Positions are interpolated between nodes every few pixels of the native grid (whole multiples of the node step, so that
every window that covers a pixel gives it the same position to the last bit). At 10 m the error is 3 mm.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from pyproj import Transformer

from m3etl.emulator.model import IntArray, Projection, crs_aliases
from m3etl.emulator.planet import utm
from m3etl.emulator.planet.climate import coarse_maps, read_maps
from m3etl.emulator.planet.noise import EARTH_RADIUS_KM, Floats, Singles, add_octave, frequency

NODE_SPACING_M = 80.0
_METRES_PER_DEGREE = 111_195.0
_WINDOW_EXCESS = 2.0  # a request is answered by its bounding window when that has at most this many times its pixels
_CACHED_PIXELS = 600_000
_MARGIN = 2  # pixels around a window, so that slightly larger windows of other resamplings find it
_MOMENTS = 6
_BLOCK = 1 << 18


class Node:
    """Columns of the node fields: position, the nine coarse maps in `Coarse` order, noise longer than a kilometre."""

    X, Y, Z, LON, LAT = 0, 1, 2, 3, 4
    SHORE, HEIGHT, RELIEF, WARMTH, SWING, RAIN, SUMMER_RAIN, MARSH, PINE = 5, 6, 7, 8, 9, 10, 11, 12, 13
    TERRAIN = 14
    """Sum of the long octaves of the terrain, about [-2, 2]."""
    RIVERS = 15
    """River noise, whose zero crossings are rivers."""
    PEOPLE = 16
    """Density of people, about [-1, 1]."""
    TOWNS = 17
    """Settlement noise."""
    SOIL = 18
    """Colour of the soil, about [-1, 1]."""
    WET = 19
    """Regional departure of the rain, about [-1, 1]."""
    TERRAIN_EAST = 20
    TERRAIN_NORTH = 21
    """Slope of the long octaves per metre to the east and to the north."""
    PATCH = 22
    """Long octaves of the vegetation patches."""
    COUNT = 23


_WET, _WET_SEED = ((180.0, 0.7, 0.0), (45.0, 0.5, 0.0)), 71
TERRAIN_SEED = 11
SLOPE_STEP_M = 15.0
TERRAIN_LONG: tuple[tuple[float, float, float], ...] = (
    # wavelength in km, amplitude, ridge
    (190.0, 0.9, 0.0),
    (80.0, 0.75, 0.3),
    (34.0, 0.75, 0.5),
    (15.0, 0.7, 0.6),
    (6.5, 0.42, 0.6),
    (2.9, 0.21, 0.5),
)


@dataclass(eq=False, slots=True, kw_only=True)
class Frame:
    """The pixels of one request: node fields and, per pixel, which four nodes it lies between and where.

    `corners` (4, N) int64 are the rows in `nodes` (M, Node.COUNT) of the nodes to the upper left, upper right, lower
    left and lower right; `u` and `v` (N,) are the weights of the right and the lower ones. Fields are memoised: those
    of the ground for the life of the frame, those of a moment until a few others were asked for.
    """

    nodes: Floats
    corners: IntArray
    u: Floats
    v: Floats
    kept: dict[str, Any] = field(default_factory=dict)
    moments: OrderedDict[Any, Any] = field(default_factory=OrderedDict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def size(self) -> int:
        return int(self.u.size)

    def keep(self, key: str, make: Callable[[], Any]) -> Any:
        """The field kept under `key`, made at the first call."""
        with self.lock:
            if key not in self.kept:
                self.kept[key] = make()
            return self.kept[key]

    def keep_moment(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """The field of a moment, made where it is not one of the last few."""
        with self.lock:
            if key in self.moments:
                self.moments.move_to_end(key)
                return self.moments[key]
            made = make()
            self.moments[key] = made
            while len(self.moments) > _MOMENTS:
                self.moments.popitem(last=False)
            return made

    def position(self) -> tuple[Floats, Floats, Floats]:
        """Unit vectors of the pixels, three arrays (N,)."""
        return self.keep(  # type: ignore[no-any-return]
            "position", lambda: (self.column(Node.X), self.column(Node.Y), self.column(Node.Z))
        )

    def column(self, name: int) -> Floats:
        """One node field at the pixels, (N,) float64."""
        return self.interpolate(np.ascontiguousarray(self.nodes[:, name]))

    def interpolate(self, nodes: Floats) -> Floats:
        """A field given at the nodes (M,) as a field at the pixels (N,)."""
        out = np.empty(self.size)
        _interpolate(nodes, self.corners, self.u, self.v, out)
        return out


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _interpolate(nodes: Floats, corners: IntArray, u: Floats, v: Floats, out: Floats) -> None:
    for i in range(out.size):
        top = nodes[corners[0, i]] + u[i] * (nodes[corners[1, i]] - nodes[corners[0, i]])
        bottom = nodes[corners[2, i]] + u[i] * (nodes[corners[3, i]] - nodes[corners[2, i]])
        out[i] = top + v[i] * (bottom - top)


def to_lonlat(crs: str, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Longitude and latitude in degrees of positions in any system, longitudes in [-180, 180).

    Positions outside the projected Earth (corners of Mollweide and sinusoidal grids) come back as a pole.
    """
    zone = utm.zone_of(crs)
    if zone:
        lon, lat = utm.from_utm(*zone, x, y)
    elif crs == "EPSG:4326":
        lon, lat = x, y
    else:
        lon, lat = _inverse(crs).transform(x, y)
        off = ~(np.isfinite(lon) & np.isfinite(lat))
        lon, lat = np.where(off, 0.0, lon), np.where(off, 90.0, lat)
    return (lon + 180.0) % 360.0 - 180.0, np.clip(lat, -90.0, 90.0)


@functools.lru_cache(maxsize=64)
def _inverse(crs: str) -> Transformer:
    return Transformer.from_crs(crs_aliases.get(crs, crs), "EPSG:4326", always_xy=True)


def pixel_size_m(projection: Projection) -> float:
    """Height of a pixel on the ground in metres, from its row step."""
    _, b, _, _, e, _ = projection.transform
    step = float(np.hypot(b, e))
    return step * _METRES_PER_DEGREE if projection.crs == "EPSG:4326" else step


def climate_fields(lon: Floats, lat: Floats) -> Floats:
    """(M, Node.COUNT) fields at (M,) positions in degrees, of which only the climate and the terrain are filled.

    A third of the cost of `node_fields`, with the same values but for the terrain, whose mean over 10 km it is.
    """
    nodes = _mapped(lon, lat)
    position = nodes[:, Node.X].copy(), nodes[:, Node.Y].copy(), nodes[:, Node.Z].copy()
    nodes[:, Node.WET] = octave_sum(*position, _WET, _WET_SEED)
    nodes[:, Node.TERRAIN] = octave_sum(*position, TERRAIN_LONG[:4], TERRAIN_SEED)
    return nodes


def _mapped(lon: Floats, lat: Floats) -> Floats:
    """Node fields with positions and coarse maps, the rest zero."""
    nodes = np.zeros((lon.size, Node.COUNT))
    read_maps(coarse_maps(), lon, lat, nodes[:, Node.SHORE :])
    theta, phi = np.radians(lon), np.radians(lat)
    nodes[:, Node.X], nodes[:, Node.Y], nodes[:, Node.Z] = (
        np.cos(phi) * np.cos(theta),
        np.cos(phi) * np.sin(theta),
        np.sin(phi),
    )
    nodes[:, Node.LON], nodes[:, Node.LAT] = lon, lat
    return nodes


def node_fields(lon: Floats, lat: Floats) -> Floats:
    """(M, Node.COUNT) fields at (M,) positions in degrees."""
    nodes = _mapped(lon, lat)
    x, y, z = nodes[:, Node.X].copy(), nodes[:, Node.Y].copy(), nodes[:, Node.Z].copy()
    for name, octaves, seed in (
        (Node.RIVERS, ((28.0, 1.0, 0.0), (9.0, 0.5, 0.0), (2.6, 0.2, 0.0)), 31),
        (Node.PEOPLE, ((420.0, 0.8, 0.0), (90.0, 0.8, 0.0), (25.0, 0.5, 0.0)), 41),
        (Node.TOWNS, ((16.0, 1.0, 0.0), (3.3, 0.55, 0.0)), 51),
        (Node.PATCH, ((12.0, 0.55, 0.0), (3.7, 0.5, 0.0), (1.2, 0.45, 0.0)), 57),
        (Node.SOIL, ((300.0, 0.7, 0.0), (40.0, 0.5, 0.0)), 61),
        (Node.WET, _WET, _WET_SEED),
    ):
        nodes[:, name] = octave_sum(x, y, z, octaves, seed)
    terrain, east, north = sloped_sum(x, y, z, TERRAIN_LONG, TERRAIN_SEED)
    nodes[:, Node.TERRAIN], nodes[:, Node.TERRAIN_EAST], nodes[:, Node.TERRAIN_NORTH] = terrain, east, north
    return nodes


def octave_sum(x: Floats, y: Floats, z: Floats, octaves: tuple[tuple[float, float, float], ...], seed: int) -> Singles:
    """(N,) float32 sum of noise octaves (wavelength km, amplitude, ridge) at unit vectors."""
    out = np.zeros(x.size, np.float32)
    for number, (wavelength, amplitude, ridge) in enumerate(octaves):
        # an irrational shift per octave keeps their lattices from lining up
        shift = 0.7548776662 * (number + 1)
        add_octave(x + shift, y, z, frequency(wavelength), amplitude, ridge, seed * 64 + number, out)
    return out


def sloped_sum(
    x: Floats, y: Floats, z: Floats, octaves: tuple[tuple[float, float, float], ...], seed: int
) -> tuple[Singles, Singles, Singles]:
    """A sum of octaves and its slopes per metre to the east and to the north, by differences over 15 m."""
    step = SLOPE_STEP_M / (EARTH_RADIUS_KM * 1000.0)
    rho = np.maximum(np.hypot(x, y), 1e-9)
    east = (-y / rho * step, x / rho * step)
    north = (-z * x / rho * step, -z * y / rho * step, rho * step)
    here = octave_sum(x, y, z, octaves, seed)
    to_east = octave_sum(x + east[0], y + east[1], z, octaves, seed)
    to_north = octave_sum(x + north[0], y + north[1], z + north[2], octaves, seed)
    per_metre = np.float32(1.0 / SLOPE_STEP_M)
    return here, (to_east - here) * per_metre, (to_north - here) * per_metre


def _build(projection: Projection, column: IntArray, row: IntArray) -> Frame:
    """The frame of arbitrary pixels given as flat integer arrays."""
    size = pixel_size_m(projection)
    step = max(1, int(NODE_SPACING_M / size))
    if step == 1:
        lon, lat = _centres(projection, column + 0.5, row + 0.5)
        zero = np.zeros(column.size)
        own = np.arange(column.size)
        return Frame(nodes=node_fields(lon, lat), corners=np.stack([own] * 4), u=zero, v=zero)
    cell_x, cell_y = column // step, row // step
    corners, node_x, node_y = _node_lattice(cell_x, cell_y)
    lon, lat = _centres(projection, node_x * float(step), node_y * float(step))
    nodes = node_fields(lon, lat)
    first = nodes[0, Node.LON]  # unwrap, so that interpolation never averages -180 and 180
    nodes[:, Node.LON] = first + (nodes[:, Node.LON] - first + 180.0) % 360.0 - 180.0
    u = (column - cell_x * step + 0.5) / step
    v = (row - cell_y * step + 0.5) / step
    return Frame(nodes=nodes, corners=corners, u=u, v=v)


def _node_lattice(cell_x: IntArray, cell_y: IntArray) -> tuple[IntArray, Floats, Floats]:
    """Rows of the four nodes of every cell (4, N), and the node positions (M,) in cells."""
    x0, y0 = int(cell_x.min()), int(cell_y.min())
    width, height = int(cell_x.max()) - x0 + 2, int(cell_y.max()) - y0 + 2
    base = (cell_y - y0) * width + (cell_x - x0)
    corners = np.stack([base, base + 1, base + width, base + width + 1])
    if width * height <= 4 * cell_x.size + 64:
        index = np.arange(width * height)
    else:
        index, flat = np.unique(corners.ravel(), return_inverse=True)
        corners = flat.reshape(corners.shape)
    return corners.astype(np.int64), (index % width + x0).astype(np.float64), (index // width + y0).astype(np.float64)


def _centres(projection: Projection, column: npt.NDArray[Any], row: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    a, b, c, d, e, f = projection.transform
    return to_lonlat(projection.crs, a * column + b * row + c, d * column + e * row + f)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A frame that covers a request, and where in it each requested pixel is (None: the frame is the request)."""

    frame: Frame
    column: IntArray
    row: IntArray
    gather: IntArray | None

    def give(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Values at the frame's pixels as values at the requested ones."""
        return values if self.gather is None else values[self.gather]


Window = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""
Key = tuple[str, tuple[float, ...], Window | tuple[int, int, int]]


class FrameCache:
    """The frames of the last few windows, by native grid; thread-safe and bounded by the number of pixels kept."""

    def __init__(self, pixels: int = _CACHED_PIXELS) -> None:
        self._limit = pixels
        self._frames: OrderedDict[Key, Frame] = OrderedDict()
        self._lock = threading.Lock()

    def request(self, projection: Projection, column: IntArray, row: IntArray) -> Request:
        """The frame for flat arrays of pixels: a window around them where that is small enough, else just them."""
        left, top = int(column.min()), int(row.min())
        width, height = int(column.max()) - left + 1, int(row.max()) - top + 1
        grid = (projection.crs, projection.transform)
        window = self._containing(grid, (left, top, width, height))
        if window is None and width * height > max(_WINDOW_EXCESS * column.size, 64):
            points: Key = (*grid, (column.size, hash(column.tobytes()), hash(row.tobytes())))
            frame = self._get(points, lambda: _build(projection, column, row))
            return Request(frame=frame, column=column, row=row, gather=None)
        window = window or (left - _MARGIN, top - _MARGIN, width + 2 * _MARGIN, height + 2 * _MARGIN)
        left, top, width, height = window
        columns = np.tile(np.arange(left, left + width), height)
        rows = np.repeat(np.arange(top, top + height), width)
        frame = self._get((*grid, window), lambda: _build(projection, columns, rows))
        return Request(frame=frame, column=columns, row=rows, gather=(row - top) * width + (column - left))

    def _containing(self, grid: tuple[str, tuple[float, ...]], wanted: Window) -> Window | None:
        """A window that is kept and contains the wanted one without being much larger."""
        left, top, width, height = wanted
        with self._lock:
            for crs, transform, window in reversed(self._frames):
                if len(window) == 4 and (crs, transform) == grid:
                    x, y, w, h = window
                    fits = x <= left and y <= top and x + w >= left + width and y + h >= top + height
                    if fits and w * h <= 40 * (width * height + 500):
                        return window
        return None

    def _get(self, key: Key, make: Callable[[], Frame]) -> Frame:
        with self._lock:
            frame = self._frames.get(key)
            if frame is not None:
                self._frames.move_to_end(key)
                return frame
        frame = make()
        with self._lock:
            frame = self._frames.setdefault(key, frame)
            self._frames.move_to_end(key)
            while sum(item.size for item in self._frames.values()) > self._limit and len(self._frames) > 1:
                self._frames.popitem(last=False)
        return frame


FRAMES = FrameCache()
"""The frames of the process."""


def blocks(count: int) -> list[slice]:
    """Slices of at most 262,144 pixels, so that a huge request never holds its hidden fields all at once."""
    return [slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)]
