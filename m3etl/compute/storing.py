"""Numbers of a source as an array stores them: scaled, clamped, rounded, with the array's fill where nothing was
observed; on the source's own pixels or on those of another grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from m3etl.compute.grids import PixelWindow
from m3etl.compute.positions import Positions
from m3etl.compute.warp import Method, margin_of, method_for, resample
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
        found = [_whole(mark, common) for mark in numbers.nodata]
        marked = [(low, low) if mark is None else (mark, spec.fill) for mark in found]
        whole = np.ascontiguousarray(values, dtype=common)
        _settle(whole, np.array([low, high, below, above], common), np.array(marked, common))
        result = whole.astype(dtype, copy=False)
        if covered is not None:
            result[:, ~covered] = spec.fill
        return result
    is_whole = dtype.kind in "iu"
    least, most = spec.stored_min, spec.stored_max
    if is_whole:
        least, most = math.ceil(least - 1e-6), math.floor(most + 1e-6)
    # Without the detour over physical units, so that no rounding enters where only the steps differ.
    step = np.array([numbers.scale / spec.scale, (numbers.offset - spec.offset) / spec.scale, least, most])
    marks = np.array([math.nan if mark is None else mark for mark in numbers.nodata])
    result = np.empty(values.shape, dtype)
    _convert(np.ascontiguousarray(values), marks, step, is_whole, is_class, spec.fill_value(), result)
    if covered is not None:
        result[:, ~covered] = spec.fill_value()
    return result


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
    window: PixelWindow,
    positions: Positions,
    method: Method | None = None,
) -> Array:
    """The stored array (band, y, x) at `positions` from numbers (band, y, x) of a window of another grid.

    Backscatter in dB is averaged as power. Classes and the nearest pixel stay numbers that were there. Otherwise as
    `stored_of`. method: the array's own by default.
    """
    chosen = method or method_for(spec, positions.samples)
    if chosen in (Method.NEAREST, Method.MODE):
        stored = stored_of(spec, values, numbers, covered)
        return resample(stored, positions, window, chosen, fill=spec.fill_value())
    known = values.astype(np.float32)
    valid = numbers.valid(values, covered)
    is_power = spec.resampling is Resampling.BILINEAR_LINEAR_POWER
    if is_power:
        known = (10.0 ** ((values * numbers.scale + numbers.offset) / 10.0)).astype(np.float32)
        numbers = replace(numbers, scale=1.0, offset=0.0)
    if not valid.all():
        known[~valid] = np.nan
    found = resample(known, positions, window, chosen, fill=np.nan)
    if is_power:
        least = 10.0 ** (spec.valid_min / 10.0)  # cubic may undershoot into what is no power
        found = 10.0 * np.log10(np.maximum(found, least))
    return stored_of(spec, found, replace(numbers, nodata=(None,) * len(found)))


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
def _settle(values: Array, limits: Array, marked: Array) -> None:
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


@numba.njit(nogil=True, cache=True)
def _convert(
    values: Array, marks: Array, step: Array, is_whole: bool, is_class: bool, fill: Any, result: Array
) -> None:
    factor, shift, least, most = step[0], step[1], step[2], step[3]
    for band in range(values.shape[0]):
        mark = marks[band]
        numbers, stored = values[band].reshape(-1), result[band].reshape(-1)
        for place in range(numbers.size):
            value = float(numbers[place])
            kept = value * factor + shift
            if is_whole:
                kept = np.rint(kept)
            if value == mark or not np.isfinite(value) or (is_class and (kept < least or kept > most)):
                stored[place] = fill
            else:
                stored[place] = min(max(kept, least), most)
