"""From chunks in shard files to values in their places, in one go for many: by machine code when it is loaded."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from m3etl.io.shards import Array, ChunkCodec
from m3etl.io.sources import OpenShard

_reasons = {1: "it is cut short", 2: "its checksum is wrong", 3: "it does not hold the values of one chip"}
_per_thread = threading.local()
_lock = threading.Lock()
_native: ModuleType | None = None
_is_tried = False


class BadChunkError(ValueError):
    """number: place of the chunk in the work list; the text says what is wrong with it."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number


# One chunk to decode: array, row, file, offset and length in it, buffer and slot for the values, address and size of
# the slot. A plain tuple: a batch has hundreds, and they are made under Python's lock.
Chunk = tuple[str, int, OpenShard, int, int, Array, int, int, int]


def load_native() -> bool:
    """Have the machine code at hand, which takes most of a second once in a process; False where it can't be had.

    Measured: Python holds its lock for 46 us per chip of eight rasters, so that a process could not pass 20,000
    chips/s whatever the cores; with the machine code it is about a third.
    """
    global _native, _is_tried
    with _lock:
        if not _is_tried:
            try:
                from m3etl.io import native
            except (ImportError, AttributeError, OSError):
                native = None  # type: ignore[assignment]
            _native, _is_tried = native, True
    return _native is not None


def forget_native() -> None:
    """Decode in Python until `load_native` is called again."""
    global _native, _is_tried
    with _lock:
        _native, _is_tried = None, False


def decode(work: Sequence[Chunk], codecs: Mapping[str, ChunkCodec], *, compressed: bool) -> None:
    """Decode all chunks of the list; BadChunkError at the first that is damaged."""
    if not work:
        return
    if _native is None:
        _decode_in_python(work, codecs)
    else:
        _decode_natively(_native, work, compressed=compressed)


def _decode_in_python(work: Sequence[Chunk], codecs: Mapping[str, ChunkCodec]) -> None:
    for number, (array, _, file, offset, length, values, slot, _, _) in enumerate(work):
        try:
            codecs[array].decode_into(os.pread(file.descriptor, length, offset), values[slot])
        except ValueError as error:
            raise BadChunkError(number, str(error)) from error


def _decode_natively(native: Any, work: Sequence[Chunk], *, compressed: bool) -> None:
    _, _, files, offsets, lengths, _, _, addresses, sizes = zip(*work, strict=True)
    number, wrong = native.decode_chunks(
        np.array([file.descriptor for file in files], np.int32),
        np.array([file.mapped for file in files], np.uint64),
        np.array(offsets, np.int64),
        np.array(lengths, np.int64),
        np.array(addresses, np.uint64),
        np.array(sizes, np.int64),
        compressed,
        _scratch(max(lengths)),
    )
    if wrong:
        raise BadChunkError(number, _reasons[wrong])


def _scratch(size: int) -> Array:
    """Memory of this thread for one encoded chunk."""
    found: Array | None = getattr(_per_thread, "scratch", None)
    if found is None or found.size < size:
        found = _per_thread.scratch = np.empty(size + size // 4, np.uint8)
    return found
