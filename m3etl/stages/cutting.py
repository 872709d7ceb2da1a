"""Cuts the chips of one array out of a user's own rasters, shard by shard in the order of rows.

On the lattice pixels are copied; off it they are resampled. Either way whole blocks of the files are decoded, each
once for a run of chips, and chips come out in the order in which they are stored.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from m3etl.compute.grids import PixelGrid, PixelWindow, chip_grid, parsed_crs, whole_pixel_offset
from m3etl.compute.positions import Positions, find_positions, transformer
from m3etl.compute.storing import aligned, reach_of, stored_of, unknown_codes
from m3etl.errors import InputError
from m3etl.io.localfiles import LocalFiles
from m3etl.io.rasters import Mosaic, Raster, WindowPixels, batch_bytes, reading_pool

Array = npt.NDArray[Any]

looked_up_together = 64  # chips
worked_on_together = 16
most_lon = 185.0  # chips on the antimeridian reach beyond 180 degrees, in the far north by degrees
_metres_per_degree = 110_574.0  # shortest degree of latitude on WGS 84


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipPlace:
    """Where a chip lies: corner in metres of its UTM zone, centre in degrees, row in the store."""

    row: int
    chip_id: str
    epsg: int
    xmin: float
    ymax: float
    lon: float
    lat: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CutChip:
    """One chip of one array. values: stored, (band, y, x), None where no file meets the chip; files: names of those
    that do.
    """

    place: ChipPlace
    values: Array | None
    files: tuple[str, ...]


def cut_chips(
    source: LocalFiles, places: Iterable[ChipPlace], *, chip_m: float, threads: int = 0, most_bytes: int = batch_bytes
) -> Iterator[CutChip]:
    """The chips of an array in the order of `places`: see `ChipCutter.cut`."""
    return ChipCutter(source, chip_m).cut(places, threads=threads, most_bytes=most_bytes)


@dataclass(frozen=True, slots=True)
class _Cut:
    """What has to be read for a chip: a window of one sheet. positions: None where its pixels are the chip's own."""

    sheet: int
    window: PixelWindow
    positions: Positions | None


_Chip = tuple[ChipPlace, Sequence[_Cut]]


class ChipCutter:
    """Cuts one array: its files by sheets, which are those that share a grid. Nothing is open between cuts."""

    def __init__(self, source: LocalFiles, chip_m: float) -> None:
        self._source = source
        self._chip_m = chip_m
        self._sheets = [Mosaic.of(rasters, source.bands) for rasters in _by_grid(_with_turns(source.rasters))]
        boxes = [_box_lonlat(raster.grid) for sheet in self._sheets for raster in sheet.rasters]
        self._tree = shapely.STRtree(boxes)
        self._sheet_of_box = np.repeat(np.arange(len(self._sheets)), [len(sheet.rasters) for sheet in self._sheets])

    def cut(self, places: Iterable[ChipPlace], *, threads: int = 0, most_bytes: int = batch_bytes) -> Iterator[CutChip]:
        """The chips in the order of `places`, cut from the files while the caller works on those before.

        Where files overlap, earlier ones count and others fill their gaps. Source pixels of about `most_bytes` are held
        in one go, and twice that in all; of an order in which neighbours follow each other every block is decoded once.

        Raises InputError for a damaged file and for codes that are no class, RemoteError where a server fails.
        """
        with reading_pool(threads) as readers, reading_pool(threads) as workers:
            try:
                waiting: deque[Iterator[CutChip]] = deque()
                for part in self._runs(places, most_bytes):
                    waiting.append(self._start(part, readers, workers))
                    if len(waiting) > 1:
                        yield from waiting.popleft()
                for run in waiting:
                    yield from run
            finally:
                for pool in (readers, workers):
                    pool.shutdown(wait=True, cancel_futures=True)

    def meets(self, places: Sequence[ChipPlace]) -> bool:
        """Whether any of these chips lies where a file does."""
        return any(
            self._cuts(place, sheets) for place, sheets in zip(places, self._near(places), strict=True) if sheets
        )

    def _runs(self, places: Iterable[ChipPlace], most_bytes: int) -> Iterator[list[_Chip]]:
        """Chips in order with what has to be read for them, so many that their windows are about `most_bytes`."""
        run, held = list[_Chip](), 0
        for batch in _batches(places, looked_up_together):
            for place, sheets in zip(batch, self._near(batch), strict=True):
                chip = (place, self._cuts(place, sheets))
                size = sum(
                    cut.window.width * cut.window.height * self._sheets[cut.sheet].pixel_bytes for cut in chip[1]
                )
                if run and held + size > most_bytes:
                    yield run
                    run, held = [], 0
                run.append(chip)
                held += size
        if run:
            yield run

    def _start(self, chips: Sequence[_Chip], readers: Executor, workers: Executor) -> Iterator[CutChip]:
        """Begin to read what these chips need; the iterator has them in order."""
        streams = {}
        for number in sorted({cut.sheet for _, cuts in chips for cut in cuts}):
            windows = [cut.window for _, cuts in chips for cut in cuts if cut.sheet == number]
            streams[number] = self._sheets[number].start(windows, readers)
        return self._finished(chips, streams, workers)

    def _finished(
        self, chips: Sequence[_Chip], streams: dict[int, Iterator[WindowPixels]], workers: Executor
    ) -> Iterator[CutChip]:
        waiting: deque[Future[CutChip]] = deque()
        for place, cuts in chips:
            waiting.append(workers.submit(self._cut_chip, place, cuts, [next(streams[cut.sheet]) for cut in cuts]))
            while len(waiting) > worked_on_together:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _near(self, places: Sequence[ChipPlace]) -> list[list[int]]:
        """Sheets whose files may meet each chip, in the order of the files."""
        lon, lat = (np.array([getattr(place, name) for place in places]) for name in ("lon", "lat"))
        reach_lat = 0.72 * self._chip_m / _metres_per_degree
        reach_lon = np.minimum(reach_lat / np.maximum(np.cos(np.radians(np.abs(lat) + reach_lat)), 1e-3), 180.0)
        chips = shapely.box(lon - reach_lon, lat - reach_lat, lon + reach_lon, lat + reach_lat)
        chip, box = self._tree.query(chips)
        pairs = np.unique(np.stack([chip, self._sheet_of_box[box]]), axis=1)
        return [pairs[1, pairs[0] == number].tolist() for number in range(len(places))]

    def _cuts(self, place: ChipPlace, sheets: Sequence[int]) -> list[_Cut]:
        """The windows to read for a chip, of sheets that it really meets."""
        target = self._target(place)
        found = []
        for number in sheets:
            sheet = self._sheets[number]
            offset = whole_pixel_offset(sheet.rasters[0].grid, target)
            positions: Positions | None = None
            window: PixelWindow | None
            if offset is not None:
                window = PixelWindow(column=offset[0], row=offset[1], width=target.width, height=target.height)
            else:
                positions = find_positions(sheet.rasters[0].grid, target)
                window = positions.window(reach_of(self._source.spec, positions, self._source.method))
            if window is not None and sheet.meeting(window):
                found.append(_Cut(number, window, positions))
        return found

    def _cut_chip(self, place: ChipPlace, cuts: Sequence[_Cut], pixels: Sequence[WindowPixels]) -> CutChip:
        stored: Array | None = None
        for cut, part in zip(cuts, pixels, strict=True):
            found = self._stored(cut, part)
            if stored is None:
                stored = found
            else:
                fill = self._source.spec.fill_value()
                empty = (np.isnan(stored) if np.isnan(fill) else stored == fill).all(axis=0)
                stored[:, empty] = found[:, empty]
        files = [
            self._sheets[cut.sheet].rasters[number].name
            for cut in cuts
            for number in self._sheets[cut.sheet].meeting(cut.window)
        ]
        names = tuple(dict.fromkeys(name.rsplit("/", 1)[-1] for name in files))
        if stored is not None:
            self._check_codes(stored, place, names)
        return CutChip(place=place, values=stored, files=names)

    def _stored(self, cut: _Cut, pixels: WindowPixels) -> Array:
        source = self._source
        if cut.positions is None:
            return stored_of(source.spec, pixels.values, source.numbers, pixels.covered)
        return aligned(
            source.spec,
            pixels.values,
            source.numbers,
            pixels.covered,
            window=cut.window,
            positions=cut.positions,
            method=source.method,
        )

    def _target(self, place: ChipPlace) -> PixelGrid:
        return chip_grid(
            epsg=place.epsg,
            xmin=place.xmin,
            ymax=place.ymax,
            chip_m=self._chip_m,
            pixels=self._source.spec.pixels(self._chip_m),
        )

    def _check_codes(self, stored: Array, place: ChipPlace, files: Sequence[str]) -> None:
        strange = unknown_codes(self._source.spec, stored)
        if strange:
            raise InputError(
                f"{', '.join(files)}: over chip {place.chip_id} are codes that are no class of "
                f"{self._source.spec.name}: {', '.join(map(str, strange))}",
                hint="Translate the codes first, or say `nodata` if they mark missing pixels.",
            )


