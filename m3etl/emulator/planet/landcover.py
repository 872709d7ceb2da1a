"""What covers the ground: class and state of every pixel (plants, canopy, soil, fields, buildings), from which every
sensor is modelled, and how it changes with the seasons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from m3etl.emulator.planet.climate import LAPSE_RATE, season
from m3etl.emulator.planet.frames import Frame, Node, octave_sum
from m3etl.emulator.planet.noise import Floats, Singles, mix, smoothstep, uniform
from m3etl.emulator.planet.terrain import slopes

Bytes = npt.NDArray[np.uint8]


class Cover(IntEnum):
    """Classes of the ground."""

    WATER = 0
    TREES = 1
    SHRUBS = 2
    GRASS = 3
    CROPS = 4
    BUILT = 5
    BARE = 6
    ICE = 7
    WETLAND = 8
    MANGROVE = 9
    MOSS = 10


class State:
    """Rows of the continuous state, each (N,) float32."""

    ELEVATION, SLOPE_EAST, SLOPE_NORTH = 0, 1, 2
    WARMTH, SWING = 3, 4
    """Annual mean and half yearly range of the temperature in degrees C, lapse rate applied."""
    ARIDITY = 5
    """Rain over potential evaporation: below 0.2 desert, above 1 humid."""
    SUMMER_RAIN = 6
    GREEN = 7
    """Share of the ground that plants cover at their best, 0 to 1."""
    EVERGREEN = 8
    CANOPY = 9
    """Height of trees in metres."""
    BRIGHT = 10
    """Brightness of the soil, 0 to 1."""
    RED = 11
    """Iron in the soil, 0 to 1."""
    PHASE = 12
    """Crops: day of the year of the peak; built: number of the block, 0 to 1."""
    MURKY = 13
    """Turbidity of water, 0 to 1."""
    GRAIN = 14
    """Fine texture, about [-1, 1]."""
    ROUGH = 15
    """Roughness of the ground, 0 to 1."""
    COUNT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The ground at the pixels of a frame: `cover` (N,) uint8 of `Cover`, `state` (State.COUNT, N) float32."""

    cover: Bytes
    state: Singles


def ground(frame: Frame) -> Ground:
    """The ground of a frame, made once per frame."""
    return frame.keep("ground", lambda: _make(frame))  # type: ignore[no-any-return]


def _make(frame: Frame) -> Ground:
    state = np.empty((State.COUNT, frame.size), np.float32)
    cover = np.empty(frame.size, np.uint8)
    state[State.ELEVATION], state[State.SLOPE_EAST], state[State.SLOPE_NORTH] = slopes(frame)
    x, y, z = frame.position()
    patch = octave_sum(x, y, z, ((0.38, 0.4, 0.0), (0.12, 0.3, 0.0)), 58)
    state[State.GRAIN] = octave_sum(x, y, z, ((0.032, 1.0, 0.0),), 81)
    _cover(frame.nodes, frame.corners, frame.u, frame.v, patch, cover, state)
    return Ground(cover=cover, state=state)


_INPUTS = np.array(
    [
        Node.LON, Node.LAT, Node.SHORE, Node.WARMTH, Node.SWING, Node.RAIN, Node.SUMMER_RAIN, Node.MARSH,
        Node.RIVERS, Node.PEOPLE, Node.TOWNS, Node.SOIL, Node.WET, Node.PATCH,
    ]
)  # fmt: skip

_PARCEL_DEG = 0.0019
_BLOCK_DEG = 0.00032
_STREET_DEG = 0.0016


@numba.njit(inline="always")
def potential_evaporation(warmth: Any, swing: Any) -> Any:
    """mm a year after Holdridge: 58.93 times the mean of the temperatures above freezing."""
    return 58.93 * 0.5 * (warmth + math.sqrt(warmth * warmth + 0.405 * swing * swing)) + 15.0


