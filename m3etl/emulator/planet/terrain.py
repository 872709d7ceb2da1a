"""Terrain of the planet: elevation and its slopes at the pixels of a frame."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from m3etl.emulator.planet.frames import TERRAIN_SEED, Frame, Node, octave_sum, sloped_sum
from m3etl.emulator.planet.noise import Floats, Singles, smoothstep

_SHORT: tuple[tuple[float, float, float], ...] = (
    # wavelength in km, amplitude, ridge; goes on from `TERRAIN_LONG`
    (1.3, 0.095, 0.4),
    (0.55, 0.033, 0.2),
    (0.24, 0.0115, 0.0),
    (0.1, 0.0033, 0.0),
)


def elevation(frame: Frame) -> Singles:
    """(N,) metres above the sea, negative below it."""

    def make() -> Singles:
        kept = frame.kept.get("slopes")
        return kept[0] if kept is not None else _raise(frame, octave_sum(*frame.position(), _SHORT, TERRAIN_SEED + 1))

    return frame.keep("elevation", make)  # type: ignore[no-any-return]


def slopes(frame: Frame) -> tuple[Singles, Singles, Singles]:
    """Elevation in metres and its slope (rise over run) to the east and to the north, (N,) each."""

    def make() -> tuple[Singles, Singles, Singles]:
        short, east, north = sloped_sum(*frame.position(), _SHORT, TERRAIN_SEED + 1)
        height = _raise(frame, short)
        long = frame.column(Node.TERRAIN_EAST), frame.column(Node.TERRAIN_NORTH)
        _tilt(frame.column(Node.SHORE), frame.column(Node.RELIEF), height, *long, east, north)
        return height, east, north

    return frame.keep("slopes", make)  # type: ignore[no-any-return]


def coarse_elevation(nodes: Floats) -> Singles:
    """(M,) metres at nodes, from the long octaves alone: the mean terrain of some ten kilometres."""
    out = np.empty(nodes.shape[0], np.float32)
    _shape(nodes[:, Node.SHORE], nodes[:, Node.HEIGHT], nodes[:, Node.RELIEF], nodes[:, Node.TERRAIN], out)
    return out


def _raise(frame: Frame, short: Singles) -> Singles:
    out = np.empty(frame.size, np.float32)
    total = frame.column(Node.TERRAIN) + short
    _shape(frame.column(Node.SHORE), frame.column(Node.HEIGHT), frame.column(Node.RELIEF), total, out)
    return out


@numba.njit(inline="always")
def _amplitude(relief: Any, shore: Any) -> Any:
    """Metres of height per unit of noise."""
    return 12.0 + relief * smoothstep(-120.0, 60.0, shore)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _tilt(
    shore: Floats, relief: Floats, height: Singles, long_east: Floats, long_north: Floats, east: Singles, north: Singles
) -> None:
    """Turns the slopes of the short octaves into slopes of the ground, in place; the sea is level."""
    for i in range(east.size):
        size = _amplitude(relief[i], shore[i]) if height[i] > 0 else 0.0
        east[i] = (east[i] + long_east[i]) * size
        north[i] = (north[i] + long_north[i]) * size


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _shape(shore: Floats, height: Floats, relief: Floats, noise: Floats, out: Singles) -> None:
    for i in range(out.size):
        s = shore[i]
        ramp = 55.0 * (1.0 - math.exp(-s / 45.0)) if s > 0 else -220.0 * (1.0 - math.exp(s / 70.0))
        out[i] = ramp + height[i] * smoothstep(-40.0, 140.0, s) + _amplitude(relief[i], s) * noise[i]
