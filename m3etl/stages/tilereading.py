"""Exported files of one region tile, cut into chips: listed in the bucket, checked against what was asked for, read by
windows, and given out in the form in which the pixel lane's answers come.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from m3etl.compute.grids import PixelGrid, PixelWindow, whole_pixel_offset
from m3etl.errors import InputError, RemoteError
from m3etl.io.exports import folder_of
from m3etl.io.geotiffs import forgetting
from m3etl.io.objects import Bucket
from m3etl.io.outcomes import RequestFailed
from m3etl.io.pixels import PixelJob, PixelRequest, WholeChip, read_answer
from m3etl.io.rasters import Raster, WindowPixels, describe_raster, read_windows
from m3etl.io.segments import Part
from m3etl.io.tasks import TaskRecord, TaskState
from m3etl.spec.chipgrid import Window
from m3etl.spec.exporttasks import ExportTask
from m3etl.spec.jobs import ArrayStatus, field_name
from m3etl.spec.modality import ArraySpec

window_bytes = 32 << 20  # decoded windows in memory per file; a tile has a handful of them


class WrongFilesError(Exception):
    """The files of a task are not what was asked for; the message says what is wrong with them."""


class WrongPixelsError(Exception):
    """The pixels of one chip can't be right; the chips after it may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipPart:
    """What one task brings of one chip: a part to be landed, and the valid fraction of its arrays."""

    part: Part
    valid: Mapping[str, float]


class ExportedTask:
    """The files of one exported task, read in the order of its chips.

    wanted: chips that are still to be read, of the task. Opening raises WrongFilesError, or what the bucket raises.
    """

    def __init__(
        self, record: TaskRecord, bucket: Bucket, specs: Mapping[str, ArraySpec], wanted: Sequence[str]
    ) -> None:
        self.record = record
        self._bucket = bucket
        self._specs = specs
        chosen = set(wanted)
        self._chips = [chip for chip in record.task.chips if chip[0] in chosen]
        self._next = 0
        self._rasters = self._open()
        self._windows = self._read_from(0)

    def read(self, job: PixelJob) -> ChipPart:
        """The checked part of the next chip, which must be the job's. Raises WrongPixelsError, WrongFilesError (nothing
        further can be read), or what the bucket raises.
        """
        chip_id = job.chip.chip_id
        if self._chips[self._next][0] != chip_id:
            raise ValueError(f"{chip_id} is asked for, {self._chips[self._next][0]} comes next")
        values = self._pixels()
        task = self.record.task
        asked = {name: job.scenes[name].made_of(request_ids) for name, request_ids in task.scenes.items()}
        request = PixelRequest(
            job=replace(job, scenes={**job.scenes, **asked}),
            arrays=tuple(task.scenes),
            window=Window(width=task.side, top=0, bottom=task.side),
            check=False,
        )
        body = _as_answer(task, self._specs, values)
        try:
            valid = read_answer(request, body)
        except RequestFailed as failed:
            raise WrongPixelsError(failed.failure.message) from failed
        return ChipPart(part=Part(asked=request.asked(), body=body), valid=valid)

    def close(self) -> None:
        """End the threads that read."""
        self._windows.close()

    def _pixels(self) -> npt.NDArray[Any]:
        """(band, y, x) of the next chip. A file that can't be read is tried once more before it counts as damaged."""
        try:
            found = next(self._windows)
        except (RemoteError, InputError) as error:
            self._windows = self._reopened(error)
            try:
                found = next(self._windows)
            except (RemoteError, InputError) as again:
                raise self._damaged(again) from again
        self._next += 1
        return found.values

    def _reopened(self, error: Exception) -> Generator[WindowPixels]:
        try:
            self._rasters = self._open(anew=True)
        except WrongFilesError as again:
            raise again from error
        return self._read_from(self._next)

    def _damaged(self, error: RemoteError | InputError) -> WrongFilesError:
        self._objects()  # the bucket answers, or says itself why it does not
        return WrongFilesError(error.message)

    def _read_from(self, first: int) -> Generator[WindowPixels]:
        side = self.record.task.side
        windows = [
            PixelWindow(column=column * side, row=row * side, width=side, height=side)
            for _, column, row in self._chips[first:]
        ]
        origin = _moved(windows, self._rasters[0], _grid(self.record.task))
        yield from read_windows(self._rasters, origin, most_bytes=window_bytes)

    def _objects(self) -> list[str]:
        folder = folder_of(self.record.job, self.record.attempt)
        return [item.name for item in self._bucket.objects(folder) if item.name.endswith(".tif")]

    def _open(self, *, anew: bool = False) -> list[Raster]:
        names = self._objects()
        if not names:
            raise WrongFilesError("the export left no files in the bucket")
        options = self._bucket.reading_options()
        rasters = [self._described(self._bucket.location(name), options, anew=anew) for name in names]
        _check_files(self.record.task, self._specs, rasters)
        return rasters

    def _described(self, location: str, options: Mapping[str, str], *, anew: bool) -> Raster:
        fresh = {**options, **forgetting(location)}
        for settings in (fresh if anew else options, fresh):  # closing the second forgets what the first got
            with contextlib.suppress(RemoteError, InputError):
                return describe_raster(location, options=settings)
        try:
            return describe_raster(location, options=fresh)
        except (RemoteError, InputError) as error:
            raise self._damaged(error) from error


