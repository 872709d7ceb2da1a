"""Reflectance in the 13 bands of Sentinel-2: mixed spectra of the ground, light on slopes, air, clouds, shadows."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from m3etl.emulator.planet.clouds import Overpass, sky
from m3etl.emulator.planet.frames import Frame
from m3etl.emulator.planet.landcover import Bytes, ground, today
from m3etl.emulator.planet.noise import Singles, uniform

BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
Integers = npt.NDArray[np.int64]

_MIXED = 13
_SPECTRA = np.array(
    [
        # B1    B2     B3     B4     B5     B6     B7     B8     B8A    B9     B10    B11    B12
        [0.020, 0.025, 0.052, 0.027, 0.090, 0.260, 0.350, 0.370, 0.395, 0.400, 0.380, 0.190, 0.085],  # broad leaves
        [0.015, 0.018, 0.034, 0.021, 0.055, 0.150, 0.190, 0.205, 0.220, 0.225, 0.210, 0.095, 0.042],  # needles
        [0.028, 0.038, 0.078, 0.048, 0.125, 0.290, 0.360, 0.385, 0.405, 0.410, 0.390, 0.235, 0.120],  # grass
        [0.060, 0.080, 0.120, 0.165, 0.205, 0.235, 0.255, 0.280, 0.300, 0.310, 0.320, 0.360, 0.265],  # dry plants
        [0.045, 0.055, 0.078, 0.098, 0.115, 0.128, 0.140, 0.155, 0.170, 0.178, 0.190, 0.235, 0.205],  # dark soil
        [0.125, 0.165, 0.245, 0.330, 0.360, 0.380, 0.392, 0.405, 0.425, 0.432, 0.440, 0.520, 0.470],  # sand
        [0.110, 0.130, 0.150, 0.162, 0.172, 0.180, 0.186, 0.195, 0.200, 0.205, 0.210, 0.225, 0.212],  # buildings
        [0.038, 0.036, 0.030, 0.018, 0.014, 0.012, 0.011, 0.010, 0.009, 0.008, 0.006, 0.004, 0.003],  # clear water
        [0.062, 0.078, 0.112, 0.098, 0.088, 0.058, 0.050, 0.040, 0.034, 0.030, 0.018, 0.012, 0.008],  # murky water
        [0.920, 0.930, 0.920, 0.900, 0.890, 0.870, 0.850, 0.830, 0.800, 0.720, 0.500, 0.100, 0.070],  # snow
        [0.080, 0.092, 0.112, 0.130, 0.141, 0.150, 0.156, 0.162, 0.168, 0.172, 0.180, 0.212, 0.190],  # rock
        [0.030, 0.036, 0.052, 0.055, 0.085, 0.135, 0.165, 0.190, 0.205, 0.210, 0.200, 0.190, 0.115],  # moss and lichen
        [0.040, 0.050, 0.085, 0.170, 0.190, 0.200, 0.212, 0.240, 0.262, 0.270, 0.270, 0.340, 0.290],  # red soil
    ],
    np.float32,
)
_AIR = np.array([0.105, 0.078, 0.046, 0.028, 0.022, 0.018, 0.014, 0.012, 0.010, 0.008, 0.001, 0.003, 0.002], np.float32)
_PASSING = np.array([0.80, 0.85, 0.89, 0.92, 0.93, 0.94, 0.95, 0.95, 0.96, 0.45, 0.004, 0.96, 0.95], np.float32)
_CLOUD = np.array([0.72, 0.71, 0.70, 0.71, 0.72, 0.73, 0.73, 0.73, 0.73, 0.45, 0.03, 0.52, 0.40], np.float32)
_CIRRUS = np.array([0.26, 0.25, 0.24, 0.24, 0.24, 0.24, 0.24, 0.24, 0.24, 0.20, 0.16, 0.17, 0.13], np.float32)


def reflectance(
    frame: Frame, overpass: Overpass, bands: tuple[int, ...], column: Integers, row: Integers, *, top: bool
) -> npt.NDArray[np.uint16]:
    """(len(bands), N) uint16 reflectance x 10000 in bands numbered as in `BANDS`.

    `top`: at the top of the atmosphere, else at the ground.
    """
    mixture, gain = _mixture(frame, overpass.day)
    lit = light(frame, overpass)
    above = sky(frame, overpass)
    out = np.empty((len(bands), frame.size), np.uint16)
    for number, band in enumerate(bands):
        air, passing = (_AIR[band], _PASSING[band]) if top else (np.float32(0.0), np.float32(1.0))
        if top:
            air *= np.float32(min(2.5, 0.75 / max(0.2, math.cos(math.radians(overpass.sun_zenith)))))
        seed = (overpass.seed * 31 + band) & 0x7FFFFFFF
        coefficients = np.array([air, passing, _CLOUD[band], _CIRRUS[band], 0.004], np.float32)
        _render(
            mixture, gain, lit, above.cloud, above.shadow, above.cirrus,
            np.ascontiguousarray(_SPECTRA[:, band]), coefficients, seed, column, row, out[number],
        )  # fmt: skip
    return out


def _mixture(frame: Frame, day: int) -> tuple[Singles, Singles]:
    """Shares of the spectra (13, N) and a brightness factor (N,) of a frame on a day."""

    def make() -> tuple[Singles, Singles]:
        land = ground(frame)
        shares = np.zeros((_MIXED, frame.size), np.float32)
        gain = np.empty(frame.size, np.float32)
        _mix(land.cover, land.state, today(frame, day), shares, gain)
        return shares, gain

    return frame.keep_moment(("mixture", day), make)  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _mix(cover: Bytes, state: Singles, now: Singles, shares: Singles, gain: Singles) -> None:
    for i in range(cover.size):
        kind = cover[i]
        leaf, dry, snow, moist = now[0, i], now[1, i], now[2, i], now[3, i]
        grain = state[14, i]
        bare_share = max(np.float32(0.0), np.float32(1.0) - leaf - dry)
        bright, red = state[10, i], state[11, i]
        bright_gain = np.float32(1.0)
        clear = np.float32(1.0) - snow
        if kind == 0:
            shares[8, i] = clear * state[13, i]
            shares[7, i] = clear * (np.float32(1.0) - state[13, i])
            gain[i] = np.float32(1.0) + np.float32(0.04) * grain
            shares[9, i] = snow * np.float32(0.8)
            continue
        if kind == 7:
            shares[9, i] = np.float32(0.95)
            shares[10, i] = np.float32(0.05)
            gain[i] = np.float32(1.0) + np.float32(0.03) * grain
            continue
        if kind == 1 or kind == 9:
            cold = min(max((np.float32(14.0) - state[3, i]) / np.float32(8.0), np.float32(0.0)), np.float32(1.0))
            needle = state[8, i] * cold
            shares[1, i] = leaf * needle
            shares[0, i] = leaf * (np.float32(1.0) - needle)
            bright *= np.float32(0.35)
            bright_gain = np.float32(1.0) + np.float32(0.16) * grain
            if kind == 9:
                shares[8, i] = np.float32(0.25) * leaf
                shares[0, i] *= np.float32(0.75)
        elif kind == 2:
            shares[2, i] = np.float32(0.55) * leaf
            shares[1, i] = np.float32(0.45) * leaf
            bright_gain = np.float32(1.0) + np.float32(0.12) * grain
        elif kind == 10:
            shares[11, i] = leaf
            bright *= np.float32(0.5)
        elif kind == 8:
            shares[2, i] = np.float32(0.75) * leaf
            shares[8, i] = np.float32(0.25) * leaf
            bright *= np.float32(0.3)
        else:
            shares[2, i] = leaf
        if kind == 5:
            shares[6, i] = bare_share
            phase = state[12, i]
            bright_gain = np.float32(0.65) + np.float32(1.0) * phase * phase
        else:
            steep = max(abs(state[1, i]), abs(state[2, i]))
            stone = min(max((steep - np.float32(0.18)) * np.float32(4.0), np.float32(0.0)), np.float32(1.0))
            if state[3, i] < 2.0:
                stone = max(stone, np.float32(0.5))
            damp = np.float32(1.0) - np.float32(0.45) * moist
            shares[10, i] = bare_share * stone * damp
            shares[5, i] = bare_share * (np.float32(1.0) - stone) * bright * damp
            dark = bare_share * (np.float32(1.0) - stone) * (np.float32(1.0) - bright) * damp
            shares[12, i] = dark * red
            shares[4, i] = dark * (np.float32(1.0) - red)
        shares[3, i] = dry
        if kind == 3 or kind == 4 or kind == 6:
            bright_gain = np.float32(1.0) + np.float32(0.06) * grain
        for k in range(9):
            shares[k, i] *= clear
        for k in range(10, 13):
            shares[k, i] *= clear
        shares[9, i] = snow * np.float32(0.9)
        gain[i] = bright_gain


def light(frame: Frame, overpass: Overpass) -> Singles:
    """Light on the slope relative to level ground, (N,)."""

    def make() -> Singles:
        land = ground(frame)
        out = np.empty(frame.size, np.float32)
        tangent = min(math.tan(math.radians(overpass.sun_zenith)), 4.0)
        azimuth = math.radians(overpass.sun_azimuth)
        _shade(land.state, tangent * math.sin(azimuth), tangent * math.cos(azimuth), out)
        return out

    return frame.keep_moment(("light", overpass), make)  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _shade(state: Singles, to_east: float, to_north: float, out: Singles) -> None:
    for i in range(out.size):
        east, north = state[1, i], state[2, i]
        facing = (1.0 - to_east * east - to_north * north) / math.sqrt(1.0 + east * east + north * north)
        out[i] = 0.25 + 0.75 * min(max(facing, 0.05), 2.2)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _render(
    shares: Singles, gain: Singles, light: Singles, cloud: Singles, shadow: Singles, cirrus: Singles,
    spectrum: Singles, coefficients: Singles, seed: int, column: Any, row: Any, out: Any,
) -> None:  # fmt: skip
    air, passing, cloud_colour, cirrus_colour, noise = coefficients
    one = np.float32(1.0)
    for i in range(out.size):
        value = np.float32(0.0)
        for k in range(_MIXED):
            value += shares[k, i] * spectrum[k]
        value *= gain[i] * light[i] * (one - np.float32(0.68) * shadow[i])
        value = air + passing * value
        value += cirrus[i] * (cirrus_colour - np.float32(0.5) * value)
        value += cloud[i] * (cloud_colour - value)
        grain = uniform(column[i], row[i], seed) - np.float32(0.5)
        value *= one + np.float32(0.03) * grain
        value += noise * grain
        out[i] = np.uint16(min(max(value * np.float32(10000.0), np.float32(1.0)), np.float32(18000.0)))
