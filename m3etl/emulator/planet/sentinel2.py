"""COPERNICUS/S2_SR_HARMONIZED and COPERNICUS/S2_HARMONIZED: bands, metadata, quality layers and pixels of a granule."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from m3etl.emulator.model import BandInfo, CollectionQuery, ImageInfo, PixelType, Projection
from m3etl.emulator.planet import optics
from m3etl.emulator.planet.clouds import Sky, sky
from m3etl.emulator.planet.coverage import ORBIT, Coverage
from m3etl.emulator.planet.frames import Frame, Request
from m3etl.emulator.planet.granules import Granule, find_granules, granule_of
from m3etl.emulator.planet.imagery import UINT8, UINT16, Painted, PlanetImage, chance, hashed
from m3etl.emulator.planet.landcover import Cover, Now, State, ground, today
from m3etl.emulator.planet.noise import Singles
from m3etl.emulator.planet.orbits import seconds, stamp
from m3etl.emulator.planet.tiles import Tile

_GSD = {
    "B1": 60, "B2": 10, "B3": 10, "B4": 10, "B5": 20, "B6": 20, "B7": 20, "B8": 10, "B8A": 20, "B9": 60, "B10": 60,
    "B11": 20, "B12": 20, "AOT": 10, "WVP": 10, "SCL": 20, "TCI_R": 10, "TCI_G": 10, "TCI_B": 10, "MSK_CLDPRB": 20,
    "MSK_SNWPRB": 20, "QA10": 10, "QA20": 20, "QA60": 60, "MSK_CLASSI_OPAQUE": 60, "MSK_CLASSI_CIRRUS": 60,
    "MSK_CLASSI_SNOW_ICE": 60,
}  # fmt: skip
_BYTES = {
    "SCL", "TCI_R", "TCI_G", "TCI_B", "MSK_CLDPRB", "MSK_SNWPRB", "MSK_CLASSI_OPAQUE", "MSK_CLASSI_CIRRUS",
    "MSK_CLASSI_SNOW_ICE",
}  # fmt: skip
_TRUE_COLOUR = {"TCI_R": "B4", "TCI_G": "B3", "TCI_B": "B2"}
_PIXELS = {10: 10980, 20: 5490, 60: 1830}
_QA60_GAP = (seconds("2022-01-25"), seconds("2024-02-28"))
_EUROPE_L2A = seconds("2017-03-28")
_GLOBAL_L2A = seconds("2018-12-13")
_NO_CLOUD_PROBABILITY = 0.06  # share of Level-2A images without MSK_CLDPRB


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentinel2Collection:
    """One level of Sentinel-2: `surface` is Level-2A."""

    id: str
    surface: bool
    properties: Mapping[str, Any] = field(default_factory=lambda: {"synthetic": True})

    def find(self, query: CollectionQuery) -> Iterator[PlanetImage]:
        wanted, earliest_s = (_has_surface, _EUROPE_L2A) if self.surface else (None, 0.0)
        for granule in find_granules(query, wanted, earliest_s):
            yield self._image(granule)

    def image(self, index: str) -> PlanetImage | None:
        granule = granule_of(index, _has_surface if self.surface else None)
        return None if granule is None else self._image(granule)

    def _image(self, granule: Granule) -> PlanetImage:
        return PlanetImage(lambda: self._info(granule), lambda bands, request: self._paint(granule, bands, request))

    def _info(self, granule: Granule) -> ImageInfo:
        return ImageInfo(
            id=f"{self.id}/{granule.index}",
            bands=_named_bands(granule.tile, tuple(self._names(granule))),
            properties=self._properties(granule),
            footprint=granule.coverage.footprint,
        )

    def _names(self, granule: Granule) -> list[str]:
        if not self.surface:
            names = [*optics.BANDS, "QA10", "QA20", "QA60"]
        else:
            names = [name for name in optics.BANDS if name != "B10"]
            names += [
                "AOT",
                "WVP",
                "SCL",
                "TCI_R",
                "TCI_G",
                "TCI_B",
                "MSK_CLDPRB",
                "MSK_SNWPRB",
                "QA10",
                "QA20",
                "QA60",
            ]
            if chance("cloud probability", granule.index) < _NO_CLOUD_PROBABILITY:
                names.remove("MSK_CLDPRB")
        if _QA60_GAP[0] <= granule.time_s < _QA60_GAP[1]:
            names.remove("QA60")
        if granule.time_s >= _QA60_GAP[0]:
            names += ["MSK_CLASSI_OPAQUE", "MSK_CLASSI_CIRRUS", "MSK_CLASSI_SNOW_ICE"]
        return names

    def _properties(self, granule: Granule) -> dict[str, Any]:
        level = "MSIL2A" if self.surface else "MSIL1C"
        tile = granule.tile
        satellite = ORBIT.satellites[granule.satellite].name
        craft = "S2" + satellite[-1]
        track = granule.sighting.track + 1
        baseline = _baseline(granule.time_s)
        made_s = granule.datatake_s + 14_400 + hashed("made", granule.index) % 20_000
        start = stamp(granule.datatake_s)
        absolute = 20 + granule.revolution
        sun = granule.overpass
        clouds = granule.cloud_percentage
        out: dict[str, Any] = {
            "system:index": granule.index,
            "system:time_start": granule.time_ms,
            "system:asset_size": 1_000_000_000 + hashed("size", granule.index) % 700_000_000,
            "synthetic": True,
            "AOT_RETRIEVAL_ACCURACY": 0,
            "CLOUDY_PIXEL_PERCENTAGE": clouds,
            "CLOUD_COVERAGE_ASSESSMENT": clouds,
            "DATASTRIP_ID": f"{craft}_OPER_MSI_{level[3:]}_DS_SGS__{stamp(made_s)}_S{start}_N{baseline}",
            "DATATAKE_IDENTIFIER": f"G{craft}_{start}_{absolute:06d}_N{baseline}",
            "DATATAKE_TYPE": "INS-NOBS",
            "DEGRADED_MSI_DATA_PERCENTAGE": 0,
            "FORMAT_CORRECTNESS": "PASSED",
            "GENERAL_QUALITY": "PASSED",
            "GENERATION_TIME": int(made_s * 1000),
            "GEOMETRIC_QUALITY": "PASSED",
            "GRANULE_ID": f"{level[3:]}_T{tile.name}_A{absolute:06d}_{start}",
            "MEAN_INCIDENCE_AZIMUTH_ANGLE_B4": 100.0 + hashed("azimuth", granule.revolution) % 100 / 10.0,
            "MEAN_INCIDENCE_ZENITH_ANGLE_B4": round(abs(granule.sighting.across_km) / 145.0 * 10.0, 4),
            "MEAN_SOLAR_AZIMUTH_ANGLE": round(sun.sun_azimuth, 6),
            "MEAN_SOLAR_ZENITH_ANGLE": round(sun.sun_zenith, 6),
            "MGRS_TILE": tile.name,
            "PROCESSING_BASELINE": f"{baseline[:2]}.{baseline[2:]}",
            "PRODUCT_ID": f"{craft}_{level}_{start}_N{baseline}_R{track:03d}_T{tile.name}_{stamp(made_s)}",
            "RADIOMETRIC_QUALITY": "PASSED",
            "REFLECTANCE_CONVERSION_CORRECTION": _sun_distance_factor(sun.day_of_year),
            "SENSING_ORBIT_DIRECTION": "DESCENDING",
            "SENSING_ORBIT_NUMBER": track,
            "SENSOR_QUALITY": "PASSED",
            "SPACECRAFT_NAME": satellite,
        }  # fmt: skip
        if self.surface:
            out |= {
                "CLOUD_SHADOW_PERCENTAGE": round(0.18 * clouds * (1 - clouds / 130.0), 6),
                "NODATA_PIXEL_PERCENTAGE": _missing_share(granule),
                "SNOW_ICE_PERCENTAGE": 0.0,
                "THIN_CIRRUS_PERCENTAGE": round(0.1 * clouds, 6),
                "WATER_VAPOUR_RETRIEVAL_ACCURACY": 0,
            }
        return out

    def _paint(self, granule: Granule, bands: tuple[str, ...], request: Request) -> Painted:
        gsd = _GSD[bands[0]]
        valid = granule.coverage.inside(request.column, request.row, float(gsd))
        wanted = [_TRUE_COLOUR.get(name, name) for name in bands]
        numbers = tuple(dict.fromkeys(optics.BANDS.index(name) for name in wanted if name in optics.BANDS))
        spectral: dict[str, Any] = {}
        if numbers:
            layers = optics.reflectance(
                request.frame, granule.overpass, numbers, request.column, request.row, top=not self.surface
            )
            spectral = {optics.BANDS[number]: layer for number, layer in zip(numbers, layers, strict=True)}
        out: Painted = {}
        for name, source in zip(bands, wanted, strict=True):
            if name in spectral:
                out[name] = (spectral[name], valid)
            elif source in spectral:
                out[name] = (np.clip(spectral[source] / 12.0, 1, 255).astype(np.uint8), valid)
            else:
                out[name] = (quality_layer(name, request.frame, granule), valid)
        return out


COLLECTIONS = (
    Sentinel2Collection(id="COPERNICUS/S2_SR_HARMONIZED", surface=True),
    Sentinel2Collection(id="COPERNICUS/S2_HARMONIZED", surface=False),
)


@functools.lru_cache(maxsize=4096)
def _bands_of(crs: str, left: float, top: float) -> dict[str, BandInfo]:
    out = {}
    for name, gsd in _GSD.items():
        size = _PIXELS[gsd]
        kind: PixelType = UINT8 if name in _BYTES else UINT16
        if name.startswith("QA20"):
            kind = PixelType.of("uint32")
        projection = Projection(crs=crs, transform=(float(gsd), 0.0, left, 0.0, -float(gsd), top))
        out[name] = BandInfo(id=name, pixel_type=kind, projection=projection, dimensions=(size, size))
    return out


@functools.lru_cache(maxsize=4096)
def _named_bands(tile: Tile, names: tuple[str, ...]) -> tuple[BandInfo, ...]:
    bands = _bands_of(tile.crs, tile.left, tile.top)
    return tuple(bands[name] for name in names)


def tile_bands(granule: Granule) -> dict[str, BandInfo]:
    """Every band of a granule's tile by name."""
    return _bands_of(granule.tile.crs, granule.tile.left, granule.tile.top)


