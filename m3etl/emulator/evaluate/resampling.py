"""Bands that move pixels between grids: interpolation, pinned projections, shifted projections, aggregation.

Interpolation follows the service's description: pixels of the input's default projection are interpolated at the
centres of the output. Masks interpolate too: values are weighted means over valid neighbours, and a pixel is valid
where valid neighbours carry at least half of the bilinear weight. Composites have no meaningful projection, so nothing
happens to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from m3etl.emulator.evaluate import pixel_types, projections
from m3etl.emulator.evaluate.bands import Array, Band, Need, Pixels
from m3etl.emulator.evaluate.limits import memory_exceeded
from m3etl.emulator.evaluate.projections import NativePixels
from m3etl.emulator.evaluate.values import GeometryValue
from m3etl.emulator.model import Grid, PixelType, Projection, invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.reader import Reader

WINDOW_PIXELS = 1 << 26


def _window(pixels: NativePixels, margin: int) -> tuple[int, int, int, int] | None:
    """First column, first row, width and height of the native pixels around some positions; None if there are none."""
    column, row = pixels.column, pixels.row
    if pixels.finite is not None:
        if not pixels.finite.any():
            return None
        column, row = column[pixels.finite], row[pixels.finite]
    low_x, high_x = int(np.floor(column.min())) - margin, int(np.floor(column.max())) + margin
    low_y, high_y = int(np.floor(row.min())) - margin, int(np.floor(row.max())) + margin
    return low_x, low_y, high_x - low_x + 1, high_y - low_y + 1


def _native_grid(native: Projection, window: tuple[int, int, int, int]) -> Grid:
    return Grid(projection=projections.shifted(native, window[0], window[1]), width=window[2], height=window[3])


def _empty(band: Band, grid: Grid) -> Pixels:
    shape = (grid.height, grid.width)
    return Pixels(np.zeros(shape, band.pixel_type.dtype), np.zeros(shape, bool))


class ResampledBand(Band):
    """A band interpolated bilinearly or bicubically wherever it is computed off its own lattice."""

    __slots__ = ("_bicubic", "_operand")

    def __init__(self, operand: Band, mode: str) -> None:
        super().__init__(pixel_types.real(operand.pixel_type), operand.projection, operand.footprint)
        self._operand = operand
        self._bicubic = mode == "bicubic"

    def _native(self, reader: Reader, grid: Grid) -> tuple[NativePixels, tuple[int, int, int, int] | None] | None:
        """Positions and window of the input's pixels, or None where they are taken as they are."""
        native = self.projection
        if native == projections.COMPOSITE or projections.integer_shift(native, grid.projection) is not None:
            return None
        pixels = projections.native_pixels(grid, native, reader.maps)
        return pixels, _window(pixels, 2)

    def inputs(self, reader: Reader, grid: Grid) -> Sequence[Need]:
        if not reader.may_meet(self.footprint, grid):
            return []
        native = self._native(reader, grid)
        if native is None:
            return [(self._operand, grid)]
        window = native[1]
        if window is None:
            return []
        if window[2] * window[3] > WINDOW_PIXELS:
            raise memory_exceeded()
        return [(self._operand, _native_grid(self.projection, window))]

    def compute(self, reader: Reader, grid: Grid, inputs: Sequence[Pixels]) -> Pixels:
        if not inputs:
            return _empty(self, grid)
        native = self._native(reader, grid)
        if native is None or native[1] is None:
            return Pixels(pixel_types.convert(inputs[0].values, self.pixel_type), inputs[0].valid)
        pixels, window = native[0], native[1]
        x, y = pixels.column - (window[0] + 0.5), pixels.row - (window[1] + 0.5)
        if pixels.finite is not None:
            x, y = np.where(pixels.finite, x, 1.0), np.where(pixels.finite, y, 1.0)
        values, valid = _interpolate(inputs[0], x, y, self._bicubic)
        if pixels.finite is not None:
            valid &= pixels.finite
        return Pixels(pixel_types.convert(values, self.pixel_type), valid)


