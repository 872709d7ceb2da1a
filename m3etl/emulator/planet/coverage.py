"""How the tracks of Sentinel-2 cover its tiles: which of them see a tile, how much of it, and the footprint."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import Polygon, box
from shapely.geometry.base import BaseGeometry

from m3etl.emulator.model import IntArray
from m3etl.emulator.planet import utm
from m3etl.emulator.planet.imagery import Booleans
from m3etl.emulator.planet.noise import Floats
from m3etl.emulator.planet.orbits import DAY_S, LAST_S, Orbit, Satellite, seconds
from m3etl.emulator.planet.tiles import TILE_M, Tile, lonlat_polygon, zone_tiles

ORBIT = Orbit(
    # 10:30 local solar time where the satellites cross the equator southwards, so 22:30 northwards
    epoch_s=seconds("2015-06-27"),
    node_lon=-22.5,
    inclination_deg=98.62,
    tracks=143,
    cycle_s=10 * DAY_S,
    satellites=(
        Satellite(name="Sentinel-2A", first_s=seconds("2015-06-27"), last_s=LAST_S),
        Satellite(name="Sentinel-2B", first_s=seconds("2017-06-28"), last_s=LAST_S, lead=0.5),
    ),
)
HALF_SWATH_KM = 145.0
_REACH_KM = 80.0  # more than half the diagonal of a tile
_LEAST_SHARE = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A track that passes near a tile: the angle along the orbit and the km left of the track of the tile's middle."""

    track: int
    argument: float
    across_km: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What one track sees of one tile: the footprint in degrees (empty if next to nothing) and, unless it is the whole
    tile, the distance left of the track in km as a + b x + c y of metres right of and below the upper-left corner."""

    across: tuple[float, float, float] | None
    footprint: BaseGeometry

    def inside(self, column: IntArray, row: IntArray, gsd_m: float) -> Booleans | None:
        """Which pixels the swath covers, None where it covers the whole tile."""
        if self.across is None:
            return None
        a, b, c = self.across
        return np.abs(a + b * (column + 0.5) * gsd_m + c * (row + 0.5) * gsd_m) <= HALF_SWATH_KM


def sight(tiles: list[Tile], tracks: list[int]) -> list[list[Sighting | None]]:
    """For every track and every tile, the sighting, None where the track is too far away."""
    lon, lat = np.array([tile.lon for tile in tiles]), np.array([tile.lat for tile in tiles])
    nodes = ORBIT.nodes()[tracks]
    argument, across = ORBIT.locate(nodes[:, None], lon[None, :], lat[None, :], ascending=False)
    near = (np.abs(across) < HALF_SWATH_KM + _REACH_KM) & (argument > math.pi / 2) & (argument < 1.5 * math.pi)
    out: list[list[Sighting | None]] = [[None] * len(tiles) for _ in tracks]
    for k, i in np.argwhere(near):
        # rounded, so that it cannot depend on how many tiles were looked at together
        angle, distance = round(float(argument[k, i]), 9), round(float(across[k, i]), 6)
        out[k][i] = Sighting(track=tracks[k], argument=angle, across_km=distance)
    return out


@functools.lru_cache(maxsize=65536)
def sightings(name: str) -> tuple[Sighting, ...]:
    """The tracks that pass near a tile."""
    found = sight([zone_tiles(int(name[:2]))[name]], list(range(ORBIT.tracks)))
    return tuple(row[0] for row in found if row[0] is not None)


@functools.lru_cache(maxsize=16384)
def coverage_of(tile: Tile, sighting: Sighting) -> Coverage:
    """What a track sees of a tile."""
    if abs(sighting.across_km) + _REACH_KM <= HALF_SWATH_KM:
        return Coverage(across=None, footprint=whole_footprint(tile))
    x, y = np.array([0.0, TILE_M, TILE_M, 0.0]), np.array([0.0, 0.0, TILE_M, TILE_M])
    lon, lat = utm.from_utm(tile.zone, tile.south, tile.left + x, tile.top - y)
    _, across = ORBIT.locate(np.full(4, ORBIT.nodes()[sighting.track]), lon, lat, ascending=False)
    plane, *_ = np.linalg.lstsq(np.column_stack([np.ones(4), x, y]), across, rcond=None)
    if np.abs(plane[0] + plane[1] * x + plane[2] * y).max() <= HALF_SWATH_KM:
        return Coverage(across=None, footprint=whole_footprint(tile))
    seen = (float(plane[0]), float(plane[1]), float(plane[2]))
    return Coverage(across=seen, footprint=_place(tile, _within_swath(plane)))


@functools.lru_cache(maxsize=16384)
def whole_footprint(tile: Tile) -> BaseGeometry:
    """The outline of a tile in degrees."""
    return _place(tile, box(0.0, 0.0, TILE_M, TILE_M))


def _place(tile: Tile, outline: Polygon) -> BaseGeometry:
    """A polygon in metres from a tile's upper-left corner as one in degrees, with points along its edges."""
    if outline.is_empty:
        return outline
    ring = np.asarray(shapely.segmentize(outline, 12_000.0).exterior.coords)
    return lonlat_polygon(tile.zone, tile.south, tile.left + ring[:, 0], tile.top - ring[:, 1])


def _within_swath(plane: Floats) -> Polygon:
    """The part of a tile within the swath, in metres from its upper-left corner."""
    square = box(0.0, 0.0, TILE_M, TILE_M)
    across = np.array([plane[1], plane[2]])
    size = float(np.hypot(*across))
    unit = across / size
    side = np.array([-unit[1], unit[0]]) * 10 * TILE_M
    near, far = ((limit - plane[0]) / size for limit in (-HALF_SWATH_KM, HALF_SWATH_KM))
    band = Polygon([unit * near - side, unit * near + side, unit * far + side, unit * far - side])
    cut = shapely.intersection(square, band)
    return cut if isinstance(cut, Polygon) and cut.area > _LEAST_SHARE * square.area else Polygon()
