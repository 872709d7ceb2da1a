"""From chunks in shard files to values in their places, in one go for many: by machine code when it is loaded."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
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
    """chunk: number in the work list; the text says what is wrong with it."""

    def __init__(self, chunk: int, reason: str) -> None:
        super().__init__(reason)
        self.chunk = chunk


@dataclass(slots=True, kw_only=True)
class WorkList:
    """Chunks to decode, one entry each: name of the array, row, file with offset and length, and where values go."""

    names: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    files: list[OpenShard] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    slots: list[tuple[Array, int]] = field(default_factory=list)
    addresses: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


def load_native() -> bool:
    """Have the machine code at hand, which takes most of a second once in a process; False where it can't be had.

    Measured on two cores: Python needs 46 us for a chip of eight rasters under its lock, so that it alone would hold
    a process below 20,000 chips/s whatever the cores; the machine code needs 8.
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


def decode(work: WorkList, codecs: dict[str, ChunkCodec], *, compressed: bool) -> None:
    """Decode all chunks of the list; BadChunkError at the first that is damaged."""
    if not work.names:
        return
    if _native is None:
        _decode_in_python(work, codecs)
    else:
        _decode_natively(_native, work, compressed=compressed)


def _decode_in_python(work: WorkList, codecs: dict[str, ChunkCodec]) -> None:
    for chunk, file in enumerate(work.files):
        values, slot = work.slots[chunk]
        content = os.pread(file.descriptor, work.lengths[chunk], work.offsets[chunk])
        try:
            codecs[work.names[chunk]].decode_into(content, values[slot])
        except ValueError as error:
            raise BadChunkError(chunk, str(error)) from error


def _decode_natively(native: Any, work: WorkList, *, compressed: bool) -> None:
    chunk, wrong = native.decode_chunks(
        np.array([file.descriptor for file in work.files], np.int32),
        np.array(work.offsets, np.int64),
        np.array(work.lengths, np.int64),
        np.array(work.addresses, np.uint64),
        np.array(work.sizes, np.int64),
        compressed,
        _scratch(max(work.lengths)),
    )
    if wrong:
        raise BadChunkError(chunk, _reasons[wrong])


def _scratch(size: int) -> Array:
    """Memory of this thread for one encoded chunk."""
    found: Array | None = getattr(_per_thread, "scratch", None)
    if found is None or found.size < size:
        found = _per_thread.scratch = np.empty(size + size // 4, np.uint8)
    return found
