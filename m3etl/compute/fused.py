"""Normalising integers on the CPU in one pass: cast, scale, clip, validity, rounding to bf16, all within the cache.

The same arithmetic as the torch path of `compute.normalize`, without its temporaries, by native threads over chips.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

least_parallel = 1 << 18  # numbers; below this a thread costs more than it gives
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def normalize_integers(
    stored: Array, fill: Any, gain: Array, shift: Array, usable: Array, limit: float, *, bf16: bool, threads: int
) -> tuple[Array, Array]:
    """stored (chip, band, pixel) times gain (band) plus shift (band), within [-limit, limit], 0 where fill or unusable.

    Returns float32, or with `bf16` uint16 that hold the bits of bfloat16 (rounded to nearest even), and bool validity.
    """
    values = np.empty(stored.shape, dtype=np.uint16 if bf16 else np.float32)
    valid = np.empty(stored.shape, dtype=np.bool_)
    kernel = _to_bf16 if bf16 else _to_float32
    chips = stored.shape[0]
    parts = min(threads, chips) if stored.size >= least_parallel else 1
    edges = [chips * part // parts for part in range(parts + 1)]

    def work(part: int) -> None:
        rows = slice(edges[part], edges[part + 1])
        kernel(stored[rows], fill, gain, shift, usable, np.float32(limit), values[rows], valid[rows])

    if parts == 1:
        work(0)
    else:
        list(_pool(threads).map(work, range(parts)))
    return values, valid


def _pool(threads: int) -> ThreadPoolExecutor:
    key = (os.getpid(), threads)  # a forked child has none of its parent's threads
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads, thread_name_prefix="m3etl-normalize")
    return _pools[key]


@numba.njit(nogil=True, cache=True)
def _to_float32(
    stored: Array, fill: Any, gain: Array, shift: Array, usable: Array, limit: Any, values: Array, valid: Array
) -> None:
    for chip in range(stored.shape[0]):
        for band in range(stored.shape[1]):
            source, target, seen = stored[chip, band], values[chip, band], valid[chip, band]
            if not usable[band]:
                target[:] = 0
                seen[:] = False
                continue
            a, b = gain[band], shift[band]
            for place in range(source.size):
                scaled = min(max(np.float32(source[place]) * a + b, -limit), limit)
                known = source[place] != fill
                target[place] = scaled if known else np.float32(0)
                seen[place] = known


@numba.njit(nogil=True, cache=True)
def _to_bf16(
    stored: Array, fill: Any, gain: Array, shift: Array, usable: Array, limit: Any, values: Array, valid: Array
) -> None:
    wide = np.empty(stored.shape[2], dtype=np.float32)
    bits = wide.view(np.uint32)
    for chip in range(stored.shape[0]):
        for band in range(stored.shape[1]):
            source, target, seen = stored[chip, band], values[chip, band], valid[chip, band]
            if not usable[band]:
                target[:] = 0
                seen[:] = False
                continue
            a, b = gain[band], shift[band]
            for place in range(source.size):
                scaled = min(max(np.float32(source[place]) * a + b, -limit), limit)
                known = source[place] != fill
                wide[place] = scaled if known else np.float32(0)
                seen[place] = known
            for place in range(source.size):
                word = bits[place]
                odd = (word >> np.uint32(16)) & np.uint32(1)
                target[place] = (word + np.uint32(0x7FFF) + odd) >> np.uint32(16)
