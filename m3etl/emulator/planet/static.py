"""Maps without a date or with one per year: elevation models (ASTER, SRTM, NASADEM, Copernicus), ETH canopy height and
ESA WorldCover.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from shapely.geometry import box

from m3etl.emulator.model import BandInfo, CollectionQuery, ImageInfo, Projection
from m3etl.emulator.planet.climate import coarse_maps, read_maps
from m3etl.emulator.planet.frames import Node, Request, octave_sum
from m3etl.emulator.planet.imagery import FLOAT, INT16, UINT8, Painted, Painter, PlanetImage
from m3etl.emulator.planet.landcover import Cover, State, ground
from m3etl.emulator.planet.orbits import seconds
from m3etl.emulator.planet.terrain import elevation

ASTER_ID = "projects/sat-io/open-datasets/ASTER/GDEM"
SRTM_ID = "USGS/SRTMGL1_003"
SRTM90_ID = "CGIAR/SRTM90_V4"
NASADEM_ID = "NASA/NASADEM_HGT/001"
CANOPY_ID = "users/nlang/ETH_GlobalCanopyHeight_2020_10m_v1"
CANOPY_SD_ID = "users/nlang/ETH_GlobalCanopyHeightSD_2020_10m_v1"

_TEN_METRES = 1.0 / 12000.0
_ARC_SECOND = 1.0 / 3600.0
_CODES = np.zeros(len(Cover), np.uint8)
for _kind, _code in {
    Cover.WATER: 80, Cover.TREES: 10, Cover.SHRUBS: 20, Cover.GRASS: 30, Cover.CROPS: 40, Cover.BUILT: 50,
    Cover.BARE: 60, Cover.ICE: 70, Cover.WETLAND: 90, Cover.MANGROVE: 95, Cover.MOSS: 100,
}.items():  # fmt: skip
    _CODES[_kind] = _code


def images() -> dict[str, PlanetImage]:
    """The assets that are single images, by id."""
    canopy = Projection(crs="EPSG:4326", transform=(_TEN_METRES, 0.0, -180.0, 0.0, -_TEN_METRES, 84.0))
    aster = Projection(crs="EPSG:4326", transform=(_ARC_SECOND, 0.0, -180.0, 0.0, -_ARC_SECOND, 83.0))
    fine = Projection(crs="EPSG:4326", transform=(_ARC_SECOND, 0.0, -180.0, 0.0, -_ARC_SECOND, 60.0))
    coarse = Projection(crs="EPSG:4326", transform=(3 * _ARC_SECOND, 0.0, -180.0, 0.0, -3 * _ARC_SECOND, 60.0))
    srtm = BandInfo(id="elevation", pixel_type=INT16, projection=fine, dimensions=(1296000, 417600))
    srtm90 = BandInfo(id="elevation", pixel_type=INT16, projection=coarse, dimensions=(432000, 144000))
    return {
        SRTM_ID: _global(SRTM_ID, srtm, _shuttle),
        NASADEM_ID: _global(NASADEM_ID, srtm, _shuttle),
        SRTM90_ID: _global(SRTM90_ID, srtm90, _shuttle),
        ASTER_ID: _global(
            ASTER_ID, BandInfo(id="b1", pixel_type=INT16, projection=aster, dimensions=(1296000, 597600)), _aster
        ),
        CANOPY_ID: _global(
            CANOPY_ID, BandInfo(id="b1", pixel_type=UINT8, projection=canopy, dimensions=(4320000, 1728000)), _canopy
        ),
        CANOPY_SD_ID: _global(
            CANOPY_SD_ID,
            BandInfo(id="b1", pixel_type=UINT8, projection=canopy, dimensions=(4320000, 1728000)),
            _canopy_sd,
        ),
    }


def _global(asset_id: str, band: BandInfo, paint: Painter) -> PlanetImage:
    properties = {"system:index": asset_id.rsplit("/", 1)[1], "synthetic": True}
    footprint = _bounds(band)
    return PlanetImage(lambda: ImageInfo(id=asset_id, bands=(band,), properties=properties, footprint=footprint), paint)


def _bounds(band: BandInfo) -> Any:
    a, _, west, _, e, north = band.projection.transform
    width, height = band.dimensions or (0, 0)
    return box(west, north + e * height, west + a * width, north)


def _aster(bands: tuple[str, ...], request: Request) -> Painted:
    height = elevation(request.frame)
    shore = request.frame.column(Node.SHORE)
    # tiles without any land were never made; sea in tiles with land is zero
    valid = (height > 0.0) | (shore > -20.0)
    return {"b1": (np.rint(np.maximum(height, 0.0)).astype(np.int16), valid)}


def _shuttle(bands: tuple[str, ...], request: Request) -> Painted:
    """Elevation of the shuttle's radar: below the sea where the land is, zero at sea."""
    shore = request.frame.column(Node.SHORE)
    height = elevation(request.frame)
    return {"elevation": (np.rint(np.where(shore > 0.0, height, np.maximum(height, 0.0))).astype(np.int16), None)}