def _interpolate(source: Pixels, x: Array, y: Array, bicubic: bool) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Interpolated values and validity at fractional positions (x right, y down; 0 is the centre of pixel 0)."""
    x0, y0 = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    fx, fy = x - x0, y - y0
    all_valid = bool(source.valid.all())
    data = source.values.astype(np.float64)
    weight = None if all_valid else source.valid.astype(np.float64)
    if weight is not None:
        data = np.where(source.valid, data, 0.0)
    linear_x, linear_y = (1 - fx, fx), (1 - fy, fy)
    values, total = _blend(data, weight, x0, y0, linear_x, linear_y)
    valid = np.ones(x.shape, bool) if total is None else total >= 0.5 - 1e-9
    if total is not None:
        values = values / np.where(total > 0, total, 1.0)
    if bicubic:
        smooth, whole = _blend(data, weight, x0 - 1, y0 - 1, _cubic(fx), _cubic(fy), strict=True)
        values = smooth if whole is None else np.where(whole > 1 - 1e-9, smooth, values)
    return values, valid


def _blend(
    data: Array,
    weight: Array | None,
    x0: Array,
    y0: Array,
    across: Sequence[Array],
    down: Sequence[Array],
    strict: bool = False,
) -> tuple[Array, Array | None]:
    """Sum of neighbours times weights, and the sum of the weights of valid ones (with `strict` 1 only if all are)."""
    width = data.shape[1]
    flat = np.ascontiguousarray(data).ravel()
    flat_weight = None if weight is None else np.ascontiguousarray(weight).ravel()
    values = np.zeros(x0.shape)
    total = None if weight is None else (np.ones(x0.shape) if strict else np.zeros(x0.shape))
    for j, wy in enumerate(down):
        base = (y0 + j) * width + x0
        for i, wx in enumerate(across):
            index = base + i
            factor = wy * wx
            values += factor * flat[index]
            if total is not None and flat_weight is not None:
                if strict:
                    total *= flat_weight[index]
                else:
                    total += factor * flat_weight[index]
    return values, total


def _cubic(t: Array) -> tuple[Array, Array, Array, Array]:
    """Weights of the four neighbours of the cubic convolution kernel with a = -0.5 (Keys, 1981)."""
    return (
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )


class ReprojectedBand(Band):
    """A band computed on one pinned projection; other grids take its nearest pixel."""

    __slots__ = ("_operand",)

    def __init__(self, operand: Band, projection: Projection) -> None:
        super().__init__(operand.pixel_type, projection, operand.footprint)
        self._operand = operand

    def inputs(self, reader: Reader, grid: Grid) -> Sequence[Need]:
        if not reader.may_meet(self.footprint, grid):
            return []
        if projections.integer_shift(self.projection, grid.projection) is not None:
            return [(self._operand, grid)]
        window = _window(projections.native_pixels(grid, self.projection, reader.maps), 0)
        if window is None:
            return []
        _check_size(window, reader)
        return [(self._operand, _native_grid(self.projection, window))]

    def compute(self, reader: Reader, grid: Grid, inputs: Sequence[Pixels]) -> Pixels:
        if not inputs:
            return _empty(self, grid)
        if projections.integer_shift(self.projection, grid.projection) is not None:
            return inputs[0]
        return _take(reader, grid, self.projection, inputs[0])


def _check_size(window: tuple[int, int, int, int], reader: Reader) -> None:
    if window[2] * window[3] > reader.budget.limits.reprojection_pixels:
        raise invalid(f"Reprojection output too large ({window[2]}x{window[3]} pixels).")


def _take(reader: Reader, grid: Grid, native: Projection, source: Pixels) -> Pixels:
    """The nearest pixels of a window that `_native_grid` placed over a grid."""
    window = _window(projections.native_pixels(grid, native, reader.maps), 0)
    assert window is not None
    column, row, finite = reader.maps.indices(grid, native)
    column = np.clip(column - window[0], 0, source.values.shape[1] - 1)
    row = np.clip(row - window[1], 0, source.values.shape[0] - 1)
    valid = source.valid[row, column]
    return Pixels(source.values[row, column], valid if finite is None else valid & finite)


class MovedBand(Band):
    """changeProj: the pixel at coordinates (i, j) of `source` appears at coordinates (i, j) of `target`."""

    __slots__ = ("_operand", "_source", "_target")

    def __init__(self, operand: Band, source: Projection, target: Projection) -> None:
        super().__init__(operand.pixel_type, _moved(operand.projection, source, target), None)
        if operand.footprint is not None:
            self._footprint = _moved_footprint(operand.footprint, source, target)
        self._operand = operand
        self._source = source
        self._target = target

    def inputs(self, reader: Reader, grid: Grid) -> Sequence[Need]:
        if not reader.may_meet(self.footprint, grid):
            return []
        if projections.same_crs(grid.projection.crs, self._target.crs):
            moved = projections.compose(self._source.transform, projections.relative(self._target, grid.projection))
            projection = Projection(crs=self._source.crs, transform=moved)
            return [(self._operand, Grid(projection=projection, width=grid.width, height=grid.height))]
        window = _window(projections.native_pixels(grid, self._target, reader.maps), 0)
        if window is None:
            return []
        _check_size(window, reader)
        return [(self._operand, _native_grid(self._source, window))]

    def compute(self, reader: Reader, grid: Grid, inputs: Sequence[Pixels]) -> Pixels:
        if not inputs:
            return _empty(self, grid)
        if projections.same_crs(grid.projection.crs, self._target.crs):
            return inputs[0]
        return _take(reader, grid, self._target, inputs[0])


def _moved(default: Projection, source: Projection, target: Projection) -> Projection:
    if default == projections.COMPOSITE or not projections.same_crs(default.crs, source.crs):
        return target
    return Projection(
        crs=target.crs, transform=projections.compose(target.transform, projections.relative(source, default))
    )


def _moved_footprint(footprint: GeometryValue, source: Projection, target: Projection) -> GeometryValue:
    return GeometryValue(footprint.in_pixels(source), target, geodesic=False)


class AggregatedNode(Band):
    """reduceResolution: all native pixels whose centre lies in an output pixel, reduced to one."""

    __slots__ = ("_best_effort", "_function", "_max_pixels", "_operands")

    def __init__(
        self,
        operands: Sequence[Band],
        function: Callable[[list[Array], npt.NDArray[np.bool_], Grid], Sequence[Pixels]],
        max_pixels: int,
        best_effort: bool,
    ) -> None:
        first = operands[0]
        super().__init__(PixelType(precision="double"), first.projection, first.footprint)
        self._operands = tuple(operands)
        self._function = function
        self._max_pixels = max_pixels
        self._best_effort = best_effort

    def _ratio(self, grid: Grid) -> float:
        output, native = projections.nominal_scale(grid.projection), projections.nominal_scale(self.projection)
        return output / native

    def _native(self, reader: Reader, grid: Grid) -> tuple[Projection, tuple[int, int, int, int]] | None:
        """The (perhaps coarsened) native projection and its window over the grid; None where pixels pass unreduced."""
        if self.projection == projections.COMPOSITE or self._ratio(grid) <= 1:
            return None
        native = self.projection
        count = np.ceil(self._ratio(grid)) ** 2
        if count > self._max_pixels:
            if not self._best_effort:
                raise invalid(
                    f"Image.reduceResolution: Too many input pixels per output pixel. Found {count:.0f}, "
                    f"but maxPixels allows only {self._max_pixels}."
                )
            factor = 2.0 ** np.ceil(np.log2(np.sqrt(count / self._max_pixels)))
            native = projections.at_scale(native, projections.nominal_scale(native) * float(factor))
        window = _window(projections.native_pixels(grid, native, reader.maps), int(np.ceil(self._ratio(grid))) + 1)
        return None if window is None else (native, window)

    def inputs(self, reader: Reader, grid: Grid) -> Sequence[Need]:
        native = self._native(reader, grid)
        if native is None:
            return [(band, grid) for band in self._operands]
        _check_size(native[1], reader)
        return [(band, _native_grid(*native)) for band in self._operands]

    def compute(self, reader: Reader, grid: Grid, inputs: Sequence[Pixels]) -> Sequence[Pixels]:
        native = self._native(reader, grid)
        valid = np.logical_and.reduce([pixels.valid for pixels in inputs])
        if native is None:
            return self._function([pixels.values[None] for pixels in inputs], valid[None], grid)
        column, row, _ = reader.maps.indices(_native_grid(*native), grid.projection)
        within = (column >= 0) & (column < grid.width) & (row >= 0) & (row < grid.height)
        target = (row * grid.width + column)[within]
        order = np.argsort(target, kind="stable")
        target = target[order]
        rank = np.arange(target.size) - np.searchsorted(target, target)
        depth = int(rank.max()) + 1 if rank.size else 1
        stacks: list[Array] = []
        shape = (depth, grid.height * grid.width)
        for pixels in inputs:
            stack = np.zeros(shape, pixels.values.dtype)
            stack[rank, target] = pixels.values[within][order]
            stacks.append(stack.reshape(depth, grid.height, grid.width))
        present = np.zeros(shape, bool)
        present[rank, target] = valid[within][order]
        return self._function(stacks, present.reshape(depth, grid.height, grid.width), grid)


def projection_from(
    algorithm: str, base: Projection | None, transform: Any, scale: float | None, default: Projection
) -> Projection:
    """The projection that crs, crsTransform and scale arguments mean together."""
    if transform is not None and scale is not None:
        raise invalid(f"{algorithm}: Only one of scale and crsTransform may be specified.")
    projection = default if base is None else base
    if transform is not None:
        if len(transform) != 6:
            raise invalid(f"{algorithm}: The crsTransform must have 6 elements, got {len(transform)}.")
        numbers = tuple(float(value) for value in transform)
        return Projection(crs=projection.crs, transform=numbers)  # type: ignore[arg-type]
    return projection if scale is None else projections.at_scale(projection, scale)
