"""Global maps with one image a year: above-ground biomass, built-up surface, MODIS vegetation, PALSAR-2 mosaics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from shapely.geometry import box

from m3etl.emulator.model import BandInfo, CollectionQuery, ImageInfo, PixelType, Projection
from m3etl.emulator.planet.frames import Request, octave_sum
from m3etl.emulator.planet.imagery import UINT8, UINT16, Painted, PlanetImage
from m3etl.emulator.planet.landcover import Cover, Ground, State, ground
from m3etl.emulator.planet.noise import Singles
from m3etl.emulator.planet.orbits import seconds
from m3etl.emulator.planet.static import meets

YearPainter = Callable[[int, tuple[str, ...], Request], Painted]


@dataclass(frozen=True, slots=True, kw_only=True)
class YearlyMaps:
    """One global image for each of some years; `index` writes a year as the collection's index, `first_day` starts it.

    footprint: lon/lat degrees (west, south, east, north) that the grid covers.
    """

    id: str
    years: tuple[int, ...]
    bands: Mapping[str, PixelType]
    grid: Projection
    size: tuple[int, int]
    bounds: tuple[float, float, float, float]
    paint: YearPainter
    index: str = "{year}"
    first_day: str = "{year}-01-01"
    properties: Mapping[str, Any] = field(default_factory=lambda: {"synthetic": True})

    def find(self, query: CollectionQuery) -> Iterator[PlanetImage]:
        for year in self.years:
            image = self._image(year)
            if meets(image, query):
                yield image

    def image(self, index: str) -> PlanetImage | None:
        return next((self._image(year) for year in self.years if self.index.format(year=year) == index), None)

    def _image(self, year: int) -> PlanetImage:
        return PlanetImage(lambda: self._info(year), lambda bands, request: self.paint(year, bands, request))

    def _info(self, year: int) -> ImageInfo:
        index = self.index.format(year=year)
        return ImageInfo(
            id=f"{self.id}/{index}",
            bands=tuple(
                BandInfo(id=name, pixel_type=kind, projection=self.grid, dimensions=self.size)
                for name, kind in self.bands.items()
            ),
            properties={
                "system:index": index,
                "system:time_start": int(seconds(self.first_day.format(year=year)) * 1000),
                "system:time_end": int(seconds(self.first_day.format(year=year + 1)) * 1000),
                "synthetic": True,
            },
            footprint=box(*self.bounds),
        )


def _biomass_of(land: Ground) -> Singles:
    """Dry matter above ground in Mg/ha: grows faster than the height of the trees."""
    canopy = land.state[State.CANOPY]
    woody = np.isin(land.cover, (Cover.SHRUBS, Cover.WETLAND)) * 6.0
    return np.asarray(0.9 * canopy**1.55 + woody * land.state[State.GREEN], np.float32)


def _paint_biomass(year: int, bands: tuple[str, ...], request: Request) -> Painted:
    land = ground(request.frame)
    growth = 1.0 + 0.01 * (year - 2020)
    agb = np.clip(np.rint(growth * _biomass_of(land) * (1.0 + 0.1 * land.state[State.GRAIN])), 0, 10_000)
    doubt = np.rint(4.0 + 0.35 * agb)
    # The map ends at the shore; where nothing grows it is zero, with no doubt.
    land_only = land.cover != Cover.WATER
    layers = {"agb": agb, "agb_sd": np.where(agb > 0, doubt, 0)}
    return {name: (layers[name].astype(np.uint16), land_only) for name in bands}


def _paint_built(year: int, bands: tuple[str, ...], request: Request) -> Painted:
    """Square metres of buildings in a cell of one hectare; 0 in the open, masked at sea."""
    land = ground(request.frame)
    grown = min(1.0, 0.45 + 0.0125 * (year - 1975))
    share = np.where(land.cover == Cover.BUILT, 0.25 + 0.5 * np.abs(land.state[State.GRAIN]), 0.0) * grown
    built = np.clip(np.rint(10_000 * share), 0, 10_000)
    industry = np.where(land.state[State.PHASE] > 0.75, np.rint(0.6 * built), 0)
    layers = {"built_surface": built, "built_surface_nres": industry}
    return {name: (layers[name].astype(np.uint16), land.cover != Cover.WATER) for name in bands}


_vegetation_bands = (
    "Percent_Tree_Cover", "Percent_NonTree_Vegetation", "Percent_NonVegetated", "Quality", "Percent_Tree_Cover_SD",
    "Percent_NonVegetated_SD", "Cloud",
)  # fmt: skip


def _paint_vegetation(year: int, bands: tuple[str, ...], request: Request) -> Painted:
    """Percentages that sum to 100; 200 over water and 253 where there is no data, both unmasked, as in MOD44B."""
    frame = request.frame
    land = ground(frame)
    x, y, z = frame.position()
    change = 0.06 * octave_sum(x, y, z, ((0.9, 1.0, 0.0),), 7_100 + year % 97)
    trees = np.clip(np.rint(100 * (np.minimum(land.state[State.CANOPY] / 32.0, 0.82) + change)), 0, 100)
    green = np.clip(100 * land.state[State.GREEN], 0, 100 - trees)
    herbs = np.rint(np.where(land.cover == Cover.TREES, 0.8, 1.0) * green)
    layers = {
        "Percent_Tree_Cover": trees,
        "Percent_NonTree_Vegetation": herbs,
        "Percent_NonVegetated": 100 - trees - herbs,
        "Quality": np.zeros(frame.size),
        "Percent_Tree_Cover_SD": np.rint(2 + 0.15 * trees),
        "Percent_NonVegetated_SD": np.rint(2 + 0.1 * (100 - trees)),
        "Cloud": np.zeros(frame.size),
    }
    water = land.cover == Cover.WATER
    unknown = octave_sum(x, y, z, ((45.0, 1.0, 0.0), (6.0, 0.4, 0.0)), 7_000 + year % 97) > 1.15
    painted: Painted = {}
    for name in bands:
        values = np.where(unknown, 253, np.where(water, 200, layers[name])) if "Percent" in name else layers[name]
        painted[name] = (values.astype(np.uint8), None)
    return painted


_wood_db = {Cover.TREES: -7.0, Cover.MANGROVE: -8.0, Cover.SHRUBS: -11.0, Cover.BUILT: -4.0, Cover.WATER: -24.0}


def _paint_palsar(year: int, bands: tuple[str, ...], request: Request) -> Painted:
    """Digital numbers of L-band gamma nought: dB = 10 log10(DN^2) - 83."""
    frame = request.frame
    land = ground(frame)
    base = np.full(len(Cover), -13.0)
    for kind, level in _wood_db.items():
        base[kind] = level
    speckle = 0.6 * land.state[State.GRAIN]
    hh = base[land.cover] + 0.08 * land.state[State.CANOPY] + 2.0 * land.state[State.ROUGH] + speckle
    hv = hh - 8.0 + 0.11 * np.minimum(land.state[State.CANOPY], 30) + 0.01 * (year - 2017)
    layers = {name: np.rint(np.sqrt(10 ** ((level + 83.0) / 10.0))) for name, level in (("HH", hh), ("HV", hv))}
    layers |= {"angle": np.full(frame.size, 38.0), "qa": np.where(land.cover == Cover.WATER, 50, 255)}
    return {name: (np.clip(layers[name], 0, 65535).astype(np.uint16), None) for name in bands}


def _degrees(step: float, west: float, north: float) -> Projection:
    return Projection(crs="EPSG:4326", transform=(step, 0.0, west, 0.0, -step, north))


_sinusoidal_m = 231.65635826395825

COLLECTIONS = (
    YearlyMaps(
        id="ESA/CCI/Above_Ground_Biomass/V6_0",
        years=(2007, 2010, *range(2015, 2023)),
        bands={"agb": UINT16, "agb_sd": UINT16},
        grid=_degrees(1.0 / 1125.0, -180.0, 80.0),
        size=(405_000, 157_500),
        bounds=(-180.0, -60.0, 180.0, 80.0),
        paint=_paint_biomass,
    ),
    YearlyMaps(
        id="JRC/GHSL/P2023A/GHS_BUILT_S",
        years=tuple(range(1975, 2031, 5)),
        bands={"built_surface": UINT16, "built_surface_nres": UINT16},
        grid=Projection(crs="ESRI:54009", transform=(100.0, 0.0, -18_041_000.0, 0.0, -100.0, 9_000_000.0)),
        size=(360_820, 180_000),
        bounds=(-180.0, -89.0, 180.0, 89.0),
        paint=_paint_built,
    ),
    YearlyMaps(
        id="MODIS/061/MOD44B",
        years=tuple(range(2000, 2025)),
        bands=dict.fromkeys(_vegetation_bands, UINT8),
        grid=Projection(
            crs="SR-ORG:6974",
            transform=(_sinusoidal_m, 0.0, -20_015_109.354, 0.0, -_sinusoidal_m, 10_007_554.677),
        ),
        size=(172_800, 86_400),
        bounds=(-180.0, -90.0, 180.0, 90.0),
        paint=_paint_vegetation,
        index="{year}_03_05",
        first_day="{year}-03-05",
    ),
    YearlyMaps(
        id="JAXA/ALOS/PALSAR/YEARLY/SAR_EPOCH",
        years=tuple(range(2015, 2023)),
        bands={"HH": UINT16, "HV": UINT16, "angle": UINT16, "qa": UINT16},
        grid=_degrees(1.0 / 4500.0, -180.0, 85.0),
        size=(1_620_000, 765_000),
        bounds=(-180.0, -85.0, 180.0, 85.0),
        paint=_paint_palsar,
    ),
)
