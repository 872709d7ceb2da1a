"""The planet's own RESOLVE/ECOREGIONS/2017: the 14 real biomes and made-up ecoregions, traced from its climate."""

from __future__ import annotations

import functools
import threading
from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt
from shapely.geometry import MultiPolygon, Polygon

from m3etl.emulator.model import SourceTable, TableFeature
from m3etl.emulator.planet.climate import LAPSE_RATE
from m3etl.emulator.planet.frames import Node, climate_fields
from m3etl.emulator.planet.noise import Floats
from m3etl.emulator.planet.terrain import coarse_elevation

TABLE_ID = "RESOLVE/ECOREGIONS/2017"
STEP_DEG = 0.25
_COLUMNS, _ROWS = 1440, 720
_SEED_DEG = 14.0  # distance between the centres of neighbouring ecoregions of one biome
_LEAST_CELLS = 40
_SIEVE_CELLS = 8

BIOMES: tuple[tuple[int, str, str], ...] = (
    # RESOLVE's BIOME_NUM, BIOME_NAME and the last words of our ecoregions
    (1, "Tropical & Subtropical Moist Broadleaf Forests", "moist forests"),
    (2, "Tropical & Subtropical Dry Broadleaf Forests", "dry forests"),
    (3, "Tropical & Subtropical Coniferous Forests", "pine-oak forests"),
    (4, "Temperate Broadleaf & Mixed Forests", "mixed forests"),
    (5, "Temperate Conifer Forests", "conifer forests"),
    (6, "Boreal Forests/Taiga", "taiga"),
    (7, "Tropical & Subtropical Grasslands, Savannas & Shrublands", "savanna"),
    (8, "Temperate Grasslands, Savannas & Shrublands", "steppe"),
    (9, "Flooded Grasslands & Savannas", "flooded grasslands"),
    (10, "Montane Grasslands & Shrublands", "alpine meadows"),
    (11, "Tundra", "tundra"),
    (12, "Mediterranean Forests, Woodlands & Scrub", "sclerophyll woodlands"),
    (13, "Deserts & Xeric Shrublands", "desert"),
    (14, "Mangroves", "mangroves"),
)
_ROCK_AND_ICE = 15  # our own number; the table says BIOME_NUM 11 and BIOME_NAME "N/A" as the real one does
_REALMS = (
    "Nearctic", "Neotropic", "Palearctic", "Afrotropic", "Indomalayan", "Australasia", "Oceania", "Antarctica"
)  # fmt: skip
_FIRST = ("Al", "Bor", "Cal", "Dor", "El", "Fen", "Gal", "Har", "Il", "Kor", "Lum", "Mar", "Nor", "Or", "Pel", "Quel")
_LAST = (
    "andra",
    "avia",
    "erra",
    "esta",
    "idor",
    "ima",
    "inthe",
    "oria",
    "ossa",
    "umbra",
    "una",
    "yssia",
    "ara",
    "enna",
)

_lock = threading.Lock()


def ecoregion_table() -> SourceTable:
    """The table, computed at the first call (under two seconds) and kept."""
    with _lock:
        return _table()


