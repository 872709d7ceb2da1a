"""The slices of Sentinel-1 IW GRD: where along which track, when, with which polarisations, and where on the ground."""

from __future__ import annotations

import functools
import heapq
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from m3etl.emulator.model import CollectionQuery
from m3etl.emulator.planet import utm
from m3etl.emulator.planet.climate import coarse_maps, read_maps
from m3etl.emulator.planet.frames import octave_sum
from m3etl.emulator.planet.imagery import Booleans, chance, hashed
from m3etl.emulator.planet.noise import Floats
from m3etl.emulator.planet.orbits import DAY_S, LAST_S, Orbit, Satellite, seconds, stamp
from m3etl.emulator.planet.tiles import lonlat_polygon

ORBIT = Orbit(
    # 18:00 local solar time where the satellites cross the equator northwards
    epoch_s=seconds("2014-10-01"),
    node_lon=-90.0,
    inclination_deg=98.18,
    tracks=175,
    cycle_s=12 * DAY_S,
    satellites=(
        Satellite(name="A", first_s=seconds("2014-10-03"), last_s=LAST_S),
        Satellite(name="B", first_s=seconds("2016-09-26"), last_s=seconds("2021-12-23"), lead=0.5),
        Satellite(name="C", first_s=seconds("2025-04-01"), last_s=LAST_S, lead=0.5),
    ),
)
SLICES = 237
"""Slices of a revolution, 25 s each."""
NEAR_KM, FAR_KM = 350.0, 600.0
"""Distance of the swath right of the ground track."""
NEAR_DEG, FAR_DEG = 29.3, 45.9
"""Incidence angle at both edges."""
_OVERLAP = 0.02
_LIMIT_LAT = 82.0
_LOST_SHARE = 0.04
_FEW = 60
_INDEX = re.compile(r"S1([ABC])_IW_GRDH_1S(DV|SV|DH)_(\d{8}T\d{6})_(\d{8}T\d{6})_(\d{6})_([0-9A-F]{6})_([0-9A-F]{4})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Swath:
    """A slice on the ground: a parallelogram in a UTM zone.

    `origin` is the corner where the slice begins at near range, `along` and `across` are the edges from it in metres.
    """

    track: int
    number: int
    zone: int
    south: bool
    origin: tuple[float, float]
    along: tuple[float, float]
    across: tuple[float, float]
    left: float
    top: float
    width: int
    height: int
    footprint: BaseGeometry

    def where(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Position in the slice of points in metres: share of the way along and across, both 0 to 1 inside."""
        dx, dy = x - self.origin[0], y - self.origin[1]
        area = self.along[0] * self.across[1] - self.along[1] * self.across[0]
        return (dx * self.across[1] - dy * self.across[0]) / area, (self.along[0] * dy - self.along[1] * dx) / area


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One slice of one revolution."""

    swath: Swath
    satellite: int
    revolution: int
    start_s: float
    polarisation: str

    @property
    def ascending(self) -> bool:
        return not SLICES / 4 <= self.swath.number + 0.5 < 3 * SLICES / 4

    @property
    def end_s(self) -> float:
        return self.start_s + ORBIT.period_s / SLICES

    @property
    def time_ms(self) -> int:
        return int(self.start_s * 1000.0)

    @property
    def index(self) -> str:
        name = ORBIT.satellites[self.satellite].name
        take = hashed("take", self.satellite, self.revolution) & 0xFFFFFF
        unique = hashed("slice", self.satellite, self.revolution, self.swath.number) & 0xFFFF
        return (
            f"S1{name}_IW_GRDH_1S{self.polarisation}_{stamp(self.start_s)}_{stamp(self.end_s)}"
            f"_{self.revolution + 1:06d}_{take:06X}_{unique:04X}"
        )


def find_slices(query: CollectionQuery) -> Iterator[Slice]:
    """Every slice that meets a query, by time then index, lazily."""
    if query.index is not None:
        one = slice_of(query.index)
        if one is not None and _matches(one, query):
            yield one
        return
    low = -math.inf if query.start_ms is None else query.start_ms / 1000.0
    high = math.inf if query.end_ms is None else query.end_ms / 1000.0
    chosen = _near(query.region)
    if len(chosen) <= _FEW:
        streams = [_stream(track, number, low, high) for track, number in chosen]
    else:
        streams = [_sweep(chosen, satellite, low, high) for satellite in range(len(ORBIT.satellites))]
    for _, _, found in heapq.merge(*streams, key=lambda item: item[:2]):
        if _matches(found, query):
            yield found


def slice_of(index: str) -> Slice | None:
    """The slice with a `system:index`, None if the planet has none."""
    match = _INDEX.fullmatch(index)
    if match is None:
        return None
    try:
        start_s = seconds(match.group(3)) + 0.5
    except ValueError:
        return None
    satellite = next(i for i, item in enumerate(ORBIT.satellites) if item.name == match.group(1))
    revolution = int(match.group(5)) - 1
    _, node_s = ORBIT.revolution(start_s, 0.0, satellite)
    node_s += (revolution - ORBIT.revolution(start_s, 0.0, satellite)[0]) * ORBIT.period_s
    step = ORBIT.period_s / SLICES
    number = round((start_s - node_s) / step)
    if not 0 <= number < SLICES:
        return None
    track = revolution % ORBIT.tracks
    if not _table()[2][track, number]:
        return None
    found = _slice(track, number, node_s + number * step, satellite, revolution)
    return found if found is not None and found.index == index else None


def slice_near(track: int, number: int, time_s: float) -> Slice | None:
    """The slice of a track that began within half a minute of a time, None if there is none."""
    if not (0 <= track < ORBIT.tracks and 0 <= number < SLICES and _table()[2][track, number]):
        return None
    return next((one for _, _, one in _stream(track, number, time_s - 30.0, time_s + 30.0)), None)


def _matches(one: Slice, query: CollectionQuery) -> bool:
    if query.start_ms is not None and one.time_ms < query.start_ms:
        return False
    if query.end_ms is not None and one.time_ms >= query.end_ms:
        return False
    return query.region is None or bool(one.swath.footprint.intersects(query.region))


def _stream(track: int, number: int, low: float, high: float) -> Iterator[tuple[int, str, Slice]]:
    argument = 2 * math.pi * number / SLICES
    for start_s, satellite in ORBIT.passes(track, argument, low - 2.0, high + 2.0):
        revolution, exact_s = ORBIT.revolution(start_s, argument, satellite)
        found = _slice(track, number, exact_s, satellite, revolution)
        if found is not None:
            yield found.time_ms, found.index, found


def _sweep(chosen: list[tuple[int, int]], satellite: int, low: float, high: float) -> Iterator[tuple[int, str, Slice]]:
    """What one satellite sees of many slices, revolution by revolution."""
    by_track: dict[int, list[int]] = {}
    for track, number in chosen:
        by_track.setdefault(track, []).append(number)
    service = ORBIT.satellites[satellite]
    revolution, node_s = ORBIT.revolution(max(low, service.first_s) - ORBIT.period_s, 0.0, satellite)
    while node_s < min(high, service.last_s):
        for number in sorted(by_track.get(revolution % ORBIT.tracks, ())):
            start_s = node_s + number * ORBIT.period_s / SLICES
            if low - 2.0 <= start_s < high + 2.0:
                found = _slice(revolution % ORBIT.tracks, number, start_s, satellite, revolution)
                if found is not None:
                    yield found.time_ms, found.index, found
        revolution, node_s = revolution + 1, node_s + ORBIT.period_s


def _slice(track: int, number: int, start_s: float, satellite: int, revolution: int) -> Slice | None:
    """The slice of a revolution, None where the satellite did not acquire it."""
    service = ORBIT.satellites[satellite]
    if not service.first_s <= start_s < service.last_s:
        return None
    if satellite == 1 and not _table()[3][track, number]:
        return None
    if chance("slice lost", satellite, revolution, number) < _LOST_SHARE:
        return None
    swath = _swath(track, number)
    lon, lat = _table()[0][track, number], _table()[1][track, number]
    polar = lat > 72.0 or lat < -60.0 or (-75.0 < lon < -15.0 and lat > 60.0)
    single = not polar and start_s < seconds("2016-10-01") and chance("single", track, number // 20) < 0.3
    return Slice(
        swath=swath,
        satellite=satellite,
        revolution=revolution,
        start_s=start_s,
        polarisation="DH" if polar else "SV" if single else "DV",
    )


def _near(region: BaseGeometry | None) -> list[tuple[int, int]]:
    """Tracks and numbers of the slices whose middle is near a region (None: of all)."""
    lon, lat, exists, _ = _table()
    chosen: Booleans = exists if region is None else np.zeros_like(exists)
    for part in () if region is None else getattr(region, "geoms", [region]):
        if part.is_empty:
            continue
        west, low, east, high = part.bounds
        margin = 2.0 / np.cos(np.radians(np.minimum(np.abs(lat) + 2.0, 85.0)))
        away = (lon - west + 180.0) % 360.0 - 180.0
        across = ((away >= -margin) & (away <= east - west + margin)) | (east - west + 2 * margin >= 360.0)
        across |= (lon - west) % 360.0 <= east - west + margin
        chosen = chosen | (exists & (lat >= low - 2.0) & (lat <= high + 2.0) & across)
    return [(int(track), int(number)) for track, number in np.argwhere(chosen)]


@functools.cache
def _table() -> tuple[Floats, Floats, Booleans, Booleans]:
    """Longitude and latitude of the middle of every slice (tracks, SLICES), whether it is acquired, and by B."""
    argument = np.broadcast_to((np.arange(SLICES) + 0.5) * 2 * math.pi / SLICES, (ORBIT.tracks, SLICES))
    node = np.broadcast_to(ORBIT.nodes()[:, None], argument.shape)
    flat_node, flat_argument = node.ravel(), argument.ravel()
    middle = np.full(flat_node.size, -(NEAR_KM + FAR_KM) / 2)
    lon, lat = ORBIT.place(flat_node, flat_argument, middle)
    land = np.zeros(lon.size, np.bool_)
    maps = np.empty((lon.size, 9))
    for distance in (-NEAR_KM, (-NEAR_KM - FAR_KM) / 2, -FAR_KM):
        x, y = ORBIT.place(flat_node, flat_argument, np.full(flat_node.size, distance))
        read_maps(coarse_maps(), (x + 180) % 360 - 180, y, maps)
        land |= maps[:, 0] > -60.0
    ascending = ~((flat_argument >= math.pi / 2) & (flat_argument < 1.5 * math.pi))
    theta, phi = np.radians(lon), np.radians(lat)
    x, y, z = np.cos(phi) * np.cos(theta), np.cos(phi) * np.sin(theta), np.sin(phi)
    plans = [octave_sum(x, y, z, ((2600.0, 1.0, 0.0),), seed) for seed in (201, 202, 203)]
    planned = np.where(ascending, plans[0] > -0.3, plans[1] > -0.3)
    exists = land & planned & (np.abs(lat) < _LIMIT_LAT)
    shape = (ORBIT.tracks, SLICES)
    return lon.reshape(shape), lat.reshape(shape), exists.reshape(shape), (plans[2] > -0.15).reshape(shape)


@functools.lru_cache(maxsize=8192)
def _swath(track: int, number: int) -> Swath:
    lon, lat = float(_table()[0][track, number]), float(_table()[1][track, number])
    zone, south = math.floor((lon + 180.0) / 6.0) % 60 + 1, lat < 0
    share = np.array([0.0, 0.5, 1.0])
    s, t = (values.ravel() for values in np.meshgrid(share, share))
    argument = (number - _OVERLAP + s * (1 + 2 * _OVERLAP)) * 2 * math.pi / SLICES
    x, y = utm.to_utm(
        zone, south, *ORBIT.place(np.full(9, ORBIT.nodes()[track]), argument, -(NEAR_KM + t * (FAR_KM - NEAR_KM)))
    )
    design = np.column_stack([np.ones(9), s, t])
    (ox, ax, bx), (oy, ay, by) = (np.linalg.lstsq(design, values, rcond=None)[0] for values in (x, y))
    corners = np.array([(ox, oy), (ox + ax, oy + ay), (ox + ax + bx, oy + ay + by), (ox + bx, oy + by)])
    ring = np.asarray(shapely.segmentize(Polygon(corners), 20_000.0).exterior.coords)
    # the products are on no common lattice: each starts at its own fraction of a pixel
    left = math.floor(corners[:, 0].min() / 10) * 10 + hashed("left", track, number) % 1000 / 100.0
    top = math.ceil(corners[:, 1].max() / 10) * 10 - hashed("top", track, number) % 1000 / 100.0
    return Swath(
        track=track,
        number=number,
        zone=zone,
        south=south,
        origin=(float(ox), float(oy)),
        along=(float(ax), float(ay)),
        across=(float(bx), float(by)),
        left=left,
        top=top,
        width=int((corners[:, 0].max() - left) // 10) + 1,
        height=int((top - corners[:, 1].min()) // 10) + 1,
        footprint=lonlat_polygon(zone, south, ring[:, 0], ring[:, 1]),
    )
