"""The tiles of Sentinel-2: 109.8 km squares on the 100 km grid of MGRS, with their real names and corners."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, Polygon, box
from shapely.geometry.base import BaseGeometry

from m3etl.emulator.planet import utm
from m3etl.emulator.planet.climate import coarse_maps, read_maps
from m3etl.emulator.planet.noise import Floats

TILE_M = 109_800.0
_SQUARE_M = 100_000.0
_BANDS = "CDEFGHJKLMNPQRSTUVWX"
_COLUMNS = ("ABCDEFGH", "JKLMNPQR", "STUVWXYZ")
_ROWS = "ABCDEFGHJKLMNPQRSTUV"
_LIMIT_LAT = 83.0
_LAND_KM = -25.0  # a tile exists where the shore is nearer than this


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One tile: MGRS name without the T, zone, upper-left corner in metres and centre in degrees."""

    name: str
    zone: int
    south: bool
    left: float
    top: float
    lon: float
    lat: float

    @property
    def crs(self) -> str:
        return utm.crs_of(self.zone, self.south)


def lonlat_polygon(zone: int, south: bool, x: Floats, y: Floats) -> BaseGeometry:
    """The polygon of a ring in metres, cut into two parts where it crosses the antimeridian."""
    lon, lat = utm.from_utm(zone, south, x, y)
    return split_antimeridian(lon, lat)


def split_antimeridian(lon: Floats, lat: Floats) -> BaseGeometry:
    """The polygon of a ring whose longitudes may run beyond +-180."""
    ring = Polygon(np.column_stack([lon, lat]))
    if lon.min() >= -180.0 and lon.max() <= 180.0:
        return ring
    parts = []
    for turn in (-360.0, 0.0, 360.0):
        piece = shapely.intersection(ring, box(turn - 180.0, -90.0, turn + 180.0, 90.0))
        parts += [
            translate(part, xoff=-turn)
            for part in getattr(piece, "geoms", [piece])
            if part.geom_type == "Polygon" and not part.is_empty
        ]
    return MultiPolygon(parts)


@functools.lru_cache(maxsize=512)
def tile_named(name: str) -> Tile | None:
    """The tile of an MGRS name like "19HBC", None if there is none."""
    if len(name) != 5 or not name[:2].isdigit() or not 1 <= int(name[:2]) <= 60 or name[2] not in _BANDS:
        return None
    return zone_tiles(int(name[:2])).get(name)


@functools.lru_cache(maxsize=61)
def zone_tiles(zone: int) -> dict[str, Tile]:
    """Every tile of a zone by name: those whose square touches the zone and has land near it."""
    east, north, south = _squares()
    lon, lat = np.empty(east.size), np.empty(east.size)
    for half in (False, True):
        chosen = south == half
        lon[chosen], lat[chosen] = utm.from_utm(zone, half, east[chosen] + _SQUARE_M / 2, north[chosen] + _SQUARE_M / 2)
    central = 6 * zone - 183
    half_width = np.degrees(_SQUARE_M / 2 / (6_371_000 * np.cos(np.radians(lat))))
    keep = (np.abs(lon - central) < 3.0 + half_width) & (np.abs(lat) < _LIMIT_LAT) & ((lat >= 0) != south)
    keep &= _has_land(np.where(keep, (lon + 180) % 360 - 180, 0.0), lat)
    tiles = {}
    for i in np.nonzero(keep)[0]:
        name = _name(zone, float(east[i]), float(north[i]), float(lat[i]))
        tiles[name] = Tile(
            name=name,
            zone=zone,
            south=bool(south[i]),
            left=math.floor(east[i] / 60.0) * 60.0,
            top=math.ceil((north[i] + _SQUARE_M) / 60.0) * 60.0,
            lon=float((lon[i] + 180) % 360 - 180),
            lat=float(lat[i]),
        )
    return tiles


@functools.cache
def _squares() -> tuple[Floats, Floats, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
    """Lower-left corners of all squares of a zone, and which are on the southern half."""
    east, north, south = [], [], []
    for half in (False, True):
        for row in range(0, 94) if not half else range(6, 100):
            for column in range(1, 9):
                east.append(column * _SQUARE_M)
                north.append(row * _SQUARE_M)
                south.append(half)
    return np.array(east), np.array(north), np.array(south)


def _has_land(lon: Floats, lat: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    found = np.zeros(lon.size, np.bool_)
    maps = np.empty((lon.size, 9))
    for dx in (-0.45, 0.0, 0.45):
        for dy in (-0.45, 0.0, 0.45):
            x = lon + dx / np.maximum(np.cos(np.radians(lat)), 0.1)
            read_maps(coarse_maps(), (x + 180) % 360 - 180, np.clip(lat + dy, -90, 90), maps)
            found |= maps[:, 0] > _LAND_KM
    return found


def _name(zone: int, east: float, north: float, lat: float) -> str:
    band = _BANDS[min(19, max(0, math.floor((lat + 80) / 8)))]
    column = _COLUMNS[(zone - 1) % 3][int(east // _SQUARE_M) - 1]
    row = _ROWS[(int(north // _SQUARE_M) + (0 if zone % 2 else 5)) % 20]
    return f"{zone:02d}{band}{column}{row}"


def tiles_near(region: BaseGeometry | None) -> Iterator[Tile]:
    """The tiles that may meet a region in degrees (None: every tile), a superset."""
    if region is None:
        for zone in range(1, 61):
            yield from zone_tiles(zone).values()
        return
    seen: set[str] = set()
    for part in getattr(region, "geoms", [region]):
        if part.is_empty:
            continue
        west, low, east, high = part.bounds
        widest = min(max(abs(low), abs(high)) + 1.0, 89.0)
        margin = 0.8 / math.cos(math.radians(widest))
        zones = range(math.floor((west - margin + 180) / 6), math.floor((east + margin + 180) / 6) + 1)
        for zone in sorted({index % 60 + 1 for index in zones}):
            for tile in zone_tiles(zone).values():
                if tile.name in seen or not low - 0.8 <= tile.lat <= high + 0.8:
                    continue
                away = (tile.lon - west + 180.0) % 360.0 - 180.0
                if -margin <= away <= east - west + margin or east - west + 2 * margin >= 360.0:
                    seen.add(tile.name)
                    yield tile
