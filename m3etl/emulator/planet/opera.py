"""OPERA/RTC/L2_V1/S1: one image for each burst of Sentinel-1, terrain-corrected gamma nought in linear power at 30 m,
with the mask of layover and shadow.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import shapely
from shapely.geometry import Polygon

from m3etl.emulator.model import BandInfo, CollectionQuery, ImageInfo, Projection
from m3etl.emulator.planet import utm
from m3etl.emulator.planet.frames import Request
from m3etl.emulator.planet.imagery import FLOAT, UINT8, Painted, PlanetImage
from m3etl.emulator.planet.landcover import Cover, State, ground
from m3etl.emulator.planet.orbits import seconds, stamp
from m3etl.emulator.planet.sentinel1 import POLARISATIONS, backscatter
from m3etl.emulator.planet.slices import (
    FAR_DEG,
    NEAR_DEG,
    ORBIT,
    SLICES,
    Slice,
    Swath,
    find_slices,
    slice_near,
)
from m3etl.emulator.planet.static import meets
from m3etl.emulator.planet.tiles import lonlat_polygon

BURSTS, SUBSWATHS = 9, 3
_PIXEL_M = 30.0
_FIRST_S = seconds("2016-04-14")
_OVERLAP = 0.06  # of a burst with its neighbours
_INDEX = re.compile(r"OPERA_L2_RTC-S1_T(\d{3})-(\d{6})-IW([123])_(\d{8}T\d{6})Z_\d{8}T\d{6}Z_S1([ABC])_30_v1_0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """A part of a slice: number along the track (0 to 8) and subswath from near to far range (1 to 3)."""

    one: Slice
    number: int
    subswath: int

    @property
    def start_s(self) -> float:
        return self.one.start_s + self.number * ORBIT.period_s / SLICES / BURSTS

    @property
    def index(self) -> str:
        swath = self.one.swath
        name = ORBIT.satellites[self.one.satellite].name
        burst = swath.number * BURSTS + self.number
        made = stamp(self.start_s + 2 * 86_400.0)
        return (
            f"OPERA_L2_RTC-S1_T{swath.track + 1:03d}-{burst:06d}-IW{self.subswath}_{stamp(self.start_s)}Z_{made}Z"
            f"_S1{name}_30_v1_0"
        )

    @property
    def area(self) -> Area:
        swath = self.one.swath
        return _area(swath.track, swath.number, self.number, self.subswath, swath)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Area:
    """Where a burst lies: shares of the slice along and across, its grid in the slice's zone, its outline."""

    along: tuple[float, float]
    across: tuple[float, float]
    left: float
    top: float
    width: int
    height: int
    footprint: Any