@numba.njit(inline="always")
def _parcel(across: Any, lat: Any) -> Any:
    """The number of the field at a position: bricks of about 200 x 300 m, a third of them four times as large."""
    row = math.floor(lat / (2.0 * _PARCEL_DEG))
    column = math.floor(across / (3.0 * _PARCEL_DEG) + 0.37 * (int(row) % 3))
    large = mix(np.uint32(int(column) * 7919) ^ mix(np.uint32(int(row) * 104729 + 17)))
    if large % np.uint32(3) != 0:
        row = math.floor(lat / _PARCEL_DEG)
        column = math.floor(across / (1.5 * _PARCEL_DEG) + 0.37 * (int(row) % 3))
        large = mix(np.uint32(int(column) * 7919) ^ mix(np.uint32(int(row) * 104729 + 29)))
    return large


@numba.njit(inline="always")
def _chance(number: Any, salt: int) -> Any:
    """A number in (0, 1) from a hash."""
    return np.float32(mix(number ^ np.uint32(salt * 2654435761 & 0xFFFFFFFF)) >> np.uint32(8)) * np.float32(
        1.0 / 16777216.0
    )


class Site(NamedTuple):
    """What decides the cover of one pixel, as plain numbers: relief, climate and noise."""

    elevation: float
    slope: float
    flat: float
    warmth: float
    aridity: float
    hottest: float
    coldest: float
    noise: float
    grain: float


class Plants(NamedTuple):
    """What grows on a pixel if nobody interferes; shares, and `wooded` above 0.25 where trees win."""

    green: float
    trees: float
    wooded: float
    evergreen: float


class Detail(NamedTuple):
    """The state of a pixel of a known class; see `State` for the units."""

    green: float
    evergreen: float
    canopy: float
    bright: float
    phase: float
    murky: float
    rough: float


@numba.njit(error_model="numpy")
def _plants(site: Site) -> Plants:
    green = smoothstep(0.04, 0.55, site.aridity + 0.06 * site.noise) * smoothstep(0.5, 7.0, site.hottest)
    trees = smoothstep(0.45, 1.05, site.aridity) * smoothstep(9.5, 13.5, site.hottest)
    wooded = 1.3 * trees - 0.28 + 0.55 * site.noise - 0.25 * smoothstep(0.5, 1.0, site.slope)
    tropical = smoothstep(14.0, 20.0, site.coldest) * smoothstep(0.8, 1.2, site.aridity)
    boreal = 1.0 - smoothstep(-12.0, -3.0, site.coldest)
    montane = smoothstep(300.0, 1500.0, site.elevation) * (1.0 - smoothstep(4.0, 12.0, site.warmth)) * 0.9
    evergreen = max(tropical, boreal, montane) + 0.5 * (site.noise if site.warmth < 18.0 else 0.0)
    evergreen = min(max(evergreen, 0.0), 1.0)
    if site.coldest < -27.0:
        evergreen *= 0.3  # larch country
    return Plants(green, trees, wooded, evergreen)


@numba.njit(error_model="numpy")
def _people(site: Site, people: float, town: float, river: float) -> tuple[float, float]:
    """Share of the land that is farmed, and the density of buildings, above 0 in towns."""
    suited = (
        smoothstep(13.0, 18.0, site.hottest) * smoothstep(0.14, 0.34, site.aridity) * site.flat
        * (1.0 - smoothstep(1200.0, 2800.0, site.elevation))
        * (1.0 - 0.8 * smoothstep(0.9, 1.5, site.aridity) * smoothstep(16.0, 22.0, site.warmth))
    )  # fmt: skip
    farmed = suited * (0.34 + 0.8 * people)
    if river < 0.1 and site.aridity > 0.06 and people > 0.0:
        farmed = max(farmed, 0.8 * smoothstep(14.0, 20.0, site.hottest) * site.flat * (0.35 + people))
    cold = 1.0 - smoothstep(9.0, 15.0, site.hottest)
    return farmed, 0.8 * town + 0.55 * people - 0.9 + 0.3 * suited - 0.3 * cold


@numba.njit(error_model="numpy")
def _is_water(site: Site, basin: float, lat: float) -> bool:
    """Whether a river or a lake runs here; `basin` is the river noise."""
    lakeland = abs(lat) > 48.0 and site.aridity > 0.7
    lake = basin > (0.72 if lakeland else 1.2) + 0.2 * (1.0 - site.flat) + 0.05 * site.noise
    return (abs(basin) < _river_width(site) or lake) and site.hottest > 1.0


