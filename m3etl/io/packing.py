"""Frames of byte planes (see `io.frames`) in one call without Python's lock: planes, zstd and crc32c in machine code.

zstd is the one inside numcodecs, whose own call makes and clears its working memory for each piece; here every thread
keeps it. The bytes are those of `frames.encode_planes`. Where a function is not exported, `io.frames` stays with
Python.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from typing import Any

import google_crc32c._crc32c as crc32c_extension
import llvmlite.binding
import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numcodecs import zstd

Bytes = npt.NDArray[np.uint8]

_zstd = ctypes.CDLL(zstd.__file__)
_sources = {
    "m3etl_zstd_compress": (zstd.__file__, "ZSTD_compressCCtx"),
    "m3etl_pack_crc32c": (crc32c_extension.__file__, "crc32c_value"),
}
for _name, (_library, _function) in _sources.items():
    _address = ctypes.cast(getattr(ctypes.CDLL(_library), _function), ctypes.c_void_p).value
    llvmlite.binding.add_symbol(_name, _address)
_zstd.ZSTD_createCCtx.restype = ctypes.c_void_p
_zstd.ZSTD_freeCCtx.argtypes = [ctypes.c_void_p]
_zstd.ZSTD_compressBound.argtypes = [ctypes.c_size_t]
_zstd.ZSTD_compressBound.restype = ctypes.c_size_t
_compress: Any = types.ExternalFunction(
    "m3etl_zstd_compress", types.uintp(types.uintp, types.uintp, types.uintp, types.uintp, types.uintp, types.int32)
)
_crc32c: Any = types.ExternalFunction("m3etl_pack_crc32c", types.uint32(types.uintp, types.uintp))
_sealed = types.Array(types.uint8, 1, "C", readonly=True)  # what the caller gives may be read-only, as from a buffer


class _Workspace:
    """What one thread keeps: memory of zstd, room for the planes of a block and for an encoded chunk."""

    def __init__(self) -> None:
        self.context: int = _zstd.ZSTD_createCCtx()
        self.planes = np.empty(0, np.uint8)
        self.packed = np.empty(0, np.uint8)
        weakref.finalize(self, _zstd.ZSTD_freeCCtx, self.context).atexit = False

    def fit(self, block: int, size: int) -> None:
        """Room for a chunk of `size` bytes in blocks of `block`, however badly it compresses."""
        count = -(-size // block)
        needed = 16 + size + count * (4 + 8 * 4) + _zstd.ZSTD_compressBound(block) + 8
        if self.planes.size < block:
            self.planes = np.empty(block, np.uint8)
        if self.packed.size < needed:
            self.packed = np.empty(needed, np.uint8)


class _Threads(threading.local):
    def __init__(self) -> None:
        self.workspace = _Workspace()


_threads = _Threads()


def pack(values: npt.NDArray[Any], block: int, level: int, header: bytes) -> bytes:
    """`values` (C-contiguous, little-endian, 2 to 8 bytes each) as a blosc frame and its crc32c.

    block: bytes of a block, a multiple of the item size; header: the first 16 bytes, the frame's length still open.
    """
    space = _threads.workspace
    space.fit(block, values.nbytes)
    space.packed[: len(header)] = np.frombuffer(header, np.uint8)
    flat = values.reshape(-1).view(np.uint8)
    end = _pack(flat, values.itemsize, block, space.context, level, space.planes, space.packed)
    if end < 0:
        raise ValueError("zstd cannot compress this chunk")
    return space.packed[:end].tobytes()


@numba.njit(types.void(_sealed, types.int64, types.uint8[::1]), nogil=True, cache=True)
def _split(values: Bytes, itemsize: int, planes: Bytes) -> None:
    """All first bytes, all second bytes ...; the case of two on its own, which becomes code for many at a time."""
    count = values.size // itemsize
    if itemsize == 2:
        first, second = planes[:count], planes[count : 2 * count]
        numbers = values.view(np.uint16)
        for place in range(count):
            first[place] = numbers[place] & 255
            second[place] = numbers[place] >> 8
        return
    for part in range(itemsize):
        plane = planes[part * count : (part + 1) * count]
        for place in range(count):
            plane[place] = values[place * itemsize + part]


@numba.njit("void(uint8[::1], int64, int64)", nogil=True, cache=True)
def _put(target: Bytes, place: int, number: int) -> None:
    """`number` as four little-endian bytes."""
    for byte in range(4):
        target[place + byte] = (number >> (8 * byte)) & 255


@numba.njit(
    types.int64(_sealed, types.int64, types.int64, types.uintp, types.int32, types.uint8[::1], types.uint8[::1]),
    nogil=True,
    cache=True,
)
def _pack(values: Bytes, itemsize: int, block: int, context: int, level: int, planes: Bytes, packed: Bytes) -> int:
    blocks = (values.size + block - 1) // block
    position: Any = 16 + 4 * blocks  # numbers of the machine, to the compiler
    for number in range(blocks):
        part = values[number * block : min((number + 1) * block, values.size)]
        _put(packed, 16 + 4 * number, position)
        _split(part, itemsize, planes)
        stream = part.size // itemsize if part.size == block else part.size
        for first in range(0, part.size, stream):
            place = position + 4
            size = _compress(
                context,
                np.uintp(packed.ctypes.data + place),
                np.uintp(packed.size - place),
                np.uintp(planes.ctypes.data + first),
                np.uintp(stream),
                np.int32(level),
            )
            # An error of zstd is a number near the largest; packed is never too small, so that none is expected.
            if size > packed.size:
                return -1
            length: Any = np.int64(size)
            if length >= stream:
                packed[place : place + stream] = planes[first : first + stream]
                length = np.int64(stream)
            _put(packed, position, length)
            position = place + length
    _put(packed, 12, position)
    total: Any = np.int64(_crc32c(np.uintp(packed.ctypes.data), np.uintp(position)))
    _put(packed, position, total)
    return int(position + 4)
