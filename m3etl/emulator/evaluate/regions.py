"""Image algorithms that read a region of pixels: reduceRegion(s), sample, sampleRegions, sampleRectangle, getRegion.

Weighted reducers weigh a pixel by the share of it that lies in the region, the others take pixels whose centre does. A
point or a line takes the pixels it touches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import shapely

from m3etl.emulator.evaluate import projections
from m3etl.emulator.evaluate.bands import Band, Pixels
from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.collection_values import CollectionValue
from m3etl.emulator.evaluate.image_grids import grid_around
from m3etl.emulator.evaluate.reducers import Coverage, ReducerValue
from m3etl.emulator.evaluate.resampling import projection_from
from m3etl.emulator.evaluate.values import FeatureValue, GeometryValue, ImageValue
from m3etl.emulator.model import Grid, Projection, invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context

Array = npt.NDArray[Any]


def aggregation_projection(
    name: str, image: ImageValue, crs: Projection | None, transform: list[float] | None, scale: float | None
) -> Projection:
    """The projection to aggregate in; a composite's default one is refused where no scale is given."""
    default = image.first_band(name).projection
    found = projection_from(name, crs, transform, scale, default)
    if found == projections.COMPOSITE and crs is None and transform is None and scale is None:
        raise invalid(
            f"{name}: The default WGS84 projection is invalid for aggregations. Specify a scale or crs & crs_transform."
        )
    return found


def bounded_region(name: str, image: ImageValue, geometry: GeometryValue | None) -> GeometryValue:
    region = image.footprint if geometry is None else geometry
    if region is None or region.is_unbounded:
        raise invalid(f"{name}: Provide 'geometry' parameter when aggregating over an unbounded image.")
    return region


def _limited(
    name: str, region: GeometryValue, projection: Projection, max_pixels: int, best_effort: bool
) -> Projection:
    """The projection, coarsened with `best_effort` until the region's pixels fit; else too many pixels are an error."""
    while True:
        shape = region.in_pixels(projection)
        west, north, east, south = shape.bounds
        box = max(1.0, math.ceil(east) - math.floor(west)) * max(1.0, math.ceil(south) - math.floor(north))
        found = min(box, max(1.0, math.ceil(shape.area))) if shape.area > 0 else 1.0
        if found <= max_pixels:
            return projection
        if not best_effort:
            raise invalid(
                f"{name}: Too many pixels in the region. Found {found:.0f}, but maxPixels allows only {max_pixels}.\n"
                "Ensure that you are not aggregating at a higher resolution than you intended; that is often the cause "
                "of this error. If not, then you may set the 'maxPixels' argument to a limit suitable for your "
                "computation; set 'bestEffort' to true to aggregate at whatever scale results in 'maxPixels' total "
                "pixels; or both."
            )
        factor = max(1.01, math.sqrt(found / max_pixels))
        projection = projections.at_scale(projection, projections.nominal_scale(projection) * factor)


def blocks(grid: Grid, size: int) -> Iterator[tuple[slice, slice, Grid]]:
    """(rows, columns, sub-grid) of a grid cut into squares of `size`."""
    for top in range(0, grid.height, size):
        for left in range(0, grid.width, size):
            height, width = min(size, grid.height - top), min(size, grid.width - left)
            projection = grid.projection if not (top or left) else projections.shifted(grid.projection, left, top)
            part = Grid(projection=projection, width=width, height=height)
            yield slice(top, top + height), slice(left, left + width), part


def coverage(context: Context, region: GeometryValue, grid: Grid) -> Coverage:
    """Share of each pixel inside a region, and whether its centre is."""
    shape = shapely.from_wkb(shapely.to_wkb(region.in_pixels(grid.projection)))
    rectangle = shapely.box(0, 0, grid.width, grid.height)
    shapely.prepare(shape)
    if shapely.get_dimensions(shape) < 2:
        touched = _touched(shape, grid)
        return Coverage(touched.astype(np.float64), touched)
    if shapely.contains(shape, rectangle):
        return Coverage(np.ones((grid.height, grid.width)), np.ones((grid.height, grid.width), bool))
    inside = context.reader.inside(region, grid)
    return Coverage(_fractions(shape, grid), inside)


def _touched(shape: Any, grid: Grid) -> npt.NDArray[np.bool_]:
    """Pixels that a point or line touches; a pixel holds its upper and left edge."""
    result = np.zeros((grid.height, grid.width), bool)
    points = shapely.get_coordinates(shape if shapely.get_dimensions(shape) == 0 else shapely.segmentize(shape, 0.25))
    column = np.floor(points[:, 0] + projections.SNAP).astype(np.int64)
    row = np.floor(points[:, 1] + projections.SNAP).astype(np.int64)
    within = (column >= 0) & (column < grid.width) & (row >= 0) & (row < grid.height)
    result[row[within], column[within]] = True
    return result


def _fractions(shape: Any, grid: Grid) -> npt.NDArray[np.float64]:
    """Area of the shape in every pixel, exact for the pixels that its outline crosses."""
    west, north, east, south = shape.bounds
    if shape.geom_type == "Polygon" and not shape.interiors and shape.equals(shapely.box(west, north, east, south)):
        x, y = np.arange(grid.width), np.arange(grid.height)
        across = np.clip(np.minimum(x + 1, east) - np.maximum(x, west), 0, 1)
        down = np.clip(np.minimum(y + 1, south) - np.maximum(y, north), 0, 1)
        return np.asarray(down[:, None] * across[None, :])
    left, top = max(0, math.floor(west)), max(0, math.floor(north))
    right, bottom = min(grid.width, math.ceil(east)), min(grid.height, math.ceil(south))
    result = np.zeros((grid.height, grid.width))
    if right <= left or bottom <= top:
        return result
    column, row = np.meshgrid(np.arange(left, right), np.arange(top, bottom))
    boxes = shapely.box(column, row, column + 1, row + 1)
    part = np.zeros(boxes.shape)
    full = shapely.contains_properly(shape, boxes)
    part[full] = 1.0
    edge = ~full & shapely.intersects(shape, boxes)
    part[edge] = shapely.area(shapely.intersection(shape, boxes[edge]))
    result[top:bottom, left:right] = part
    return result


