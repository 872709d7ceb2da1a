"""ECMWF/ERA5_LAND/MONTHLY_AGGR: one image a month from the climate of the planet."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from shapely.geometry import box

from m3etl.emulator.model import BandInfo, CollectionQuery, ImageInfo, Projection
from m3etl.emulator.planet.climate import LAPSE_RATE
from m3etl.emulator.planet.frames import Node, Request, octave_sum
from m3etl.emulator.planet.imagery import FLOAT, Painted, PlanetImage
from m3etl.emulator.planet.noise import Floats, Singles
from m3etl.emulator.planet.terrain import coarse_elevation

BANDS = ("temperature_2m", "temperature_2m_min", "temperature_2m_max", "total_precipitation_sum")
_FIRST_YEAR, _LAST_YEAR = 2015, 2025
_GRID = Projection(crs="EPSG:4326", transform=(0.1, 0.0, -180.05, 0.0, -0.1, 90.05))
_SHORE_KM = 3.0  # cells whose middle is nearer to the sea, and islands smaller than a cell, are masked


@dataclass(frozen=True, slots=True, kw_only=True)
class Era5Collection:
    """Monthly ERA5-Land: temperatures in kelvin, precipitation in metres a month."""

    id: str = "ECMWF/ERA5_LAND/MONTHLY_AGGR"
    properties: Mapping[str, Any] = field(default_factory=lambda: {"synthetic": True})

    def find(self, query: CollectionQuery) -> Iterator[PlanetImage]:
        if query.region is not None and query.region.is_empty:
            return
        for year in range(_FIRST_YEAR, _LAST_YEAR + 1):
            for month in range(1, 13):
                start = _start_ms(year, month)
                if query.index is not None and query.index != f"{year}{month:02d}":
                    continue
                if query.start_ms is not None and start < query.start_ms:
                    continue
                if query.end_ms is not None and start >= query.end_ms:
                    return
                yield self._image(year, month)

    def image(self, index: str) -> PlanetImage | None:
        if len(index) != 6 or not index.isdigit():
            return None
        year, month = int(index[:4]), int(index[4:])
        if not (_FIRST_YEAR <= year <= _LAST_YEAR and 1 <= month <= 12):
            return None
        return self._image(year, month)

    def _image(self, year: int, month: int) -> PlanetImage:
        return PlanetImage(lambda: self._info(year, month), lambda bands, request: _paint(year, month, bands, request))

    def _info(self, year: int, month: int) -> ImageInfo:
        return ImageInfo(
            id=f"{self.id}/{year}{month:02d}",
            bands=tuple(
                BandInfo(id=name, pixel_type=FLOAT, projection=_GRID, dimensions=(3601, 1801)) for name in BANDS
            ),
            properties={
                "system:index": f"{year}{month:02d}",
                "system:time_start": _start_ms(year, month),
                "system:time_end": _start_ms(year + month // 12, month % 12 + 1),
                "year": year,
                "month": month,
                "synthetic": True,
            },
            footprint=box(-180.0, -90.0, 180.0, 90.0),
        )


def _start_ms(year: int, month: int) -> int:
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp() * 1000)


def _paint(year: int, month: int, bands: tuple[str, ...], request: Request) -> Painted:
    nodes = request.frame.nodes  # at 0.1 degrees every pixel is its own node
    height = coarse_elevation(nodes)
    valid = (nodes[:, Node.SHORE] > _SHORE_KM) & (height > 0.0)
    layers = month_fields(nodes, height, year, month)
    return {name: (layers[name], valid) for name in bands}


def month_fields(nodes: Floats, height: Singles, year: int, month: int) -> dict[str, Singles]:
    """The four bands at nodes, (M,) float32 each: climate of the month plus the weather of that year."""
    season = math.cos(2.0 * math.pi * (30.4 * (month - 0.5) - 200.0) / 365.25)
    x, y, z = nodes[:, Node.X], nodes[:, Node.Y], nodes[:, Node.Z]
    weather = octave_sum(x, y, z, ((2200.0, 1.0, 0.0), (600.0, 0.4, 0.0)), 8_000 + year * 12 + month)
    swing = nodes[:, Node.SWING]
    local = np.where(swing >= 0, season, -season)
    mean = nodes[:, Node.WARMTH] - LAPSE_RATE * np.maximum(height, 0.0) + np.abs(swing) * local + 1.6 * weather
    rain = nodes[:, Node.RAIN] * (1.0 + 0.35 * nodes[:, Node.WET])
    monthly = rain / 12.0 * np.maximum(1.0 + 0.9 * nodes[:, Node.SUMMER_RAIN] * local, 0.03) * np.exp(0.6 * weather)
    dry = np.exp(-rain / 900.0)
    daily = 6.0 + 8.0 * dry
    layers = {
        "temperature_2m": mean + 273.15,
        "temperature_2m_min": mean - daily - 4.0 + 273.15,
        "temperature_2m_max": mean + daily + 4.0 + 273.15,
        "total_precipitation_sum": np.maximum(monthly, 0.05) / 1000.0,
    }
    return {name: values.astype(np.float32) for name, values in layers.items()}
