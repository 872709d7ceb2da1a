"""COPERNICUS/S1_GRD (dB) and COPERNICUS/S1_GRD_FLOAT (linear power): bands, metadata and pixels of a slice."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np

from m3etl.emulator.model import BandInfo, CollectionQuery, ImageInfo, Projection
from m3etl.emulator.planet import utm
from m3etl.emulator.planet.frames import Frame, Request
from m3etl.emulator.planet.imagery import DOUBLE, FLOAT, Painted, PlanetImage
from m3etl.emulator.planet.landcover import Bytes, ground, today
from m3etl.emulator.planet.noise import Floats, Singles, smoothstep, uniform
from m3etl.emulator.planet.orbits import DAY_S, stamp
from m3etl.emulator.planet.slices import FAR_DEG, NEAR_DEG, ORBIT, SLICES, Slice, Swath, find_slices, slice_of

POLARISATIONS = {"DV": ("VV", "VH"), "SV": ("VV",), "DH": ("HH", "HV")}
_BORDER = 0.003  # share of the swath at either side whose values make no sense and are masked
_LOOKS = 4
_NEPER_PER_DB = math.log(10.0) / 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentinel1Collection:
    """Sentinel-1 ground range detected, calibrated to sigma nought; `decibel` or linear power."""

    id: str
    decibel: bool
    properties: Mapping[str, Any] = field(default_factory=lambda: {"synthetic": True})

    def find(self, query: CollectionQuery) -> Iterator[PlanetImage]:
        for one in find_slices(query):
            yield self._image(one)

    def image(self, index: str) -> PlanetImage | None:
        one = slice_of(index)
        return None if one is None else self._image(one)

    def _image(self, one: Slice) -> PlanetImage:
        return PlanetImage(lambda: self._info(one), lambda bands, request: self._paint(one, bands, request))

    def _info(self, one: Slice) -> ImageInfo:
        kind = DOUBLE if self.decibel else FLOAT
        swath = one.swath
        grid = Projection(
            crs=utm.crs_of(swath.zone, swath.south), transform=(10.0, 0.0, swath.left, 0.0, -10.0, swath.top)
        )
        bands = [
            BandInfo(id=name, pixel_type=kind, projection=grid, dimensions=(swath.width, swath.height))
            for name in POLARISATIONS[one.polarisation]
        ]
        bands.append(BandInfo(id="angle", pixel_type=FLOAT, projection=_angle_grid(swath), dimensions=(21, 10)))
        return ImageInfo(
            id=f"{self.id}/{one.index}", bands=tuple(bands), properties=_properties(one), footprint=swath.footprint
        )

    def _paint(self, one: Slice, bands: tuple[str, ...], request: Request) -> Painted:
        if bands == ("angle",):
            share = request.column / 20.0
            return {"angle": ((NEAR_DEG + (FAR_DEG - NEAR_DEG) * share).astype(np.float32), None)}
        swath = one.swath
        x = np.asarray(swath.left + 10.0 * (request.column + 0.5), np.float64)
        y = np.asarray(swath.top - 10.0 * (request.row + 0.5), np.float64)
        along, across = swath.where(x, y)
        valid = (along >= 0.0) & (along <= 1.0) & (across >= _BORDER) & (across <= 1.0 - _BORDER)
        incidence = NEAR_DEG + (FAR_DEG - NEAR_DEG) * np.clip(across, 0.0, 1.0)
        out: Painted = {}
        for name in bands:
            power = backscatter(request.frame, one, name, incidence, request.column, request.row)
            out[name] = (10.0 * np.log10(power.astype(np.float64)) if self.decibel else power, valid)
        return out


COLLECTIONS = (
    Sentinel1Collection(id="COPERNICUS/S1_GRD", decibel=True),
    Sentinel1Collection(id="COPERNICUS/S1_GRD_FLOAT", decibel=False),
)


@functools.lru_cache(maxsize=4096)
def _angle_grid(swath: Swath) -> Projection:
    """21 columns from near to far range and 10 rows along the track, so a sheared grid, with nodes on the edges."""
    dx, dy = swath.across[0] / 20.0, swath.across[1] / 20.0
    ex, ey = swath.along[0] / 9.0, swath.along[1] / 9.0
    corner = (swath.origin[0] - 0.5 * (dx + ex), swath.origin[1] - 0.5 * (dy + ey))
    return Projection(crs=utm.crs_of(swath.zone, swath.south), transform=(dx, ex, corner[0], dy, ey, corner[1]))


def _properties(one: Slice) -> dict[str, Any]:
    track = one.swath.track + 1
    heading = math.degrees(math.atan2(one.swath.along[0], one.swath.along[1])) % 360.0
    return {
        "system:index": one.index,
        "system:time_start": one.time_ms,
        "system:time_end": int(one.end_s * 1000.0),
        "system:asset_size": 1_200_000_000,
        "synthetic": True,
        "SNAP_Graph_Processing_Framework_GPF_vers": "6.0.4",
        "acquistionType": "NOMINAL",
        "cycleNumber": 1 + one.revolution // ORBIT.tracks,
        "familyName": "SENTINEL-1",
        "instrumentConfigurationID": 6,
        "instrumentMode": "IW",
        "instrumentSwath": "IW",
        "missionDataTakeID": one.revolution,
        "orbitNumber_start": one.revolution + 1,
        "orbitNumber_stop": one.revolution + 1,
        "orbitProperties_ascendingNodeTime": int((one.start_s - one.swath.number * ORBIT.period_s / SLICES) * 1000.0),
        "orbitProperties_pass": "ASCENDING" if one.ascending else "DESCENDING",
        "platformHeading": round(heading, 6),
        "platform_number": ORBIT.satellites[one.satellite].name,
        "productClass": "S",
        "productClassDescription": "SAR Standard L1 Product",
        "productComposition": "Slice",
        "productTimelinessCategory": "Fast-24h",
        "productType": "GRD",
        "relativeOrbitNumber_start": track,
        "relativeOrbitNumber_stop": track,
        "resolution": "H",
        "resolution_meters": 10,
        "segmentStartTime": stamp(one.start_s),
        "sliceNumber": one.swath.number + 1,
        "totalSlices": SLICES,
        "transmitterReceiverPolarisation": list(POLARISATIONS[one.polarisation]),
    }


def backscatter(
    frame: Frame, one: Slice, band: str, incidence_deg: Floats, column: Any, row: Any, *, flat: bool = False
) -> Singles:
    """Sigma nought in linear power with speckle, (N,) float32 > 0. flat: as if no slope faced the radar."""
    land = ground(frame)
    day = math.floor(one.start_s / DAY_S)
    across = (0.0, 0.0) if flat else one.swath.across
    length = math.hypot(*one.swath.across)
    out = np.empty(frame.size, np.float32)
    seed = (one.revolution * 1009 + one.satellite * 7 + {"VV": 1, "VH": 2, "HH": 3, "HV": 4}[band]) & 0x7FFFFFFF
    wind = ((one.revolution * 37 + one.satellite) % 101) / 101.0
    _scatter(
        land.cover, land.state, today(frame, day), incidence_deg, across[0] / length, across[1] / length,
        band in ("VH", "HV"), wind, seed, column, row, out,
    )  # fmt: skip
    return out


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _scatter(
    cover: Bytes, state: Singles, now: Singles, incidence: Floats, look_east: float, look_north: float,
    cross: bool, wind: float, seed: int, column: Any, row: Any, out: Singles,
) -> None:  # fmt: skip
    """Radar echo of the ground: roughness, moisture and leaves set the level, the slope towards the radar tilts it."""
    for i in range(out.size):
        kind = cover[i]
        leaf, snow, moist = float(now[0, i]), float(now[2, i]), float(now[3, i])
        rough, canopy = float(state[15, i]), float(state[9, i])
        theta = incidence[i]
        tilt = 1.0
        if kind == 0:
            level = (-31.0 if cross else -23.5) + 5.0 * wind + (-0.12 if cross else -0.28) * (theta - 38.0)
            level += snow * (6.0 if cross else 9.0)
        elif kind == 7:
            level = (-17.0 if cross else -9.0) - 0.15 * (theta - 38.0)
        elif kind == 5:
            block = float(state[12, i])
            level = (
                (-13.0 if cross else -6.0) + (9.0 if cross else 11.0) * (block - 0.35) * rough - 4.0 * (block == 0.0)
            )
        else:
            soil = (-27.5 if cross else -18.5) + (5.5 if cross else 7.5) * rough + (1.5 if cross else 4.5) * moist
            soil -= 0.16 * (theta - 38.0)
            if kind == 1 or kind == 9:
                full = (-14.2 if cross else -8.0) + 1.6 * smoothstep(2.0, 22.0, canopy)
                full += (0.9 if kind == 9 else 0.0) - 0.06 * (theta - 38.0)
                share = smoothstep(1.0, 7.0, canopy) * (0.7 + 0.3 * leaf)
            else:
                full = (-17.0 if cross else -11.0) - 0.09 * (theta - 38.0) + (2.0 if kind == 8 else 0.0)
                share = min(1.0, 0.9 * leaf + (0.25 if kind == 2 else 0.0))
            level = soil + share * (full - soil)
            level -= (2.0 if cross else 1.5) * snow * (1.0 - share)
        if kind != 0:
            rise = look_east * state[1, i] + look_north * state[2, i]  # ground rising away from the radar faces it
            sine, cosine = math.sin(math.radians(theta)), math.cos(math.radians(theta))
            facing = max(sine - rise * cosine, 0.09)
            tilt = (sine / facing) * math.sqrt(max(cosine + rise * sine, 0.03) / cosine * math.sqrt(1.0 + rise * rise))
        level += 0.5 * state[14, i]
        product = np.float32(1.0)
        for look in range(_LOOKS):
            product *= uniform(column[i], row[i], seed * 8 + look)
        power = tilt * math.exp(level * _NEPER_PER_DB) * (-math.log(product) / _LOOKS)
        out[i] = max(power + (0.0006 if cross else 0.0008), 1e-5)