@numba.njit(error_model="numpy")
def _river_width(site: Site) -> float:
    """Half the width of rivers in units of the river noise."""
    wet: float = smoothstep(0.12, 0.9, site.aridity)
    return 0.016 * wet * (0.4 + 0.6 * site.flat) * (0.7 + 0.5 * site.noise)


@numba.njit(error_model="numpy")
def _kind(
    site: Site, plants: Plants, farmed: float, density: float, marsh: float, basin: float, shore: float, lat: float,
    number: Any,
) -> int:  # fmt: skip
    """The class of `Cover`, by the first rule that fits; `number` is that of the field."""
    noise, river = site.noise, abs(basin)
    if site.elevation <= 0.0:
        return Cover.WATER.value
    if site.hottest < -0.5 + 1.2 * noise and site.aridity > 0.08:
        return Cover.ICE.value
    if _is_water(site, basin, lat):
        return Cover.WATER.value
    tidal = site.elevation < 15.0 + 8.0 * noise and shore < 25.0 and site.slope < 0.05
    if tidal and site.coldest > 15.0 and site.aridity > 0.15 and noise > -0.35:
        return Cover.MANGROVE.value
    if density > 0.0 and site.coldest > -32.0 and site.slope < 0.25 and _chance(number, 3) < 0.25 + 2.4 * density:
        return Cover.BUILT.value
    if marsh * (1.2 - 1.5 * river + 0.5 * noise) > 0.55:
        return Cover.WETLAND.value
    if river < 0.09 and site.flat > 0.8 and site.aridity > 0.7 and noise > 0.3 and site.hottest > 8.0:
        return Cover.WETLAND.value
    if farmed > _chance(number, 1) and site.hottest > 12.0:
        return Cover.CROPS.value
    if plants.wooded > 0.25 and plants.trees > 0.05:
        return Cover.TREES.value
    if plants.green > 0.12 and site.hottest < 9.5:
        return Cover.MOSS.value
    thorny = noise + 1.6 * (0.42 - site.aridity) > 0.12 or plants.wooded > 0.1
    if plants.green > 0.16 and thorny and site.hottest > 8.0:
        return Cover.SHRUBS.value
    return Cover.GRASS.value if plants.green > 0.22 else Cover.BARE.value


@numba.njit(error_model="numpy")
def _wild(kind: int, site: Site, plants: Plants, bright: float, basin: float) -> Detail:
    """The state of every class but fields and towns."""
    green, evergreen, canopy, murky = plants.green, plants.evergreen, 0.0, 0.0
    rough = min(1.0, 0.25 + 1.2 * site.slope + 0.1 * site.noise)
    if kind == Cover.TREES:
        tall = smoothstep(0.5, 1.3, site.aridity) * smoothstep(8.5, 18.0, site.hottest)
        canopy = max(3.0, 5.0 + 24.0 * tall * (0.55 + 0.6 * (plants.wooded - 0.25)) + 3.0 * site.grain)
        green, rough = min(1.0, 0.55 + 0.6 * plants.wooded), 0.8
    elif kind == Cover.SHRUBS:
        canopy = max(0.0, 1.2 + 1.5 * site.noise)
        green, rough = green * 0.75, min(1.0, rough + 0.2)
    elif kind == Cover.GRASS:
        green, evergreen = green * 0.9, evergreen * 0.25
    elif kind == Cover.WETLAND:
        green, evergreen, rough = max(green, 0.8), max(evergreen, 0.45 + 0.3 * site.noise), 0.3
    elif kind == Cover.MANGROVE:
        canopy = max(4.0, 11.0 + 7.0 * site.noise)
        green, evergreen, rough = 0.95, 1.0, 0.5
    elif kind == Cover.MOSS:
        evergreen = max(evergreen, 0.3)
    elif kind == Cover.BARE:
        green, evergreen = green * 0.6, evergreen * 0.3
    else:
        green, evergreen = 0.0, evergreen * 0.3
        if site.elevation <= 0.0:
            murky = max(0.0, 0.8 + site.elevation / 14.0) * (0.4 + 0.5 * smoothstep(0.1, 0.5, site.aridity))
        else:
            murky = 0.15 + 0.4 * (abs(basin) < _river_width(site)) + 0.2 * site.noise
    return Detail(green, evergreen, canopy, bright, 0.0, murky, rough)


