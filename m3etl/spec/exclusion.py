"""Places that no chip may come near, such as the locations of a benchmark that a model will be judged on."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from m3etl.spec.cellstreams import largest_scale
from m3etl.spec.lattice import Cells, xy_of_lonlat

Flags = npt.NDArray[np.bool_]
Geometries = npt.NDArray[np.object_]

largest_buffer_km = 500.0  # farther out, metres of a zone are no longer metres on the ground
_pad_degrees = 0.1
_vertex_degrees = 0.1  # longer edges, straight in degrees, get further vertices before they are projected


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """Points, lines and polygons in degrees, (G,), and the least distance in km from a chip's footprint to them."""

    geometry: Geometries
    buffer_km: float
    _zones: dict[int, shapely.STRtree] = field(default_factory=dict, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.buffer_km <= largest_buffer_km:
            raise ValueError(f"exclude_buffer_km must be within 0 and {largest_buffer_km:g}, not {self.buffer_km:g}")

    def near(self, cells: Cells) -> Flags:
        """Which cells touch an excluded place or come nearer than the buffer, (N,); never misses one."""
        found = np.zeros(len(cells), dtype=bool)
        distance_m = self.buffer_km * 1000.0 * largest_scale
        for epsg in np.unique(cells.epsg).tolist():
            members = np.flatnonzero(cells.epsg == epsg)
            tree = self._tree(epsg)
            if len(tree):
                boxes = shapely.box(*cells[members].bounds_xy)
                found[members[np.unique(tree.query(boxes, predicate="dwithin", distance=distance_m)[0])]] = True
        return found

    def covers(self, region: BaseGeometry) -> bool:
        """True where polygons hold the whole region, so that no chip can be left."""
        whole = shapely.union_all(self.geometry[shapely.get_dimensions(self.geometry) == 2])
        return bool(shapely.covers(whole, region))

    @cached_property
    def _bounds(self) -> npt.NDArray[np.float64]:
        return np.asarray(shapely.bounds(self.geometry).reshape(-1, 4))

    def _tree(self, epsg: int) -> shapely.STRtree:
        """The places in reach of a zone, in its metres."""
        with self._lock:
            if epsg not in self._zones:
                self._zones[epsg] = shapely.STRtree(self._projected(epsg))
            return self._zones[epsg]

    def _projected(self, epsg: int) -> Geometries:
        parts = [self._part(epsg, turn) for turn in (-360.0, 0.0, 360.0)]
        near = np.concatenate([part for part in parts if len(part)]) if any(map(len, parts)) else np.zeros(0, object)

        def project(lonlat: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            x, y = xy_of_lonlat(np.full(len(lonlat), epsg), lonlat[:, 0], lonlat[:, 1])
            return np.stack([x, y], axis=1)

        return np.asarray(shapely.transform(shapely.segmentize(near, _vertex_degrees), project), dtype=object)

    def _part(self, epsg: int, turn: float) -> Geometries:
        """What of the places lies in the zone (widened as for Norway and Svalbard) or within the buffer around it.

        `turn` looks for them on the other side of the antimeridian.
        """
        west, south, east, north = self._bounds.T
        middle = 6.0 * (epsg % 100) - 183.0 + turn
        low, high = (0.0, 84.0) if epsg < 32700 else (-80.0, 0.0)
        pad_lat = self.buffer_km / 110.0 + _pad_degrees
        highest = min(max(abs(low), abs(high)) + pad_lat, 89.0)
        pad_lon = min(6.0 + (self.buffer_km / 110.0 + _pad_degrees) / np.cos(np.radians(highest)), 80.0)
        box = (middle - pad_lon, low - pad_lat, middle + pad_lon, high + pad_lat)
        touching = (west <= box[2]) & (east >= box[0]) & (south <= box[3]) & (north >= box[1])
        inside = (west >= box[0]) & (east <= box[2]) & (south >= box[1]) & (north <= box[3])
        whole = self.geometry[touching & inside]
        cut = shapely.intersection(self.geometry[touching & ~inside], shapely.box(*box))
        kept = np.concatenate([whole, cut[~shapely.is_empty(cut)]])
        return np.asarray(kept, dtype=object)