def _gap(request: Request) -> Any:
    """Where the canopy map has no data: a few patches some kilometres wide."""
    frame = request.frame
    x, y, z = frame.position()
    return octave_sum(x, y, z, ((60.0, 1.0, 0.0), (7.0, 0.4, 0.0)), 301) > 0.95


def _canopy(bands: tuple[str, ...], request: Request) -> Painted:
    land = ground(request.frame)
    height = np.clip(land.state[State.CANOPY] + 0.8 * land.state[State.GRAIN] * (land.state[State.CANOPY] > 2), 0, 60)
    valid = (land.cover != Cover.WATER) & ~_gap(request)
    return {"b1": (np.where(valid, np.rint(height), 255).astype(np.uint8), valid)}


def _canopy_sd(bands: tuple[str, ...], request: Request) -> Painted:
    land = ground(request.frame)
    doubt = 1.0 + 0.22 * land.state[State.CANOPY] + 1.2 * np.abs(land.state[State.GRAIN])
    valid = (land.cover != Cover.WATER) & ~_gap(request)
    return {"b1": (np.where(valid, np.clip(np.rint(doubt), 0, 60), 255).astype(np.uint8), valid)}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldCoverCollection:
    """ESA WorldCover: one global image."""

    id: str
    year: int
    properties: Mapping[str, Any] = field(default_factory=lambda: {"synthetic": True})

    def find(self, query: CollectionQuery) -> Iterator[PlanetImage]:
        image = self.image(str(self.year))
        if image is not None and meets(image, query):
            yield image

    def image(self, index: str) -> PlanetImage | None:
        return PlanetImage(self._info, self._paint) if index == str(self.year) else None

    def _info(self) -> ImageInfo:
        projection = Projection(crs="EPSG:4326", transform=(_TEN_METRES, 0.0, -180.0, 0.0, -_TEN_METRES, 84.0))
        band = BandInfo(id="Map", pixel_type=UINT8, projection=projection, dimensions=(4320000, 1728000))
        return ImageInfo(
            id=f"{self.id}/{self.year}",
            bands=(band,),
            properties={
                "system:index": str(self.year),
                "system:time_start": int(seconds(f"{self.year}-01-01") * 1000),
                "system:time_end": int(seconds(f"{self.year + 1}-01-01") * 1000),
                "synthetic": True,
                "Map_class_names": [
                    "Tree cover", "Shrubland", "Grassland", "Cropland", "Built-up", "Bare / sparse vegetation",
                    "Snow and ice",
                    "Permanent water bodies", "Herbaceous wetland", "Mangroves", "Moss and lichen",
                ],
                "Map_class_palette": [
                    "006400", "ffbb22", "ffff4c", "f096ff", "fa0000", "b4b4b4", "f0f0f0", "0064c8", "0096a0",
                    "00cf75", "fae6a0",
                ],
                "Map_class_values": [10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100],
            },
            footprint=_bounds(band),
        )  # fmt: skip

    def _paint(self, bands: tuple[str, ...], request: Request) -> Painted:
        frame = request.frame
        cover = ground(frame).cover
        x, y, z = frame.position()
        doubt = octave_sum(x, y, z, ((0.5, 0.7, 0.0), (0.06, 0.5, 0.0)), 310 + self.year)
        # a map has errors: grass for shrubs or fields, the other way round, in patches
        mapped = np.where((doubt > 0.85) & np.isin(cover, (Cover.SHRUBS, Cover.CROPS)), Cover.GRASS, cover)
        mapped = np.where((doubt < -0.85) & (cover == Cover.GRASS), Cover.SHRUBS, mapped)
        valid = (cover != Cover.WATER) | (frame.column(Node.SHORE) > -60.0)
        return {"Map": (_CODES[mapped], valid)}


def meets(image: PlanetImage, query: CollectionQuery) -> bool:
    """Whether an image with a start time meets a query, index included."""
    info = image.info
    start = info.properties["system:time_start"]
    if query.index is not None and query.index != info.properties["system:index"]:
        return False
    if query.start_ms is not None and start < query.start_ms:
        return False
    if query.end_ms is not None and start >= query.end_ms:
        return False
    return query.region is None or info.footprint is None or bool(info.footprint.intersects(query.region))