@functools.lru_cache(maxsize=8192)
def _area(track: int, slice_number: int, number: int, subswath: int, swath: Swath) -> Area:
    along = ((number - _OVERLAP) / BURSTS, (number + 1 + _OVERLAP) / BURSTS)
    across = ((subswath - 1 - _OVERLAP) / SUBSWATHS, (subswath + _OVERLAP) / SUBSWATHS)
    along, across = (max(along[0], 0.0), min(along[1], 1.0)), (max(across[0], 0.0), min(across[1], 1.0))
    corners = np.array(
        [
            [swath.origin[i] + s * swath.along[i] + t * swath.across[i] for i in (0, 1)]
            for s, t in ((along[0], across[0]), (along[1], across[0]), (along[1], across[1]), (along[0], across[1]))
        ]
    )
    left, top = (math.floor(corners[:, 0].min() / _PIXEL_M), math.ceil(corners[:, 1].max() / _PIXEL_M))
    ring = np.asarray(shapely.segmentize(Polygon(corners), 20_000.0).exterior.coords)
    return Area(
        along=along,
        across=across,
        left=left * _PIXEL_M,
        top=top * _PIXEL_M,
        width=math.ceil(corners[:, 0].max() / _PIXEL_M) - left,
        height=top - math.floor(corners[:, 1].min() / _PIXEL_M),
        footprint=lonlat_polygon(swath.zone, swath.south, ring[:, 0], ring[:, 1]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OperaCollection:
    """Bursts from April 2016 on, with the polarisations of their slice."""

    id: str = "OPERA/RTC/L2_V1/S1"
    properties: Mapping[str, Any] = field(default_factory=lambda: {"synthetic": True})

    def find(self, query: CollectionQuery) -> Iterator[PlanetImage]:
        if query.index is not None:
            one = self.image(query.index)
            if one is not None and meets(one, query):
                yield one
            return
        longest_ms = int(ORBIT.period_s / SLICES * 1000) + 1
        start = None if query.start_ms is None else query.start_ms - longest_ms
        for found in find_slices(replace(query, start_ms=start)):
            if found.start_s < _FIRST_S:
                continue
            for number in range(BURSTS):
                for subswath in range(1, SUBSWATHS + 1):
                    image = self._image(Burst(one=found, number=number, subswath=subswath))
                    if meets(image, query):
                        yield image

    def image(self, index: str) -> PlanetImage | None:
        match = _INDEX.fullmatch(index)
        if match is None:
            return None
        slice_number, number = divmod(int(match.group(2)), BURSTS)
        try:
            time_s = seconds(match.group(4))
        except ValueError:
            return None
        start_s = time_s - number * ORBIT.period_s / SLICES / BURSTS
        found = slice_near(int(match.group(1)) - 1, slice_number, start_s)
        if found is None or found.start_s < _FIRST_S:
            return None
        burst = Burst(one=found, number=number, subswath=int(match.group(3)))
        return self._image(burst) if burst.index == index else None

    def _image(self, burst: Burst) -> PlanetImage:
        return PlanetImage(lambda: self._info(burst), lambda bands, request: _paint(burst, bands, request))

    def _info(self, burst: Burst) -> ImageInfo:
        one, area = burst.one, burst.area
        grid = Projection(
            crs=utm.crs_of(one.swath.zone, one.swath.south),
            transform=(_PIXEL_M, 0.0, area.left, 0.0, -_PIXEL_M, area.top),
        )
        names = {**dict.fromkeys(POLARISATIONS[one.polarisation], FLOAT), "mask": UINT8}
        return ImageInfo(
            id=f"{self.id}/{burst.index}",
            bands=tuple(
                BandInfo(id=name, pixel_type=kind, projection=grid, dimensions=(area.width, area.height))
                for name, kind in names.items()
            ),
            properties={
                "system:index": burst.index,
                "system:time_start": int(burst.start_s * 1000.0),
                "system:time_end": int((burst.start_s + ORBIT.period_s / SLICES / BURSTS) * 1000.0),
                "synthetic": True,
                "BURST_ID": burst.index[16:31],
                "ORBIT_PASS_DIRECTION": "ascending" if one.ascending else "descending",
                "TRACK_NUMBER": one.swath.track + 1,
            },
            footprint=area.footprint,
        )


def _paint(burst: Burst, bands: tuple[str, ...], request: Request) -> Painted:
    """Gamma nought masked outside the burst; `mask`: 0 valid, 1 shadow, 2 layover, 3 both, 255 outside, unmasked."""
    swath, area = burst.one.swath, burst.area
    x = np.asarray(area.left + _PIXEL_M * (request.column + 0.5), np.float64)
    y = np.asarray(area.top - _PIXEL_M * (request.row + 0.5), np.float64)
    along, across = swath.where(x, y)
    inside = (along >= area.along[0]) & (along <= area.along[1])
    inside &= (across >= area.across[0]) & (across <= area.across[1])
    incidence = NEAR_DEG + (FAR_DEG - NEAR_DEG) * np.clip(across, 0.0, 1.0)
    painted: Painted = {}
    for name in bands:
        if name == "mask":
            painted[name] = (np.where(inside, _mask(swath, request, incidence), 255).astype(np.uint8), None)
            continue
        power = backscatter(request.frame, burst.one, name, incidence, request.column, request.row, flat=True)
        painted[name] = ((power / np.cos(np.radians(incidence))).astype(np.float32), inside)
    return painted


def _mask(swath: Swath, request: Request, incidence_deg: Any) -> Any:
    land = ground(request.frame)
    length = math.hypot(*swath.across)
    rise = (swath.across[0] * land.state[State.SLOPE_EAST] + swath.across[1] * land.state[State.SLOPE_NORTH]) / length
    steep = np.where(land.cover == Cover.WATER, 0.0, np.degrees(np.arctan(rise)))
    return np.where(-steep > 90.0 - incidence_deg, 1, 0) + np.where(steep > incidence_deg, 2, 0)


COLLECTIONS = (OperaCollection(),)
