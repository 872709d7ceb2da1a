"""The granules of Sentinel-2: one tile in one overpass, when, with which sun and under which clouds."""

from __future__ import annotations

import functools
import heapq
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from m3etl.emulator.model import CollectionQuery
from m3etl.emulator.planet import utm
from m3etl.emulator.planet.clouds import Overpass, cloud_share
from m3etl.emulator.planet.coverage import ORBIT, Coverage, Sighting, coverage_of, sight, sightings, whole_footprint
from m3etl.emulator.planet.frames import node_fields
from m3etl.emulator.planet.imagery import chance, hashed
from m3etl.emulator.planet.noise import Floats
from m3etl.emulator.planet.orbits import DAY_S, seconds, stamp
from m3etl.emulator.planet.sun import sun_angles
from m3etl.emulator.planet.tiles import TILE_M, Tile, tile_named, tiles_near, zone_tiles

_DARK_ZENITH = 80.0
_LOST_SHARE = 0.03
_FEW_TILES = 60  # up to here a stream per tile and track is merged; above it the satellites are followed
_DATATAKE_DEG = 15.0
_SPARSE_BEFORE_S = seconds("2017-01-01")
_INDEX = re.compile(r"(\d{8}T\d{6})_(\d{8}T\d{6})_T(\d{2}[C-X][A-Z]{2})")

