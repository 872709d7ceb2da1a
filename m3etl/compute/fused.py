"""Normalising on the CPU in one pass: cast, scale, clip, validity, rounding to 16 bits, all within the cache of a core.

The same arithmetic as the torch path of `compute.normalize`, without its temporaries, by native threads over chips.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

least_parallel = 1 << 18  # numbers; below this a thread costs more than it gives
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class BandScale:
    """What happens to the stored numbers of each band: x * gain + shift within [-limit, limit], 0 where fill.

    gain, shift: float32 (band,). usable: bool (band,), False where there are no statistics. fill: a number of the
    stored type, or NaN; NaN is never valid.
    """

    gain: Array
    shift: Array
    usable: Array
    fill: Any
    limit: float


def normalize_numbers(stored: Array, scale: BandScale, values: Array, valid: Array, *, kind: str, threads: int) -> None:
    """Fill values and valid (bool) from stored, all (chip, band, pixel) and C-contiguous.

    kind: float32, or bfloat16 or float16, whose bits are written into `values` of uint16, rounded to nearest even.
    """
    constants = scale.fill, scale.gain, scale.shift, scale.usable, np.float32(scale.limit)
    if kind == "float32":
        _over_chips(lambda at: _to_float32(stored[at], *constants, values[at], valid[at]), stored, threads)
    elif kind == "bfloat16":
        _over_chips(lambda at: _to_bfloat16(stored[at], *constants, values[at], valid[at]), stored, threads)
    else:
        _over_chips(lambda at: _to_float16(stored[at], *constants, values[at], valid[at]), stored, threads)


def look_up_classes(stored: Array, table: Array, lowest: int, indexes: Array, valid: Array, *, threads: int) -> None:
    """Fill indexes (int64, from `table` at code - lowest) and valid (index not negative); all (chip, number)."""
    _over_chips(lambda at: _look_up(stored[at], table, lowest, indexes[at], valid[at]), stored, threads)


def _over_chips(work: Callable[[slice], None], stored: Array, threads: int) -> None:
    chips = stored.shape[0]
    parts = max(1, min(threads, chips)) if stored.size >= least_parallel else 1
    if parts == 1:
        work(slice(0, chips))
        return
    edges = [chips * part // parts for part in range(parts + 1)]
    list(_pool(threads).map(work, map(slice, edges, edges[1:])))


def _pool(threads: int) -> ThreadPoolExecutor:
    key = (os.getpid(), threads)  # a forked child has none of its parent's threads
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads, thread_name_prefix="m3etl-normalize")
    return _pools[key]


@numba.njit(nogil=True, cache=True)
def _scaled(number: Any, fill: Any, gain: Any, shift: Any, limit: Any, usable: Any) -> Any:
    """The normalised number as float32 and whether it was observed."""
    value = min(max(np.float32(number) * gain + shift, -limit), limit)
    known = (number != fill) & (number == number) & usable
    return np.float32(value if known else np.float32(0)), known


@numba.njit(nogil=True, cache=True)
def _bfloat16_bits(value: Any) -> Any:
    """Bits of the nearest bfloat16, ties to even."""
    word = np.float32(value).view(np.uint32)
    odd = (word >> np.uint32(16)) & np.uint32(1)
    return np.uint16(np.uint32(word + np.uint32(0x7FFF) + odd) >> np.uint32(16))


@numba.njit(nogil=True, cache=True)
def _float16_bits(value: Any) -> Any:
    """Bits of the nearest float16, ties to even; beyond 65504 infinity."""
    word = np.float32(value).view(np.uint32)
    sign = np.uint32(word >> np.uint32(16)) & np.uint32(0x8000)
    size = word & np.uint32(0x7FFFFFFF)
    odd = (size >> np.uint32(13)) & np.uint32(1)
    usual = np.uint32(size - np.uint32(0x38000000 - 0xFFF) + odd) >> np.uint32(13)  # exponent bias 127 becomes 15
    tiny = np.float32(abs(np.float32(value)) + np.float32(0.5)).view(np.uint32) - np.uint32(0x3F000000)
    bits = tiny if size < np.uint32(0x38800000) else usual  # below 2**-14 a float16 has no full mantissa
    return np.uint16(np.uint32(0x7C00 if size >= np.uint32(0x47800000) else bits) | sign)


@numba.njit(nogil=True, cache=True)
def _to_float32(
    stored: Array, fill: Any, gain: Array, shift: Array, usable: Array, limit: Any, values: Array, valid: Array
) -> None:
    for chip in range(stored.shape[0]):
        for band in range(stored.shape[1]):
            source, target, seen = stored[chip, band], values[chip, band], valid[chip, band]
            a, b, c = gain[band], shift[band], usable[band]
            for place in range(source.size):
                target[place], seen[place] = _scaled(source[place], fill, a, b, limit, c)


@numba.njit(nogil=True, cache=True)
def _to_bfloat16(
    stored: Array, fill: Any, gain: Array, shift: Array, usable: Array, limit: Any, values: Array, valid: Array
) -> None:
    for chip in range(stored.shape[0]):
        for band in range(stored.shape[1]):
            source, target, seen = stored[chip, band], values[chip, band], valid[chip, band]
            a, b, c = gain[band], shift[band], usable[band]
            for place in range(source.size):
                value, seen[place] = _scaled(source[place], fill, a, b, limit, c)
                target[place] = _bfloat16_bits(value)


@numba.njit(nogil=True, cache=True)
def _to_float16(
    stored: Array, fill: Any, gain: Array, shift: Array, usable: Array, limit: Any, values: Array, valid: Array
) -> None:
    for chip in range(stored.shape[0]):
        for band in range(stored.shape[1]):
            source, target, seen = stored[chip, band], values[chip, band], valid[chip, band]
            a, b, c = gain[band], shift[band], usable[band]
            for place in range(source.size):
                value, seen[place] = _scaled(source[place], fill, a, b, limit, c)
                target[place] = _float16_bits(value)


@numba.njit(nogil=True, cache=True)
def _look_up(stored: Array, table: Array, lowest: int, indexes: Array, valid: Array) -> None:
    for chip in range(stored.shape[0]):
        source, target, seen = stored[chip], indexes[chip], valid[chip]
        for place in range(source.size):
            index = table[int(source[place]) - lowest]
            target[place] = index
            seen[place] = index >= 0
