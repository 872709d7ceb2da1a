"""The archive: real rasters and tables in a directory, listed in `archive.jsonl`, served as Earth Engine assets.

Every line is checked when the archive is opened; pixels are read by windows when they are asked for.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from rasterio.warp import transform_geom
from rasterio.windows import Window
from shapely.geometry import box, mapping, shape
from shapely.geometry.base import BaseGeometry

from m3etl.emulator.model import (
    BandInfo,
    CollectionQuery,
    ImageInfo,
    IntArray,
    PixelType,
    Projection,
    Samples,
    SourceTable,
    TableFeature,
    invalid,
)
from m3etl.errors import InputError

LISTING = "archive.jsonl"
_MOST_WINDOW_PIXELS = 1 << 24  # a sparse request whose window is larger is read in strips of its rows
_MOST_PROBLEMS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveBand:
    """Where the pixels of one band are: file, 1-based band index and the value that means nothing was observed."""

    info: BandInfo
    path: Path
    index: int
    nodata: float | None


class ArchiveImage:
    """An image of the archive. Thread-safe: each read opens the file anew, which costs less than a millisecond."""

    def __init__(self, info: ImageInfo, bands: Mapping[str, ArchiveBand]) -> None:
        self._info = info
        self._bands = bands

    @property
    def info(self) -> ImageInfo:
        return self._info

    def sample(self, bands: Sequence[str], column: IntArray, row: IntArray) -> Samples:
        """Native pixels at integer positions; see `SourceImage.sample`."""
        unknown = [name for name in bands if name not in self._bands]
        if unknown:
            raise invalid(
                f"Image.select: Band pattern '{unknown[0]}' did not match any bands."
                f" Available bands: {list(self._bands)}"
            )
        shape_ = np.broadcast_shapes(column.shape, row.shape)
        columns = np.broadcast_to(column, shape_).ravel()
        rows = np.broadcast_to(row, shape_).ravel()
        by_file: dict[Path, list[ArchiveBand]] = {}
        for name in bands:
            by_file.setdefault(self._bands[name].path, []).append(self._bands[name])
        out: Samples = {}
        for path, group in by_file.items():
            out |= _read(path, group, columns, rows)
        return {name: (out[name][0].reshape(shape_), out[name][1].reshape(shape_)) for name in bands}


def _read(path: Path, bands: Sequence[ArchiveBand], column: IntArray, row: IntArray) -> Samples:
    """Values and validity of several bands of one file at flat positions."""
    with rasterio.open(path) as source:
        width, height = source.width, source.height
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        out: Samples = {
            band.info.id: (np.zeros(column.size, band.info.pixel_type.dtype), np.zeros(column.size, np.bool_))
            for band in bands
        }
        chosen = np.nonzero(inside)[0]
        for part in _strips(column, row, chosen):
            left, top = int(column[part].min()), int(row[part].min())
            window = Window(left, top, int(column[part].max()) - left + 1, int(row[part].max()) - top + 1)
            block = source.read([band.index for band in bands], window=window)
            for band, layer in zip(bands, block, strict=True):
                values, valid = out[band.info.id]
                values[part] = layer[row[part] - top, column[part] - left]
                valid[part] = _observed(values[part], band.nodata)
    return out


def _strips(column: IntArray, row: IntArray, chosen: IntArray) -> Iterator[IntArray]:
    """Splits positions by row until the bounding window of each part is small enough to read at once."""
    if chosen.size == 0:
        return
    width = int(column[chosen].max()) - int(column[chosen].min()) + 1
    low, high = int(row[chosen].min()), int(row[chosen].max())
    if width * (high - low + 1) <= _MOST_WINDOW_PIXELS or low == high:
        yield chosen
        return
    upper = row[chosen] <= (low + high) // 2
    yield from _strips(column, row, chosen[upper])
    yield from _strips(column, row, chosen[~upper])


def _observed(values: npt.NDArray[Any], nodata: float | None) -> npt.NDArray[np.bool_]:
    finite = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, np.bool_)
    return finite if nodata is None or np.isnan(nodata) else np.asarray(finite & (values != nodata))


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveCollection:
    """The images of the archive whose ids begin with one collection's, by time then index."""

    id: str
    images: tuple[ArchiveImage, ...]
    properties: Mapping[str, Any]

    def find(self, query: CollectionQuery) -> Iterator[ArchiveImage]:
        for image in self.images:
            properties = image.info.properties
            start = properties["system:time_start"]
            if query.index is not None and query.index != properties["system:index"]:
                continue
            if query.start_ms is not None and start < query.start_ms:
                continue
            if query.end_ms is not None and start >= query.end_ms:
                continue
            if query.region is None or _meets(image, query.region):
                yield image

    def meets(self, region: BaseGeometry | None) -> bool:
        """Whether any image of the collection, of any time, meets a region (None: everything)."""
        return any(region is None or _meets(image, region) for image in self.images)


def _meets(image: ArchiveImage, region: BaseGeometry) -> bool:
    return image.info.footprint is not None and bool(image.info.footprint.intersects(region))