class _Samples:
    """Valid-or-not values of several bands over the pixels of a region."""

    def __init__(self, count: int) -> None:
        self._values: list[list[Array]] = [[] for _ in range(count)]
        self._valid: list[list[Array]] = [[] for _ in range(count)]
        self._fraction: list[Array] = []
        self._inside: list[Array] = []

    def add(self, pixels: Sequence[Pixels], cover: Coverage) -> None:
        chosen = (cover.fraction > 0) | cover.inside
        for index, item in enumerate(pixels):
            self._values[index].append(item.values[chosen])
            self._valid[index].append(item.valid[chosen])
        self._fraction.append(cover.fraction[chosen])
        self._inside.append(cover.inside[chosen])

    def values(self, index: int) -> Array:
        return np.concatenate(self._values[index])

    def valid(self, index: int) -> Array:
        return np.concatenate(self._valid[index])

    def coverage(self) -> Coverage:
        return Coverage(np.concatenate(self._fraction), np.concatenate(self._inside))


def _collect(context: Context, bands: Sequence[Band], region: GeometryValue, grid: Grid) -> _Samples:
    samples = _Samples(len(bands))
    held = 0
    for _, _, part in blocks(grid, context.limits.block_pixels):
        cover = coverage(context, region, part)
        if not cover.inside.any() and not cover.fraction.any():
            continue
        pixels = context.reader.read(bands, part)
        samples.add(pixels, cover)
        size = sum(item.values.nbytes + item.valid.nbytes for item in pixels)
        context.budget.hold(size)
        held += size
    if not held:
        empty = Coverage(np.zeros((0, 0)), np.zeros((0, 0), bool))
        samples.add([Pixels(np.zeros((0, 0), band.pixel_type.dtype), np.zeros((0, 0), bool)) for band in bands], empty)
    context.budget.release(held)
    return samples


def reduce_region(
    context: Context, name: str, image: ImageValue, reducer: ReducerValue, region: GeometryValue, projection: Projection
) -> dict[str, Any]:
    """The reducer's outputs over a region: one per band for single-input reducers, else over the bands together."""
    bands = list(image.bands.values())
    if not bands:
        return {}
    if region.bounded().is_empty:
        samples = _Samples(len(bands))
        none = np.zeros((0, 0))
        samples.add(
            [Pixels(np.zeros((0, 0), band.pixel_type.dtype), none.astype(bool)) for band in bands],
            Coverage(none, none.astype(bool)),
        )
    else:
        samples = _collect(context, bands, region, grid_around(region, projection))
    cover = samples.coverage()
    if reducer.inputs == 1:
        outcome: dict[str, Any] = {}
        for index, label in enumerate(image.bands):
            results = reducer.reduce_values([samples.values(index)], samples.valid(index), cover)
            for output, value in zip(reducer.outputs, results, strict=True):
                outcome[label if len(reducer.outputs) == 1 else f"{label}_{output}"] = value
        return outcome
    reducer.check_inputs(name, bands)
    valid = np.logical_and.reduce([samples.valid(index) for index in range(len(bands))])
    results = reducer.reduce_values([samples.values(index) for index in range(len(bands))], valid, cover)
    return dict(zip(reducer.outputs, results, strict=True))


@algorithm("Image.reduceRegion")
def image_reduce_region(
    context: Context,
    image: ImageValue,
    reducer: ReducerValue,
    geometry: GeometryValue | None,
    scale: float | None,
    crs: Projection | None,
    transform: list[float] | None,
    best_effort: bool,
    max_pixels: int,
    tile_scale: float,
) -> dict[str, Any]:
    name = "Image.reduceRegion"
    if not image.bands:
        return {}
    region = bounded_region(name, image, geometry)
    projection = aggregation_projection(name, image, crs, transform, scale)
    projection = _limited(name, region, projection, max_pixels, best_effort)
    return reduce_region(context, name, image, reducer, region, projection)


@algorithm("Image.reduceRegions")
def image_reduce_regions(
    context: Context,
    image: ImageValue,
    collection: CollectionValue,
    reducer: ReducerValue,
    scale: float | None,
    crs: Projection | None,
    transform: list[float] | None,
    tile_scale: float,
    max_pixels: int | None,
) -> CollectionValue:
    name = "Image.reduceRegions"
    projection = aggregation_projection(name, image, crs, transform, scale)

    def augmented(feature: Any) -> FeatureValue:
        region = feature.geometry
        if region is None or region.is_unbounded:
            return FeatureValue(geometry=region, properties=feature.properties)
        limited = _limited(name, region, projection, max_pixels or 10_000_000, False)
        outcome = reduce_region(context, name, image, reducer, region, limited)
        if len(image.bands) == 1 and reducer.inputs == 1:
            # A single band gives properties named after the reducer's outputs.
            outcome = dict(zip(reducer.outputs, outcome.values(), strict=True))
        return FeatureValue(geometry=region, properties={**feature.properties, **outcome})

    return collection.mapped(augmented)
