"""The coarse maps of the planet (shore distance, height, temperature, rain) on a half-degree lattice.

Computed once from the tables in `continents.py`; everything finer than about 150 km is noise added by `fields.py`.
"""

from __future__ import annotations

import functools
import math
from enum import IntEnum
from typing import Any

import numba
import numpy as np

from m3etl.emulator.planet import continents
from m3etl.emulator.planet.noise import Floats

STEP_DEG = 0.5
_ROWS = 361
_COLUMNS = 720
_KM_PER_DEGREE = 111.195
SHORE_LIMIT_KM = 500.0
_REACH_DEG = 5.0  # an outline further away than this leaves the shore distance at its limit
LAPSE_RATE = 0.0060
"""Degrees of temperature lost per metre of height."""


class Coarse(IntEnum):
    """Columns of the coarse maps."""

    SHORE = 0
    """Distance to the shore in km, positive on land, within +-500."""
    HEIGHT = 1
    """Mean height in m."""
    RELIEF = 2
    """Amplitude of the terrain in m."""
    WARMTH = 3
    """Annual mean temperature at sea level in degrees C."""
    SWING = 4
    """Half the yearly range in degrees, positive where July is warmest, negative where January is."""
    RAIN = 5
    """Rain in mm a year."""
    SUMMER_RAIN = 6
    """Season of the rain: +1 all in summer, -1 all in winter."""
    MARSH = 7
    """Share of land that floods, 0 to 1."""
    PINE = 8
    """Share of tropical conifers, 0 to 1."""


@functools.cache
def coarse_maps() -> Floats:
    """(361, 720, 9) float64, rows from 90 N to 90 S, columns from 180 W, in the order of `Coarse`; read-only."""
    lat = 90.0 - STEP_DEG * np.arange(_ROWS)[:, None] + np.zeros((1, _COLUMNS))
    lon = -180.0 + STEP_DEG * np.arange(_COLUMNS)[None, :] + np.zeros((_ROWS, 1))
    maps = np.zeros((_ROWS, _COLUMNS, len(Coarse)))
    shore = _shore_distance()
    height, relief = _terrain(lon, lat)
    maps[..., Coarse.SHORE] = shore
    maps[..., Coarse.HEIGHT] = height
    maps[..., Coarse.RELIEF] = relief
    maps[..., Coarse.WARMTH] = _warmth(lon, lat)
    maps[..., Coarse.SWING] = _swing(lon, lat, shore)
    maps[..., Coarse.RAIN] = _rain(lon, lat, shore)
    maps[..., Coarse.SUMMER_RAIN] = _summer_rain(lon, lat)
    maps[..., Coarse.MARSH] = np.clip(_spots(lon, lat, continents.MARSHES), 0.0, 1.0)
    maps[..., Coarse.PINE] = np.clip(_spots(lon, lat, continents.PINES), 0.0, 1.0)
    maps.setflags(write=False)
    return maps


@numba.njit(cache=True, nogil=True, error_model="numpy")
def read_maps(maps: Floats, lon: Floats, lat: Floats, out: Floats) -> None:
    """Reads every coarse map at (N,) positions into `out` (N, >= 9) with a quadratic B-spline, smooth across 180."""
    rows, columns, count = maps.shape
    for i in range(lon.size):
        v = (90.0 - lat[i]) / STEP_DEG
        u = (lon[i] + 180.0) / STEP_DEG
        row = math.floor(v + 0.5)
        column = math.floor(u + 0.5)
        dv = v - row
        du = u - column
        wy = (0.5 * (0.5 - dv) ** 2, 0.75 - dv * dv, 0.5 * (0.5 + dv) ** 2)
        wx = (0.5 * (0.5 - du) ** 2, 0.75 - du * du, 0.5 * (0.5 + du) ** 2)
        for f in range(count):
            out[i, f] = 0.0
        for a in range(3):
            y = min(max(row + a - 1, 0), rows - 1)
            for b in range(3):
                x = (column + b - 1) % columns
                weight = wy[a] * wx[b]
                for f in range(count):
                    out[i, f] += weight * maps[y, x, f]