@numba.njit(error_model="numpy")
def _field(site: Site, plants: Plants, bright: float, lat: float, number: Any) -> Detail:
    """The state of a field: its crop, when it peaks, whether it lies fallow."""
    peak = 200.0 if lat >= 0 else 17.0
    peak += (_chance(number, 5) - 0.5) * (110.0 if site.coldest < 8.0 else 330.0)
    green = 0.12 if _chance(number, 7) < 0.12 else 0.75 + 0.2 * _chance(number, 9)
    soil = min(1.0, 0.8 * bright + 0.25 * _chance(number, 11))
    return Detail(green, 0.0, 0.0, soil, peak, 0.0, 0.15 + 0.35 * _chance(number, 13))


@numba.njit(error_model="numpy")
def _block(site: Site, plants: Plants, bright: float, density: float, across: float, lat: float) -> Detail:
    """The state of a pixel of a town: a street, or a block with its buildings and gardens."""
    if min((across / _STREET_DEG) % 1.0, (lat / _STREET_DEG) % 1.0) < 0.12:
        return Detail(0.0, plants.evergreen, 0.0, bright, 0.0, 0.0, 0.2)
    block = uniform(math.floor(across / _BLOCK_DEG), math.floor(lat / _BLOCK_DEG), 91)
    gardens = max(0.0, 0.55 - 0.7 * density) * (1.0 if block > 0.55 else 0.2)
    green = gardens * smoothstep(0.1, 0.5, site.aridity)
    return Detail(green, plants.evergreen, 6.0 * green, bright, np.float64(block), 0.0, 1.0)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _cover(nodes: Floats, corners: Any, u: Floats, v: Floats, patch: Singles, cover: Bytes, state: Singles) -> None:
    inputs = np.empty(_INPUTS.size)
    band, shrink = -1000, 1.0
    for i in range(cover.size):
        for k in range(_INPUTS.size):
            f = _INPUTS[k]
            upper = nodes[corners[0, i], f] + u[i] * (nodes[corners[1, i], f] - nodes[corners[0, i], f])
            lower = nodes[corners[2, i], f] + u[i] * (nodes[corners[3, i], f] - nodes[corners[2, i], f])
            inputs[k] = upper + v[i] * (lower - upper)
        lon, lat, shore = (inputs[0] + 180.0) % 360.0 - 180.0, inputs[1], inputs[2]
        swing, marsh, basin, soil = inputs[4], inputs[7], inputs[8], inputs[11]
        elevation = float(state[0, i])
        slope = math.sqrt(state[1, i] ** 2 + state[2, i] ** 2)
        warmth = inputs[3] - LAPSE_RATE * max(elevation, 0.0)
        rain = inputs[5] * (1.0 + 0.35 * inputs[12])
        aridity = max(rain, 2.0) / potential_evaporation(warmth, swing)
        site = Site(
            elevation, slope, 1.0 - smoothstep(0.03, 0.12, slope), warmth, aridity, warmth + abs(swing),
            warmth - abs(swing), inputs[13] + patch[i], float(state[14, i]),
        )  # fmt: skip
        plants = _plants(site)
        farmed, density = _people(site, inputs[9], inputs[10], abs(basin))
        if math.floor(lat * 2.0) != band:
            band = math.floor(lat * 2.0)
            shrink = math.cos(math.radians((band + 0.5) * 0.5))
        across = lon * shrink
        number = _parcel(across, lat) if farmed > 0.0 or density > 0.0 else np.uint32(0)
        bright = 0.55 - 0.35 * smoothstep(0.05, 0.8, aridity) + 0.16 * soil + 0.1 * site.noise
        bright = min(max(bright, 0.05), 1.0)

        kind = _kind(site, plants, farmed, density, marsh, basin, shore, lat, number)
        if kind == Cover.CROPS:
            detail = _field(site, plants, bright, lat, number)
        elif kind == Cover.BUILT:
            detail = _block(site, plants, bright, density, across, lat)
        else:
            detail = _wild(kind, site, plants, bright, basin)

        cover[i] = kind
        state[3, i], state[4, i], state[5, i], state[6, i] = warmth, swing, min(aridity, 6.0), inputs[6]
        state[7, i], state[8, i], state[9, i], state[10, i] = (
            detail.green,
            detail.evergreen,
            detail.canopy,
            detail.bright,
        )
        state[11, i] = min(max(0.25 + 0.45 * soil + 0.3 * smoothstep(18.0, 25.0, warmth), 0.0), 1.0)
        state[12, i], state[13, i] = detail.phase, min(max(detail.murky, 0.0), 1.0)
        state[15, i] = min(max(detail.rough, 0.0), 1.0)


