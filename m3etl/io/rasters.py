"""Rasters read by windows: every block of a file is decoded once, in threads, whatever the order of the windows.

Chips cut one by one in any order make GDAL decode a block again and again; here the blocks are walked, and each
piece is pasted into every window it belongs to.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from m3etl.compute.grids import PixelWindow, whole_pixel_offset
from m3etl.errors import InputError
from m3etl.io.geotiffs import Raster, check_alike, describe_raster, read_box
from m3etl.io.workers import usable_cores

__all__ = ["Mosaic", "Raster", "WindowPixels", "describe_raster", "read_windows"]

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

read_bytes = 4 << 20  # decoded bytes of one read: few requests to a remote file, and enough of them for every thread
batch_bytes = 192 << 20  # decoded bytes of the windows that are filled together; twice that is held
most_threads = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPixels:
    """The pixels of one window. values: (band, y, x) as they are in the file; covered: bool (y, x), where a raster lies
    at all, None where it does everywhere. What is not covered is zero in `values`.
    """

    index: int
    values: Array
    covered: Mask | None


def read_windows(
    rasters: Sequence[Raster],
    windows: Iterable[PixelWindow],
    *,
    bands: Sequence[int] | None = None,
    threads: int = 0,
    most_bytes: int = batch_bytes,
) -> Generator[WindowPixels, None, None]:
    """The pixels of each window, in the order given, from rasters that share one grid (whole-pixel shifts of it).

    windows: in pixels of the first raster's grid; they may overlap, reach beyond it and come in any order. They are
    taken in runs of about `most_bytes`; within a run every block of a file is read once, by threads, while the caller
    works on the run before. bands: numbers from 1, all by default. Where rasters overlap the earlier one counts, and
    the later one only where that holds nodata in all bands. Memory: two runs and one read per thread. `close` ends it.

    Raises InputError for rasters that do not belong together or a damaged local file, RemoteError for a remote one.
    """
    mosaic = Mosaic.of(rasters, bands)
    waiting: deque[Iterator[WindowPixels]] = deque()
    with reading_pool(threads) as pool:
        try:
            for first, part in _runs(windows, most_bytes, mosaic.pixel_bytes):
                waiting.append(mosaic.start(part, pool, first=first))
                if len(waiting) > 1:
                    yield from waiting.popleft()
            for run in waiting:
                yield from run
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def reading_pool(threads: int = 0) -> ThreadPoolExecutor:
    """Threads that read and decode: as many as cores, eight at most, unless stated."""
    return ThreadPoolExecutor(threads or min(most_threads, usable_cores()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mosaic:
    """Rasters on one grid, the first one's.

    edges: (raster, 4) int64, first and end column, first and end row of each on the grid. filling: which of them
    overlap an earlier one and so only fill its gaps.
    """

    rasters: tuple[Raster, ...]
    bands: tuple[int, ...]
    edges: npt.NDArray[np.int64]
    filling: Mask

    @classmethod
    def of(cls, rasters: Sequence[Raster], bands: Sequence[int] | None = None) -> Mosaic:
        """Rasters as one. InputError, naming two files, where they are not alike or lie on different grids."""
        if not rasters:
            raise InputError("there is no raster to read from")
        first = rasters[0]
        chosen = tuple(bands) if bands is not None else tuple(range(1, len(first.bands) + 1))
        if not chosen or min(chosen) < 1 or max(chosen) > len(first.bands):
            raise InputError(f"{first.name} has bands 1 to {len(first.bands)}, not {list(chosen)}")
        edges = np.empty((len(rasters), 4), np.int64)
        filling = np.zeros(len(rasters), np.bool_)
        for number, raster in enumerate(rasters):
            check_alike(first, raster)
            offset = whole_pixel_offset(first.grid, raster.grid)
            if offset is None:
                raise InputError(f"{raster.name} does not lie on the pixel grid of {first.name}")
            left, top = offset
            edges[number] = left, left + raster.grid.width, top, top + raster.grid.height
            filling[number] = bool(len(_meeting(edges[:number], edges[number])))
        return cls(rasters=tuple(rasters), bands=chosen, edges=edges, filling=filling)

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all chosen bands of one pixel."""
        return len(self.bands) * np.dtype(self.rasters[0].dtype).itemsize

    def place(self, number: int) -> PixelWindow:
        """Where a raster lies on the grid."""
        left, right, top, bottom = self.edges[number].tolist()
        return PixelWindow(column=left, row=top, width=right - left, height=bottom - top)

    def meeting(self, window: PixelWindow) -> list[int]:
        """Numbers of the rasters that a window meets."""
        right, bottom = window.column + window.width, window.row + window.height
        return _meeting(self.edges, np.array([window.column, right, window.row, bottom]))

    def start(self, windows: Sequence[PixelWindow], pool: Executor, *, first: int = 0) -> Iterator[WindowPixels]:
        """Begin to read windows by the threads of `pool`; the iterator has them in order as they become whole.

        All of them are held at a time: `read_windows` does this run by run. first: index of the first window.
        """
        return _start(self, windows, pool, first).finished()

    def is_nodata(self, values: Array) -> Mask:
        """(y, x) where every band of `values` (band, y, x) holds its declared nodata; nowhere without one."""
        empty = np.ones(values.shape[1:], np.bool_)
        for plane, band in zip(values, self.bands, strict=True):
            nodata = self.rasters[0].nodata[band - 1]
            if nodata is None:
                return np.zeros(values.shape[1:], np.bool_)
            empty &= np.isnan(plane) if math.isnan(nodata) else plane == nodata
        return empty


