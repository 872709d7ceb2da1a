"""The global seasonal Sentinel-1 data set of December 2019 to November 2020: coherence, backscatter, the decay model of
the coherence, and geometry for each orbit, in tiles of one degree.

Coherence follows the decay model that it is described with: rho + (1 - rho) exp(-days / tau), with the stability of
the ground, less what a pair of images far apart in the season loses by itself.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from shapely.geometry import box

from m3etl.emulator.model import BandInfo, CollectionQuery, ImageInfo, PixelType, Projection
from m3etl.emulator.planet.frames import Node, Request, octave_sum
from m3etl.emulator.planet.imagery import DOUBLE, UINT8, UINT16, Painted, PlanetImage, chance
from m3etl.emulator.planet.landcover import Cover, State, ground
from m3etl.emulator.planet.noise import Singles
from m3etl.emulator.planet.orbits import seconds
from m3etl.emulator.planet.static import land_corners, meets

ROOT = "Earth_Big_Data/GLOBAL_SEASONAL_S1/V2019"
SEASONS = ("fall", "spring", "summer", "winter")
DAYS = (6, 12, 18, 24, 36, 48)
_SIDE = 1200
_stable = np.full(len(Cover), 0.15, np.float32)
_decay_days = np.full(len(Cover), 12.0, np.float32)
for _kind, _rho, _tau in (
    (Cover.WATER, 0.02, 1.0), (Cover.TREES, 0.06, 6.0), (Cover.SHRUBS, 0.2, 16.0), (Cover.GRASS, 0.22, 18.0),
    (Cover.CROPS, 0.14, 11.0), (Cover.BUILT, 0.72, 60.0), (Cover.BARE, 0.6, 80.0), (Cover.ICE, 0.1, 7.0),
    (Cover.WETLAND, 0.12, 9.0), (Cover.MANGROVE, 0.05, 5.0), (Cover.MOSS, 0.3, 22.0),
):  # fmt: skip
    _stable[_kind], _decay_days[_kind] = _rho, _tau
_snowy = {"winter": 0.75, "spring": 0.3, "summer": 0.0, "fall": 0.25}


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """One degree by its upper-left corner: N48W090 covers latitudes 47 to 48 and longitudes -90 to -89."""

    north: int
    west: int

    @property
    def name(self) -> str:
        north, east = "N" if self.north >= 0 else "S", "E" if self.west >= 0 else "W"
        return f"{north}{abs(self.north):02d}{east}{abs(self.west):03d}"

    @property
    def is_polar(self) -> bool:
        """Whether it was acquired in HH and HV, as ice sheets are."""
        return self.north > 72 or self.north <= -60 or (self.north > 60 and -60 <= self.west < -18)

    @property
    def has_short_pairs(self) -> bool:
        """Whether both satellites acquired, so that there are 6 and 18 days: Europe, and a few places elsewhere."""
        europe = 34 < self.north <= 72 and -25 <= self.west < 45
        return europe or chance("short pairs", self.name) < 0.12

    def lacks(self, season: str) -> bool:
        """Whether a season was not acquired."""
        return chance("no season", self.name, season) < 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class SeasonalTiles:
    """One image a tile with the bands that the tile has, e.g. winter_vv_COH12. raw: digital numbers, else physical."""

    id: str
    measures: tuple[str, ...]
    raw: bool = False
    properties: Mapping[str, Any] = field(default_factory=lambda: {"synthetic": True})

    def find(self, query: CollectionQuery) -> Iterator[PlanetImage]:
        for tile in tiles_in(query):
            image = self._image(tile)
            if meets(image, query):
                yield image

    def image(self, index: str) -> PlanetImage | None:
        tile = _tiles().get(index)
        return None if tile is None else self._image(tile)

    def _image(self, tile: Tile) -> PlanetImage:
        return PlanetImage(lambda: self._info(tile), self._paint)

    def bands(self, tile: Tile) -> tuple[str, ...]:
        """Names of the bands of a tile, sorted as in the catalogue."""
        co = "hh" if tile.is_polar else "vv"
        names = []
        for season in SEASONS:
            if tile.lacks(season):
                continue
            for measure in self.measures:
                if measure in ("COH06", "COH18") and not tile.has_short_pairs:
                    continue
                polarisations = (co, "hv" if tile.is_polar else "vh") if measure == "AMP" else (co,)
                names += [f"{season}_{polarisation}_{measure}" for polarisation in sorted(polarisations)]
        return tuple(names)

    def _info(self, tile: Tile) -> ImageInfo:
        kind = DOUBLE if not self.raw else UINT8 if "COH12" in self.measures else UINT16
        return _tile_info(self.id, tile, tile.name, dict.fromkeys(self.bands(tile), kind), {"tile_id": tile.name})

    def _paint(self, bands: tuple[str, ...], request: Request) -> Painted:
        painted: Painted = {}
        for name in bands:
            season, polarisation, measure = name.split("_")
            values, scale, dtype = _measure(request, season, polarisation, measure)
            numbers = np.rint(np.asarray(values, np.float64) * scale)
            known = (ground(request.frame).cover != Cover.WATER) | (request.frame.column(Node.SHORE) > -5.0)
            if self.raw:
                painted[name] = (np.where(known, numbers, 0).astype(dtype), None)
            else:
                painted[name] = (np.where(known, _physical(numbers, measure, scale), 0.0), None)
        return painted


def _physical(numbers: Any, measure: str, scale: float) -> Any:
    return 20.0 * np.log10(np.maximum(numbers, 1.0)) - 83.0 if measure == "AMP" else numbers / scale


def _measure(request: Request, season: str, polarisation: str, measure: str) -> tuple[Any, float, Any]:
    """Values in the unit of the digital number divided by scale, the scale, and the raw dtype."""
    rho, tau = _decay(request, season)
    if measure == "AMP":
        return _amplitude(request, season, polarisation), 1.0, np.uint16
    if measure == "rho":
        return rho, 1000.0, np.uint16
    if measure == "tau":
        return tau, 100.0, np.uint16
    if measure == "rmse":
        return 0.04 + 0.05 * (1.0 - rho), 1000.0, np.uint16
    days = int(measure.removeprefix("COH"))
    noise = 0.03 * _grain(request, 9_100 + days)
    return np.clip(rho + (1.0 - rho) * np.exp(-days / tau) + noise, 0.01, 1.0), 100.0, np.uint8


def _decay(request: Request, season: str) -> tuple[Singles, Singles]:
    frame = request.frame

    def make() -> tuple[Singles, Singles]:
        land = ground(frame)
        cold = land.state[State.WARMTH] - (0.9 if season == "winter" else 0.0) * land.state[State.SWING]
        snow = _snowy[season] * np.clip(-cold / 6.0, 0.0, 1.0)
        leaves = land.state[State.GREEN] * (0.35 if season in ("summer", "spring") else 0.15)
        rho = _stable[land.cover] * (1.0 - 0.7 * snow) * (1.0 - leaves) + 0.05 * _grain(request, 9_001)
        tau = _decay_days[land.cover] * (1.0 - 0.6 * snow) * (1.0 - 0.5 * leaves)
        return np.clip(rho, 0.001, 0.98).astype(np.float32), np.maximum(tau, 0.5).astype(np.float32)

    return frame.keep_moment(("coherence", season), make)  # type: ignore[no-any-return]


def _grain(request: Request, seed: int) -> Any:
    x, y, z = request.frame.position()
    return octave_sum(x, y, z, ((0.4, 0.7, 0.0), (0.1, 0.5, 0.0)), seed)


_bright_db = np.full(len(Cover), -11.0)
for _kind, _level in ((Cover.WATER, -21.0), (Cover.TREES, -8.5), (Cover.BUILT, -3.0), (Cover.BARE, -15.0)):
    _bright_db[_kind] = _level


def _amplitude(request: Request, season: str, polarisation: str) -> Any:
    land = ground(request.frame)
    level = _bright_db[land.cover] + 2.0 * land.state[State.ROUGH] + 0.5 * land.state[State.GRAIN]
    level = level - (7.0 if polarisation in ("vh", "hv") else 0.0) + (0.8 if season == "summer" else 0.0)
    return 10.0 ** ((level + 83.0) / 20.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeometryTiles:
    """Local incidence angle and layover/shadow, one image for each tile and relative orbit."""

    id: str = f"{ROOT}/INCIDENCE_LAYOVER_SHADOW"
    properties: Mapping[str, Any] = field(default_factory=lambda: {"synthetic": True})

    def find(self, query: CollectionQuery) -> Iterator[PlanetImage]:
        for tile in tiles_in(query):
            for orbit, direction in orbits_of(tile):
                image = self._image(tile, orbit, direction)
                if meets(image, query):
                    yield image

    def image(self, index: str) -> PlanetImage | None:
        name, _, track = index.partition("_")
        tile = _tiles().get(name)
        if tile is None:
            return None
        return next(
            (self._image(tile, orbit, way) for orbit, way in orbits_of(tile) if f"{orbit:03d}{way}" == track), None
        )

    def _image(self, tile: Tile, orbit: int, direction: str) -> PlanetImage:
        return PlanetImage(
            lambda: self._info(tile, orbit, direction),
            lambda bands, request: _paint_geometry(orbit, direction, bands, request),
        )

    def _info(self, tile: Tile, orbit: int, direction: str) -> ImageInfo:
        properties = {"tile_id": tile.name, "relative_orbit_number": orbit, "flight_direction": direction}
        return _tile_info(
            self.id, tile, f"{tile.name}_{orbit:03d}{direction}", {"inc": UINT8, "lsmap": UINT8}, properties
        )


def orbits_of(tile: Tile) -> tuple[tuple[int, str], ...]:
    """Relative orbits that see a tile, with their direction: two to four."""
    count = 2 + int(chance("orbits", tile.name) * 3)
    found = [(1 + int(chance("orbit", tile.name, number) * 175), "AD"[number % 2]) for number in range(count)]
    return tuple(sorted(set(found)))


def _paint_geometry(orbit: int, direction: str, bands: tuple[str, ...], request: Request) -> Painted:
    """Looking right, an ascending satellite looks east. The swath's edge leaves part of some tiles unseen."""
    land = ground(request.frame)
    x, y, z = request.frame.position()
    middle = 31.0 + 13.0 * chance("look", orbit, direction)
    look = middle + 4.0 * octave_sum(x, y, z, ((180.0, 1.0, 0.0),), 9_300 + orbit)
    facing = (1.0 if direction == "D" else -1.0) * land.state[State.SLOPE_EAST]
    incidence = np.clip(look + np.degrees(np.arctan(facing)), 1.0, 89.0)
    code = np.ones(request.frame.size, np.uint8)
    code[incidence < 6.0] = 5
    code[incidence > 84.0] = 17
    layers = {"inc": np.rint(incidence), "lsmap": code}
    seen = (look > 29.0) & (look < 47.0)
    return {name: (np.where(seen, layers[name], 0).astype(np.uint8), None) for name in bands}


