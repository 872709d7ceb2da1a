"""Unwrapped interferograms made usable: corrected for the atmosphere and tides, masked where unwrapping gave nothing,
and referenced per connected component, because a phase is known only up to a constant of its component.

Phases are radians, (y, x); displacement along the line of sight = phase x wavelength / (4 pi), positive towards the
sensor (the convention of the ARIA products).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Grid = npt.NDArray[np.floating]
sentinel1_wavelength_m = 0.05546576
no_component = (0, -1)  # Snaphu's label of nothing, and the products' fill
reference_coherence = 0.5  # pixels below it say little about the constant of their component
least_reference_pixels = 9


def mask_phase(phase: Grid, component: Grid, coherence: Grid) -> Grid:
    """The phase with NaN where it was not unwrapped: no component, the fill 0 of the product, no coherence."""
    known = ~np.isin(component, no_component) & np.isfinite(component) & np.isfinite(phase)
    known &= (coherence > 0) & ~((phase == 0) & (coherence == 0))
    return np.where(known, phase, np.nan)


def reference_phase(phase: Grid, component: Grid, coherence: Grid) -> Grid:
    """The phase less the median of the coherent pixels of each component; NaN where the phase is NaN.

    A component with fewer than nine coherent pixels is referenced by the median of all of its pixels.
    """
    referenced = np.full(phase.shape, np.nan, dtype=np.float64)
    known = np.isfinite(phase)
    for label in np.unique(component[known]):
        members = known & (component == label)
        coherent = members & (coherence >= reference_coherence)
        chosen = coherent if coherent.sum() >= least_reference_pixels else members
        referenced[members] = phase[members] - np.median(phase[chosen])
    return referenced


def correct_phase(phase: Grid, corrections: Mapping[str, Grid]) -> Grid:
    """The phase less each correction in radians (by name: ionosphere, tide, troposphere), where that is known.

    A correction without a value at a pixel leaves that pixel's phase NaN: half-corrected ramps are no phase.
    """
    corrected = phase.astype(np.float64)
    for correction in corrections.values():
        corrected = corrected - correction
    return corrected


def at_height(cube: Grid, heights_m: Sequence[float] | Grid, elevation_m: Grid) -> Grid:
    """A cube (height, y, x) at each pixel's elevation, linear between its ascending heights, ends held."""
    heights = np.asarray(heights_m, dtype=np.float64)
    if heights.ndim != 1 or len(heights) != cube.shape[0] or (np.diff(heights) <= 0).any():
        raise ValueError(f"{cube.shape[0]} layers need as many ascending heights, found {list(heights_m)}")
    place = np.interp(np.clip(elevation_m, heights[0], heights[-1]), heights, np.arange(len(heights)))
    low = np.clip(np.floor(place).astype(int), 0, len(heights) - 2) if len(heights) > 1 else np.zeros(place.shape, int)
    high = np.minimum(low + 1, len(heights) - 1)
    share = place - low
    rows, columns = np.indices(elevation_m.shape)
    return np.asarray(cube[low, rows, columns] * (1 - share) + cube[high, rows, columns] * share)


def on_grid(values: Grid, y: npt.NDArray[np.float64], x: npt.NDArray[np.float64], to_y: Grid, to_x: Grid) -> Grid:
    """A coarse field (..., y, x) at positions (to_y, to_x), bilinear; NaN outside. y may descend, x ascends."""
    if y[0] > y[-1]:
        y, values = y[::-1], values[..., ::-1, :]
    place_y = np.interp(to_y, y, np.arange(len(y)), left=np.nan, right=np.nan)
    place_x = np.interp(to_x, x, np.arange(len(x)), left=np.nan, right=np.nan)
    inside = np.isfinite(place_y) & np.isfinite(place_x)
    row = np.clip(np.where(inside, np.floor(place_y), 0).astype(int), 0, max(0, len(y) - 2))
    column = np.clip(np.where(inside, np.floor(place_x), 0).astype(int), 0, max(0, len(x) - 2))
    down, right = np.where(inside, place_y - row, 0.0), np.where(inside, place_x - column, 0.0)
    below, beside = np.minimum(row + 1, len(y) - 1), np.minimum(column + 1, len(x) - 1)
    top = values[..., row, column] * (1 - right) + values[..., row, beside] * right
    bottom = values[..., below, column] * (1 - right) + values[..., below, beside] * right
    return np.where(inside, top * (1 - down) + bottom * down, np.nan)


def line_of_sight_m(phase: Grid, wavelength_m: float = sentinel1_wavelength_m) -> Grid:
    """Displacement along the line of sight in metres, positive towards the sensor."""
    return phase * wavelength_m / (4 * np.pi)
