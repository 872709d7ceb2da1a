"""Raster files through GDAL: what their headers say, and boxes of pixels, from the disk or by ranges from a server."""

from __future__ import annotations

import contextlib
import ctypes
import math
import threading
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from m3etl.compute.grids import PixelGrid, PixelWindow
from m3etl.errors import InputError, RemoteError

if TYPE_CHECKING:
    import rasterio

Array = npt.NDArray[Any]

most_handles = 16  # open files per thread
cache_bytes = 256 << 20  # of blocks, in the whole process; no block is asked for twice, so more would be idle memory

most_kept_piece = 32 << 20  # bytes; larger ones always come from the system and go back to it
_trim_threshold, _mmap_threshold = -1, -3  # numbers of mallopt, malloc.h

# GDAL looks for files beside a raster unless told not to; ranges that touch are fetched in one request.
gdal_options: Mapping[str, str] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
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
    one. block: (rows, columns) of a compressed block. physical = number x scale + offset, as declared. options: GDAL
    settings to open it with, such as GDAL_HTTP_HEADERS; they are not shown.
    """

    location: str
    grid: PixelGrid
    bands: tuple[str, ...]
    dtype: str
    nodata: tuple[float | None, ...]
    block: tuple[int, int]
    has_mask: bool = False
    scale: float = 1.0
    offset: float = 0.0
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The location for people: without a query, which may hold a signature."""
        return _shown(self.location)


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
        if len(set(zip(file.scales, file.offsets, strict=True))) > 1:
            raise InputError(f"{_shown(location)} has bands of different scale or offset")
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
            scale=file.scales[0],
            offset=file.offsets[0],
            options=settings,
        )


def check_alike(first: Raster, other: Raster) -> None:
    """InputError, naming what differs, unless two rasters have the same bands, data type and nodata."""
    pairs = {
        "bands": (first.bands, other.bands),
        "data type": (first.dtype, other.dtype),
        "scale and offset": ((first.scale, first.offset), (other.scale, other.offset)),
        "nodata": (str(first.nodata), str(other.nodata)),  # as text: NaN equals NaN
    }
    differing = [f"{name} {one} and {two}" for name, (one, two) in pairs.items() if one != two]
    if differing:
        raise InputError(
            f"{first.name} and {other.name} do not belong together: {'; '.join(differing)}",
            hint="Import files that differ as separate arrays, or make them alike first.",
        )


class _Handles(threading.local):
    """Open files of one thread, as GDAL's handles must not be shared between threads, and its buffer."""

    def __init__(self) -> None:
        self.files: OrderedDict[str, Any] = OrderedDict()
        self._bytes = np.empty(0, np.uint8)

    def buffer(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        size = math.prod(shape) * dtype.itemsize
        if self._bytes.size < size:
            self._bytes = np.empty(size, np.uint8)
        return self._bytes[:size].view(dtype).reshape(shape)

    def file(self, location: str) -> Any:
        if location not in self.files:
            while len(self.files) >= most_handles:
                self.files.popitem(last=False)[1].close()
            self.files[location] = _opened(location)
        self.files.move_to_end(location)
        return self.files[location]


_handles = _Handles()


def read_box(raster: Raster, bands: Sequence[int], box: PixelWindow) -> Array:
    """The pixels (band, y, x) of a box that lies within the raster; bands are numbers from 1. For use in any thread.

    The array is the thread's own and is written anew by its next read: fresh memory costs as much as copying.
    Raises InputError where the file is damaged or cut short, RemoteError where a server fails.
    """
    import rasterio
    from rasterio.windows import Window

    with _environment(raster.options):
        file = _handles.file(raster.location)
        try:
            pixels = _handles.buffer((len(bands), box.height, box.width), np.dtype(raster.dtype))
            return np.asarray(
                file.read(list(bands), window=Window(box.column, box.row, box.width, box.height), out=pixels)
            )
        except rasterio.errors.RasterioError as error:
            place = f"cannot be read at row {box.row}, column {box.column}"
            raise _failed(raster.location, place, error) from error


def _environment(options: Mapping[str, str]) -> Any:
    import rasterio

    return rasterio.Env(**{**gdal_options, **options})


def _opened(location: str) -> rasterio.DatasetReader:
    import rasterio

    _limit_cache()
    _keep_freed_memory()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # said in words by the caller
            return rasterio.open(gdal_name(location))
    except rasterio.errors.RasterioError as error:
        if not is_remote(location) and not location.startswith("/vsi") and not Path(location).exists():
            raise InputError(f"there is no file {location}", hint="Check the path.") from error
        raise _failed(location, "cannot be opened as a raster", error) from error


@lru_cache(maxsize=1)
def _limit_cache() -> None:
    """GDAL keeps blocks in 5 % of the machine's memory unless told otherwise."""
    from rasterio._env import get_gdal_config, set_gdal_config

    if int(get_gdal_config("GDAL_CACHEMAX")) > cache_bytes:
        set_gdal_config("GDAL_CACHEMAX", cache_bytes)


@lru_cache(maxsize=1)
def _keep_freed_memory() -> None:
    """Let the C library use freed memory again, up to the size of the cache, where it would give it back to the system.

    Blocks and chips of some 400 kB come and go; each new page is cleared by the system: measured, a sixth of the
    processor time of cutting to sealed shards. Other C libraries have no such setting and stay as they are.
    """
    with contextlib.suppress(AttributeError, OSError):
        set_option = ctypes.CDLL(None).mallopt
        for option, size in ((_trim_threshold, cache_bytes), (_mmap_threshold, most_kept_piece)):
            set_option(option, size)


def gdal_name(location: str) -> str:
    """The name by which GDAL opens a location: `gs://bucket/x.tif` is `/vsigs/bucket/x.tif`."""
    for prefix, replacement in _schemes.items():
        if location.startswith(prefix):
            return replacement + location.removeprefix(prefix)
    return location


def forgetting(location: str) -> dict[str, str]:
    """GDAL settings for a remote raster of which wrong bytes came: what is kept of it is forgotten when it is closed.
    Without them GDAL answers from memory, also what it got of an answer that was cut off.
    """
    return {"CPL_VSIL_CURL_NON_CACHED": f"{gdal_name(location)};"}  # separated by colons unless there is a semicolon


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
