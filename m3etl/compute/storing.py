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
    array's own scale keep every bit; where they have its type as well, they are changed in place.
    """
    dtype = np.dtype(spec.dtype)
    is_class = spec.values is Values.CLASSES
    is_same = (numbers.scale, numbers.offset) == (spec.scale, spec.offset)
    common = np.result_type(values.dtype, dtype)
    if is_same and spec.fill is not None and common.kind in "iu":
        low, high = math.ceil(spec.stored_min - 1e-6), math.floor(spec.stored_max + 1e-6)
        below, above = (spec.fill, spec.fill) if is_class else (low, high)
        # Without a mark the lowest value stands for one, and for itself.
        marks = [_whole(mark, common) for mark in numbers.nodata]
        marked = [(low, low) if mark is None else (mark, spec.fill) for mark in marks]
        whole = np.ascontiguousarray(values, dtype=common)
        _settle(whole, np.array([low, high, below, above], common), np.array(marked, common))
        result = whole.astype(dtype, copy=False)
        if covered is not None:
            result[:, ~covered] = spec.fill
        return result
    known = numbers.valid(values, covered)
    # Without the detour over physical units, so that no rounding enters where only the steps differ.
    wide = values.astype(np.float64) * (numbers.scale / spec.scale) + (numbers.offset - spec.offset) / spec.scale
    wide[~known] = 0.0
    least, most = spec.stored_min, spec.stored_max
    if dtype.kind in "iu":
        wide, least, most = np.rint(wide), math.ceil(least - 1e-6), math.floor(most + 1e-6)
    if is_class:
        known &= (wide >= least) & (wide <= most)
    stored = np.clip(wide, least, most).astype(dtype)
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


def _whole(mark: float | None, dtype: np.dtype[Any]) -> int | None:
    """nodata as an integer; None where no number of the type can equal it."""
    if mark is None or not math.isfinite(mark) or mark != int(mark):
        return None
    limits = np.iinfo(dtype)
    return int(mark) if limits.min <= mark <= limits.max else None


@numba.njit(nogil=True, cache=True)
def _settle(values: Array, limits: Array, marked: Array) -> None:  # pragma: no cover - compiled
    """In place, band by band in one line and on one type: that becomes machine code for many pixels at a time."""
    low, high, below, above = limits[0], limits[1], limits[2], limits[3]
    for band in range(values.shape[0]):
        mark, fill = marked[band, 0], marked[band, 1]
        line = values[band].reshape(-1)
        for place in range(line.size):
            value = line[place]
            kept = value
            if value < low:
                kept = below
            if value > high:
                kept = above
            if value == mark:
                kept = fill
            line[place] = kept