class Archive:
    """Every asset of an archive directory."""

    def __init__(self, images: Mapping[str, ArchiveImage], tables: Mapping[str, Path]) -> None:
        self._images = dict(images)
        self._tables = dict(tables)
        self._loaded: dict[str, SourceTable] = {}
        self._lock = threading.Lock()
        groups: dict[str, list[ArchiveImage]] = {}
        for asset_id, image in self._images.items():
            groups.setdefault(asset_id.rpartition("/")[0], []).append(image)
        self._collections = {
            name: ArchiveCollection(id=name, images=tuple(sorted(members, key=_by_time)), properties={})
            for name, members in groups.items()
        }

    def image(self, asset_id: str) -> ArchiveImage | None:
        return self._images.get(asset_id)

    def collection(self, asset_id: str) -> ArchiveCollection | None:
        return self._collections.get(asset_id)

    def table(self, asset_id: str) -> SourceTable | None:
        if asset_id not in self._tables:
            return None
        with self._lock:
            if asset_id not in self._loaded:
                self._loaded[asset_id] = read_table(asset_id, self._tables[asset_id])
            return self._loaded[asset_id]

    @property
    def ids(self) -> tuple[tuple[str, str], ...]:
        """Collections and tables as (id, type)."""
        found = [(name, "IMAGE_COLLECTION") for name in self._collections]
        return (*found, *((name, "TABLE") for name in self._tables))


def _by_time(image: ArchiveImage) -> tuple[float, str]:
    return float(image.info.properties["system:time_start"]), str(image.info.properties["system:index"])


def read_table(asset_id: str, path: Path) -> SourceTable:
    """A vector file as a table in degrees, column names as in the file."""
    import geopandas

    frame = geopandas.read_file(path)
    if frame.crs is not None and frame.crs.to_epsg() != 4326:
        frame = frame.to_crs(4326)
    names = [name for name in frame.columns if name != frame.geometry.name]
    columns = {name: _column(frame[name].tolist()) for name in names}
    features = tuple(
        TableFeature(
            geometry=geometry,
            properties={name: _plain(columns[name][number]) for name in names},
            id=f"{number:020d}",
        )
        for number, geometry in enumerate(frame.geometry)
    )
    return SourceTable(id=asset_id, features=features)


def _column(values: list[Any]) -> list[Any]:
    """A column, with numbers that the file has as text (ECO_ID in the published shapefile) as numbers."""
    if values and all(isinstance(value, str) and value.isdigit() and str(int(value)) == value for value in values):
        return [int(value) for value in values]
    return values


def _plain(value: Any) -> Any:
    """A cell as JSON knows it: missing numbers become None."""
    return None if isinstance(value, float) and np.isnan(value) else value


def read_archive(folder: Path) -> Archive:
    """Reads and checks `archive.jsonl` of a directory.

    Raises InputError with every problem found: file, line and reason.
    """
    listing = folder / LISTING
    if not listing.is_file():
        raise InputError(f"no archive: {listing} does not exist", hint="give a directory that holds archive.jsonl")
    reader = _Listing(folder.resolve())
    try:
        text = listing.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {listing}: {error}") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            reader.add(number, line)
    if reader.problems:
        shown = reader.problems[:_MOST_PROBLEMS]
        more = len(reader.problems) - len(shown)
        lines = "\n".join(f"  {listing}, line {number}: {reason}" for number, reason in shown)
        raise InputError(
            f"the archive has {len(reader.problems)} problem(s):\n{lines}" + (f"\n  and {more} more" if more else ""),
            hint="each line is one asset as JSON with type, id, start and bands (IMAGE) or href (TABLE)",
        )
    return Archive(reader.images, reader.tables)


