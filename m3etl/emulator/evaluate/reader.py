"""Reads pixels: walks the dependency graph of lazy bands without recursion, samples sources in groups, frees early."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely

from m3etl.emulator.evaluate import pixel_types, projections
from m3etl.emulator.evaluate.bands import Band, Need, Pixels, SourceBand
from m3etl.emulator.evaluate.limits import Budget, Usage
from m3etl.emulator.evaluate.projections import BoolArray, ProjectionMaps
from m3etl.emulator.evaluate.values import GeometryValue
from m3etl.emulator.model import Grid, Projection


class _Task:
    __slots__ = ("band", "grid", "group", "needs", "result", "size", "uses", "wants")

    def __init__(self, band: Band, grid: Grid) -> None:
        self.band = band
        self.grid = grid
        self.wants: list[Need] = []
        self.needs: list[_Task] = []
        self.group: list[_Task] | None = None
        self.uses = 0
        self.result: Any = None
        self.size = 0


class Reader:
    """Evaluates bands on grids for one request."""

    def __init__(self, maps: ProjectionMaps, budget: Budget, usage: Usage) -> None:
        self.maps = maps
        self.budget = budget
        self.usage = usage
        self._grids: dict[Grid, Grid] = {}
        self._inside: dict[tuple[int, int], tuple[GeometryValue, BoolArray]] = {}
        self._meets: dict[tuple[int, int], tuple[GeometryValue, bool]] = {}

    def intern(self, grid: Grid) -> Grid:
        """The one object that stands for a grid in this request."""
        return self._grids.setdefault(grid, grid)

    def read(self, targets: Sequence[Band], grid: Grid) -> list[Pixels]:
        """Pixels of the bands on a grid."""
        grid = self.intern(grid)
        tasks = self._plan([(band, grid) for band in targets])
        wanted = [tasks[id(band), id(grid)] for band in targets]
        for task in wanted:
            task.uses += 1
        for task in tasks.values():
            self._run(task)
        results = [task.result for task in wanted]
        for task in wanted:
            self._release(task)
        return results

    def _plan(self, targets: Sequence[Need]) -> dict[tuple[int, int], _Task]:
        """Every (band, grid) that is needed, inputs before their consumers."""
        done: dict[tuple[int, int], _Task] = {}
        pending: dict[tuple[int, int], _Task] = {}
        groups: dict[tuple[int, int, Projection], list[_Task]] = {}
        stack: list[tuple[Band, Grid]] = [(band, self.intern(grid)) for band, grid in reversed(targets)]
        while stack:
            band, grid = stack[-1]
            key = (id(band), id(grid))
            if key in done:
                stack.pop()
                continue
            task = pending.get(key)
            if task is None:
                self.budget.check_time()
                task = _Task(band, grid)
                if isinstance(band, SourceBand):
                    group_key = (id(band.image), id(grid), band.projection)
                    task.group = groups.setdefault(group_key, [])
                    task.group.append(task)
                    done[key] = task
                    stack.pop()
                    continue
                pending[key] = task
                task.wants = [(need, self.intern(need_grid)) for need, need_grid in band.inputs(self, grid)]
                stack.extend(want for want in reversed(task.wants) if (id(want[0]), id(want[1])) not in done)
                continue
            task.needs = [done[id(need), id(need_grid)] for need, need_grid in task.wants]
            for need in task.needs:
                need.uses += 1
            done[key] = pending.pop(key)
            stack.pop()
        return done

    def _run(self, task: _Task) -> None:
        self.budget.check_time()
        if task.group is not None:
            if task.result is None:
                self._sample(task.group)
            return
        task.result = task.band.compute(self, task.grid, [need.result for need in task.needs])
        self._hold(task)
        for need in task.needs:
            self._release(need)
        task.needs = []

    def _hold(self, task: _Task) -> None:
        results = [task.result] if isinstance(task.result, Pixels) else list(task.result)
        task.size = sum(_size(item.values) + _size(item.valid) for item in results if isinstance(item, Pixels))
        self.budget.hold(task.size)

    def _release(self, task: _Task) -> None:
        task.uses -= 1
        if task.uses == 0:
            self.budget.release(task.size)
            task.result = None
            task.size = 0

    def _sample(self, group: list[_Task]) -> None:
        """Read all bands of one image, grid and projection in one call of the source."""
        grid = group[0].grid
        bands = [task.band for task in group if isinstance(task.band, SourceBand)]
        first = bands[0]
        if not self.may_meet(first.footprint, grid):
            shape = (grid.height, grid.width)
            for task in group:
                empty = np.broadcast_to(np.zeros((), task.band.pixel_type.dtype), shape)
                task.result = Pixels(empty, np.broadcast_to(np.False_, shape))
            return
        column, row, finite = self.maps.indices(grid, first.projection)
        names = list(dict.fromkeys(band.name for band in bands))
        samples = first.image.sample(names, column, row)
        self.usage.add(id(first.image), len(names), grid.width * grid.height)
        for task, band in zip(group, bands, strict=True):
            values, valid = samples[band.name]
            if finite is not None:
                valid = valid & finite
            task.result = Pixels(pixel_types.convert(values, band.pixel_type), valid)
            self._hold(task)

    def inside(self, geometry: GeometryValue, grid: Grid) -> BoolArray:
        """Which pixel centres of a grid lie inside a geometry."""
        grid = self.intern(grid)
        key = (id(geometry), id(grid))
        found = self._inside.get(key)
        if found is None:
            found = (geometry, _inside(geometry, grid))
            self._inside[key] = found
        return found[1]

    def may_meet(self, footprint: GeometryValue | None, grid: Grid) -> bool:
        """False only where no pixel of the grid can lie inside the footprint."""
        if footprint is None or footprint.is_unbounded:
            return True
        key = (id(footprint), id(grid))
        found = self._meets.get(key)
        if found is None:
            outline = self.maps.outline(grid)
            meets = outline is None or bool(shapely.intersects(outline, footprint.lon_lat()))
            found = (footprint, meets)
            self._meets[key] = found
        return found[1]


def _size(array: Any) -> int:
    return 0 if 0 in array.strides else int(array.nbytes)


def _inside(geometry: GeometryValue, grid: Grid) -> BoolArray:
    """Pixel centres inside a geometry, looking only at the window of the geometry's bounds."""
    shape = geometry.prepared(grid.projection.crs)
    result = np.zeros((grid.height, grid.width), bool)
    if shape.is_empty:
        return result
    a, b, c, d, e, f = grid.projection.transform
    if b != 0 or d != 0:
        x, y = projections.centre_coordinates(grid)
        return np.asarray(shapely.contains_xy(shape, x, y))
    column, row = projections.pixel_axes(grid)
    x, y = a * column + c, e * row + f
    west, south, east, north = shape.bounds
    columns = np.flatnonzero((x >= west) & (x < east))
    rows = np.flatnonzero((y > south) & (y <= north))
    if not columns.size or not rows.size:
        return result
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    x, y = x[window[1]], y[window[0]]
    if shapely.contains(shape, shapely.box(x.min(), y.min(), x.max(), y.max())) or _is_box(shape):
        result[window] = True
    else:
        result[window] = shapely.contains_xy(shape, *np.meshgrid(x, y))
    return result


def _is_box(shape: Any) -> bool:
    if shape.geom_type != "Polygon" or len(shape.exterior.coords) != 5 or shape.interiors:
        return False
    west, south, east, north = shape.bounds
    return bool(shape.area == (east - west) * (north - south))