class TileReading:
    """The files of a tile's tasks, read side by side, chip after chip. wrong: chips by job whose pixels can't be had
    from its files, with the reason.
    """

    def __init__(
        self, records: Sequence[TaskRecord], chips: Sequence[str], bucket: Bucket, specs: Mapping[str, ArraySpec]
    ) -> None:
        self.wrong: dict[str, dict[str, str]] = {}
        self._records = [(record, record.task.chip_ids) for record in records]
        self._sources: dict[str, ExportedTask] = {}
        self._broken: dict[str, str] = {}
        for record in records:
            if record.state is TaskState.EXPORTED:
                try:
                    self._sources[record.job] = ExportedTask(record, bucket, specs, chips)
                except WrongFilesError as error:
                    self._broken[record.job] = str(error)

    def assemble(self, job: PixelJob) -> WholeChip | None:
        """The next chip from the files of its tasks; None where they do not bring all of it."""
        chip_id = job.chip.chip_id
        mine = [record for record, chip_ids in self._records if chip_id in chip_ids]
        statuses = {name: ArrayStatus(status) for record in mine for name, status in record.absent.items()}
        parts, valid = [], dict[str, float]()
        for record in mine:
            part = self._part(record, job) if record.state is TaskState.EXPORTED else None
            if part is not None:
                parts.append(part.part)
                valid.update(part.valid)
        if set(job.wanted()) - valid.keys() - statuses.keys():
            return None
        return WholeChip(chip_id=chip_id, parts=tuple(parts), valid=valid, statuses=statuses)

    def close(self) -> None:
        """End the threads that read."""
        for source in self._sources.values():
            source.close()

    def _part(self, record: TaskRecord, job: PixelJob) -> ChipPart | None:
        chip_id = job.chip.chip_id
        if record.job not in self._broken:
            try:
                return self._sources[record.job].read(job)
            except WrongPixelsError as error:
                self.wrong.setdefault(record.job, {})[chip_id] = str(error)
                return None
            except WrongFilesError as error:
                self._broken[record.job] = str(error)
        self.wrong.setdefault(record.job, {})[chip_id] = self._broken[record.job]
        return None


def _grid(task: ExportTask) -> PixelGrid:
    return PixelGrid(crs=f"EPSG:{task.epsg}", affine=task.affine, width=task.width, height=task.height)


def _moved(windows: Sequence[PixelWindow], first: Raster, grid: PixelGrid) -> list[PixelWindow]:
    """Windows of the whole export as windows of the first file's grid, which may not be the upper left one."""
    column, row = whole_pixel_offset(first.grid, grid) or (0, 0)
    return [
        PixelWindow(column=item.column + column, row=item.row + row, width=item.width, height=item.height)
        for item in windows
    ]


def _check_files(task: ExportTask, specs: Mapping[str, ArraySpec], rasters: Sequence[Raster]) -> None:
    """WrongFilesError unless the files have the bands and the type that were asked for and cover the grid exactly."""
    grid = _grid(task)
    bands = tuple(field_name(name, band) for name in task.scenes for band in specs[name].bands)
    dtype = specs[next(iter(task.scenes))].dtype
    covered = np.zeros((task.rows, task.columns), dtype=np.int64)
    for raster in rasters:
        if raster.bands != bands:
            raise WrongFilesError(f"the bands are {', '.join(raster.bands)}; asked for {', '.join(bands)}")
        if raster.dtype != dtype:
            raise WrongFilesError(f"the type is {raster.dtype}; asked for {dtype}")
        offset = whole_pixel_offset(grid, raster.grid)
        if offset is None:
            raise WrongFilesError(
                f"pixels lie at {raster.grid.affine} in {raster.grid.crs[:40]}; asked for {grid.affine} in {grid.crs}"
            )
        place = PixelWindow(column=offset[0], row=offset[1], width=raster.grid.width, height=raster.grid.height)
        covered += _pixels_per_cell(task, place)
    if (covered != task.side**2).any():
        raise WrongFilesError(
            f"{len(rasters)} files hold {int(covered.sum())} of {task.width * task.height} pixels, or some twice"
        )


def _pixels_per_cell(task: ExportTask, place: PixelWindow) -> npt.NDArray[np.int64]:
    """(rows, columns): how many pixels of each cell a window covers."""
    down = _overlaps(place.row, place.row + place.height, task.rows, task.side)
    across = _overlaps(place.column, place.column + place.width, task.columns, task.side)
    return np.outer(down, across)


def _overlaps(start: int, end: int, cells: int, side: int) -> npt.NDArray[np.int64]:
    """How many of [start, end) lie in each of `cells` neighbouring stretches of `side`."""
    edges = np.arange(cells, dtype=np.int64) * side
    return np.asarray(np.maximum(np.minimum(end, edges + side) - np.maximum(start, edges), 0), dtype=np.int64)


def _as_answer(task: ExportTask, specs: Mapping[str, ArraySpec], values: npt.NDArray[Any]) -> bytes:
    """Bands of one chip as the pixel lane gets them: NPY, one field per band."""
    names = [field_name(name, band) for name in task.scenes for band in specs[name].bands]
    fields = np.empty((task.side, task.side), dtype=[(name, values.dtype) for name in names])
    for name, plane in zip(names, values, strict=True):
        fields[name] = plane
    stream = io.BytesIO()
    np.save(stream, fields)
    return stream.getvalue()
