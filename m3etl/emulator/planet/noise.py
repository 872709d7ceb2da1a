"""Gradient noise on 3-D coordinates of the unit sphere: no seams at the poles or the antimeridian, any wavelength.

Every kernel is a pure function of position and seed and runs without the interpreter lock. No fast-math: results must
not depend on how a compiler orders a sum. The loops are written to vectorise: floor in floating point, 32-bit integers.
Compiled kernels are kept on disk by the time stamp of their own file: after a change to a function that other files
inline (`mix`, `uniform`, `smoothstep`), remove the `__pycache__` folders.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

EARTH_RADIUS_KM = 6371.0
"""Mean radius; turns a wavelength in km into a frequency on the unit sphere."""

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

_GAIN = np.float32(1.9)  # brings one octave to a standard deviation of about 0.4 and a range of about [-1.5, 1.5]


def frequency(wavelength_km: float) -> float:
    """Cycles per unit of the unit sphere for a wavelength on the ground."""
    return EARTH_RADIUS_KM / wavelength_km


@numba.njit(inline="always")
def mix(value: Any) -> Any:
    """A 32-bit integer hash (the finaliser known as lowbias32)."""
    h = np.uint32(value)
    h = np.uint32(h ^ (h >> np.uint32(16)))
    h = np.uint32(h * np.uint32(0x7FEB352D))
    h = np.uint32(h ^ (h >> np.uint32(15)))
    h = np.uint32(h * np.uint32(0x846CA68B))
    return np.uint32(h ^ (h >> np.uint32(16)))


@numba.njit(inline="always")
def uniform(column: Any, row: Any, seed: Any) -> Any:
    """A number in (0, 1) from two integers and a seed: white noise on a lattice."""
    h = mix(np.uint32(np.uint32(column) * np.uint32(0x8DA6B343)) ^ np.uint32(seed))
    h = mix(np.uint32(h + np.uint32(np.uint32(row) * np.uint32(0xD8163841))))
    return (np.float32(h >> np.uint32(8)) + np.float32(0.5)) * np.float32(1.0 / 16777216.0)


@numba.njit(inline="always")
def smoothstep(low: Any, high: Any, value: Any) -> Any:
    """0 below `low`, 1 above `high`, a smooth cubic between."""
    # the reciprocal of constant limits is folded at compile time, a division is not
    t = min(max((value - low) * (1.0 / (high - low)), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@numba.njit(inline="always")
def _component(bits: Any) -> Any:
    """Ten bits as a gradient component in [-1, 1)."""
    return np.float32(np.int32(bits & np.uint32(1023)) - np.int32(512)) * np.float32(1.0 / 512.0)


@numba.njit(inline="always")
def _fade(f: Any) -> Any:
    return f * f * f * (f * (f * np.float32(6.0) - np.float32(15.0)) + np.float32(10.0))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def add_octave(
    x: Floats, y: Floats, z: Floats, freq: float, amplitude: float, ridge: float, seed: int, out: Singles
) -> None:
    """Adds `amplitude` x one octave of gradient noise to `out`; all arrays are (N,).

    `ridge` in [0, 1] blends from plain noise to ridged noise (0.6 - 2|n|), whose zero crossings become crests.
    """
    one = np.float32(1.0)
    scale = np.float32(amplitude)
    plain = np.float32(1.0 - ridge)
    crest = np.float32(2.0 * ridge)
    lift = np.float32(0.6 * ridge)
    salt = np.uint32(np.uint32(seed) * np.uint32(0x9E3779B1))
    for i in range(out.size):
        px, py, pz = x[i] * freq, y[i] * freq, z[i] * freq
        bx, by, bz = np.floor(px), np.floor(py), np.floor(pz)
        fx, fy, fz = np.float32(px - bx), np.float32(py - by), np.float32(pz - bz)
        hx = np.uint32(np.uint32(np.int32(bx)) * np.uint32(0x8DA6B343))
        hy = np.uint32(np.uint32(np.int32(by)) * np.uint32(0xD8163841))
        hz = np.uint32(np.uint32(np.int32(bz)) * np.uint32(0xCB1AB31F))
        ux, uy, uz = _fade(fx), _fade(fy), _fade(fz)
        total = np.float32(0.0)
        for corner in range(8):
            cx, cy, cz = corner & 1, (corner >> 1) & 1, (corner >> 2) & 1
            h = mix(
                np.uint32(hx + np.uint32(np.uint32(cx) * np.uint32(0x8DA6B343)))
                ^ np.uint32(hy + np.uint32(np.uint32(cy) * np.uint32(0xD8163841)))
                ^ np.uint32(hz + np.uint32(np.uint32(cz) * np.uint32(0xCB1AB31F)))
                ^ salt
            )
            dx, dy, dz = fx - np.float32(cx), fy - np.float32(cy), fz - np.float32(cz)
            weight = (ux if cx else one - ux) * (uy if cy else one - uy) * (uz if cz else one - uz)
            total += weight * (
                _component(h) * dx + _component(h >> np.uint32(10)) * dy + _component(h >> np.uint32(20)) * dz
            )
        total *= _GAIN
        out[i] += scale * (total * (plain - crest if total > np.float32(0.0) else plain + crest) + lift)