def biome_map() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Biome numbers (0: sea, 15: rock and ice) and realm numbers, (rows, columns) uint8 from 90 N and 180 W."""
    from rasterio.features import sieve

    lat = np.repeat(90.0 - STEP_DEG * (np.arange(_ROWS) + 0.5), _COLUMNS)
    lon = np.tile(-180.0 + STEP_DEG * (np.arange(_COLUMNS) + 0.5), _ROWS)
    near = _near_land(lon, lat)
    nodes = climate_fields(lon[near], lat[near])
    elevation = coarse_elevation(nodes).astype(np.float64)
    flat = np.zeros(lon.size, np.uint8)
    flat[near] = np.where(elevation > 0, _classify(nodes, elevation), 0)
    traced = flat.reshape(_ROWS, _COLUMNS)
    biome = sieve(traced, _SIEVE_CELLS, connectivity=8)
    biome = np.where((traced == 0) | (biome == 0), traced, biome)  # the sieve must not move the coast
    _add_mangroves(biome, near, nodes, elevation)
    return biome, _realms(lon, lat).reshape(_ROWS, _COLUMNS)


def _near_land(lon: Floats, lat: Floats) -> npt.NDArray[np.bool_]:
    from m3etl.emulator.planet.climate import STEP_DEG as COARSE_DEG
    from m3etl.emulator.planet.climate import Coarse, coarse_maps

    row = np.rint((90.0 - lat) / COARSE_DEG).astype(np.int64)
    column = np.rint((lon + 180.0) / COARSE_DEG).astype(np.int64) % 720
    return np.asarray(coarse_maps()[row, column, Coarse.SHORE] > -130.0)


def _classify(nodes: Floats, elevation: Floats) -> npt.NDArray[np.uint8]:
    """RESOLVE's biome number of each node from its climate."""
    lat = np.abs(nodes[:, Node.LAT])
    swing = np.abs(nodes[:, Node.SWING])
    warmth = nodes[:, Node.WARMTH] - LAPSE_RATE * np.maximum(elevation, 0.0)
    hottest, coldest = warmth + swing, warmth - swing
    rain = nodes[:, Node.RAIN] * (1.0 + 0.35 * nodes[:, Node.WET])
    evaporation = 58.93 * 0.5 * (warmth + np.sqrt(warmth**2 + 0.405 * swing**2)) + 15.0
    aridity = np.maximum(rain, 2.0) / evaporation
    summer = nodes[:, Node.SUMMER_RAIN]
    relief = nodes[:, Node.RELIEF]
    tropical = coldest > 11.5
    rules = (
        (hottest < -0.5, _ROCK_AND_ICE),
        ((nodes[:, Node.MARSH] > 0.55) & (elevation < 1300) & (hottest > 12), 9),
        ((hottest < 13.0) & (lat < 50) & (elevation > 1500) & (aridity > 0.12), 10),
        (hottest < 9.8, 11),
        ((nodes[:, Node.PINE] > 0.4) & (elevation > 350) & (aridity > 0.35), 3),
        (aridity < 0.19, 13),
        ((hottest < 17.0) & (coldest < -6.0) & (lat > 48), 6),
        (tropical & (aridity > 1.15), 1),
        (tropical & (aridity > 0.72) & (nodes[:, Node.WET] + 0.6 * summer > 0.25), 2),
        (tropical & (aridity > 0.72), 1),
        (tropical, 7),
        ((summer < -0.35) & (hottest > 14.0) & (aridity < 1.5), 12),
        ((relief > 110) & (warmth < 9.5) & (aridity > 0.55), 5),
        (aridity < 0.62, 8),
        ((coldest > 7.0) & (aridity > 0.9) & (lat < 33), 1),
    )
    return np.select([rule for rule, _ in rules], [number for _, number in rules], 4).astype(np.uint8)


def _add_mangroves(biome: npt.NDArray[np.uint8], near: Any, nodes: Floats, elevation: Floats) -> None:
    """Turns warm, low cells at the sea into mangroves."""
    sea = biome == 0
    shore = sea.copy()
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        shore |= np.roll(sea, step, axis)
    warm = np.zeros(biome.size, np.bool_)
    coldest = nodes[:, Node.WARMTH] - np.abs(nodes[:, Node.SWING])
    warm[near] = (
        (coldest > 17.0)
        & (elevation < 45)
        & (nodes[:, Node.RAIN] > 320)
        & (nodes[:, Node.SHORE] < 30)
        & (nodes[:, Node.RELIEF] < 200)
    )
    biome[shore & ~sea & warm.reshape(biome.shape)] = 14


def _realms(lon: Floats, lat: Floats) -> npt.NDArray[np.uint8]:
    americas = (lon > -170) & (lon < -28)
    return np.select(
        [
            lat < -60,
            americas & (lat > 23),
            (lon < -150) | (lon > 172) & (lat > -30) & (lat < 30),
            americas,
            (lon > 113) & (lat < -10) | (lon > 120) & (lat < -0.5) | (lon > 129) & (lat < 4),
            (lon > 66) & (lat < 27) | (lon > 93) & (lat < 29),
            (lat < 19) & (lon < 60),
        ],
        [7, 0, 6, 1, 5, 4, 3],
        2,
    ).astype(np.uint8)


