"""Yearly maps in tiles of UTM zones: AlphaEarth's embeddings on squares of 163,840 m, ESRI's land cover on the grid
zones of MGRS (6 by 8 degrees).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from m3etl.emulator.model import BandInfo, CollectionQuery, ImageInfo, PixelType, Projection
from m3etl.emulator.planet import utm
from m3etl.emulator.planet.frames import Frame, Node, Request, octave_sum
from m3etl.emulator.planet.imagery import DOUBLE, UINT8, Painted, PlanetImage
from m3etl.emulator.planet.landcover import Cover, State, ground
from m3etl.emulator.planet.noise import Floats
from m3etl.emulator.planet.orbits import seconds
from m3etl.emulator.planet.static import meets
from m3etl.emulator.planet.tiles import lonlat_polygon

_bands_of_latitude = "CDEFGHJKLMNPQRSTUVWX"
_square_m = 163_840.0
_pixel_m = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneTile:
    """Pixels of 10 m in one zone; name: without the year; cell: lon/lat degrees (west, south, east, north)."""

    name: str
    zone: int
    south: bool
    left: float
    top: float
    width: int
    height: int
    cell: tuple[float, float, float, float]

    @property
    def footprint(self) -> BaseGeometry:
        """What of the cell lies on the pixels."""
        right, bottom = self.left + self.width * _pixel_m, self.top - self.height * _pixel_m
        ring = np.asarray(shapely.segmentize(box(self.left, bottom, right, self.top), 40_000.0).exterior.coords)
        square = lonlat_polygon(self.zone, self.south, ring[:, 0], ring[:, 1])
        return shapely.intersection(square, box(*self.cell))


Tiling = Callable[[int, float, float], Iterator[ZoneTile]]
ZonePainter = Callable[[int, ZoneTile, tuple[str, ...], Request], Painted]


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneMaps:
    """One image for each tile and year. tiling: the tiles of a zone between two latitudes; index: with year and tile's
    name; pattern: how these are read from an index, as groups `year` and `zone`.
    """

    id: str
    years: tuple[int, ...]
    bands: Mapping[str, PixelType]
    tiling: Tiling
    paint: ZonePainter
    index: str
    pattern: re.Pattern[str]
    properties: Mapping[str, Any] = field(default_factory=lambda: {"synthetic": True})

    def find(self, query: CollectionQuery) -> Iterator[PlanetImage]:
        if query.index is not None:
            one = self.image(query.index)
            if one is not None and meets(one, query):
                yield one
            return
        for tile in _tiles_in(self.tiling, query.region):
            for year in self.years:
                image = self._image(year, tile)
                if meets(image, query):
                    yield image

    def image(self, index: str) -> PlanetImage | None:
        match = self.pattern.fullmatch(index)
        if match is None or int(match["year"]) not in self.years or not 1 <= int(match["zone"]) <= 60:
            return None
        year = int(match["year"])
        tiles = self.tiling(int(match["zone"]), -90.0, 90.0)
        found = next((tile for tile in tiles if self._name(year, tile) == index), None)
        return None if found is None else self._image(year, found)

    def _name(self, year: int, tile: ZoneTile) -> str:
        return self.index.format(year=year, after=year + 1, tile=tile.name)

    def _image(self, year: int, tile: ZoneTile) -> PlanetImage:
        return PlanetImage(
            lambda: self._info(year, tile), lambda bands, request: self.paint(year, tile, bands, request)
        )

    def _info(self, year: int, tile: ZoneTile) -> ImageInfo:
        index = self._name(year, tile)
        grid = Projection(
            crs=utm.crs_of(tile.zone, tile.south), transform=(_pixel_m, 0.0, tile.left, 0.0, -_pixel_m, tile.top)
        )
        return ImageInfo(
            id=f"{self.id}/{index}",
            bands=tuple(
                BandInfo(id=name, pixel_type=kind, projection=grid, dimensions=(tile.width, tile.height))
                for name, kind in self.bands.items()
            ),
            properties={
                "system:index": index,
                "system:time_start": int(seconds(f"{year}-01-01") * 1000),
                "system:time_end": int(seconds(f"{year + 1}-01-01") * 1000),
                "synthetic": True,
                "UTM_ZONE": f"{tile.zone}{'S' if tile.south else 'N'}",
            },
            footprint=tile.footprint,
        )


def _tiles_in(tiling: Tiling, region: BaseGeometry | None) -> Iterator[ZoneTile]:
    """Tiles of the zones that a region touches, each once (None: all)."""
    if region is None:
        for zone in range(1, 61):
            yield from tiling(zone, -90.0, 90.0)
        return
    seen = set()
    for part in getattr(region, "geoms", [region]):
        west, south, east, north = part.bounds
        for number in range(math.floor((west + 180.0) / 6.0), math.floor((east + 180.0) / 6.0) + 1):
            for tile in tiling(number % 60 + 1, south, north):
                if (tile.zone, tile.name) not in seen:
                    seen.add((tile.zone, tile.name))
                    yield tile


# --- embeddings -------------------------------------------------------------------------------------------------------

EMBEDDING_BANDS = tuple(f"A{axis:02d}" for axis in range(64))
_first_row, _last_row = -56, 56  # rows of squares between 82 degrees south and north


def _squares(zone: int, low: float, high: float) -> Iterator[ZoneTile]:
    """Squares of a zone on multiples of their side, south of the equator counted from it too."""
    west = 6.0 * zone - 186.0
    rows = range(
        max(_first_row, math.floor(low * 110_500.0 / _square_m) - 2),
        min(_last_row, math.floor(high * 111_800.0 / _square_m) + 2),
    )
    for row in rows:
        south = row < 0
        top = (row + 1) * _square_m + (10_000_000.0 if south else 0.0)
        lat = (row + 0.5) * _square_m / 111_200.0
        half = 3.0 * 111_400.0 * math.cos(math.radians(max(abs(lat) - 0.75, 0.0)))
        for column in range(math.floor((500_000.0 - half) / _square_m), math.floor((500_000.0 + half) / _square_m) + 1):
            yield ZoneTile(
                name=f"{zone:02d}{'S' if south else 'N'}_{column}_{abs(row)}", zone=zone, south=south,
                left=column * _square_m, top=top, width=16_384, height=16_384,
                cell=(west, -82.0 if south else 0.0, west + 6.0, 0.0 if south else 82.0),
            )  # fmt: skip


@functools.cache
def _axes() -> Any:
    """(features, 64) float32: how much of what is on the ground points along which axis."""
    rng = np.random.default_rng(20_170_101)
    spread = rng.normal(size=(len(Cover) + State.COUNT, 64))
    spread[: len(Cover)] *= 1.6
    return spread.astype(np.float32)


_scales = np.ones(State.COUNT, np.float32)
for _row, _scale in (
    (State.ELEVATION, 1500.0), (State.SLOPE_EAST, 0.5), (State.SLOPE_NORTH, 0.5), (State.WARMTH, 15.0),
    (State.SWING, 12.0), (State.ARIDITY, 1.5), (State.CANOPY, 15.0), (State.PHASE, 300.0), (State.GRAIN, 4.0),
):  # fmt: skip
    _scales[_row] = _scale


def _paint_embedding(year: int, tile: ZoneTile, bands: tuple[str, ...], request: Request) -> Painted:
    """Unit vectors in the steps of the original: signed squares of 127.5ths."""
    frame = request.frame
    values = frame.keep_moment(("embedding", year), lambda: _embedding(frame, year))
    known = (ground(frame).cover != Cover.WATER) | (frame.column(Node.SHORE) > -15.0)
    return {name: (values[:, int(name[1:])], known) for name in bands}


def _embedding(frame: Frame, year: int) -> Floats:
    """(N, 64) float64."""
    land = ground(frame)
    x, y, z = frame.position()
    weather = octave_sum(x, y, z, ((260.0, 0.5, 0.0), (30.0, 0.3, 0.0)), 8_800 + year % 97)
    traits = land.state / _scales[:, None]
    traits[State.ARIDITY] += 0.2 * weather
    vector = traits.T @ _axes()[len(Cover) :] + _axes()[land.cover]
    vector /= np.linalg.norm(vector, axis=1, keepdims=True)
    steps = np.rint(np.sqrt(np.abs(vector)) * 127.5) / 127.5
    return np.asarray(np.sign(vector) * steps**2, np.float64)


# --- land cover -------------------------------------------------------------------------------------------------------

_codes = np.full(len(Cover), 11, np.uint8)
for _kind, _code in {
    Cover.WATER: 1, Cover.TREES: 2, Cover.WETLAND: 4, Cover.MANGROVE: 4, Cover.CROPS: 5, Cover.BUILT: 7, Cover.BARE: 8,
    Cover.ICE: 9,
}.items():  # fmt: skip
    _codes[_kind] = _code


def _grid_zones(zone: int, low: float, high: float) -> Iterator[ZoneTile]:
    """The grid zones of MGRS of one zone: 8 degrees of latitude each, the last 12."""
    west = 6.0 * zone - 186.0
    for number, letter in enumerate(_bands_of_latitude):
        bottom = -80.0 + 8.0 * number
        top = 84.0 if letter == "X" else bottom + 8.0
        if top <= low or bottom >= high:
            continue
        is_south = bottom < 0
        lon = np.array([west, west + 3.0, west + 6.0] * 2)
        x, y = utm.to_utm(zone, is_south, lon, np.repeat([bottom, top], 3))
        left, north = math.floor(x.min() / _pixel_m) * _pixel_m, math.ceil(y.max() / _pixel_m) * _pixel_m
        yield ZoneTile(
            name=f"{zone:02d}{letter}", zone=zone, south=is_south, left=left, top=north,
            width=math.ceil((x.max() - left) / _pixel_m), height=math.ceil((north - y.min()) / _pixel_m),
            cell=(west, bottom, west + 6.0, top),
        )  # fmt: skip


def _paint_cover(year: int, tile: ZoneTile, bands: tuple[str, ...], request: Request) -> Painted:
    """Codes of nine classes; 0, unmasked, on the open sea; nothing outside the grid zone."""
    frame = request.frame
    land = ground(frame)
    x, y, z = frame.position()
    doubt = octave_sum(x, y, z, ((0.6, 0.7, 0.0), (0.07, 0.5, 0.0)), 9_300 + year % 97)
    mapped = np.where((doubt > 0.9) & (land.cover == Cover.GRASS), Cover.CROPS, land.cover)
    codes = _codes[mapped]
    codes = np.where(octave_sum(x, y, z, ((9.0, 1.0, 0.0), (1.1, 0.4, 0.0)), 9_700 + year % 97) > 1.3, 10, codes)
    codes = np.where((land.cover == Cover.WATER) & (frame.column(Node.SHORE) < -60.0), 0, codes)
    west, south, east, north = tile.cell
    lon = (frame.column(Node.LON) + 180.0) % 360.0 - 180.0
    lat = frame.column(Node.LAT)
    inside = (lon >= west) & (lon < east) & (lat >= south) & (lat < north)
    return {name: (codes.astype(np.uint8), inside) for name in bands}


COLLECTIONS = (
    ZoneMaps(
        id="GOOGLE/SATELLITE_EMBEDDING/V1/ANNUAL",
        years=tuple(range(2017, 2026)),
        bands=dict.fromkeys(EMBEDDING_BANDS, DOUBLE),
        tiling=_squares,
        paint=_paint_embedding,
        index="{tile}_{year}",
        pattern=re.compile(r"(?P<zone>\d{2})[NS]_\d_\d+_(?P<year>\d{4})"),
    ),
    ZoneMaps(
        id="projects/sat-io/open-datasets/landcover/ESRI_Global-LULC_10m_TS",
        years=tuple(range(2017, 2025)),
        bands={"b1": UINT8},
        tiling=_grid_zones,
        paint=_paint_cover,
        index="{tile}_{year}0101-{after}0101",
        pattern=re.compile(r"(?P<zone>\d{2})[C-X]_(?P<year>\d{4})0101-\d{4}0101"),
    ),
)