Wanted = Callable[[Tile, float], bool]
"""Whether a collection has images of a tile at a time (seconds)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Granule:
    """One tile in one overpass. `time_s` is when its middle is seen, `datatake_s` when the datatake began."""

    tile: Tile
    sighting: Sighting
    satellite: int
    revolution: int
    time_s: float
    datatake_s: float
    overpass: Overpass
    index: str

    @property
    def coverage(self) -> Coverage:
        return coverage_of(self.tile, self.sighting)

    @property
    def time_ms(self) -> int:
        return int(self.time_s * 1000.0)

    @property
    def cloud_percentage(self) -> float:
        """Cloudy share of the tile in percent."""
        return round(cloud_share(_tile_nodes(self.tile.name), self.overpass), 4)


def find_granules(
    query: CollectionQuery, wanted: Wanted | None = None, earliest_s: float = -math.inf
) -> Iterator[Granule]:
    """Every granule that meets a query, is wanted and not older than `earliest_s`, by time then index, lazily."""
    if query.index is not None:
        granule = granule_of(query.index, wanted)
        if granule is not None and _in_time(granule.time_ms, query) and _in_region(granule, query):
            yield granule
        return
    low = max(earliest_s, -math.inf if query.start_ms is None else query.start_ms / 1000.0)
    high = math.inf if query.end_ms is None else query.end_ms / 1000.0
    tiles = list(tiles_near(query.region))
    if len(tiles) <= _FEW_TILES:
        streams = [
            _stream(tile, sighting, low, high, wanted)
            for tile in tiles
            if query.region is None or whole_footprint(tile).intersects(query.region)
            for sighting in sightings(tile.name)
            if query.region is None or coverage_of(tile, sighting).footprint.intersects(query.region)
        ]
    else:
        streams = [_sweep(tiles, satellite, low, high, wanted) for satellite in range(len(ORBIT.satellites))]
    near = len(tiles) <= _FEW_TILES and query.region is not None
    for time_ms, _, granule in heapq.merge(*streams, key=lambda item: item[:2]):
        if _in_time(time_ms, query) and (near or _in_region(granule, query)):
            yield granule


def granule_of(index: str, wanted: Wanted | None = None) -> Granule | None:
    """The granule with a `system:index`, None if the planet has none."""
    match = _INDEX.fullmatch(index)
    tile = tile_named(match.group(3)) if match else None
    if match is None or tile is None:
        return None
    try:
        datatake_s = seconds(match.group(1)) + 0.5
    except ValueError:
        return None
    start = _datatake_argument(tile)
    for satellite in range(len(ORBIT.satellites)):
        revolution, exact_s = ORBIT.revolution(datatake_s, start, satellite)
        for sighting in sightings(tile.name):
            if sighting.track == revolution % ORBIT.tracks:
                time_s = exact_s + _seconds_between(start, sighting.argument)
                granule = _granule(tile, sighting, time_s, satellite, wanted)
                if granule is not None and granule.index == index and not granule.coverage.footprint.is_empty:
                    return granule
    return None


Found = tuple[int, str, Granule]


def _stream(tile: Tile, sighting: Sighting, low: float, high: float, wanted: Wanted | None) -> Iterator[Found]:
    """What one track sees of one tile."""
    # two seconds of slack: the query is in whole milliseconds of rounded times
    for time_s, satellite in ORBIT.passes(sighting.track, sighting.argument, low - 2.0, high + 2.0):
        granule = _granule(tile, sighting, time_s, satellite, wanted)
        if granule is not None:
            yield granule.time_ms, granule.index, granule


def _sweep(tiles: list[Tile], satellite: int, low: float, high: float, wanted: Wanted | None) -> Iterator[Found]:
    """What one satellite sees of many tiles, revolution by revolution."""
    service = ORBIT.satellites[satellite]
    seen: dict[int, list[tuple[Tile, Sighting]]] = {}
    number, start_s = ORBIT.revolution(max(low, service.first_s) - ORBIT.period_s, 0.0, satellite)
    while start_s < min(high, service.last_s):
        track = number % ORBIT.tracks
        if track not in seen:
            found = zip(tiles, sight(tiles, [track])[0], strict=True)
            seen[track] = [(tile, sighting) for tile, sighting in found if sighting is not None]
        granules = []
        for tile, sighting in seen[track]:
            time_s = start_s + _seconds_between(0.0, sighting.argument)
            if low - 2.0 <= time_s < high + 2.0:
                granule = _granule(tile, sighting, time_s, satellite, wanted)
                if granule is not None:
                    granules.append((granule.time_ms, granule.index, granule))
        yield from sorted(granules, key=lambda item: item[:2])
        number, start_s = number + 1, start_s + ORBIT.period_s


def _in_time(time_ms: int, query: CollectionQuery) -> bool:
    return (query.start_ms is None or time_ms >= query.start_ms) and (query.end_ms is None or time_ms < query.end_ms)


def _in_region(granule: Granule, query: CollectionQuery) -> bool:
    footprint = granule.coverage.footprint
    if query.region is None:
        return not footprint.is_empty
    return bool(footprint.intersects(query.region))


def _granule(tile: Tile, sighting: Sighting, time_s: float, satellite: int, wanted: Wanted | None) -> Granule | None:
    """The granule of a pass, None where it is not wanted, was too dark or got lost."""
    service = ORBIT.satellites[satellite]
    if not service.first_s <= time_s < service.last_s or (wanted is not None and not wanted(tile, time_s)):
        return None
    zenith, azimuth = sun_angles(tile.lon, tile.lat, time_s)
    if zenith > _DARK_ZENITH:
        return None
    start = _datatake_argument(tile)
    near_s = time_s + _seconds_between(sighting.argument, start)
    revolution, datatake_s = ORBIT.revolution(near_s, start, satellite)
    if chance("lost", tile.name, satellite, revolution) < _LOST_SHARE:
        return None
    if time_s < _SPARSE_BEFORE_S and chance("early", satellite, revolution) < 0.5:
        return None
    overpass = Overpass(
        seed=hashed("weather", satellite, revolution) & 0xFFFFFF,
        day=math.floor(time_s / DAY_S),
        sun_zenith=zenith,
        sun_azimuth=azimuth,
    )
    later_s = datatake_s + hashed("sensing", satellite, revolution) % 16 - 5
    # the exact time follows from the revolution, so that both ways of searching give the same milliseconds
    return Granule(
        tile=tile,
        sighting=sighting,
        satellite=satellite,
        revolution=revolution,
        time_s=datatake_s + _seconds_between(start, sighting.argument),
        datatake_s=datatake_s,
        overpass=overpass,
        index=f"{stamp(datatake_s)}_{stamp(later_s)}_T{tile.name}",
    )


def _seconds_between(first: float, second: float) -> float:
    """Seconds from one angle along the orbit to another."""
    return (second - first) / (2 * math.pi) * ORBIT.period_s


@functools.lru_cache(maxsize=65536)
def _datatake_argument(tile: Tile) -> float:
    """Where along the orbit the datatake over a tile begins: datatakes are cut every 15 degrees of latitude."""
    top = 90.0 - _DATATAKE_DEG * math.floor((90.0 - tile.lat) / _DATATAKE_DEG)
    ratio = math.sin(math.radians(min(top, 81.0))) / math.sin(math.radians(ORBIT.inclination_deg))
    return math.pi - math.asin(ratio)


@functools.lru_cache(maxsize=2048)
def _tile_nodes(name: str) -> Floats:
    """Fields at 8 x 8 positions of a tile, where its cloudiness is counted."""
    tile = zone_tiles(int(name[:2]))[name]
    at = (np.arange(8) + 0.5) / 8 * TILE_M
    x, y = (values.ravel() for values in np.meshgrid(tile.left + at, tile.top - at))
    lon, lat = utm.from_utm(tile.zone, tile.south, x, y)
    return node_fields((lon + 180.0) % 360.0 - 180.0, lat)
