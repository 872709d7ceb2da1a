"""Reading and decoding of many chunks in one call without Python's lock: pread, crc32c and blosc from machine code.

The functions are those of the C library, google-crc32c and numcodecs that Python calls as well; their addresses are
taken from the loaded libraries. Where one of them is not exported, `io.decoding` stays with Python.

A chunk of a mapped file is decoded where it lies if all of it is in the page cache, which spares a copy: measured, 60
of 640 us a chip. What is not there is read, so that a disk that fails or a file cut short is an error and no signal.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any

import google_crc32c._crc32c as crc32c_extension
import llvmlite.binding
import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numcodecs import blosc

from m3etl.io.shards import checksum_bytes, whole_residue

Numbers = npt.NDArray[Any]

is_fine, is_short, is_changed, is_other_size = range(4)
_from_end = os.SEEK_END
_page = mmap.PAGESIZE
_sources = {
    "m3etl_pread": (None, "pread"),
    "m3etl_lseek": (None, "lseek"),
    "m3etl_mincore": (None, "mincore"),
    "m3etl_memmove": (None, "memmove"),
    "m3etl_crc32c": (crc32c_extension.__file__, "crc32c_value"),
    "m3etl_blosc_decompress": (blosc.__file__, "blosc_decompress_ctx"),
}


def _register() -> None:
    """Tell the compiler where the functions are; AttributeError where a library does not export one."""
    for name, (library, function) in _sources.items():
        address = ctypes.cast(getattr(ctypes.CDLL(library), function), ctypes.c_void_p).value
        llvmlite.binding.add_symbol(name, address)


_register()
_pread: Any = types.ExternalFunction("m3etl_pread", types.int64(types.int32, types.uintp, types.uintp, types.int64))
_lseek: Any = types.ExternalFunction("m3etl_lseek", types.int64(types.int32, types.int64, types.int32))
_mincore: Any = types.ExternalFunction("m3etl_mincore", types.int32(types.uintp, types.uintp, types.uintp))
_memmove: Any = types.ExternalFunction("m3etl_memmove", types.uintp(types.uintp, types.uintp, types.uintp))
_crc32c: Any = types.ExternalFunction("m3etl_crc32c", types.uint32(types.uintp, types.uintp))
_decompress: Any = types.ExternalFunction(
    "m3etl_blosc_decompress", types.int32(types.uintp, types.uintp, types.uintp, types.int32)
)


@numba.njit("boolean(int32, uint64, int64, int64)", nogil=True, cache=True)
def _read_whole(descriptor: int, target: int, count: int, offset: int) -> bool:
    done = 0
    while done < count:
        part = _pread(descriptor, target + done, count - done, offset + done)
        if part <= 0:
            return False
        done += part
    return True


@numba.njit("boolean(int32, uint64, int64, int64, uint8[::1])", nogil=True, cache=True)
def _is_at_hand(descriptor: int, mapped: int, count: int, offset: int, scratch: Numbers) -> bool:
    """Whether the file still reaches that far and all pages are in memory, so that looking at them can't fail."""
    if mapped == 0 or _lseek(descriptor, 0, _from_end) < offset + count:
        return False
    first = offset // _page * _page
    pages = (offset + count - first + _page - 1) // _page
    if _mincore(mapped + first, offset + count - first, scratch.ctypes.data) != 0:
        return False
    for page in range(pages):  # noqa: SIM110 - the compiler takes no generators
        if not scratch[page] & 1:
            return False
    return True


@numba.njit(
    "UniTuple(int64, 2)(int32[::1], uint64[::1], int64[::1], int64[::1], uint64[::1], int64[::1], boolean, uint8[::1])",
    nogil=True,
    cache=True,
)
def decode_chunks(
    descriptors: Numbers,
    mapped: Numbers,
    offsets: Numbers,
    lengths: Numbers,
    targets: Numbers,
    sizes: Numbers,
    compressed: bool,
    scratch: Numbers,
) -> tuple[int, int]:
    """Read chunk after chunk and write its values to the address in `targets`.

    mapped: where each file lies in memory, or 0. scratch holds the longest chunk. Returns (number of the first bad
    chunk, what is wrong with it), (-1, is_fine) where all are right.
    """
    for chunk in range(descriptors.size):
        length, offset = lengths[chunk], offsets[chunk]
        place: Any = np.uint64(scratch.ctypes.data)
        if _is_at_hand(descriptors[chunk], mapped[chunk], length, offset, scratch):
            place = mapped[chunk] + np.uint64(offset)
        elif not _read_whole(descriptors[chunk], place, length, offset):
            return chunk, is_short
        if _crc32c(place, length) != np.uint32(whole_residue):
            return chunk, is_changed
        if compressed:
            if _decompress(place, targets[chunk], sizes[chunk], 1) != sizes[chunk]:
                return chunk, is_other_size
        else:
            if length - checksum_bytes != sizes[chunk]:
                return chunk, is_other_size
            _memmove(targets[chunk], place, sizes[chunk])
    return -1, is_fine
