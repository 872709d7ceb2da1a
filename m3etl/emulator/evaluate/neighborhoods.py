"""Image algorithms over neighbourhoods of output pixels: kernels, reduceNeighborhood, focal filters, convolution,
terrain.

As in the service, neighbours are pixels of the grid that is being computed, so results depend on the output scale
unless the image is reprojected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from m3etl.emulator.evaluate import pixel_types, projections
from m3etl.emulator.evaluate.bands import Array, Band, Need, PickBand, Pixels
from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.image_math import computed
from m3etl.emulator.evaluate.kernels import make_kernel
from m3etl.emulator.evaluate.values import ImageValue, KernelValue, MetricKernel
from m3etl.emulator.model import Grid, PixelType, invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context
    from m3etl.emulator.evaluate.reader import Reader
    from m3etl.emulator.evaluate.reducers import ReducerValue

Kernel = KernelValue | MetricKernel


def sized(kernel: Kernel, grid: Grid) -> KernelValue:
    """The kernel in pixels of a grid."""
    if isinstance(kernel, KernelValue):
        return kernel
    return kernel.make(1.0 / projections.nominal_scale(grid.projection))


def padded(grid: Grid, left: int, top: int, right: int, bottom: int) -> Grid:
    """The grid with pixels added on each side."""
    return Grid(
        projection=projections.shifted(grid.projection, -left, -top),
        width=grid.width + left + right,
        height=grid.height + top + bottom,
    )


class NeighborhoodNode(Band):
    """Bands read with a margin; `function` gets their padded pixels, the kernel and the grid, and gives the outputs."""

    __slots__ = ("_function", "_kernel", "_operands")

    def __init__(
        self,
        operands: Sequence[Band],
        kernel: Kernel,
        function: Callable[[Sequence[Pixels], KernelValue, Reader, Grid], Sequence[Pixels]],
    ) -> None:
        super().__init__(pixel_types.DOUBLE, operands[0].projection, operands[0].footprint)
        self._operands = tuple(operands)
        self._kernel = kernel
        self._function = function

    def inputs(self, reader: Reader, grid: Grid) -> Sequence[Need]:
        kernel = sized(self._kernel, grid)
        height, width = kernel.weights.shape
        around = padded(grid, kernel.x, kernel.y, width - 1 - kernel.x, height - 1 - kernel.y)
        return [(band, around) for band in self._operands]

    def compute(self, reader: Reader, grid: Grid, inputs: Sequence[Pixels]) -> Sequence[Pixels]:
        return self._function(inputs, sized(self._kernel, grid), reader, grid)


def _shifted(array: Array, grid: Grid, column: int, row: int) -> Array:
    return array[row : row + grid.height, column : column + grid.width]


def _stack(pixels: Pixels, kernel: KernelValue, grid: Grid) -> tuple[Array, Array, Array]:
    """(neighbours, height, width) values and validity of the non-zero kernel cells, and their weights."""
    cells = [(int(row), int(column)) for row, column in np.argwhere(kernel.weights)]
    values = np.stack([_shifted(pixels.values, grid, column, row) for row, column in cells])
    valid = np.stack([_shifted(pixels.valid, grid, column, row) for row, column in cells])
    return values, valid, np.array([kernel.weights[cell] for cell in cells])


@algorithm("Image.reduceNeighborhood")
def reduce_neighborhood(
    context: Context,
    image: ImageValue,
    reducer: ReducerValue,
    kernel: Kernel,
    input_weight: str,
    skip_masked: bool,
    optimization: str | None,
) -> ImageValue:
    if input_weight not in ("kernel", "mask", "min"):
        raise invalid(f"Image.reduceNeighborhood: Unknown inputWeight '{input_weight}'; one of kernel, mask, min.")
    if reducer.inputs != 1:
        raise invalid("Image.reduceNeighborhood: The reducer must have a single input.")
    return _neighborhood(image, reducer, kernel, weighted=input_weight != "mask", skip_masked=skip_masked)


def _neighborhood(
    image: ImageValue, reducer: ReducerValue, kernel: Kernel, *, weighted: bool, skip_masked: bool, rename: bool = True
) -> ImageValue:
    bands: dict[str, Band] = {}
    for name, band in image.bands.items():

        def reduce(inputs: Sequence[Pixels], kernel: KernelValue, reader: Reader, grid: Grid) -> Sequence[Pixels]:
            values, valid, weights = _stack(inputs[0], kernel, grid)
            cells = weights[:, None, None] if weighted and bool((weights != 1).any()) else None
            outputs = reducer.reduce_stack([values], valid, cells)
            if not skip_masked:
                return outputs
            centre = _shifted(inputs[0].valid, grid, kernel.x, kernel.y)
            return [Pixels(output.values, output.valid & centre) for output in outputs]

        node = NeighborhoodNode([band], kernel, reduce)
        kinds = reducer.output_types([band.pixel_type])
        for index, (output, kind) in enumerate(zip(reducer.outputs, kinds, strict=True)):
            label = f"{name}_{output}" if rename else name
            bands[label] = PickBand(node, index, kind, band.projection)
    return image.with_bands(bands)


def _register_focal(statistic: str) -> None:
    title = statistic[0].upper() + statistic[1:]

    @algorithm(f"Image.focal{title}", f"Image.focal_{statistic}", f"Window.{statistic}")
    def focal(
        context: Context,
        image: ImageValue,
        radius: float,
        kernel_type: str,
        units: str,
        iterations: int,
        kernel: Kernel | None,
    ) -> ImageValue:
        from m3etl.emulator.evaluate.reducers import named_reducer

        chosen = kernel or make_kernel(kernel_type, radius, units)
        result = image
        for _ in range(iterations):
            reducer = named_reducer(statistic)
            result = _neighborhood(result, reducer, chosen, weighted=False, skip_masked=False, rename=False)
        return result


for _statistic in ("max", "mean", "median", "min", "mode"):
    _register_focal(_statistic)


@algorithm("Image.convolve")
def convolve(context: Context, image: ImageValue, kernel: Kernel) -> ImageValue:
    def apply(inputs: Sequence[Pixels], kernel: KernelValue, reader: Reader, grid: Grid) -> Sequence[Pixels]:
        flipped = KernelValue(weights=kernel.weights[::-1, ::-1], x=kernel.x, y=kernel.y)
        values, valid, weights = _stack(inputs[0], flipped, grid)
        total = np.tensordot(weights, np.where(valid, values, 0).astype(np.float64), axes=1)
        return [Pixels(total, np.asarray(valid.all(axis=0)))]

    bands: dict[str, Band] = {}
    for name, band in image.bands.items():
        bands[name] = PickBand(NeighborhoodNode([band], kernel, apply), 0, pixel_types.DOUBLE, band.projection)
    return computed(image, bands)


CROSS = KernelValue(weights=np.array([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]]), x=1, y=1)


def _gradients(inputs: Sequence[Pixels], reader: Reader, grid: Grid) -> tuple[Array, Array, Array]:
    """Rise per metre to the east and to the north from the four neighbours, and where all of them are valid."""
    z, valid = inputs[0].values.astype(np.float64), inputs[0].valid
    west, east = _shifted(z, grid, 0, 1), _shifted(z, grid, 2, 1)
    north, south = _shifted(z, grid, 1, 0), _shifted(z, grid, 1, 2)
    complete = _shifted(valid, grid, 1, 1).copy()
    for column, row in ((0, 1), (2, 1), (1, 0), (1, 2)):
        complete &= _shifted(valid, grid, column, row)
    dx, dy = _pixel_metres(reader, grid)
    return (east - west) / (2 * dx), (south - north) / (2 * dy), complete


def _pixel_metres(reader: Reader, grid: Grid) -> tuple[Any, Any]:
    """Signed metres to the east per column and to the north per row; degrees shrink with the latitude."""
    a, _, _, _, e, _ = grid.projection.transform
    unit = projections.metres_per_unit(grid.projection.crs)
    if not projections.is_geographic(grid.projection.crs):
        return a * unit, e * unit
    _, latitude = projections.centre_coordinates(grid)
    return a * unit * np.maximum(np.cos(np.radians(latitude)), 1e-6), e * unit


def _terrain(inputs: Sequence[Pixels], kernel: KernelValue, reader: Reader, grid: Grid) -> Sequence[Pixels]:
    """Slope in degrees; aspect in degrees clockwise from north of the downhill direction, 0 where flat."""
    east, north, valid = _gradients(inputs, reader, grid)
    slope = np.degrees(np.arctan(np.hypot(east, north)))
    aspect = np.where(slope == 0, 0.0, np.degrees(np.arctan2(-east, -north)) % 360)
    return [Pixels(slope.astype(np.float32), valid), Pixels(aspect.astype(np.float32), valid)]


def _hillshade(azimuth: float, elevation: float) -> Callable[..., Sequence[Pixels]]:
    def compute(inputs: Sequence[Pixels], kernel: KernelValue, reader: Reader, grid: Grid) -> Sequence[Pixels]:
        east, north, valid = _gradients(inputs, reader, grid)
        slope, aspect = np.arctan(np.hypot(east, north)), np.arctan2(-east, -north)
        zenith, direction = math.radians(90 - elevation), math.radians(azimuth)
        light = np.cos(zenith) * np.cos(slope) + np.sin(zenith) * np.sin(slope) * np.cos(direction - aspect)
        return [Pixels(np.clip(light * 255, 0, 255).astype(np.uint8), valid)]

    return compute


def _elevation(name: str, image: ImageValue) -> Band:
    if len(image.bands) == 1:
        return image.first_band(name)
    if "elevation" not in image.bands:
        raise invalid(f"{name}: The input must have a single band or a band named 'elevation'.")
    return image.bands["elevation"]


def _relief(band: Band) -> tuple[Band, Band]:
    node = NeighborhoodNode([band], CROSS, _terrain)
    return PickBand(node, 0, pixel_types.FLOAT, band.projection), PickBand(node, 1, pixel_types.FLOAT, band.projection)


def _shade(band: Band, azimuth: float, elevation: float) -> Band:
    node = NeighborhoodNode([band], CROSS, _hillshade(azimuth, elevation))
    return PickBand(node, 0, PixelType.of("uint8"), band.projection)


@algorithm("Terrain.slope")
def slope(context: Context, input: ImageValue) -> ImageValue:
    return input.with_bands({"slope": _relief(_elevation("Terrain.slope", input))[0]})


@algorithm("Terrain.aspect")
def aspect(context: Context, input: ImageValue) -> ImageValue:
    return input.with_bands({"aspect": _relief(_elevation("Terrain.aspect", input))[1]})


@algorithm("Terrain.hillshade")
def hillshade(context: Context, input: ImageValue, azimuth: float, elevation: float) -> ImageValue:
    return input.with_bands({"hillshade": _shade(_elevation("Terrain.hillshade", input), azimuth, elevation)})


@algorithm("Terrain.products", "Terrain")
def products(context: Context, input: ImageValue) -> ImageValue:
    band = _elevation("Terrain.products", input)
    slopes, aspects = _relief(band)
    added = {"slope": slopes, "aspect": aspects, "hillshade": _shade(band, 270, 45)}
    return input.with_bands({**input.bands, **added})


@algorithm("Image.gradient")
def gradient(context: Context, input: ImageValue) -> ImageValue:
    def compute(inputs: Sequence[Pixels], kernel: KernelValue, reader: Reader, grid: Grid) -> Sequence[Pixels]:
        east, north, valid = _gradients(inputs, reader, grid)
        return [Pixels(east, valid), Pixels(north, valid)]

    band = input.first_band("Image.gradient")
    node = NeighborhoodNode([band], CROSS, compute)
    return computed(
        input, {axis: PickBand(node, i, pixel_types.DOUBLE, band.projection) for i, axis in enumerate("xy")}
    )