def _batches(places: Iterable[ChipPlace], size: int) -> Iterator[list[ChipPlace]]:
    remaining = iter(places)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def _with_turns(rasters: Iterable[Raster]) -> Iterator[Raster]:
    """Rasters in degrees once more, turned by 360 where that brings them to the longitudes of chips, 180 degrees and
    a bit to both sides.
    """
    for raster in rasters:
        yield raster
        if parsed_crs(raster.grid.crs).is_geographic:
            a, b, west, d, e, north = raster.grid.affine
            x, _ = raster.grid.xy_of([0, raster.grid.width, 0, raster.grid.width], [0, 0, *[raster.grid.height] * 2])
            for turn in (-360.0, 360.0):
                if x.min() + turn < most_lon and x.max() + turn > -most_lon:
                    yield replace(raster, grid=replace(raster.grid, affine=(a, b, west + turn, d, e, north)))


def _by_grid(rasters: Iterable[Raster]) -> list[list[Raster]]:
    """Rasters that are whole-pixel shifts of each other, together."""
    found: dict[tuple[Any, ...], list[Raster]] = {}
    for raster in rasters:
        a, b, _, d, e, _ = raster.grid.affine
        column, row = raster.grid.pixel_of(0.0, 0.0)
        phase = [round(float(part) % 1.0, 4) % 1.0 for part in (column, row)]
        key = (raster.grid.crs, *(float(f"{part:.12g}") for part in (a, b, d, e)), *phase)
        found.setdefault(key, []).append(raster)
    return list(found.values())


def _box_lonlat(grid: PixelGrid) -> Any:
    """A box in degrees around a raster; all longitudes for one in metres that comes near the antimeridian."""
    x, y = grid.xy_of([0, grid.width, 0, grid.width], [0, 0, grid.height, grid.height])
    edges = x.min(), y.min(), x.max(), y.max()
    if parsed_crs(grid.crs).is_geographic:
        return shapely.box(*edges)
    west, south, east, north = transformer(grid.crs, "EPSG:4326").transform_bounds(*edges, densify_pts=21)
    if not np.isfinite([west, south, east, north]).all():
        return shapely.box(-most_lon, -90.0, most_lon, 90.0)
    if west > east or west < most_lon - 360.0 or east > 360.0 - most_lon:
        return shapely.box(-most_lon, south, most_lon, north)
    return shapely.box(west, south, east, north)
