"""Numbers of a source as an array stores them: scaled, clamped, rounded, with the array's fill where nothing was
observed; on the source's own pixels or on those of another grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from m3etl.compute.grids import PixelGrid
from m3etl.compute.warp import Method, Positions, find_positions, margin_of, method_for, resample
from m3etl.spec.modality import ArraySpec, Resampling, Values

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceNumbers:
    """What the numbers of a source mean. nodata: the number of each band that marks what was not observed, None where
    all was; NaN never is. physical = number x scale + offset.
    """

    nodata: tuple[float | None, ...]
    scale: float
    offset: float

    def valid(self, values: Array, covered: Mask | None) -> Mask:
        """Where numbers (band, y, x) were observed; covered: bool (y, x), where there is a source at all."""
        valid = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, np.bool_)
        for plane, mark, known in zip(values, self.nodata, valid, strict=True):
            if mark is not None and not math.isnan(mark):
                known &= plane != mark
        if covered is not None:
            valid &= covered
        return valid


def stored_of(spec: ArraySpec, values: Array, numbers: SourceNumbers, covered: Mask | None = None) -> Array:
    """What the array stores for numbers (band, y, x); covered: bool (y, x), where there is a source at all.

    Values beyond the declared range are clamped into it, classes beyond it are fill, as when exported. Integers in the
    array's own scale keep every bit.
    """
    dtype = np.dtype(spec.dtype)
    is_class = spec.values is Values.CLASSES
    is_same = (numbers.scale, numbers.offset) == (spec.scale, spec.offset)
    if is_same and spec.fill is not None and values.dtype.kind in "iu":
        stored = np.empty(values.shape, dtype)
        where = np.ones((1, 1), np.bool_) if covered is None else covered
        limits = math.ceil(spec.stored_min - 1e-6), math.floor(spec.stored_max + 1e-6)
        for plane, mark, result in zip(values, map(_whole, numbers.nodata), stored, strict=True):
            _store(plane, mark is not None, mark or 0, where, *limits, is_class, spec.fill, result)
        return stored
    known = numbers.valid(values, covered)
    # Without the detour over physical units, so that no rounding enters where only the steps differ.
    wide = values.astype(np.float64) * (numbers.scale / spec.scale) + (numbers.offset - spec.offset) / spec.scale
    wide[~known] = 0.0
    low, high = spec.stored_min, spec.stored_max
    if dtype.kind in "iu":
        wide, low, high = np.rint(wide), np.ceil(low - 1e-6), np.floor(high + 1e-6)
    if is_class:
        known &= (wide >= low) & (wide <= high)
    stored = np.clip(wide, low, high).astype(dtype)
    stored[~known] = spec.fill_value()
    return stored


def unknown_codes(spec: ArraySpec, stored: Array) -> list[int]:
    """Codes that are no class of the array (at most ten); none for arrays without a table of classes."""
    if spec.values is not Values.CLASSES or not spec.classes:
        return []
    known = np.array([*(item.code for item in spec.classes), spec.fill_value()])
    found: list[int] = np.setdiff1d(stored, known)[:10].tolist()
    return found


def aligned(
    spec: ArraySpec,
    values: Array,
    numbers: SourceNumbers,
    covered: Mask | None = None,
    *,
    source: PixelGrid,
    target: PixelGrid,
    method: Method | None = None,
) -> Array:
    """The stored array (band, y, x) on `target` from numbers (band, y, x) on `source`, another grid.

    Backscatter in dB is averaged as power. Classes and the nearest pixel stay numbers that were there. Otherwise as
    `stored_of`. method: the array's own by default.
    """
    positions = find_positions(source, target)
    chosen = method or method_for(spec, positions.samples)
    if chosen in (Method.NEAREST, Method.MODE):
        stored = stored_of(spec, values, numbers, covered)
        return resample(stored, positions, source.window, chosen, fill=spec.fill_value())
    physical = values.astype(np.float64) * numbers.scale + numbers.offset
    physical[~numbers.valid(values, covered)] = np.nan
    is_power = spec.resampling is Resampling.BILINEAR_LINEAR_POWER
    if is_power:
        physical = 10.0 ** (physical / 10.0)
    found = resample(physical.astype(np.float32), positions, source.window, chosen, fill=np.nan).astype(np.float64)
    if is_power:
        least = 10.0 ** (spec.valid_min / 10.0)  # cubic may undershoot into what is no power
        found = 10.0 * np.log10(np.maximum(found, least))
    return stored_of(spec, found, SourceNumbers(nodata=(None,) * len(found), scale=1.0, offset=0.0))


def reach_of(spec: ArraySpec, positions: Positions, method: Method | None) -> int:
    """Source pixels that `aligned` needs around the positions."""
    return margin_of(method or method_for(spec, positions.samples))


def _whole(mark: float | None) -> int | None:
    """nodata as an integer; None where no integer can equal it."""
    return int(mark) if mark is not None and math.isfinite(mark) and mark == int(mark) else None


@numba.njit(nogil=True, cache=True)
def _store(
    values: Array,
    is_marked: bool,
    mark: int,
    covered: Mask,
    low: int,
    high: int,
    is_class: bool,
    fill: int,
    result: Array,
) -> None:  # pragma: no cover - compiled
    everywhere = covered.shape != values.shape
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            value = int(values[y, x])
            if (is_marked and value == mark) or not (everywhere or covered[y, x]):
                value = fill
            elif value < low or value > high:
                value = fill if is_class else min(max(value, low), high)
            result[y, x] = value