@numba.njit(inline="always")
def season(day_of_year: float) -> Any:
    """+1 in the middle of the northern summer, -1 in the middle of the northern winter."""
    return math.cos(2.0 * math.pi * (day_of_year - 200.0) / 365.25)


def _spots(lon: Floats, lat: Floats, spots: tuple[continents.Spot, ...]) -> Floats:
    total = np.zeros_like(lon)
    for x, y, radius, strength in spots:
        total += strength * _gauss(lon, lat, x, y, radius)
    return total


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _gauss(lon: Floats, lat: Floats, x: float, y: float, radius_km: float) -> Floats:
    """A Gaussian bump of height 1 around (x, y), zero beyond three radii."""
    out = np.zeros_like(lon)
    for r in range(lon.shape[0]):
        a, b = math.radians(lat[r, 0]), math.radians(y)
        if abs(a - b) * 6371.0 > 3.0 * radius_km:
            continue
        for c in range(lon.shape[1]):
            cosine = math.sin(a) * math.sin(b) + math.cos(a) * math.cos(b) * math.cos(math.radians(lon[r, c] - x))
            square = (2.0 - 2.0 * cosine) * 6371.0**2 / radius_km**2
            if square < 9.0:
                out[r, c] = math.exp(-square)
    return out


def _warmth(lon: Floats, lat: Floats) -> Floats:
    return -25.0 + 52.0 * np.cos(np.radians(lat)) ** 1.1 + _spots(lon, lat, continents.WARM)


def _swing(lon: Floats, lat: Floats, shore: Floats) -> Floats:
    inland = 0.5 + 0.5 * (1.0 - np.exp(-np.maximum(shore, 0.0) / 450.0))
    size = (1.5 + 0.33 * np.abs(lat)) * inland * np.where(lat < 0, 0.8, 1.0) + _spots(lon, lat, continents.SEASONAL)
    return np.asarray(np.maximum(size, 1.0) * np.tanh(lat / 8.0))


def _rain(lon: Floats, lat: Floats, shore: Floats) -> Floats:
    equator = np.exp(-((lat / 11.0) ** 2))
    westerlies = np.exp(-(((np.abs(lat) - 48.0) / 13.0) ** 2))
    inland = 1.0 - np.exp(-np.maximum(shore, 0.0) / 450.0)
    rain = 220.0 + 1750.0 * equator + 720.0 * westerlies * (1.0 - 0.4 * inland)
    rain += 380.0 * np.exp(-(((np.abs(lat) - 22.0) / 9.0) ** 2)) + np.maximum(_spots(lon, lat, continents.WET), 0.0)
    for x, y, radius, left in continents.DRY:
        rain *= 1.0 - (1.0 - left) * np.minimum(1.0, 1.4 * _gauss(lon, lat, x, y, radius))
    return np.asarray(np.clip(rain, 4.0, 4500.0))


def _summer_rain(lon: Floats, lat: Floats) -> Floats:
    tropics = 0.85 * np.exp(-(((np.abs(lat) - 15.0) / 9.0) ** 2))
    return np.asarray(np.clip(0.15 + tropics + _spots(lon, lat, continents.WINTER_RAIN), -1.0, 1.0))


