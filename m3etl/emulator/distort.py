"""Answers that arrive whole and are wrong: pixels of another type, shape, value or place, and bodies cut short."""

from __future__ import annotations

import fnmatch
import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

_npy_magic = b"\x93NUMPY"
# NumPy reads headers by ast.literal_eval, in which CPython does not bear two threads (SystemError, cpython#106905).
_one_header = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Alteration:
    """What is done to the body of an answer; see the module `faults` for the meaning of each field."""

    values: Mapping[str, float] = field(default_factory=dict)
    dtype: str | None = None
    rows: int | None = None
    length: int | None = None
    swap: bool = False


class Distorter:
    """Applies alterations. Thread-safe: it remembers the last NPY body of each layout, for `swap`."""

    def __init__(self) -> None:
        self._last: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def remember(self, body: bytes) -> bytes | None:
        """Takes in an answer as it should be; returns the one of the same layout before it."""
        if not body.startswith(_npy_magic):
            return None
        layout = str(_header(body))
        with self._lock:
            before = self._last.get(layout)
            self._last[layout] = body
        return before

    def apply(self, alteration: Alteration, body: bytes, before: bytes | None) -> bytes:
        """The altered body. Bodies that are no NPY files can be cut only; a swap needs an answer before this one."""
        if alteration.swap and before is not None:
            body = before
        if body.startswith(_npy_magic):
            body = _altered_pixels(alteration, body)
        return body if alteration.length is None else body[: alteration.length]


def _altered_pixels(alteration: Alteration, body: bytes) -> bytes:
    if not alteration.values and alteration.dtype is None and alteration.rows is None:
        return body
    with _one_header:
        pixels: npt.NDArray[Any] = np.load(io.BytesIO(body), allow_pickle=False)
    if alteration.rows is not None:
        pixels = pixels[: alteration.rows]
    for name in pixels.dtype.names or ():
        for pattern, value in alteration.values.items():
            if fnmatch.fnmatchcase(name, pattern):
                pixels[name] = value
                break
    if alteration.dtype is not None:
        wanted = np.dtype([(name, alteration.dtype) for name in pixels.dtype.names or ()])
        pixels = pixels.astype(wanted)
    stream = io.BytesIO()
    np.save(stream, pixels)
    return stream.getvalue()


def _header(body: bytes) -> tuple[Any, ...]:
    stream = io.BytesIO(body[:65_536])
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with _one_header:
        return tuple(read(stream, max_header_size=1 << 20))