def _regions(biome: npt.NDArray[np.uint8], realm: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Ecoregion numbers from 1 (0: sea): each biome of each realm cut by its distance to scattered centres."""
    rows, columns = np.nonzero(biome)
    lat = 90.0 - STEP_DEG * (rows + 0.5)
    lon = -180.0 + STEP_DEG * (columns + 0.5)
    band = np.round(lat / _SEED_DEG)
    width = _SEED_DEG / np.maximum(np.cos(np.radians(band * _SEED_DEG)), 0.1)
    wobble = np.sin(lat * 0.9) + np.sin(lon * 0.7)
    place = np.round((lon + wobble) / width + 0.5 * (band % 2)).astype(np.int64) % 64 + 64 * (
        band.astype(np.int64) + 16
    )
    group = realm[rows, columns].astype(np.int64) * 16 + biome[rows, columns]
    group[biome[rows, columns] == _ROCK_AND_ICE] = _ROCK_AND_ICE
    place[biome[rows, columns] == _ROCK_AND_ICE] = 0
    key = group * 4096 + place
    unique, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
    home = np.arange(unique.size)
    largest: dict[int, int] = {}
    for number in np.argsort(-counts, kind="stable"):
        largest.setdefault(int(unique[number] // 4096), int(number))
    for number in np.nonzero(counts < _LEAST_CELLS)[0]:
        home[number] = largest[int(unique[number] // 4096)]
    _, compact = np.unique(home[inverse], return_inverse=True)
    out = np.zeros(biome.shape, np.int32)
    out[rows, columns] = compact + 1
    return out


@functools.cache
def _table() -> SourceTable:
    biome, realm = biome_map()
    regions = _regions(biome, realm)
    parts = _outlines(regions)
    count = int(regions.max())
    flat = regions.ravel()
    first = np.zeros(count + 1, np.int64)
    first[flat[::-1]] = np.arange(flat.size - 1, -1, -1)
    names: set[str] = set()
    features = []
    for number in range(1, count + 1):
        kind, place = int(biome.ravel()[first[number]]), int(realm.ravel()[first[number]])
        geometry = MultiPolygon(parts[number])
        properties = _properties(number, kind, place, names) | {
            "SHAPE_AREA": float(geometry.area),
            "SHAPE_LENG": float(geometry.length),
        }
        features.append(TableFeature(geometry=geometry, properties=properties, id=f"{number:020d}"))
    return SourceTable(id=TABLE_ID, features=tuple(features), properties={"synthetic": True})


def _properties(number: int, kind: int, realm: int, names: set[str]) -> dict[str, Any]:
    if kind == _ROCK_AND_ICE:
        name, biome_number, biome_name, realm_name = "Rock and Ice", 11, "N/A", "N/A"
    else:
        biome_number, biome_name, ending = BIOMES[kind - 1]
        realm_name = _REALMS[realm]
        turn = number * 37
        while (name := f"{_FIRST[turn % 16]}{_LAST[turn // 16 % 14]} {ending}") in names:
            turn += 1
    names.add(name)
    code = "".join(word[0] for word in realm_name.split()) if realm_name == "N/A" else realm_name[:2].upper()
    return {
        "OBJECTID": float(number),
        "ECO_NAME": name,
        "BIOME_NUM": float(biome_number),
        "BIOME_NAME": biome_name,
        "REALM": realm_name,
        "ECO_BIOME_": f"{code}{biome_number:02d}",
        "NNH": 1,
        "ECO_ID": float(number),
        "LICENSE": "synthetic",
        "synthetic": True,
    }


def _outlines(regions: npt.NDArray[np.int32]) -> dict[int, list[Polygon]]:
    """Polygons in degrees of every region, holes included."""
    from rasterio import Affine
    from rasterio.features import shapes

    parts: dict[int, list[Polygon]] = defaultdict(list)
    for shape, value in shapes(regions, mask=regions > 0, transform=Affine(STEP_DEG, 0, -180, 0, -STEP_DEG, 90)):
        rings = [np.asarray(ring) for ring in shape["coordinates"]]
        parts[int(value)].append(Polygon(rings[0], rings[1:]))
    return parts
