"""Batch exports: which rectangles of the lattice are exported with which arrays, so that one task serves many chips.

A region tile is a square of neighbouring lattice cells of one UTM zone. Chips of a tile that are made of the same
images share a task; arrays share one when they have the data type, the pixels a side and the chips in common, because
the service refuses bands of several types in one file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from m3etl.spec.jobs import split_mark
from m3etl.spec.modality import ArraySpec

# "The total file size requested ... must be less than": the service's message; larger exports become several files.
max_file_bytes = 17_179_869_184
max_side_px = 32_768


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChip:
    """A chip whose pixels are wanted: upper-left corner in metres of its zone, and the images of each raster array."""

    chip_id: str
    epsg: int
    xmin: float
    ymax: float
    scenes: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportTask:
    """One export: arrays of one data type on the smallest rectangle of cells that holds its chips.

    xmin, ymax: the rectangle's upper-left corner in metres; columns, rows: cells; side: pixels of a chip. chips: (id,
    column, row) of the cells that are wanted, row 0 in the north. scenes: images by array, in the catalogue's order.
    """

    tile: str
    epsg: int
    xmin: float
    ymax: float
    columns: int
    rows: int
    chip_m: float
    side: int
    scenes: Mapping[str, tuple[str, ...]]
    chips: tuple[tuple[str, int, int], ...]

    @property
    def chip_ids(self) -> frozenset[str]:
        """The chips that are wanted."""
        return frozenset(chip_id for chip_id, _, _ in self.chips)

    @property
    def width(self) -> int:
        """Pixels from west to east."""
        return self.columns * self.side

    @property
    def height(self) -> int:
        """Pixels from north to south."""
        return self.rows * self.side

    @property
    def affine(self) -> tuple[float, float, float, float, float, float]:
        """(scale x, 0, west, 0, -scale y, north): corners of cells are corners of pixels."""
        pixel = self.chip_m / self.side
        return (pixel, 0.0, self.xmin, 0.0, -pixel, self.ymax)

    def job(self, salt: str) -> str:
        """The task's identity: 24 hexadecimal digits that follow from what it is made of and from `salt`."""
        text = json.dumps([salt, self.to_json()], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON object."""
        return {
            "tile": self.tile,
            "epsg": self.epsg,
            "xmin": self.xmin,
            "ymax": self.ymax,
            "columns": self.columns,
            "rows": self.rows,
            "chip_m": self.chip_m,
            "side": self.side,
            "scenes": [[name, list(ids)] for name, ids in self.scenes.items()],
            "chips": [list(chip) for chip in self.chips],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ExportTask:
        """The inverse of `to_json`."""
        scenes = {name: tuple(ids) for name, ids in data["scenes"]}
        chips = tuple((chip_id, column, row) for chip_id, column, row in data["chips"])
        return cls(**{**data, "scenes": scenes, "chips": chips})


def request_id(job: str, attempt: int) -> str:
    """What the service knows an attempt by: asking twice with the same one starts one task."""
    return f"m3etl-{hashlib.sha256(f'{job} {attempt}'.encode()).hexdigest()[:40]}"


def cells_a_side(specs: Iterable[ArraySpec], *, chip_px: int, tile_px: int) -> int:
    """Chips a side of a region tile: about `tile_px` pixels, and no more than one file of the service holds."""
    by_dtype: dict[str, int] = {}
    for spec in specs:
        by_dtype[spec.dtype] = by_dtype.get(spec.dtype, 0) + len(spec.bands) * np.dtype(spec.dtype).itemsize
    widest = max(by_dtype.values(), default=1)
    side = min(tile_px, max_side_px, math.isqrt((max_file_bytes - 1) // widest))
    return max(1, side // chip_px)


def tile_of(chip: TaskChip, *, chip_m: float, cells: int) -> str:
    """The region tile of a chip: EPSG code, column and row of the tile, in tiles of `cells` x `cells` chips."""
    column = round(chip.xmin / chip_m) // cells
    row = (round(chip.ymax / chip_m) - 1) // cells
    return f"{chip.epsg}-{cells}-{column}-{row}"


def plan_tasks(
    tile: str, chips: Sequence[TaskChip], specs: Mapping[str, ArraySpec], *, chip_m: float
) -> list[ExportTask]:
    """The fewest tasks that bring every wanted array of every chip of one tile, in a fixed order."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, spec in specs.items():
        parts = _parts(name, chips)
        if parts:
            shares = frozenset(frozenset(chip.chip_id for chip in part) for part in parts.values())
            groups.setdefault((spec.pixels(chip_m), spec.dtype, shares), []).append(name)
    tasks = []
    for (side, _, _), names in groups.items():
        for part in _parts(names[0], chips).values():
            scenes = {name: part[0].scenes[name] for name in names}
            tasks.append(_task(tile, part, scenes, chip_m=chip_m, side=side))
    return sorted(tasks, key=lambda task: (list(specs).index(next(iter(task.scenes))), task.chips))


def halves(task: ExportTask) -> list[ExportTask] | None:
    """Two tasks that bring the same: half of the arrays each, or half of the chips of one array; None at the end."""
    names = list(task.scenes)
    if len(names) > 1:
        middle = len(names) // 2
        return [_with_arrays(task, part) for part in (names[:middle], names[middle:])]
    if len(task.chips) < 2:
        return None
    middle = len(task.chips) // 2
    return [_cropped(task, part) for part in (task.chips[:middle], task.chips[middle:])]


def without_image(task: ExportTask, asset: str) -> tuple[list[ExportTask], list[str]]:
    """The same task less what is made of an image that has gone, and what that is: arrays, or `array/period` of those
    of several periods that have others left. Both empty where nothing is made of it; no task where nothing is left.
    """
    scenes: dict[str, tuple[str, ...]] = {}
    gone: list[str] = []
    for name, request_ids in task.scenes.items():
        marked = [split_mark(request_id) for request_id in request_ids]
        periods = list(dict.fromkeys(period for period, scene_id in marked if scene_id == asset))
        left = tuple(
            request_id for request_id, (period, _) in zip(request_ids, marked, strict=True) if period not in periods
        )
        if left:
            scenes[name] = left
        gone += [f"{name}/{period}" for period in periods] if left else [name]
    return ([replace(task, scenes=scenes)] if scenes and gone else []), gone


def _parts(name: str, chips: Sequence[TaskChip]) -> dict[tuple[str, ...], list[TaskChip]]:
    """Chips that want an array, by the images it is made of."""
    parts: dict[tuple[str, ...], list[TaskChip]] = {}
    for chip in chips:
        if name in chip.scenes:
            parts.setdefault(chip.scenes[name], []).append(chip)
    return parts


def _task(
    tile: str, chips: Sequence[TaskChip], scenes: Mapping[str, tuple[str, ...]], *, chip_m: float, side: int
) -> ExportTask:
    first = chips[0]
    cells = sorted((-round(chip.ymax / chip_m), round(chip.xmin / chip_m), chip.chip_id) for chip in chips)
    top, left = cells[0][0], min(column for _, column, _ in cells)
    placed = tuple((chip_id, column - left, row - top) for row, column, chip_id in cells)
    return ExportTask(
        tile=tile,
        epsg=first.epsg,
        xmin=left * chip_m,
        ymax=-top * chip_m,
        columns=max(column for _, column, _ in placed) + 1,
        rows=max(row for _, _, row in placed) + 1,
        chip_m=chip_m,
        side=side,
        scenes=scenes,
        chips=placed,
    )


def _with_arrays(task: ExportTask, names: Sequence[str]) -> ExportTask:
    return replace(task, scenes={name: task.scenes[name] for name in names})


def _cropped(task: ExportTask, chips: Sequence[tuple[str, int, int]]) -> ExportTask:
    """`task` on the smallest rectangle of some of its chips."""
    left, top = min(column for _, column, _ in chips), min(row for _, _, row in chips)
    placed = tuple((chip_id, column - left, row - top) for chip_id, column, row in chips)
    return replace(
        task,
        xmin=task.xmin + left * task.chip_m,
        ymax=task.ymax - top * task.chip_m,
        columns=max(column for _, column, _ in placed) + 1,
        rows=max(row for _, _, row in placed) + 1,
        chips=placed,
    )