def _meeting(edges: npt.NDArray[np.int64], one: npt.NDArray[np.int64]) -> list[int]:
    columns = (edges[:, 0] < one[1]) & (edges[:, 1] > one[0])
    found: list[int] = np.flatnonzero(columns & (edges[:, 2] < one[3]) & (edges[:, 3] > one[2])).tolist()
    return found


@dataclass(slots=True)
class _Read:
    """One read of a file and the pieces of it: (position in the run, where in the window)."""

    number: int
    box: PixelWindow
    pieces: list[tuple[int, PixelWindow]]

    def add(self, position: int, part: PixelWindow) -> None:
        left, top = min(self.box.column, part.column), min(self.box.row, part.row)
        right = max(self.box.column + self.box.width, part.column + part.width)
        bottom = max(self.box.row + self.box.height, part.row + part.height)
        self.box = PixelWindow(column=left, row=top, width=right - left, height=bottom - top)
        self.pieces.append((position, part))


@dataclass(slots=True)
class _Run:
    """Windows that are filled together."""

    mosaic: Mosaic
    first: int
    windows: Sequence[PixelWindow]
    values: list[Array]
    covered: list[Mask | None] = field(default_factory=list)
    reads: list[tuple[_Read, Future[Array | None]]] = field(default_factory=list)

    def finished(self) -> Iterator[WindowPixels]:
        """Every window in order, as soon as it and those before it are whole."""
        last = {position: order for order, (read, _) in enumerate(self.reads) for position, _ in read.pieces}
        done = 0
        for position in range(len(self.windows)):
            while done <= last.get(position, -1):
                self._settle(*self.reads[done])
                done += 1
            values, covered = self.values[position], self.covered[position]
            self.values[position] = _nothing
            yield WindowPixels(index=self.first + position, values=values, covered=covered)

    def paste(self, read: _Read) -> Array | None:
        """Read, and put the pieces into their windows; what only fills gaps is returned for later."""
        left, _, top, _ = self.mosaic.edges[read.number].tolist()
        box = PixelWindow(
            column=read.box.column - left, row=read.box.row - top, width=read.box.width, height=read.box.height
        )
        pixels = read_box(self.mosaic.rasters[read.number], self.mosaic.bands, box)
        if self.mosaic.filling[read.number]:
            return pixels.copy()
        for position, part in read.pieces:
            rows, columns = self.windows[position].slices(part)
            self.values[position][:, rows, columns] = pixels[:, *read.box.slices(part)]
        return None

    def _settle(self, read: _Read, future: Future[Array | None]) -> None:
        pixels = future.result()
        for position, part in read.pieces:
            rows, columns = self.windows[position].slices(part)
            covered = self.covered[position]
            if pixels is not None:
                kept = self.values[position][:, rows, columns]
                empty = self.mosaic.is_nodata(kept)
                if covered is not None:
                    empty |= ~covered[rows, columns]
                kept[:, empty] = pixels[:, *read.box.slices(part)][:, empty]
            if covered is not None:
                covered[rows, columns] = True


