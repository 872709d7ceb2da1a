"""A coarse picture on a finer grid over the same area, in stored units: bilinear over observed pixels, or nearest."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from m3etl.spec.modality import ArraySpec, Resampling, Values

Array = npt.NDArray[Any]


def upsample_into(
    spec: ArraySpec, stored: Array, finer: Array, *, side: int | None = None, corner: tuple[int, int] = (0, 0)
) -> None:
    """Fill `finer` (band, h, w) from `stored` (band, n, n), both of the stored dtype.

    `finer` is the window with upper left `corner` (row, column) of the whole picture of `side` x `side` pixels; without
    `side` it is the whole picture. Classes and nearest-resampled arrays take the pixel under the new centre. Numbers
    are interpolated between pixel centres over the observed ones of the four neighbours (backscatter in dB in linear
    power, as it was resampled before) and rounded for integers; where the pixel under the new centre was not observed
    the result is fill, so that the footprint stays as it is.
    """
    whole = finer.shape[-1] if side is None else side
    if spec.values is Values.CLASSES or spec.resampling is Resampling.NEAREST:
        rows, columns = (
            _under_centres(stored.shape[axis], whole)[first : first + finer.shape[axis]]
            for axis, first in zip((-2, -1), corner, strict=True)
        )
        finer[...] = stored[:, rows[:, None], columns]
        return
    in_power = spec.resampling is Resampling.BILINEAR_LINEAR_POWER
    is_float = spec.fill is None
    _bilinear(stored, finer, whole, *corner, spec.fill_value(), is_float, in_power, spec.scale, spec.offset)


def _under_centres(old: int, new: int) -> npt.NDArray[np.int64]:
    return ((2 * np.arange(new) + 1) * old) // (2 * new)


@numba.njit(nogil=True, cache=True)
def _bilinear(
    stored: Array,
    finer: Array,
    side: int,
    first_row: int,
    first_column: int,
    fill: Any,
    is_float: bool,
    in_power: bool,
    scale: float,
    offset: float,
) -> None:
    rows, columns = stored.shape[1], stored.shape[2]
    for band in range(stored.shape[0]):
        for i in range(finer.shape[1]):
            new_row = first_row + i
            y = (new_row + 0.5) * rows / side - 0.5
            top = int(np.floor(y))
            under_row = (2 * new_row + 1) * rows // (2 * side)
            for j in range(finer.shape[2]):
                new_column = first_column + j
                under = stored[band, under_row, (2 * new_column + 1) * columns // (2 * side)]
                if (is_float and under != under) or (not is_float and under == fill):
                    finer[band, i, j] = fill
                    continue
                x = (new_column + 0.5) * columns / side - 0.5
                left = int(np.floor(x))
                total = 0.0
                weight = 0.0
                for row in range(top, top + 2):
                    for column in range(left, left + 2):
                        value = stored[band, min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)]
                        if (is_float and value != value) or (not is_float and value == fill):
                            continue
                        share = (1.0 - abs(y - row)) * (1.0 - abs(x - column))
                        total += share * (10.0 ** ((value * scale + offset) / 10.0) if in_power else value)
                        weight += share
                mean = total / weight
                if in_power:
                    mean = (10.0 * np.log10(mean) - offset) / scale
                finer[band, i, j] = mean if is_float else np.rint(mean)