@dataclass(frozen=True, slots=True, kw_only=True)
class CopernicusDemCollection:
    """Copernicus GLO-30: tiles of one degree, coarser in longitude towards the poles; none over open sea."""

    id: str = "COPERNICUS/DEM/GLO30_2024_1"
    properties: Mapping[str, Any] = field(default_factory=lambda: {"synthetic": True})

    def find(self, query: CollectionQuery) -> Iterator[PlanetImage]:
        if query.index is not None:
            image = self.image(query.index)
            if image is not None and meets(image, query):
                yield image
            return
        for name in sorted(self._names(query)):
            image = self.image(name)
            if image is not None and meets(image, query):
                yield image

    def image(self, index: str) -> PlanetImage | None:
        corner = _dem_corners().get(index)
        return None if corner is None else PlanetImage(lambda: self._info(index, *corner), _dem)

    def _names(self, query: CollectionQuery) -> list[str]:
        corners = _dem_corners()
        if query.region is None:
            return list(corners)
        names = []
        for part in getattr(query.region, "geoms", [query.region]):
            west, south, east, north = part.bounds
            for lat in range(math.floor(south) - 1, math.floor(north) + 2):
                for lon in range(math.floor(west) - 1, math.floor(east) + 2):
                    name = _dem_name((lon + 180) % 360 - 180, lat)
                    if name in corners:
                        names.append(name)
        return list(dict.fromkeys(names))

    def _info(self, index: str, lon: int, lat: int) -> ImageInfo:
        step = _ARC_SECOND * _dem_stretch(lat)
        width = round(1.0 / step)
        # the centre of the first pixel lies on the corner, as in the originals
        transform = (step, 0.0, lon - step / 2, 0.0, -_ARC_SECOND, lat + 1 + _ARC_SECOND / 2)
        band = BandInfo(
            id="DEM",
            pixel_type=FLOAT,
            projection=Projection(crs="EPSG:4326", transform=transform),
            dimensions=(width, 3600),
        )
        west = max(lon - step / 2, -180.0)
        return ImageInfo(
            id=f"{self.id}/{index}",
            bands=(band,),
            properties={
                "system:index": index,
                "system:time_start": int(seconds("2010-12-12") * 1000),
                "system:time_end": int(seconds("2015-01-16") * 1000),
                "synthetic": True,
            },
            footprint=box(west, lat + _ARC_SECOND / 2, lon - step / 2 + 1, lat + 1 + _ARC_SECOND / 2),
        )


def _dem(bands: tuple[str, ...], request: Request) -> Painted:
    return {"DEM": (np.maximum(elevation(request.frame), np.float32(0.0)), None)}


def _dem_stretch(lat: int) -> float:
    """How many arc seconds wide the pixels of the tile above a latitude are."""
    edge = lat if lat >= 0 else -lat - 1
    for limit, stretch in ((85, 10.0), (80, 5.0), (70, 3.0), (60, 2.0), (50, 1.5)):
        if edge >= limit:
            return stretch
    return 1.0


def _dem_name(lon: int, lat: int) -> str:
    north, east = "N" if lat >= 0 else "S", "E" if lon >= 0 else "W"
    return f"Copernicus_DSM_COG_10_{north}{abs(lat):02d}_00_{east}{abs(lon):03d}_00_DEM"


@functools.cache
def _dem_corners() -> dict[str, tuple[int, int]]:
    """Lower-left corners of the tiles that exist, by index."""
    return {_dem_name(x, y): (x, y) for x, y in land_corners()}


@functools.cache
def land_corners() -> tuple[tuple[int, int], ...]:
    """Lower-left corners (lon, lat) of the tiles of one degree that hold land, or are close to it."""
    lon, lat = (values.ravel() for values in np.meshgrid(np.arange(-180, 180), np.arange(-90, 84)))
    land = np.zeros(lon.size, np.bool_)
    maps = np.empty((lon.size, 9))
    for dx in (0.1, 0.5, 0.9):
        for dy in (0.1, 0.5, 0.9):
            read_maps(coarse_maps(), (lon + dx).astype(np.float64), (lat + dy).astype(np.float64), maps)
            land |= maps[:, 0] > -30.0
    return tuple((int(x), int(y)) for x, y, kept in zip(lon, lat, land, strict=True) if kept)


COLLECTIONS = (
    WorldCoverCollection(id="ESA/WorldCover/v100", year=2020),
    WorldCoverCollection(id="ESA/WorldCover/v200", year=2021),
    CopernicusDemCollection(),
)
