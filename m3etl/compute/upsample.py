"""A coarse picture on a finer grid over the same area, in stored units: bilinear over observed pixels, or nearest."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from m3etl.spec.modality import ArraySpec, Resampling, Values

Array = npt.NDArray[Any]


def upsample_into(spec: ArraySpec, stored: Array, finer: Array) -> None:
    """Fill `finer` (band, m, m) from `stored` (band, n, n), both of the stored dtype.

    Classes and nearest-resampled arrays take the pixel under the new centre. Numbers are interpolated between pixel
    centres over the observed ones of the four neighbours, and rounded for integers; where the pixel under the new
    centre was not observed the result is fill, so that the footprint stays as it is.
    """
    if spec.values is Values.CLASSES or spec.resampling is Resampling.NEAREST:
        side = _under_centres(stored.shape[-1], finer.shape[-1])
        finer[...] = stored[:, _under_centres(stored.shape[-2], finer.shape[-2])[:, None], side]
        return
    is_float = spec.fill is None
    _bilinear(stored, finer, spec.fill_value(), is_float)


def _under_centres(old: int, new: int) -> npt.NDArray[np.int64]:
    return ((2 * np.arange(new) + 1) * old) // (2 * new)


@numba.njit(nogil=True, cache=True)
def _bilinear(stored: Array, finer: Array, fill: Any, is_float: bool) -> None:
    rows, columns = stored.shape[1], stored.shape[2]
    new_rows, new_columns = finer.shape[1], finer.shape[2]
    for band in range(stored.shape[0]):
        for i in range(new_rows):
            y = (i + 0.5) * rows / new_rows - 0.5
            top = int(np.floor(y))
            for j in range(new_columns):
                under = stored[band, (2 * i + 1) * rows // (2 * new_rows), (2 * j + 1) * columns // (2 * new_columns)]
                if (is_float and under != under) or (not is_float and under == fill):
                    finer[band, i, j] = fill
                    continue
                x = (j + 0.5) * columns / new_columns - 0.5
                left = int(np.floor(x))
                total = 0.0
                weight = 0.0
                for row in range(top, top + 2):
                    for column in range(left, left + 2):
                        value = stored[band, min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)]
                        if (is_float and value != value) or (not is_float and value == fill):
                            continue
                        share = (1.0 - abs(y - row)) * (1.0 - abs(x - column))
                        total += share * value
                        weight += share
                mean = total / weight
                finer[band, i, j] = mean if is_float else np.rint(mean)
