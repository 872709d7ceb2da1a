"""Clouds and their shadows as one overpass of a satellite sees them: one field for all sensors of that moment."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

from m3etl.emulator.planet.climate import season
from m3etl.emulator.planet.frames import Frame, Node, octave_sum
from m3etl.emulator.planet.noise import EARTH_RADIUS_KM, Floats, Singles, smoothstep

_LONG = ((700.0, 0.6, 0.0), (130.0, 0.5, 0.0), (32.0, 0.36, 0.0), (8.0, 0.26, 0.0), (2.2, 0.19, 0.0))
_SHORT = ((0.6, 0.12, 0.0),)
_CIRRUS = ((300.0, 0.7, 0.0), (60.0, 0.5, 0.3), (14.0, 0.25, 0.5))
_EDGE = 0.2  # width of the soft edge of a cloud in units of the noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Overpass:
    """A moment of a satellite: the number that makes its weather, its day, and where the sun stands (degrees)."""

    seed: int
    day: int
    sun_zenith: float
    sun_azimuth: float

    @property
    def day_of_year(self) -> float:
        return (self.day + 0.25) % 365.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Sky:
    """Opacity of clouds, depth of their shadow and opacity of cirrus, (N,) float32 in [0, 1]."""

    cloud: Singles
    shadow: Singles
    cirrus: Singles


def sky(frame: Frame, overpass: Overpass) -> Sky:
    """The sky over a frame, made once per overpass."""
    return frame.keep_moment(("sky", overpass), lambda: _make(frame, overpass))  # type: ignore[no-any-return]


def cloud_share(nodes: Floats, overpass: Overpass) -> float:
    """The share of cloudy positions among nodes, in percent: what an image's metadata tells."""
    threshold = _threshold(nodes, overpass)
    x, y, z = nodes[:, Node.X], nodes[:, Node.Y], nodes[:, Node.Z]
    noise = octave_sum(x, y, z, _LONG[:4], overpass.seed)
    return float(np.mean(noise > threshold + 0.5 * _EDGE)) * 100.0


def _threshold(nodes: Floats, overpass: Overpass) -> Floats:
    out = np.empty(nodes.shape[0])
    _cover_threshold(nodes[:, Node.RAIN], nodes[:, Node.SUMMER_RAIN], nodes[:, Node.SWING], overpass.day_of_year, out)
    return out


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _cover_threshold(rain: Floats, summer_rain: Floats, swing: Floats, day: float, out: Floats) -> None:
    """The noise above which there is cloud, from the climate: deserts are clear, wet seasons overcast."""
    summer = season(day)
    for i in range(out.size):
        local = summer if swing[i] >= 0 else -summer
        wet = rain[i] * (1.0 + 0.6 * summer_rain[i] * local)
        cover = 0.08 + 0.34 * smoothstep(50.0, 700.0, wet) + 0.2 * smoothstep(900.0, 2800.0, wet)
        out[i] = 0.95 * (0.5 - cover)


def _make(frame: Frame, overpass: Overpass) -> Sky:
    nodes = frame.nodes
    position = frame.position()
    threshold = frame.interpolate(_threshold(nodes, overpass))
    base_km = 1.2 + 2.0 * (overpass.seed % 7) / 6.0
    reach = base_km * math.tan(math.radians(min(overpass.sun_zenith, 78.0)))
    azimuth = math.radians(overpass.sun_azimuth)
    opacity = []
    for away in ((0.0, 0.0), (reach * math.sin(azimuth), reach * math.cos(azimuth))):
        long = octave_sum(*_moved(nodes[:, Node.X], nodes[:, Node.Y], nodes[:, Node.Z], away), _LONG, overpass.seed)
        noise = octave_sum(*_moved(*position, away), _SHORT, overpass.seed + 7)
        opacity.append(_opacity(frame.interpolate(long.astype(np.float64)), noise, threshold))
    cloud, shadow = opacity
    high = octave_sum(nodes[:, Node.X], nodes[:, Node.Y], nodes[:, Node.Z], _CIRRUS, overpass.seed + 13)
    cirrus = 0.6 * np.clip((frame.interpolate(high.astype(np.float64)) - 0.28) / 0.6, 0.0, 1.0)
    return Sky(cloud=cloud, shadow=shadow * (1.0 - cloud), cirrus=cirrus.astype(np.float32))


def _moved(x: Floats, y: Floats, z: Floats, away_km: tuple[float, float]) -> tuple[Floats, Floats, Floats]:
    """Unit vectors moved by km to the east and to the north."""
    if away_km == (0.0, 0.0):
        return x, y, z
    east, north = away_km[0] / EARTH_RADIUS_KM, away_km[1] / EARTH_RADIUS_KM
    rho = np.maximum(np.hypot(x, y), 1e-9)
    return x - y / rho * east - z * x / rho * north, y + x / rho * east - z * y / rho * north, z + rho * north


def _opacity(long: Floats, short: Singles, threshold: Floats) -> Singles:
    out = np.empty(short.size, np.float32)
    _soften(long, short, threshold, out)
    return out


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _soften(long: Floats, short: Singles, threshold: Floats, out: Singles) -> None:
    for i in range(out.size):
        out[i] = smoothstep(0.0, _EDGE, long[i] + short[i] - threshold[i])