def _tile_info(
    collection: str, tile: Tile, index: str, bands: Mapping[str, PixelType], properties: Mapping[str, Any]
) -> ImageInfo:
    grid = Projection(crs="EPSG:4326", transform=(1.0 / _SIDE, 0.0, tile.west, 0.0, -1.0 / _SIDE, tile.north))
    return ImageInfo(
        id=f"{collection}/{index}",
        bands=tuple(
            BandInfo(id=name, pixel_type=kind, projection=grid, dimensions=(_SIDE, _SIDE))
            for name, kind in bands.items()
        ),
        properties={
            "system:index": index,
            "system:time_start": int(seconds("2019-12-01") * 1000),
            "system:time_end": int(seconds("2020-12-01") * 1000),
            "synthetic": True,
            **properties,
        },
        footprint=box(tile.west, tile.north - 1, tile.west + 1, tile.north),
    )


def tiles_in(query: CollectionQuery) -> Iterator[Tile]:
    """Tiles that may meet a query, sorted by name."""
    if query.region is None:
        yield from (tile for _, tile in sorted(_tiles().items()))
        return
    found = set()
    for part in getattr(query.region, "geoms", [query.region]):
        if part.is_empty:
            continue
        west, south, east, north = part.bounds
        for lat in range(math.floor(south), math.floor(north) + 1):
            for lon in range(math.floor(west), math.floor(east) + 1):
                tile = Tile(lat + 1, (lon + 180) % 360 - 180)
                if tile.name in _tiles():
                    found.add(tile)
    yield from sorted(found, key=lambda tile: tile.name)


@functools.cache
def _tiles() -> Mapping[str, Tile]:
    """Tiles with land between 79 degrees south and 82 north, by name."""
    kept = [Tile(lat + 1, lon) for lon, lat in land_corners() if lat >= -79 and lat + 1 <= 82]
    return {tile.name: tile for tile in kept}


_coherence = tuple(f"COH{days:02d}" for days in DAYS)
_decay_parameters = ("rho", "rmse", "tau")
COLLECTIONS = (
    SeasonalTiles(id=f"{ROOT}/COHERENCE", measures=_coherence),
    SeasonalTiles(id=f"{ROOT}/COHERENCE_RAW", measures=_coherence, raw=True),
    SeasonalTiles(id=f"{ROOT}/BACKSCATTER", measures=("AMP",)),
    SeasonalTiles(id=f"{ROOT}/BACKSCATTER_RAW", measures=("AMP",), raw=True),
    SeasonalTiles(id=f"{ROOT}/DECAY_MODEL_PARAMETERS", measures=_decay_parameters),
    SeasonalTiles(id=f"{ROOT}/DECAY_MODEL_PARAMETERS_RAW", measures=_decay_parameters, raw=True),
    GeometryTiles(),
)