def _has_surface(tile: Tile, time_s: float) -> bool:
    """Whether Level-2A exists: in Europe from March 2017, everywhere from December 2018."""
    european = -12.0 < tile.lon < 40.0 and 34.0 < tile.lat < 72.0
    return time_s >= (_EUROPE_L2A if european else _GLOBAL_L2A)


def _sun_distance_factor(day_of_year: float) -> float:
    return round(1.0 + 0.0334 * math.cos(2 * math.pi * (day_of_year - 3) / 365.25), 6)


def _baseline(time_s: float) -> str:
    for first, number in (
        ("2022-01-25", "0400"),
        ("2021-03-30", "0300"),
        ("2019-07-08", "0213"),
        ("2018-11-06", "0211"),
    ):
        if time_s >= seconds(first):
            return number
    return "0206"


def _missing_share(granule: Granule) -> float:
    return _outside_share(granule.coverage)


@functools.lru_cache(maxsize=16384)
def _outside_share(coverage: Coverage) -> float:
    at = np.arange(50)
    column, row = (values.ravel() for values in np.meshgrid(at, at))
    inside = coverage.inside(column, row, 109_800.0 / 50)
    return 0.0 if inside is None else round(float(100.0 * (1.0 - inside.mean())), 6)


def quality_layer(name: str, frame: Frame, granule: Granule) -> Any:
    """One quality layer at the pixels of a frame, in the band's own dtype."""
    above = sky(frame, granule.overpass)
    if name == "SCL":
        return _scene_classes(frame, granule, above)
    if name == "MSK_CLDPRB":
        return np.clip(100.0 * above.cloud + 25.0 * above.cirrus, 0, 100).astype(np.uint8)
    if name == "MSK_SNWPRB":
        return np.clip(100.0 * today(frame, granule.overpass.day)[Now.SNOW] * (1.0 - above.cloud), 0, 100).astype(
            np.uint8
        )
    if name == "QA60":
        return ((above.cloud > 0.5) * 1024 + ((above.cirrus > 0.22) & (above.cloud <= 0.5)) * 2048).astype(np.uint16)
    if name == "MSK_CLASSI_OPAQUE":
        return (above.cloud > 0.5).astype(np.uint8)
    if name == "MSK_CLASSI_CIRRUS":
        return ((above.cirrus > 0.22) & (above.cloud <= 0.5)).astype(np.uint8)
    if name == "MSK_CLASSI_SNOW_ICE":
        return ((today(frame, granule.overpass.day)[Now.SNOW] > 0.5) & (above.cloud <= 0.5)).astype(np.uint8)
    if name == "AOT":
        return np.clip(60.0 + 180.0 * above.cirrus + 120.0 * above.cloud + granule.revolution % 90, 0, 65535).astype(
            np.uint16
        )
    if name == "WVP":
        warmth = ground(frame).state[State.WARMTH]
        return np.clip(300.0 + 110.0 * np.maximum(warmth + 8.0, 0.0) * (1.0 - 0.3 * above.cloud), 0, 65535).astype(
            np.uint16
        )
    return np.zeros(frame.size, tile_bands(granule)[name].pixel_type.dtype)


def _scene_classes(frame: Frame, granule: Granule, above: Sky) -> Any:
    """Sen2Cor's classes: 2 dark, 3 shadow, 4 plants, 5 bare, 6 water, 7 unclassified, 8 9 cloud, 10 cirrus, 11 snow."""
    cover = ground(frame).cover
    now = today(frame, granule.overpass.day)
    leaf: Singles = now[Now.LEAF]
    classes = np.where(leaf > 0.32, 4, 5)
    classes = np.where((leaf > 0.2) & (leaf <= 0.32), 7, classes)
    classes = np.where(cover == Cover.WATER, 6, classes)
    classes = np.where(now[Now.SNOW] > 0.5, 11, classes)
    light = optics.light(frame, granule.overpass)
    classes = np.where((light < 0.35) & (classes != 6), 2, classes)
    classes = np.where(above.shadow > 0.45, 3, classes)
    classes = np.where(above.cirrus > 0.22, 10, classes)
    classes = np.where(above.cloud > 0.25, 7, classes)
    classes = np.where(above.cloud > 0.45, 8, classes)
    return np.where(above.cloud > 0.8, 9, classes).astype(np.uint8)
