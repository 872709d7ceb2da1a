"""Statistics by counting stored values: parts merge exactly, in any order, and every figure follows from the counts.

Integers of 8 and 16 bits are counted in full. Other values are counted as they are in vectors; in float pictures they
are first rounded to 12 bits of mantissa, a relative error of at most 1.3e-4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from m3etl.spec.modality import ArraySpec, Shape, Transform, Values

percentiles = {"p01": 1, "p25": 25, "p50": 50, "p75": 75, "p99": 99}
dropped_bits = 11  # of the 23 bits of a float32 mantissa
most_pending = 1 << 20

Array = npt.NDArray[Any]
Table = tuple[Array, npt.NDArray[np.int64]]


class DenseCounts:
    """Counts of every number of an 8- or 16-bit integer type, per band: int64 (band, 2**bits)."""

    def __init__(self, spec: ArraySpec, counts: npt.NDArray[np.int64] | None = None) -> None:
        dtype = np.dtype(spec.dtype)
        self._spec = spec
        self._unsigned = np.dtype(f"u{dtype.itemsize}")
        self._lowest = int(np.iinfo(dtype).min)
        size = 1 << (8 * dtype.itemsize)
        self.counts = np.zeros((len(spec.bands), size), dtype=np.int64) if counts is None else counts

    def add(self, chip: Array, usable: npt.NDArray[np.bool_] | None = None) -> None:
        """Count one chip, (band, y, x) or (feature,); `usable` (y, x) leaves pixels out, fill is always left out."""
        flat = np.ascontiguousarray(chip).reshape(len(self._spec.bands), -1).view(self._unsigned)
        taken = np.ones(flat.shape[1], dtype=np.bool_) if usable is None else usable.reshape(-1)
        fill = -1 if self._spec.fill is None else self._spec.fill - self._lowest
        _count(flat, taken, -self._lowest, fill, self.counts)

    def merge(self, other: DenseCounts) -> DenseCounts:
        """Both counted together."""
        return DenseCounts(self._spec, self.counts + other.counts)

    def table(self, band: int) -> Table:
        """The stored values of one band that occur, ascending, and how often."""
        present = np.flatnonzero(self.counts[band])
        return present + self._lowest, self.counts[band, present]


class SparseCounts:
    """Counts of the numbers that occur, per band: for floats and wide integers."""

    def __init__(self, spec: ArraySpec, tables: list[Table] | None = None) -> None:
        self._spec = spec
        self._rounded = spec.shape is Shape.RASTER and np.dtype(spec.dtype).kind == "f"
        empty: Table = (np.empty(0, dtype=spec.dtype), np.empty(0, dtype=np.int64))
        self._tables = [empty] * len(spec.bands) if tables is None else tables
        self._pending: list[list[Array]] = [[] for _ in spec.bands]
        self._pending_size = 0

    def add(self, chip: Array, usable: npt.NDArray[np.bool_] | None = None) -> None:
        """Count one chip, (band, y, x) or (feature,); `usable` (y, x) leaves pixels out, fill is always left out."""
        flat = chip.reshape(len(self._spec.bands), -1)
        for band, values in enumerate(flat if usable is None else flat[:, usable.reshape(-1)]):
            kept = values[np.isfinite(values)] if self._spec.fill is None else values[values != self._spec.fill]
            if self._rounded:
                kept = _rounded(kept)
            self._pending[band].append(kept)
            self._pending_size += kept.size
        if self._pending_size > most_pending:
            self._settle()

    def merge(self, other: SparseCounts) -> SparseCounts:
        """Both counted together."""
        self._settle()
        other._settle()
        return SparseCounts(self._spec, [_joined(a, b) for a, b in zip(self._tables, other._tables, strict=True)])

    def table(self, band: int) -> Table:
        """The stored values of one band that occur, ascending, and how often."""
        self._settle()
        return self._tables[band]

    def _settle(self) -> None:
        for band, parts in enumerate(self._pending):
            if parts:
                values, counts = np.unique(
                    np.concatenate(parts) + self._tables[band][0].dtype.type(0), return_counts=True
                )
                self._tables[band] = _joined(self._tables[band], (values, counts.astype(np.int64)))
                parts.clear()
        self._pending_size = 0


Counts = DenseCounts | SparseCounts


def start_counts(spec: ArraySpec) -> Counts:
    """Empty counts of the right kind for an array."""
    dtype = np.dtype(spec.dtype)
    return DenseCounts(spec) if dtype.kind in "iu" and dtype.itemsize <= 2 else SparseCounts(spec)


def merge_counts(one: Counts, other: Counts) -> Counts:
    """Both counted together; they must be of the same array."""
    if isinstance(one, DenseCounts) and isinstance(other, DenseCounts):
        return one.merge(other)
    if isinstance(one, SparseCounts) and isinstance(other, SparseCounts):
        return one.merge(other)
    raise TypeError("counts of different kinds cannot be merged")


def summarise(spec: ArraySpec, counts: Counts) -> dict[str, dict[str, Any]]:
    """Statistics by band, in physical units.

    continuous and cyclic: {count, mean, std, min, max, p01, p25, p50, p75, p99}, all but the count None where nothing
    was observed; std is that of the population, percentiles interpolate linearly. Arrays whose transform is
    logarithmic have log_scale, log_mean and log_std of log(1 + x / log_scale) as well. classes: {count, codes: {code:
    count}}.
    """
    describe = _describe_classes if spec.values is Values.CLASSES else _describe_numbers
    return {band: describe(spec, counts.table(position)) for position, band in enumerate(spec.bands)}


def _describe_classes(spec: ArraySpec, table: Table) -> dict[str, Any]:
    values, counts = table
    codes = {str(code): count for code, count in zip(values.tolist(), counts.tolist(), strict=True)}
    return {"count": int(counts.sum()), "codes": codes}


def _describe_numbers(spec: ArraySpec, table: Table) -> dict[str, Any]:
    values, counts = table
    total = int(counts.sum())
    names = ["mean", "std", "min", "max", *percentiles]
    logarithmic = spec.transform is Transform.LOG_ZSCORE
    if logarithmic:
        names += ["log_scale", "log_mean", "log_std"]
    if not total:
        return {"count": 0, **dict.fromkeys(names)}
    mean, deviation = _moments(values, counts)
    stored = {"mean": mean, "min": float(values[0]), "max": float(values[-1])}
    stored |= {name: _percentile(table, percent) for name, percent in percentiles.items()}
    found: dict[str, Any] = {name: value * spec.scale + spec.offset for name, value in stored.items()}
    found["std"] = deviation * spec.scale
    if logarithmic:
        found |= _log_moments(values * spec.scale + spec.offset, counts, found)
    return {"count": total, **{name: found[name] for name in names}}


def _log_moments(physical: Array, counts: Array, found: Mapping[str, float]) -> dict[str, float]:
    scale = next((found[name] for name in ("p50", "mean") if found[name] > 0), 1.0)
    mean, deviation = _moments(np.log1p(np.maximum(physical.astype(np.float64), 0.0) / scale), counts)
    return {"log_scale": scale, "log_mean": mean, "log_std": deviation}


def _moments(values: Array, counts: Array) -> tuple[float, float]:
    """Mean and population standard deviation; integers without any rounding before the last step."""
    total = int(counts.sum())
    if values.dtype.kind in "iu":
        pairs = list(zip(values.tolist(), counts.tolist(), strict=True))
        first = sum(value * count for value, count in pairs)
        second = sum(value * value * count for value, count in pairs)
        return first / total, math.sqrt((total * second - first * first) / (total * total))
    wide = values.astype(np.float64)
    mean = math.fsum((wide * counts).tolist()) / total
    return mean, math.sqrt(math.fsum((counts * (wide - mean) ** 2).tolist()) / total)


def _percentile(table: Table, percent: int) -> float:
    values, counts = table
    ends = np.cumsum(counts)
    place, hundredths = divmod(percent * (int(ends[-1]) - 1), 100)
    low, high = (
        float(values[np.searchsorted(ends, rank, side="right")]) for rank in (place, min(place + 1, int(ends[-1]) - 1))
    )
    return low + (high - low) * hundredths / 100


def _joined(one: Table, other: Table) -> Table:
    values, places = np.unique(np.concatenate([one[0], other[0]]), return_inverse=True)
    counts = np.zeros(values.size, dtype=np.int64)
    np.add.at(counts, places, np.concatenate([one[1], other[1]]))
    return values, counts


def _rounded(values: Array) -> Array:
    """float values rounded to 12 bits of mantissa, half up in magnitude."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    kept = (bits + (1 << (dropped_bits - 1))) >> dropped_bits << dropped_bits
    return kept.astype(np.uint32).view(np.float32).astype(values.dtype)


@numba.njit(nogil=True, cache=True)
def _count(values: Array, usable: Array, shift: int, fill: int, counts: Array) -> None:
    size = counts.shape[1]
    for band in range(values.shape[0]):
        for place in range(values.shape[1]):
            if usable[place]:
                index = (int(values[band, place]) + shift) % size  # unsigned view: the sign bit turns over
                if index != fill:
                    counts[band, index] += 1