class _LineError(Exception):
    """What is wrong with a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Raster:
    """What is needed of a raster file to describe its bands."""

    projection: Projection
    width: int
    height: int
    dtypes: tuple[str, ...]
    footprint: BaseGeometry


class _Listing:
    """Collects assets and problems line by line; every file is opened once."""

    def __init__(self, folder: Path) -> None:
        self.images: dict[str, ArchiveImage] = {}
        self.tables: dict[str, Path] = {}
        self.problems: list[tuple[int, str]] = []
        self._folder = folder
        self._rasters: dict[Path, _Raster] = {}

    def add(self, number: int, line: str) -> None:
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            self.problems.append((number, f"not JSON: {error.msg} at column {error.colno}"))
            return
        try:
            self._add(record)
        except _LineError as problem:
            self.problems.append((number, str(problem)))

    def _add(self, record: Any) -> None:
        if not isinstance(record, dict):
            raise _LineError("expected a JSON object")
        asset_id = _text(record, "id").strip("/")
        if asset_id in self.images or asset_id in self.tables:
            raise _LineError(f"the id {asset_id} occurs twice")
        kind = record.get("type")
        if kind == "TABLE":
            path = self._path(_text(record, "href"))
            _check_table(path)
            self.tables[asset_id] = path
        elif kind == "IMAGE":
            self.images[asset_id] = self._image(asset_id, record)
        else:
            raise _LineError(f"unknown type {kind!r}, expected IMAGE or TABLE")

    def _image(self, asset_id: str, record: dict[str, Any]) -> ArchiveImage:
        if "/" not in asset_id:
            raise _LineError(f"the id {asset_id} names no collection")
        listed = record.get("bands")
        if not isinstance(listed, list) or not listed:
            raise _LineError("expected a list of bands")
        properties = record.get("properties", {})
        if not isinstance(properties, dict):
            raise _LineError("properties is no object")
        license_ = record.get("license", "unknown")
        if not isinstance(license_, str):
            raise _LineError("license is no text")
        times = {"system:time_start": _time_ms(_text(record, "start"))}
        if "end" in record:
            times["system:time_end"] = _time_ms(_text(record, "end"))
        bands: dict[str, ArchiveBand] = {}
        footprint: BaseGeometry | None = None
        for entry in listed:
            band, bounds = self._band(entry)
            if band.info.id in bands:
                raise _LineError(f"the band {band.info.id} occurs twice")
            bands[band.info.id] = band
            footprint = bounds if footprint is None else shapely.union(footprint, bounds)
        info = ImageInfo(
            id=asset_id,
            bands=tuple(band.info for band in bands.values()),
            properties={"license": license_, **properties, "system:index": asset_id.rpartition("/")[2], **times},
            footprint=footprint,
            license=license_,
        )
        return ArchiveImage(info, bands)

    def _band(self, entry: Any) -> tuple[ArchiveBand, BaseGeometry]:
        if not isinstance(entry, dict):
            raise _LineError("a band is no object")
        name = _text(entry, "id")
        path = self._path(_text(entry, "href"))
        raster = self._raster(path)
        index = entry.get("index", 1)
        if not isinstance(index, int) or isinstance(index, bool) or not 1 <= index <= len(raster.dtypes):
            raise _LineError(f"band {name}: index {index!r}, but {path.name} has bands 1 to {len(raster.dtypes)}")
        nodata = entry.get("nodata")
        if nodata is not None and (not isinstance(nodata, (int, float)) or isinstance(nodata, bool)):
            raise _LineError(f"band {name}: nodata is no number: {nodata!r}")
        info = BandInfo(
            id=name,
            pixel_type=PixelType.of(raster.dtypes[index - 1]),
            projection=raster.projection,
            dimensions=(raster.width, raster.height),
        )
        band = ArchiveBand(info=info, path=path, index=index, nodata=None if nodata is None else float(nodata))
        return band, raster.footprint

    def _path(self, href: str) -> Path:
        path = (self._folder / href).resolve()
        if not path.is_relative_to(self._folder):
            raise _LineError(f"the path {href} leaves the archive")
        if not path.is_file():
            raise _LineError(f"the file {href} does not exist")
        return path

    def _raster(self, path: Path) -> _Raster:
        if path not in self._rasters:
            try:
                self._rasters[path] = _describe(path)
            except rasterio.errors.RasterioError as error:
                raise _LineError(f"unreadable raster {path.name}: {error}") from error
        return self._rasters[path]


def _describe(path: Path) -> _Raster:
    with rasterio.open(path) as source:
        if source.crs is None:
            raise _LineError(f"the raster {path.name} has no coordinate system")
        unsupported = sorted({name for name in source.dtypes if np.dtype(name).kind not in "iuf"})
        if unsupported:
            raise _LineError(f"the raster {path.name} has values of type {', '.join(unsupported)}")
        code = source.crs.to_epsg()
        crs = f"EPSG:{code}" if code is not None else source.crs.to_wkt()
        a, b, c, d, e, f = tuple(source.transform)[:6]
        return _Raster(
            projection=Projection(crs=crs, transform=(a, b, c, d, e, f)),
            width=source.width,
            height=source.height,
            dtypes=tuple(source.dtypes),
            footprint=_footprint(source),
        )


def _footprint(source: Any) -> BaseGeometry:
    """The raster's outline in degrees, with points along its edges, split where it crosses the antimeridian."""
    outline = shapely.segmentize(box(0, 0, source.width, source.height), max(source.width, source.height) / 16)
    a, b, c, d, e, f = tuple(source.transform)[:6]
    placed = shapely.transform(outline, lambda xy: xy @ np.array([[a, d], [b, e]]) + [c, f])
    geometry = transform_geom(source.crs, "EPSG:4326", mapping(placed), antimeridian_cutting=True)
    found = shape(geometry)
    return found if found.is_valid else shapely.make_valid(found)


def _check_table(path: Path) -> None:
    import pyogrio  # type: ignore[import-untyped]

    try:
        pyogrio.read_info(path)
    except pyogrio.errors.DataSourceError as error:
        raise _LineError(f"unreadable table {path.name}: {error}") from error


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value:
        raise _LineError(f"{key} is missing or no text")
    return value


def _time_ms(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise _LineError(f"bad time {text!r}, expected e.g. 2020-04-08T14:37:29Z") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)
