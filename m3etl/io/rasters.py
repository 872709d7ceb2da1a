"""GeoTIFFs and other rasters read by windows: every block of the file is decoded once, in threads, whatever the order
of the windows.

Chips cut one by one in any order make GDAL decode a block again and again; here the blocks are walked, and each
piece is pasted into every window it belongs to.
"""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from m3etl.compute.grids import PixelGrid, PixelWindow, whole_pixel_offset
from m3etl.errors import InputError, RemoteError

if TYPE_CHECKING:
    import rasterio

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

read_bytes = 4 << 20  # decoded bytes of one read: few requests to a remote file, and enough of them for every thread
batch_bytes = 192 << 20  # decoded bytes of the windows that are filled together; twice that is held
most_handles = 16  # open files per thread
most_threads = 8

# GDAL looks for files beside a raster unless told not to; ranges that touch are fetched in one request.
gdal_options: Mapping[str, str | int] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_CACHEMAX": 128,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_TIMEOUT": "120",
}
_schemes = {
    "http://": "/vsicurl/http://",
    "https://": "/vsicurl/https://",
    "gs://": "/vsigs/",
    "s3://": "/vsis3/",
    "file://": "",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Raster:
    """One raster file as its header describes it; nothing of it is open.

    bands: descriptions, or "1", "2" ... where there are none. nodata: the declared value of each band, None without
    one. block: (rows, columns) of a compressed block. options: GDAL settings to open it with, such as
    GDAL_HTTP_HEADERS; they are not shown.
    """

    location: str
    grid: PixelGrid
    bands: tuple[str, ...]
    dtype: str
    nodata: tuple[float | None, ...]
    block: tuple[int, int]
    has_mask: bool = False
    options: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPixels:
    """The pixels of one window. values: (band, y, x) as they are in the file; covered: bool (y, x), where a raster lies
    at all, None where it does everywhere. What is not covered is zero in `values`.
    """

    index: int
    values: Array
    covered: Mask | None


def describe_raster(location: str | Path, *, options: Mapping[str, str] | None = None) -> Raster:
    """What the header of a raster says. location: a path, `http(s)://`, `gs://`, `s3://` or a GDAL `/vsi` name.

    Raises InputError where there is no readable raster or it has no place on Earth, RemoteError where a server fails.
    """
    settings = dict(options or {})
    with _environment(settings), _opened(str(location)) as file:
        if file.crs is None or file.transform.is_identity:
            missing = "no coordinate system" if file.crs is None else "no geotransform"
            raise InputError(
                f"{_shown(location)} has {missing}, so nobody knows where its pixels lie",
                hint="Write it with one, for example `gdal_edit.py -a_srs EPSG:32632 -a_ullr XMIN YMAX XMAX YMIN`.",
            )
        if len(set(file.dtypes)) > 1:
            raise InputError(
                f"{_shown(location)} mixes the data types {', '.join(dict.fromkeys(file.dtypes))}",
                hint="Give every band of one array the same type.",
            )
        code = file.crs.to_epsg()
        flags = {flag.name for found in file.mask_flag_enums for flag in found}
        return Raster(
            location=str(location),
            grid=PixelGrid(
                crs=f"EPSG:{code}" if code else file.crs.to_wkt(),
                affine=tuple(file.transform)[:6],
                width=file.width,
                height=file.height,
            ),
            bands=tuple(text or str(number) for number, text in enumerate(file.descriptions, start=1)),
            dtype=file.dtypes[0],
            nodata=tuple(file.nodatavals),
            block=tuple(file.block_shapes[0]),
            has_mask="per_dataset" in flags,
            options=settings,
        )


def read_windows(
    rasters: Sequence[Raster],
    windows: Iterable[PixelWindow],
    *,
    bands: Sequence[int] | None = None,
    threads: int = 0,
    most_bytes: int = batch_bytes,
) -> Iterator[WindowPixels]:
    """The pixels of each window, in the order given, from rasters that share one grid (whole-pixel shifts of it).

    windows: in pixels of the first raster's grid; they may overlap, reach beyond it and come in any order. They are
    taken in runs of about `most_bytes`; within a run every block of a file is read once, by threads, while the caller
    works on the run before. bands: numbers from 1, all by default. Where rasters overlap the earlier one counts, and
    the later one only where that holds nodata in all bands. Memory: two runs and one read per thread.

    Raises InputError for rasters that do not belong together or a damaged local file, RemoteError for a remote one.
    """
    layout = _Mosaic.of(rasters, bands)
    pool = ThreadPoolExecutor(threads or min(most_threads, len(os.sched_getaffinity(0))))
    waiting: deque[_Run] = deque()
    try:
        for first, part in _runs(windows, most_bytes, layout.pixel_bytes):
            waiting.append(_start(layout, first, part, pool))
            if len(waiting) > 1:
                yield from waiting.popleft().finished()
        for run in waiting:
            yield from run.finished()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mosaic:
    """Rasters on one grid. places: where each lies on it; layer: 0 for those that overlap no earlier one."""

    rasters: tuple[Raster, ...]
    places: tuple[PixelWindow, ...]
    layers: tuple[int, ...]
    bands: tuple[int, ...]

    @classmethod
    def of(cls, rasters: Sequence[Raster], bands: Sequence[int] | None) -> _Mosaic:
        if not rasters:
            raise InputError("there is no raster to read from")
        first = rasters[0]
        chosen = tuple(bands) if bands is not None else tuple(range(1, len(first.bands) + 1))
        if not chosen or min(chosen) < 1 or max(chosen) > len(first.bands):
            raise InputError(f"{first.location} has bands 1 to {len(first.bands)}, not {list(chosen)}")
        places, layers = list[PixelWindow](), list[int]()
        for raster in rasters:
            check_alike(first, raster)
            offset = whole_pixel_offset(first.grid, raster.grid)
            if offset is None:
                raise InputError(f"{raster.location} does not lie on the pixel grid of {first.location}")
            place = PixelWindow(column=offset[0], row=offset[1], width=raster.grid.width, height=raster.grid.height)
            layers.append(int(any(place.intersection(other) for other in places)))
            places.append(place)
        return cls(rasters=tuple(rasters), places=tuple(places), layers=tuple(layers), bands=chosen)

    @property
    def pixel_bytes(self) -> int:
        return len(self.bands) * np.dtype(self.rasters[0].dtype).itemsize


def check_alike(first: Raster, other: Raster) -> None:
    """InputError, naming what differs, unless two rasters have the same bands, data type and nodata."""
    pairs = {
        "bands": (first.bands, other.bands),
        "data type": (first.dtype, other.dtype),
        "nodata": (str(first.nodata), str(other.nodata)),  # as text: NaN equals NaN
    }
    differing = [f"{name} {one} and {two}" for name, (one, two) in pairs.items() if one != two]
    if differing:
        raise InputError(
            f"{first.location} and {other.location} do not belong together: {'; '.join(differing)}",
            hint="Import files that differ as separate arrays, or make them alike first.",
        )


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

    layout: _Mosaic
    first: int
    windows: Sequence[PixelWindow]
    values: list[Array]
    covered: list[Mask | None]
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
        """Read, and put the pieces into their windows; what overlaps an earlier raster is returned for later."""
        pixels = _read(self.layout, read)
        if self.layout.layers[read.number]:
            return pixels
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
                empty = _is_nodata(kept, self.layout)
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


def _start(layout: _Mosaic, first: int, windows: Sequence[PixelWindow], pool: ThreadPoolExecutor) -> _Run:
    """Plan the reads of a run, by blocks in the order in which windows need them, and hand them to the threads."""
    bands, dtype = len(layout.bands), layout.rasters[0].dtype
    run = _Run(layout, first, windows, [np.zeros((bands, w.height, w.width), dtype) for w in windows], [])
    reads: dict[tuple[int, int, int], _Read] = {}
    for position, window in enumerate(windows):
        inside = [(number, part) for number, place in enumerate(layout.places) if (part := window.intersection(place))]
        whole = len(inside) == 1 and inside[0][1] == window
        run.covered.append(None if whole else np.zeros((window.height, window.width), np.bool_))
        for number, part in inside:
            for key, piece in _blocks_of(layout, number, part):
                if key in reads:
                    reads[key].add(position, piece)
                else:
                    reads[key] = _Read(number, piece, [(position, piece)])
    ordered = sorted(reads.values(), key=lambda read: _turn(layout, read))
    run.reads = [(read, pool.submit(run.paste, read)) for read in ordered]
    return run


def _turn(layout: _Mosaic, read: _Read) -> tuple[int, int, int]:
    """When a read is due: by windows; what fills gaps of earlier rasters comes after them, raster by raster."""
    layer, window = layout.layers[read.number], read.pieces[0][0]
    return (1, read.number, window) if layer else (0, window, read.number)


def _blocks_of(layout: _Mosaic, number: int, part: PixelWindow) -> Iterator[tuple[tuple[int, int, int], PixelWindow]]:
    """The groups of whole blocks that a part meets: a key for each, and its share."""
    raster, place = layout.rasters[number], layout.places[number]
    height, width = _group_shape(raster, layout.pixel_bytes)
    left, top = part.column - place.column, part.row - place.row
    for down in range(top // height, (top + part.height - 1) // height + 1):
        for across in range(left // width, (left + part.width - 1) // width + 1):
            group = PixelWindow(
                column=place.column + across * width, row=place.row + down * height, width=width, height=height
            )
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


def _is_nodata(values: Array, layout: _Mosaic) -> Mask:
    """(y, x) where every band of `values` (band, y, x) holds its declared nodata; nowhere without one."""
    empty = np.ones(values.shape[1:], np.bool_)
    for plane, band in zip(values, layout.bands, strict=True):
        nodata = layout.rasters[0].nodata[band - 1]
        if nodata is None:
            return np.zeros(values.shape[1:], np.bool_)
        empty &= np.isnan(plane) if math.isnan(nodata) else plane == nodata
    return empty


# --- GDAL -------------------------------------------------------------------------------------------------------------


class _Handles(threading.local):
    """Open files of one thread: GDAL's handles must not be shared between threads."""

    def __init__(self) -> None:
        self.files: OrderedDict[str, Any] = OrderedDict()

    def file(self, location: str) -> Any:
        if location not in self.files:
            while len(self.files) >= most_handles:
                self.files.popitem(last=False)[1].close()
            self.files[location] = _opened(location)
        self.files.move_to_end(location)
        return self.files[location]


_handles = _Handles()


def _read(layout: _Mosaic, read: _Read) -> Array:
    """The pixels of one read: (band, y, x)."""
    import rasterio
    from rasterio.windows import Window

    raster, place = layout.rasters[read.number], layout.places[read.number]
    box = Window(read.box.column - place.column, read.box.row - place.row, read.box.width, read.box.height)
    with _environment(raster.options):
        file = _handles.file(raster.location)
        try:
            return np.asarray(file.read(list(layout.bands), window=box))
        except rasterio.errors.RasterioError as error:
            place_of = f"cannot be read at row {box.row_off}, column {box.col_off}"
            raise _failed(raster.location, place_of, error) from error


def _environment(options: Mapping[str, str]) -> Any:
    import rasterio

    return rasterio.Env(**{**gdal_options, **options})


def _opened(location: str) -> rasterio.DatasetReader:
    import rasterio

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # said in words by the caller
            return rasterio.open(gdal_name(location))
    except rasterio.errors.RasterioError as error:
        if not is_remote(location) and not location.startswith("/vsi") and not Path(location).exists():
            raise InputError(f"there is no file {location}", hint="Check the path.") from error
        raise _failed(location, "cannot be opened as a raster", error) from error


def gdal_name(location: str) -> str:
    """The name by which GDAL opens a location: `gs://bucket/x.tif` is `/vsigs/bucket/x.tif`."""
    for prefix, replacement in _schemes.items():
        if location.startswith(prefix):
            return replacement + location.removeprefix(prefix)
    return location


def is_remote(location: str) -> bool:
    """Whether a location is read over a network."""
    return gdal_name(location).startswith(("/vsicurl", "/vsigs", "/vsis3", "/vsiaz"))


def _failed(location: str, what: str, error: Exception) -> InputError | RemoteError:
    reason = str(error.__cause__ or error).splitlines()[0].replace(location, _shown(location))[:300]
    message = f"{_shown(location)} {what}: {reason}"
    if is_remote(location):
        return RemoteError(message, hint="Is the server reachable and the login valid? Try again.")
    return InputError(message, hint="The file is damaged, cut short or of an unknown format.")


def _shown(location: str | Path) -> str:
    """The location without the query, which may hold a signature."""
    text = str(location)
    return text.split("?")[0] if is_remote(text) else text
