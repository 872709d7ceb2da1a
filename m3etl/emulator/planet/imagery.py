"""What every image of the planet shares: lazy metadata, splitting of requests, pixels outside the image."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from m3etl.emulator.model import BandInfo, CollectionQuery, ImageInfo, IntArray, PixelType, Samples, invalid
from m3etl.emulator.planet.frames import FRAMES, Request, blocks

Booleans = npt.NDArray[np.bool_]
Painted = dict[str, tuple[npt.NDArray[Any], Booleans | None]]
Painter = Callable[[tuple[str, ...], Request], Painted]
"""Makes (values, valid) of the named bands at the frame's pixels; a validity of None means all valid."""


class PlanetImage:
    """An image of the planet: metadata made when first asked for, pixels painted per request. Thread-safe."""

    def __init__(self, make_info: Callable[[], ImageInfo], paint: Painter) -> None:
        self._make_info = make_info
        self._paint = paint

    @functools.cached_property
    def info(self) -> ImageInfo:
        return self._make_info()

    @functools.cached_property
    def _bands(self) -> dict[str, BandInfo]:
        return {band.id: band for band in self.info.bands}

    def sample(self, bands: Sequence[str], column: IntArray, row: IntArray) -> Samples:
        """Native pixels at integer positions; see `SourceImage.sample`."""
        infos = [self._band(name) for name in bands]
        shape = np.broadcast_shapes(column.shape, row.shape)
        columns = np.broadcast_to(column, shape).ravel().astype(np.int64)
        rows = np.broadcast_to(row, shape).ravel().astype(np.int64)
        out = {
            band.id: (np.zeros(columns.size, band.pixel_type.dtype), np.zeros(columns.size, np.bool_)) for band in infos
        }
        if not infos:
            return {}
        inside = self._inside(infos[0], columns, rows)
        everything = bool(inside.all())
        chosen = None if everything else np.nonzero(inside)[0]
        if chosen is not None:
            columns, rows = columns[chosen], rows[chosen]
        for block in blocks(columns.size):
            request = FRAMES.request(infos[0].projection, columns[block], rows[block])
            painted = self._paint(tuple(band.id for band in infos), request)
            target = block if chosen is None else chosen[block]
            for name, (values, valid) in painted.items():
                out[name][0][target] = request.give(values)
                out[name][1][target] = True if valid is None else request.give(valid)
        return {name: (values.reshape(shape), valid.reshape(shape)) for name, (values, valid) in out.items()}

    def _band(self, name: str) -> BandInfo:
        if name not in self._bands:
            raise invalid(
                f"Image.select: Band pattern '{name}' did not match any bands. Available bands: {list(self._bands)}"
            )
        return self._bands[name]

    @staticmethod
    def _inside(band: BandInfo, column: IntArray, row: IntArray) -> Booleans:
        if band.dimensions is None:
            return np.ones(column.size, np.bool_)
        width, height = band.dimensions
        return (column >= 0) & (column < width) & (row >= 0) & (row < height)


class PlanetCollection(Protocol):
    """A collection of the planet: like `SourceCollection`, and it knows its images by index."""

    @property
    def id(self) -> str: ...

    @property
    def properties(self) -> Mapping[str, Any]: ...

    def find(self, query: CollectionQuery) -> Iterator[PlanetImage]: ...

    def image(self, index: str) -> PlanetImage | None: ...


FLOAT = PixelType(precision="float")
DOUBLE = PixelType(precision="double")
UINT8 = PixelType.of("uint8")
UINT16 = PixelType.of("uint16")
INT16 = PixelType.of("int16")


def hashed(*parts: object) -> int:
    """A 32-bit number from values, the same in every process (CRC of their text, then mixed)."""
    number = zlib.crc32("|".join(map(str, parts)).encode())
    number ^= number >> 15
    number = (number * 0x2C1B3C6D) & 0xFFFFFFFF
    return number ^ (number >> 13)


def chance(*parts: object) -> float:
    """A number in [0, 1) from values, the same in every process."""
    return hashed(*parts) / 4294967296.0