def _terrain(lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
    """Mean height and relief: a soft maximum over the mountain chains, over low plains."""
    height = np.zeros_like(lon)
    relief = np.zeros_like(lon)
    for line, metres, width, share in continents.CHAINS:
        near = _ridge(lon, lat, np.array(line), width)
        fourth = np.square(np.square(metres * near))
        height += fourth
        relief += fourth * share**4
    return 70.0 + np.sqrt(np.sqrt(height)), 14.0 + np.sqrt(np.sqrt(relief))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _ridge(lon: Floats, lat: Floats, line: Floats, width_km: float) -> Floats:
    """1 on a polyline, falling off as a Gaussian of its distance in the local plane, zero beyond three widths."""
    out = np.zeros_like(lon)
    segments = max(1, line.shape[0] - 1)
    reach = 3.0 * width_km / _KM_PER_DEGREE
    for r in range(lon.shape[0]):
        y = lat[r, 0]
        if y < line[:, 1].min() - reach or y > line[:, 1].max() + reach:
            continue
        scale = math.cos(math.radians(y))
        for c in range(lon.shape[1]):
            best = 1e18
            for s in range(segments):
                ax, ay = line[s]
                bx, by = line[min(s + 1, line.shape[0] - 1)]
                px = ((ax - lon[r, c] + 180.0) % 360.0 - 180.0) * scale
                py = ay - y
                dx, dy = (bx - ax) * scale, by - ay
                t = min(max(-(px * dx + py * dy) / max(dx * dx + dy * dy, 1e-9), 0.0), 1.0)
                best = min(best, (px + t * dx) ** 2 + (py + t * dy) ** 2)
            square = best * (_KM_PER_DEGREE / width_km) ** 2
            if square < 9.0:
                out[r, c] = math.exp(-square)
    return out


def _shore_distance() -> Floats:
    land = np.full((_ROWS, _COLUMNS), -SHORE_LIMIT_KM)
    for outline in continents.LAND:
        np.maximum(land, _signed_distance(np.array(outline)), out=land)
    for outline in continents.LAKES:
        np.minimum(land, -_signed_distance(np.array(outline)), out=land)
    return land


def _signed_distance(outline: Floats) -> Floats:
    """Distance in km to one outline, positive inside, within +-SHORE_LIMIT_KM."""
    distance = np.full((_ROWS, _COLUMNS), SHORE_LIMIT_KM)
    inside = np.zeros((_ROWS, _COLUMNS), np.bool_)
    _trace_outline(outline, distance, inside)
    return np.where(inside, distance, -distance)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _trace_outline(outline: Floats, distance: Floats, inside: Any) -> None:
    rows, columns = distance.shape
    count = outline.shape[0]
    for e in range(count):
        ax, ay = outline[e]
        bx, by = outline[(e + 1) % count]
        top = max(0, int((90.0 - max(ay, by) - _REACH_DEG) / STEP_DEG))
        bottom = min(rows - 1, int((90.0 - min(ay, by) + _REACH_DEG) / STEP_DEG) + 1)
        for r in range(top, bottom + 1):
            lat = 90.0 - STEP_DEG * r
            scale = max(math.cos(math.radians(lat)), 0.02)
            reach = min(_REACH_DEG / scale, 180.0)
            first = math.floor((min(ax, bx) - reach + 180.0) / STEP_DEG)
            last = math.ceil((max(ax, bx) + reach + 180.0) / STEP_DEG)
            dx = (bx - ax) * scale
            dy = by - ay
            for c in range(first, last + 1):
                px = (ax - (-180.0 + STEP_DEG * c)) * scale
                py = ay - lat
                t = min(max(-(px * dx + py * dy) / max(dx * dx + dy * dy, 1e-12), 0.0), 1.0)
                d = math.sqrt((px + t * dx) ** 2 + (py + t * dy) ** 2) * _KM_PER_DEGREE
                wrapped = c % columns
                if d < distance[r, wrapped]:
                    distance[r, wrapped] = d
        low, high = min(ay, by), max(ay, by)
        for r in range(rows):
            lat = 90.0 - STEP_DEG * r + 1e-7
            if low <= lat < high:
                crossing = ax + (lat - ay) * (bx - ax) / (by - ay)
                for c in range(columns):
                    lon = -180.0 + STEP_DEG * c
                    # outlines reach from -180 to 190, so each node is tested in both turns
                    if (lon < crossing) != (lon + 360.0 < crossing):
                        inside[r, c] = not inside[r, c]