class Now:
    """Rows of the state of one day, each (N,) float32."""

    LEAF = 0
    """Share of the ground under green leaves."""
    DRY = 1
    """Share of the ground under dry plants."""
    SNOW = 2
    """Share of the ground under snow."""
    MOIST = 3
    """Moisture of the soil, 0 to 1."""
    COUNT = 4


def today(frame: Frame, day: int) -> Singles:
    """(Now.COUNT, N) state of the ground on a day counted from 1970-01-01."""
    return frame.keep_moment(("today", day), lambda: _season(frame, day))  # type: ignore[no-any-return]


def _season(frame: Frame, day: int) -> Singles:
    land = ground(frame)
    x, y, z = frame.position()
    weather = octave_sum(x, y, z, ((260.0, 1.0, 0.0), (30.0, 0.35, 0.0)), 1_000 + day // 6)
    out = np.empty((Now.COUNT, frame.size), np.float32)
    _today(land.cover, land.state, weather, float((day + 0.25) % 365.25), out)
    return out


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _today(cover: Bytes, state: Singles, weather: Singles, day_of_year: float, out: Singles) -> None:
    summer = season(day_of_year)
    for i in range(cover.size):
        kind = cover[i]
        warmth, swing = float(state[3, i]), float(state[4, i])
        local_summer = summer if swing >= 0 else -summer
        temperature = warmth + abs(swing) * local_summer + 2.0 * weather[i]
        aridity, summer_rain = float(state[5, i]), float(state[6, i])
        water = aridity * (1.0 + 0.95 * summer_rain * local_summer)
        green, evergreen = float(state[7, i]), float(state[8, i])
        growing = smoothstep(3.0, 12.0, temperature) if warmth - abs(swing) < 6.0 else 1.0
        wet = smoothstep(0.08, 0.5, water) if aridity < 1.3 else 1.0
        if kind == 4:
            away = abs((day_of_year - state[12, i] + 547.875) % 365.25 - 182.625)
            growing = (1.0 - smoothstep(35.0, 85.0, away)) * smoothstep(2.0, 9.0, temperature)
            leaf = green * growing
            dry = 0.25 * green * (1.0 - growing)
        else:
            active = evergreen + (1.0 - evergreen) * growing * wet
            leaf = green * active
            dry = 0.75 * (green - leaf)
        snow = smoothstep(0.5, -4.0, temperature + 0.9 * state[14, i]) * smoothstep(0.05, 0.2, aridity)
        if kind == 7:
            snow = 1.0
        elif kind == 1:
            snow *= 0.45
        elif kind == 0:
            snow = smoothstep(-6.0, -12.0, temperature)  # ice on the water
        elif kind == 5:
            snow *= 0.6
        out[0, i] = leaf * (1.0 - 0.6 * snow if kind != 1 else 1.0)
        out[1, i] = dry
        out[2, i] = snow
        out[3, i] = min(max(smoothstep(0.0, 1.6, water) + 0.22 * weather[i] + 0.08 * state[14, i], 0.0), 1.0)
