"""Statistics by counting: parts merge exactly, in any order, and every figure follows from the merged parts alone.

Numbers of 8 and 16 bits are counted in full, so that everything about them is exact. For others count, mean,
deviation, smallest and largest are exact (floats as float32); percentiles and the moments of logarithms are exact up to
65,536 different values and come from values rounded to 12 bits of mantissa beyond, a relative error of at most 1.3e-4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from m3etl.compute.moments import Moments, moments_of, moments_of_table, most_values
from m3etl.spec.modality import ArraySpec, Transform, Values

percentiles = {"p01": 1, "p25": 25, "p50": 50, "p75": 75, "p99": 99}
most_exact = 1 << 16  # different values of a band that are told apart
dropped_bits = 11  # of the 23 bits of a float32 mantissa, when there are more
float16_fraction_bits = 24  # every finite float16 is a whole multiple of 2**-24
ways = 4  # counters of a byte: neighbours are often equal, and one counter would wait for itself

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Table = tuple[Array, npt.NDArray[np.int64]]


class DenseCounts:
    """Counts of every bit pattern of an 8- or 16-bit type, per band: int64 (band, 2**bits), fill included.

    As a part that travels between processes it is only as large as the patterns that occur.
    """

    def __init__(self, spec: ArraySpec) -> None:
        self._spec = spec
        self._dtype = np.dtype(spec.dtype)
        self._unsigned = np.dtype(f"u{self._dtype.itemsize}")
        self.counts = np.zeros((len(spec.bands), 1 << (8 * self._dtype.itemsize)), dtype=np.int64)

    def __reduce__(self) -> tuple[Any, ...]:
        places = np.flatnonzero(self.counts)
        return _dense_from_places, (self._spec, places, self.counts.reshape(-1)[places])

    def add(self, chip: Array, usable: Mask | None = None) -> None:
        """Count one chip, (band, y, x) or (feature,); `usable` (y, x) leaves pixels out, fill is always left out."""
        flat = np.ascontiguousarray(chip).reshape(len(self._spec.bands), -1).view(self._unsigned)
        taken = np.ones(flat.shape[1], dtype=np.bool_) if usable is None else usable.reshape(-1)
        (_count_bytes if self._unsigned.itemsize == 1 else _count)(flat, taken, self.counts)

    def merge(self, other: DenseCounts) -> DenseCounts:
        """Both counted together."""
        merged = DenseCounts(self._spec)
        np.add(self.counts, other.counts, out=merged.counts)
        return merged

    def table(self, band: int) -> Table:
        """The stored values of one band that occur, ascending, and how often; without fill."""
        present = np.flatnonzero(self.counts[band])
        values = present.astype(self._unsigned).view(self._dtype)
        known = np.isfinite(values) if self._spec.fill is None else values != self._spec.fill
        wide = values[known].astype(np.float64 if self._dtype.kind == "f" else np.int64)
        return _unique(wide + 0, self.counts[band, present[known]])

    def moments(self, band: int) -> Moments:
        """Exact moments of one band."""
        values, counts = self.table(band)
        if self._dtype.kind == "f":
            whole = (values * 2**float16_fraction_bits).astype(np.int64)
            return moments_of_table(whole, counts, fraction_bits=float16_fraction_bits)
        return moments_of_table(values, counts)


class SparseCounts:
    """Exact moments and a table of values, per band: for floats and wide integers. Its size is bounded.

    A table of too many values is rounded. The whole never has fewer than its parts, so the order does not matter.
    """

    def __init__(self, spec: ArraySpec) -> None:
        self._spec = spec
        empty: Table = (np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64))
        self._tables = [empty] * len(spec.bands)
        self._is_rounded = [False] * len(spec.bands)
        self._moments = [Moments()] * len(spec.bands)
        self._pending: list[list[Array]] = [[] for _ in spec.bands]
        self._pending_size = 0

    def add(self, chip: Array, usable: Mask | None = None) -> None:
        """Count one chip, (band, y, x) or (feature,); `usable` (y, x) leaves pixels out, fill is always left out."""
        flat = chip.reshape(len(self._spec.bands), -1)
        for band, values in enumerate(flat if usable is None else flat[:, usable.reshape(-1)]):
            known = np.isfinite(values) if self._spec.fill is None else values != self._spec.fill
            self._pending[band].append(values[known])
        self._pending_size += flat.size
        if self._pending_size > most_values:
            self._settle()

    def merge(self, other: SparseCounts) -> SparseCounts:
        """Both counted together."""
        self._settle()
        other._settle()
        merged = SparseCounts(self._spec)
        for part in (self, other):
            for band, (table, moments) in enumerate(zip(part._tables, part._moments, strict=True)):
                merged._is_rounded[band] |= part._is_rounded[band]
                merged._moments[band] += moments
                merged._join(band, table)
        return merged

    def table(self, band: int) -> Table:
        """The values of one band that occur, ascending and perhaps rounded, and how often."""
        self._settle()
        return self._tables[band]

    def moments(self, band: int) -> Moments:
        """Exact moments of one band."""
        self._settle()
        return self._moments[band]

    def _settle(self) -> None:
        for band, parts in enumerate(self._pending):
            values = np.concatenate(parts) if parts else np.empty(0, dtype=self._spec.dtype)
            parts.clear()
            for first in range(0, values.size, most_values):
                self._take(band, values[first : first + most_values])
        self._pending_size = 0

    def _take(self, band: int, values: Array) -> None:
        single = values.astype(np.float32)
        is_wide_integer = values.dtype.kind in "iu" and values.dtype.itemsize <= 4
        self._moments[band] += moments_of(values if is_wide_integer else single)
        self._join(band, (single + np.float32(0), np.ones(single.size, dtype=np.int64)))  # -0 becomes 0

    def _join(self, band: int, table: Table) -> None:
        values, counts = (np.concatenate(pair) for pair in zip(self._tables[band], table, strict=True))
        if not self._is_rounded[band]:
            self._tables[band] = _unique(values, counts)
            self._is_rounded[band] = self._tables[band][0].size > most_exact
            values, counts = self._tables[band]
        if self._is_rounded[band]:
            self._tables[band] = _unique(_rounded(values), counts)


Counts = DenseCounts | SparseCounts


def start_counts(spec: ArraySpec) -> Counts:
    """Empty counts of the right kind for an array."""
    dtype = np.dtype(spec.dtype)
    return DenseCounts(spec) if dtype.itemsize <= 2 else SparseCounts(spec)


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
    if spec.values is Values.CLASSES:
        return {band: _describe_classes(counts.table(place)) for place, band in enumerate(spec.bands)}
    return {
        band: _describe_numbers(spec, counts.table(place), counts.moments(place))
        for place, band in enumerate(spec.bands)
    }


def _describe_classes(table: Table) -> dict[str, Any]:
    codes = {str(int(code)): count for code, count in zip(table[0].tolist(), table[1].tolist(), strict=True)}
    return {"count": int(table[1].sum()), "codes": codes}


def _describe_numbers(spec: ArraySpec, table: Table, moments: Moments) -> dict[str, Any]:
    names = ["mean", "std", "min", "max", *percentiles]
    logarithmic = spec.transform is Transform.LOG_ZSCORE
    if logarithmic:
        names += ["log_scale", "log_mean", "log_std"]
    if not moments.count:
        return {"count": 0, **dict.fromkeys(names)}
    stored = {"mean": moments.mean(), "min": moments.low, "max": moments.high}
    for name, percent in percentiles.items():
        stored[name] = min(max(_percentile(table, percent), moments.low), moments.high)
    found: dict[str, Any] = {name: value * spec.scale + spec.offset for name, value in stored.items()}
    found["std"] = moments.deviation() * spec.scale
    if logarithmic:
        found |= _log_moments(table[0] * spec.scale + spec.offset, table[1], found)
    return {"count": moments.count, **{name: found[name] for name in names}}


def _log_moments(physical: Array, counts: Array, found: Mapping[str, float]) -> dict[str, float]:
    scale = next((found[name] for name in ("p50", "mean") if found[name] > 0), 1.0)
    logs = np.log1p(np.maximum(physical.astype(np.float64), 0.0) / scale)
    mean = float((logs * counts).sum() / counts.sum())
    deviation = float(np.sqrt((counts * (logs - mean) ** 2).sum() / counts.sum()))
    return {"log_scale": scale, "log_mean": mean, "log_std": deviation}


def _percentile(table: Table, percent: int) -> float:
    values, counts = table
    ends = np.cumsum(counts)
    place, hundredths = divmod(percent * (int(ends[-1]) - 1), 100)
    low, high = (
        float(values[np.searchsorted(ends, rank, side="right")]) for rank in (place, min(place + 1, int(ends[-1]) - 1))
    )
    return low + (high - low) * hundredths / 100


def _unique(values: Array, counts: npt.NDArray[np.int64]) -> Table:
    """Equal values joined, ascending."""
    order = np.argsort(values, kind="stable")
    values, counts = values[order], counts[order]
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]]) if values.size else np.empty(0, dtype=np.intp)
    return values[starts], np.add.reduceat(counts, starts) if values.size else counts


def _dense_from_places(spec: ArraySpec, places: Array, found: Array) -> DenseCounts:
    counts = DenseCounts(spec)
    counts.counts.reshape(-1)[places] = found
    return counts


def _rounded(values: Array) -> Array:
    """float32 rounded to 12 bits of mantissa, half up in magnitude, within the finite numbers."""
    bits = values.view(np.uint32)
    kept = (bits.astype(np.uint64) + (1 << (dropped_bits - 1))) >> dropped_bits << dropped_bits
    largest = np.finfo(np.float32).max
    return np.clip(kept.astype(np.uint32).view(np.float32), -largest, largest)


@numba.njit(nogil=True, cache=True)
def _count(values: Array, usable: Array, counts: Array) -> None:
    for band in range(values.shape[0]):
        row, found = values[band], counts[band]
        for place in range(row.size):
            if usable[place]:
                found[row[place]] += 1


@numba.njit(nogil=True, cache=True)
def _count_bytes(values: Array, usable: Array, counts: Array) -> None:
    for band in range(values.shape[0]):
        row, found = values[band], np.zeros((ways, 256), np.int64)
        for place in range(row.size):
            found[place % ways, row[place]] += usable[place]
        for way in range(ways):
            counts[band] += found[way]
