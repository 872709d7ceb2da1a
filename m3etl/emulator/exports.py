"""What batch operations do: images as tiled GeoTIFF files, tables as CSV, GeoJSON or KML, on the local disk.

Files for Cloud Storage land in `<state>/buckets/<bucket>/<prefix>...`, for Drive in `<state>/drive/<folder>/...`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from m3etl.emulator import encode, tables
from m3etl.emulator.batch import Running
from m3etl.emulator.messages import Account
from m3etl.emulator.model import Grid, Projection, invalid
from m3etl.emulator.pixels import Counting, Evaluating, PixelRequest, Shape

T = TypeVar("T")


class Work(Protocol):
    """Runs a function of the evaluator in a worker thread and charges what it costs."""

    def __call__(self, account: Account, function: Callable[[Evaluating, Counting], T], limit_s: float | None) -> T: ...


default_max_pixels = 100_000_000
default_shard_px = 256
# "File dimensions are too large": the limit that the service's message names.
max_file_bytes = 17_179_869_184
max_file_px = 32_768
# Pixels are evaluated in blocks of at most this many bytes.
_block_bytes = 8_388_608
# A batch operation may take hours; this bounds one block.
_block_limit_s = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where the files of an export go: a directory, the prefix of their names, and the URI that users are shown."""

    directory: Path
    prefix: str
    uri: str

    def path(self, suffix: str) -> Path:
        """The file with this suffix after the prefix."""
        return self.directory / f"{self.prefix}{suffix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """GeoTIFF options of an image export; `file_px` is (width, height) of one file, None to let the server choose."""

    shard_px: int
    file_px: tuple[int, int] | None
    nodata: float | None
    cloud_optimized: bool
    skip_empty: bool
    max_pixels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """One file of an export: its window of the whole grid, in pixels."""

    column: int
    row: int
    width: int
    height: int
    suffix: str


class Exporter:
    """Carries out export operations; `check` refuses at submission what the service refuses there."""

    def __init__(self, work: Work, state_dir: Path) -> None:
        self._run_work = work
        self._state_dir = state_dir

    def check(self, kind: str, request: Mapping[str, Any]) -> None:
        """Raises ServiceError 400 for a request that cannot be carried out."""
        if not isinstance(request.get("expression"), dict):
            raise invalid("Invalid value at 'expression': required.")
        options = _file_options(request)
        self._destination(request)
        if kind == "EXPORT_IMAGE":
            if options.get("fileFormat") != "GEO_TIFF":
                raise invalid(f"Exports as {options.get('fileFormat')} are not served by the embedded Earth Engine.")
            _image_options(request)
        else:
            tables.check_format(str(options.get("fileFormat") or ""))

    def run(self, running: Running) -> None:
        """Writes the files of one operation. Files that an earlier attempt completed are kept."""
        if running.operation.kind == "EXPORT_IMAGE":
            self._export_image(running)
        else:
            self._export_table(running)

    def _export_table(self, running: Running) -> None:
        request = running.request
        destination = self._destination(request)
        name = tables.check_format(str(_file_options(request).get("fileFormat") or ""))
        expression = request["expression"]
        features = self._work(running, lambda evaluator, usage: evaluator.features(expression, usage=usage))
        path = destination.path(tables.suffixes[name])
        with _replacing(path) as temporary:
            temporary.write_bytes(tables.encode_table(features, name, request.get("selectors"), path.stem))
        running.operation.uris = [destination.uri]
        running.report(1.0, file=path.name)

    def _export_image(self, running: Running) -> None:
        destination = self._destination(running.request)
        options = _image_options(running.request)
        pixels = PixelRequest(expression=running.request["expression"])
        shape = self._work(running, pixels.shape)
        _check_image(shape, options)
        files = list(plan_files(shape, options))
        total = sum(file.width * file.height for file in files)
        done = 0
        for file in files:
            path = destination.path(f"{file.suffix}.tif")
            if path.name not in running.operation.files:
                report = partial(_report_share, running, done / total, file.width * file.height / total)
                self._write_file(running, pixels, shape, options, file, path, report)
            done += file.width * file.height
            running.report(done / total, file=path.name)
        running.operation.uris = [destination.uri]

    def _write_file(
        self,
        running: Running,
        pixels: PixelRequest,
        shape: Shape,
        options: ImageOptions,
        file: _File,
        path: Path,
        report: Callable[[float], None],
    ) -> None:
        import rasterio
        from rasterio.windows import Window

        dtype = next(iter(shape.dtypes.values()))
        profile = encode.geotiff_profile(_window(shape.grid, file.column, file.row, file.width, file.height), 1, dtype)
        profile |= {"count": len(shape.dtypes), "nodata": options.nodata} | _tiling(options, file)
        missing = options.nodata if options.nodata is not None else (0.0 if dtype.kind in "iu" else float("nan"))
        anything = False
        with _replacing(path) as temporary:
            with rasterio.open(temporary, "w", **profile) as target:
                target.descriptions = tuple(shape.dtypes)
                blocks = list(_blocks(file, shape, options.shard_px))
                for index, (column, row, width, height) in enumerate(blocks):
                    grid = _window(shape.grid, file.column + column, file.row + row, width, height)
                    raster = self._work(running, partial(pixels.evaluate, grid=grid))
                    anything = anything or any(bool(valid.any()) for valid in raster.valid.values())
                    target.write(encode.stack(raster, dtype, missing), window=Window(column, row, width, height))
                    report((index + 1) / len(blocks))
            if options.cloud_optimized:
                _make_cloud_optimized(temporary, options)
            if options.skip_empty and not anything:
                temporary.unlink()

    def _work(self, running: Running, function: Callable[[Evaluating, Counting], T]) -> T:
        account = Account()
        value = self._run_work(account, function, _block_limit_s)
        running.report(0.0, eecu_s=account.eecu_s)
        return value

    def _destination(self, request: Mapping[str, Any]) -> Destination:
        options = _file_options(request)
        bucket = options.get("cloudStorageDestination")
        if isinstance(bucket, dict):
            name = check_name(str(bucket.get("bucket") or ""), "bucket")
            prefix = check_name(
                str(bucket.get("filenamePrefix") or request.get("description") or "export"), "filenamePrefix"
            )
            folder, _, stem = prefix.rpartition("/")
            uri = "/".join(
                ["https://console.developers.google.com/storage/browser", name, *([folder] if folder else [])]
            )
            return Destination(directory=self._state_dir / "buckets" / name / folder, prefix=stem, uri=uri)
        drive = options.get("driveDestination")
        if isinstance(drive, dict):
            stem = str(drive.get("filenamePrefix") or request.get("description") or "export").replace("/", "_")
            folder = check_name(str(drive.get("folder") or "My Drive"), "folder")
            uri = f"https://drive.google.com/#folders/{folder}"
            return Destination(
                directory=self._state_dir / "drive" / folder, prefix=check_name(stem, "filenamePrefix"), uri=uri
            )
        raise invalid("Export needs a cloudStorageDestination or a driveDestination.")


def check_name(name: str, what: str) -> str:
    """A relative path without empty, "." and ".." parts. Raises ServiceError 400 otherwise."""
    parts = name.split("/")
    bad = "\0" in name or "\\" in name or any(part in ("", ".", "..") for part in parts)
    if bad or (what == "bucket" and len(parts) > 1):
        raise invalid(f"Invalid {what} '{name}'.")
    return name


def plan_files(shape: Shape, options: ImageOptions) -> Iterator[_File]:
    """The files of an export in row order: one, or several named by the upper-left pixel, `yyyyyyyyyy-xxxxxxxxxx`."""
    grid = shape.grid
    sample_bytes = sum(dtype.itemsize for dtype in shape.dtypes.values())
    width, height = options.file_px or _choose_file(sample_bytes, options.shard_px)
    single = width >= grid.width and height >= grid.height
    for row in range(0, grid.height, height):
        for column in range(0, grid.width, width):
            yield _File(
                column=column,
                row=row,
                width=min(width, grid.width - column),
                height=min(height, grid.height - row),
                suffix="" if single else f"{row:010d}-{column:010d}",
            )


def _choose_file(sample_bytes: int, shard_px: int) -> tuple[int, int]:
    side = max_file_px
    while side > shard_px and side * side * sample_bytes > max_file_bytes:
        side //= 2
    side = max(shard_px, side // shard_px * shard_px)
    return side, side


def _check_image(shape: Shape, options: ImageOptions) -> None:
    names = list(dict.fromkeys(encode.gdal_names.get(dtype.name, dtype.name) for dtype in shape.dtypes.values()))
    if len(names) > 1:
        found = " and ".join([", ".join(names[:-1]), names[-1]])
        raise invalid(f"Exported bands must have compatible data types; found inconsistent types: {found}.")
    if shape.grid.width * shape.grid.height > options.max_pixels:
        raise invalid(
            f"Export too large: specified {shape.grid.width * shape.grid.height} pixels (max: {options.max_pixels}). "
            "Specify higher maxPixels value if you intend to export a large area."
        )
    if options.file_px is not None:
        sample_bytes = sum(dtype.itemsize for dtype in shape.dtypes.values())
        total = options.file_px[0] * options.file_px[1] * sample_bytes
        if total >= max_file_bytes:
            raise invalid(
                "File dimensions are too large for the number of bands and data type: the total file size requested is "
                f"{total} bytes before compression ({sample_bytes} bytes per pixel), "
                f"but must be less than {max_file_bytes} bytes."
            )


def _file_options(request: Mapping[str, Any]) -> Mapping[str, Any]:
    options = request.get("fileExportOptions")
    if not isinstance(options, dict):
        raise invalid("Only exports to Cloud Storage and Drive are served by the embedded Earth Engine.")
    return options


def _image_options(request: Mapping[str, Any]) -> ImageOptions:
    options = _file_options(request).get("geoTiffOptions") or {}
    shard = _whole(options.get("tileSize"), default_shard_px, "tileSize")
    if shard % 16:
        raise invalid(f"Tile size must be a multiple of 16, found {shard}.")
    size = options.get("tileDimensions")
    file_px = None
    if size is not None:
        file_px = (_whole(size.get("width"), 0, "tileDimensions"), _whole(size.get("height"), 0, "tileDimensions"))
        if file_px[0] % shard or file_px[1] % shard:
            raise invalid(f"File dimensions ({file_px[0]}x{file_px[1]}) must be a multiple of the tile size ({shard}).")
    nodata = options.get("noData")
    if isinstance(nodata, dict):
        nodata = nodata.get("floatValue")
    return ImageOptions(
        shard_px=shard,
        file_px=file_px,
        nodata=None if nodata is None else float(nodata),
        cloud_optimized=bool(options.get("cloudOptimized")),
        skip_empty=bool(options.get("skipEmptyFiles")),
        max_pixels=_whole(request.get("maxPixels"), default_max_pixels, "maxPixels"),
    )


def _whole(value: Any, default: int, name: str) -> int:
    number = value.get("value", default) if isinstance(value, dict) else value
    try:
        result = default if number is None else int(number)
    except (TypeError, ValueError):
        raise invalid(f"Invalid value at '{name}': {number!r}.") from None
    if result <= 0:
        raise invalid(f"Invalid value at '{name}': {result}.")
    return result


def _window(grid: Grid, column: int, row: int, width: int, height: int) -> Grid:
    a, b, c, d, e, f = grid.projection.transform
    transform = (a, b, c + a * column + b * row, d, e, f + d * column + e * row)
    return Grid(projection=Projection(crs=grid.projection.crs, transform=transform), width=width, height=height)


def _blocks(file: _File, shape: Shape, shard_px: int) -> Iterator[tuple[int, int, int, int]]:
    """(column, row, width, height) of the pieces in which a file is evaluated, in multiples of the shard."""
    sample_bytes = sum(dtype.itemsize + 1 for dtype in shape.dtypes.values())
    side = shard_px
    while 4 * side * side * sample_bytes <= _block_bytes:
        side *= 2
    for row in range(0, file.height, side):
        for column in range(0, file.width, side):
            yield column, row, min(side, file.width - column), min(side, file.height - row)


def _tiling(options: ImageOptions, file: _File) -> dict[str, Any]:
    if min(file.width, file.height) < 16:
        return {}
    return {"tiled": True, "blockxsize": options.shard_px, "blockysize": options.shard_px}


def _make_cloud_optimized(path: Path, options: ImageOptions) -> None:
    import rasterio.shutil

    source = path.with_suffix(".source.tif")
    path.replace(source)
    try:
        rasterio.shutil.copy(
            source, path, driver="COG", blocksize=options.shard_px, compress="LZW", overview_resampling="nearest"
        )
    finally:
        source.unlink()


def _report_share(running: Running, start: float, share: float, fraction: float) -> None:
    running.report(start + share * fraction)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and is removed otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        yield temporary
        if temporary.exists():
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
