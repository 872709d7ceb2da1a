"""Exact count, sum, sum of squares, smallest and largest of numbers: parts add up to the whole in any order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

unit_bits = 149  # every finite float32 is a whole multiple of 2**-149
most_values = 1 << 20  # of one call, so that partial sums of 2**24 each stay whole numbers of a float64


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """total is in units of 2**-149, squares in units of 2**-298; both are whole numbers without a limit."""

    count: int = 0
    total: int = 0
    squares: int = 0
    low: float = math.inf
    high: float = -math.inf

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            count=self.count + other.count,
            total=self.total + other.total,
            squares=self.squares + other.squares,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
        )

    def mean(self) -> float:
        """The mean, rounded once; ZeroDivisionError without numbers."""
        return self.total / (self.count << unit_bits)

    def deviation(self) -> float:
        """Standard deviation of the population, rounded twice."""
        spread = self.count * self.squares - self.total * self.total
        return math.sqrt(spread / (self.count * self.count << 2 * unit_bits))


def moments_of(values: Array) -> Moments:
    """Moments of at most 2**20 numbers: float32 without NaN or infinity, or integers of up to 32 bits."""
    if not values.size:
        return Moments()
    if values.size > most_values:
        raise ValueError(f"at most {most_values} numbers at a time, found {values.size}")
    total, squares = _float_sums(values) if values.dtype.kind == "f" else _integer_sums(values)
    low, high = float(values.min()), float(values.max())
    return Moments(count=values.size, total=total, squares=squares, low=low, high=high)


def moments_of_table(values: Array, counts: npt.NDArray[np.int64], *, fraction_bits: int = 0) -> Moments:
    """Moments of numbers that occur so many times each: ascending integers times 2**-fraction_bits."""
    if not values.size:
        return Moments()
    pairs = list(zip(values.tolist(), counts.tolist(), strict=True))
    total = sum(value * count for value, count in pairs)
    squares = sum(value * value * count for value, count in pairs)
    bits = unit_bits - fraction_bits
    low, high = (float(value) / 2**fraction_bits for value in (values[0], values[-1]))
    return Moments(count=int(counts.sum()), total=total << bits, squares=squares << 2 * bits, low=low, high=high)


def _integer_sums(values: Array) -> tuple[int, int]:
    wide = values.astype(np.int64)
    high, low = wide >> 16, wide & 0xFFFF
    squares = (int((high * high).sum()) << 32) + (int((high * low).sum()) << 17) + int((low * low).sum())
    return int(wide.sum()) << unit_bits, squares << 2 * unit_bits


def _float_sums(values: Array) -> tuple[int, int]:
    """Mantissas are summed by exponent: sums of 24-bit numbers, and of squares in halves of 12 bits, are exact."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.int64)
    exponent = (bits >> 23) & 0xFF
    mantissa = (bits & 0x7FFFFF) | ((exponent > 0) << 23)
    shift = np.maximum(exponent, 1) - 1
    high, low = mantissa >> 12, mantissa & 0xFFF
    signed = np.where(bits >> 31, -mantissa, mantissa)
    total, squares = 0, 0
    columns = [np.bincount(shift, weights=column) for column in (signed, high * high, high * low, low * low)]
    for place, sums in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        whole, top, middle, bottom = (int(item) for item in sums)
        total += whole << place
        squares += ((top << 24) + (middle << 13) + bottom) << 2 * place
    return total, squares
