"""The granules of Sentinel-2: which tile is seen by which overpass, how much of it, when, and under which cloud."""

from __future__ import annotations

import functools
import heapq
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import Polygon, box
from shapely.geometry.base import BaseGeometry

from m3etl.emulator.model import CollectionQuery, IntArray
from m3etl.emulator.planet import utm
from m3etl.emulator.planet.clouds import Overpass, cloud_share
from m3etl.emulator.planet.frames import node_fields
from m3etl.emulator.planet.imagery import Booleans, chance, hashed
from m3etl.emulator.planet.noise import Floats
from m3etl.emulator.planet.orbits import DAY_S, LAST_S, Orbit, Satellite, seconds, stamp
from m3etl.emulator.planet.sun import sun_angles
from m3etl.emulator.planet.tiles import TILE_M, Tile, lonlat_polygon, tile_named, tiles_near, zone_tiles

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
_HALF_SWATH_KM = 145.0
_LEAST_SHARE = 0.03
_DARK_ZENITH = 80.0
_LOST_SHARE = 0.03
_FEW_TILES = 60  # up to here a stream per tile and track is merged; above it the satellites are followed
_DATATAKE_DEG = 15.0
_INDEX = re.compile(r"(\d{8}T\d{6})_(\d{8}T\d{6})_T(\d{2}[C-X][A-Z]{2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How one track sees one tile: the distance left of the track in km as a + b x + c y
    (metres from the tile's upper-left corner, y downwards), and the footprint in degrees."""

    tile: Tile
    track: int
    across: tuple[float, float, float]
    whole: bool
    footprint: BaseGeometry

    def inside(self, column: IntArray, row: IntArray, gsd_m: float) -> Booleans | None:
        """Which pixels the swath covers, None where it covers the whole tile."""
        if self.whole:
            return None
        a, b, c = self.across
        return np.abs(a + b * (column + 0.5) * gsd_m + c * (row + 0.5) * gsd_m) <= _HALF_SWATH_KM


@dataclass(frozen=True, slots=True, kw_only=True)
class Granule:
    """One tile in one overpass. `time_s` is when its middle is seen, `datatake_s` when the datatake began."""

    coverage: Coverage
    satellite: int
    revolution: int
    time_s: float
    datatake_s: float
    overpass: Overpass

    @property
    def tile(self) -> Tile:
        return self.coverage.tile

    @property
    def index(self) -> str:
        later = self.datatake_s + hashed("sensing", self.satellite, self.revolution) % 16 - 5
        return f"{stamp(self.datatake_s)}_{stamp(later)}_T{self.tile.name}"

    @property
    def time_ms(self) -> int:
        return int(self.time_s * 1000.0)

    @property
    def cloud_percentage(self) -> float:
        """Cloudy share of the tile in percent."""
        return round(cloud_share(_tile_nodes(self.tile.name), self.overpass), 4)


def find_granules(query: CollectionQuery, earliest_s: float = -math.inf) -> Iterator[Granule]:
    """Every granule that meets a query and is not older than `earliest_s`, by time then index, lazily."""
    if query.index is not None:
        granule = granule_of(query.index)
        if granule is not None and _matches(granule, query):
            yield granule
        return
    low = max(earliest_s, -math.inf if query.start_ms is None else query.start_ms / 1000.0)
    high = math.inf if query.end_ms is None else query.end_ms / 1000.0
    tiles = list(tiles_near(query.region))
    if len(tiles) <= _FEW_TILES:
        streams = [
            _stream(tile, track, argument, low, high) for tile in tiles for track, argument in _tracks(tile.name)
        ]
    else:
        streams = [_sweep(tiles, satellite, low, high) for satellite in range(len(ORBIT.satellites))]
    for _, _, granule in heapq.merge(*streams, key=lambda item: item[:2]):
        if _matches(granule, query):
            yield granule


def _stream(tile: Tile, track: int, argument: float, low: float, high: float) -> Iterator[tuple[int, str, Granule]]:
    # two seconds of slack: the query is in whole milliseconds of rounded times
    for time_s, satellite in ORBIT.passes(track, argument, low - 2.0, high + 2.0):
        granule = _granule(tile, track, argument, time_s, satellite)
        if granule is not None:
            yield granule.time_ms, granule.index, granule


def _sweep(tiles: list[Tile], satellite: int, low: float, high: float) -> Iterator[tuple[int, str, Granule]]:
    """What one satellite sees of many tiles, revolution by revolution."""
    service = ORBIT.satellites[satellite]
    lon, lat = np.array([tile.lon for tile in tiles]), np.array([tile.lat for tile in tiles])
    nodes = ORBIT.nodes()
    seen: dict[int, list[tuple[float, Tile]]] = {}
    first_s = max(low, service.first_s) - ORBIT.period_s
    number, start_s = ORBIT.revolution(first_s, 0.0, satellite)
    while start_s < min(high, service.last_s):
        track = number % ORBIT.tracks
        if track not in seen:
            argument, across = ORBIT.locate(np.full(lon.size, nodes[track]), lon, lat, ascending=False)
            hits = np.nonzero(_is_near(argument, across))[0]
            seen[track] = sorted(
                ((round(float(argument[i]), 9), tiles[i]) for i in hits), key=lambda item: (item[0], item[1].name)
            )
        found = []
        for angle, tile in seen[track]:
            time_s = start_s + angle / (2 * math.pi) * ORBIT.period_s
            if low - 2.0 <= time_s < high + 2.0:
                granule = _granule(tile, track, angle, time_s, satellite)
                if granule is not None:
                    found.append((granule.time_ms, granule.index, granule))
        yield from sorted(found, key=lambda item: item[:2])
        number, start_s = number + 1, start_s + ORBIT.period_s


def _is_near(argument: Floats, across: Floats) -> Booleans:
    reach = _HALF_SWATH_KM + 50.0
    return (np.abs(across) < reach) & (argument > math.pi / 2) & (argument < 1.5 * math.pi)


def _matches(granule: Granule, query: CollectionQuery) -> bool:
    if query.start_ms is not None and granule.time_ms < query.start_ms:
        return False
    if query.end_ms is not None and granule.time_ms >= query.end_ms:
        return False
    return query.region is None or bool(granule.coverage.footprint.intersects(query.region))


def granule_of(index: str) -> Granule | None:
    """The granule with a `system:index`, None if the planet has none."""
    match = _INDEX.fullmatch(index)
    tile = tile_named(match.group(3)) if match else None
    if match is None or tile is None:
        return None
    try:
        datatake_s = seconds(match.group(1))
    except ValueError:
        return None
    start = _datatake_argument(tile)
    for satellite in range(len(ORBIT.satellites)):
        revolution, _ = ORBIT.revolution(datatake_s + 0.5, start, satellite)
        track = revolution % ORBIT.tracks
        argument = dict(_tracks(tile.name)).get(track)
        if argument is None:
            continue
        time_s = (
            ORBIT.revolution(datatake_s + 0.5, start, satellite)[1]
            + (argument - start) / (2 * math.pi) * ORBIT.period_s
        )
        granule = _granule(tile, track, argument, time_s, satellite)
        if granule is not None and granule.index == index:
            return granule
    return None


def _granule(tile: Tile, track: int, argument: float, time_s: float, satellite: int) -> Granule | None:
    """The granule of a pass, None where it was too dark or lost."""
    service = ORBIT.satellites[satellite]
    if not service.first_s <= time_s < service.last_s:
        return None
    if _coverage(tile.name, track).footprint.is_empty:
        return None
    zenith, azimuth = sun_angles(tile.lon, tile.lat, time_s)
    if zenith > _DARK_ZENITH:
        return None
    start = _datatake_argument(tile)
    revolution, datatake_s = ORBIT.revolution(
        time_s + (start - argument) / (2 * math.pi) * ORBIT.period_s, start, satellite
    )
    if chance("lost", tile.name, satellite, revolution) < _LOST_SHARE:
        return None
    if time_s < seconds("2017-01-01") and chance("early", satellite, revolution) < 0.5:
        return None
    overpass = Overpass(
        seed=hashed("weather", satellite, revolution) & 0xFFFFFF,
        day=math.floor(time_s / DAY_S),
        sun_zenith=zenith,
        sun_azimuth=azimuth,
    )
    return Granule(
        coverage=_coverage(tile.name, track),
        satellite=satellite,
        revolution=revolution,
        time_s=time_s,
        datatake_s=datatake_s,
        overpass=overpass,
    )


def _datatake_argument(tile: Tile) -> float:
    """Where along the orbit the datatake over a tile begins: datatakes are cut every 15 degrees of latitude."""
    top = 90.0 - _DATATAKE_DEG * math.floor((90.0 - tile.lat) / _DATATAKE_DEG)
    ratio = math.sin(math.radians(min(top, 81.0))) / math.sin(math.radians(ORBIT.inclination_deg))
    return math.pi - math.asin(ratio)


@functools.lru_cache(maxsize=65536)
def _tracks(name: str) -> tuple[tuple[int, float], ...]:
    """The tracks that see enough of a tile, with the angle along the orbit at its middle."""
    tile = zone_tiles(int(name[:2]))[name]
    nodes = ORBIT.nodes()
    lon, lat = np.array([tile.lon]), np.array([tile.lat])
    argument, across = ORBIT.locate(nodes[:, None], lon[None, :], lat[None, :], ascending=False)
    near = _is_near(argument[:, 0], across[:, 0])
    return tuple((int(track), round(float(argument[track, 0]), 9)) for track in np.nonzero(near)[0])


@functools.lru_cache(maxsize=8192)
def _coverage(name: str, track: int) -> Coverage:
    tile = zone_tiles(int(name[:2]))[name]
    x, y = np.array([0.0, TILE_M, TILE_M, 0.0]), np.array([0.0, 0.0, TILE_M, TILE_M])
    lon, lat = utm.from_utm(tile.zone, tile.south, tile.left + x, tile.top - y)
    _, across = ORBIT.locate(np.full(4, ORBIT.nodes()[track]), lon, lat, ascending=False)
    plane, *_ = np.linalg.lstsq(np.column_stack([np.ones(4), x, y]), across, rcond=None)
    corner = plane[0] + plane[1] * x + plane[2] * y
    whole = bool(np.abs(corner).max() <= _HALF_SWATH_KM)
    outline = _swath(plane) if not whole else box(0.0, 0.0, TILE_M, TILE_M)
    along = shapely.segmentize(outline, 12_000.0)
    ring = np.asarray(along.exterior.coords) if not outline.is_empty else np.zeros((0, 2))
    footprint = (
        lonlat_polygon(tile.zone, tile.south, tile.left + ring[:, 0], tile.top - ring[:, 1]) if ring.size else Polygon()
    )
    return Coverage(
        tile=tile,
        track=track,
        across=(float(plane[0]), float(plane[1]), float(plane[2])),
        whole=whole,
        footprint=footprint,
    )


def _swath(plane: Floats) -> Polygon:
    """The part of a tile within the swath, in metres from its upper-left corner."""
    square = box(0.0, 0.0, TILE_M, TILE_M)
    across = np.array([plane[1], plane[2]])
    size = float(np.hypot(*across))
    unit = across / size
    side = np.array([-unit[1], unit[0]]) * 10 * TILE_M
    near, far = ((limit - plane[0]) / size for limit in (-_HALF_SWATH_KM, _HALF_SWATH_KM))
    band = Polygon([unit * near - side, unit * near + side, unit * far + side, unit * far - side])
    cut = shapely.intersection(square, band)
    return cut if isinstance(cut, Polygon) and cut.area > _LEAST_SHARE * square.area else Polygon()


@functools.lru_cache(maxsize=2048)
def _tile_nodes(name: str) -> Floats:
    """Fields at 8 x 8 positions of a tile, where its cloudiness is counted."""
    tile = zone_tiles(int(name[:2]))[name]
    at = (np.arange(8) + 0.5) / 8 * TILE_M
    x, y = (values.ravel() for values in np.meshgrid(tile.left + at, tile.top - at))
    lon, lat = utm.from_utm(tile.zone, tile.south, x, y)
    return node_fields((lon + 180.0) % 360.0 - 180.0, lat)