_nothing: Array = np.empty(0)


def _runs(windows: Iterable[PixelWindow], most_bytes: int, pixel_bytes: int) -> Iterator[tuple[int, list[PixelWindow]]]:
    first, held, part = 0, 0, list[PixelWindow]()
    for number, window in enumerate(windows):
        size = window.width * window.height * pixel_bytes
        if part and held + size > most_bytes:
            yield first, part
            first, held, part = number, 0, []
        part.append(window)
        held += size
    if part:
        yield first, part


def _start(mosaic: Mosaic, windows: Sequence[PixelWindow], pool: Executor, first: int) -> _Run:
    """Plan the reads of a run, by blocks in the order in which windows need them, and hand them to the threads."""
    bands, dtype = len(mosaic.bands), mosaic.rasters[0].dtype
    run = _Run(mosaic, first, windows, [np.zeros((bands, w.height, w.width), dtype) for w in windows])
    reads: dict[tuple[int, int, int], _Read] = {}
    for position, window in enumerate(windows):
        inside = [(number, window.intersection(mosaic.place(number))) for number in mosaic.meeting(window)]
        whole = len(inside) == 1 and inside[0][1] == window
        run.covered.append(None if whole else np.zeros((window.height, window.width), np.bool_))
        for number, part in inside:
            for key, piece in _blocks_of(mosaic, number, part) if part else ():
                if key in reads:
                    reads[key].add(position, piece)
                else:
                    reads[key] = _Read(number, piece, [(position, piece)])
    ordered = sorted(reads.values(), key=lambda read: _turn(mosaic, read))
    run.reads = [(read, pool.submit(run.paste, read)) for read in ordered]
    return run


def _turn(mosaic: Mosaic, read: _Read) -> tuple[bool, int, int]:
    """When a read is due: by windows; what fills gaps of earlier rasters comes after them, raster by raster."""
    window = read.pieces[0][0]
    return (True, read.number, window) if mosaic.filling[read.number] else (False, window, read.number)


def _blocks_of(mosaic: Mosaic, number: int, part: PixelWindow) -> Iterator[tuple[tuple[int, int, int], PixelWindow]]:
    """The groups of whole blocks that a part meets: a key for each, and its share."""
    left, _, top, _ = mosaic.edges[number].tolist()
    height, width = _group_shape(mosaic.rasters[number], mosaic.pixel_bytes)
    rows = range((part.row - top) // height, (part.row - top + part.height - 1) // height + 1)
    columns = range((part.column - left) // width, (part.column - left + part.width - 1) // width + 1)
    for down in rows:
        for across in columns:
            group = PixelWindow(column=left + across * width, row=top + down * height, width=width, height=height)
            share = part.intersection(group)
            if share is not None:
                yield (number, down, across), share


def _group_shape(raster: Raster, pixel_bytes: int) -> tuple[int, int]:
    """(rows, columns) of the blocks that are read at once: whole blocks of about `read_bytes`."""
    rows, columns = raster.block
    fitting = read_bytes / (rows * columns * pixel_bytes)
    if columns >= raster.grid.width:
        return rows * max(1, int(fitting)), columns
    times = max(1, math.isqrt(int(fitting)))
    return rows * times, columns * times
