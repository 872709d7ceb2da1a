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


def _projection(
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


def _region(name: str, image: ImageValue, geometry: GeometryValue | None) -> GeometryValue:
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
    region = _region(name, image, geometry)
    projection = _projection(name, image, crs, transform, scale)
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
    projection = _projection(name, image, crs, transform, scale)

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


def _pixel_features(
    context: Context, image: ImageValue, region: GeometryValue, projection: Projection, geometries: bool
) -> Iterator[tuple[dict[str, Any], GeometryValue | None, bool]]:
    """(band values, point, all valid) of every pixel whose centre lies in a region."""
    bands = list(image.bands.items())
    grid = grid_around(region, projection)
    for _, _, part in blocks(grid, context.limits.block_pixels):
        chosen = coverage(context, region, part).inside
        if not chosen.any():
            continue
        pixels = context.reader.read([band for _, band in bands], part)
        x, y = context.reader.maps.coordinates(part, "EPSG:4326")
        columns = [
            (name, item.values[chosen], item.valid[chosen]) for (name, _), item in zip(bands, pixels, strict=True)
        ]
        for index, (lon, lat) in enumerate(zip(x[chosen].tolist(), y[chosen].tolist(), strict=True)):
            values = {name: value[index].item() if valid[index] else None for name, value, valid in columns}
            point = GeometryValue(shapely.Point(lon, lat)) if geometries else None
            yield values, point, all(valid[index] for _, _, valid in columns)


@algorithm("Image.sample")
def sample(
    context: Context,
    image: ImageValue,
    geometry: GeometryValue | None,
    scale: float | None,
    projection: Projection | None,
    factor: float | None,
    num_pixels: int | None,
    seed: int,
    drop_nulls: bool,
    tile_scale: float,
    geometries: bool,
) -> CollectionValue:
    name = "Image.sample"
    if factor is not None and num_pixels is not None:
        raise invalid(f"{name}: Only one of factor and numPixels may be specified.")
    region = _region(name, image, geometry)
    base = _projection(name, image, projection, None, scale)

    def features() -> Iterator[FeatureValue]:
        found = [
            (values, point)
            for values, point, complete in _pixel_features(context, image, region, base, geometries)
            if complete or not drop_nulls
        ]
        generator = np.random.default_rng(seed)
        if num_pixels is not None and num_pixels < len(found):
            kept = np.sort(generator.choice(len(found), num_pixels, replace=False)).tolist()
        elif factor is not None:
            kept = np.flatnonzero(generator.random(len(found)) < factor).tolist()
        else:
            kept = list(range(len(found)))
        for index, position in enumerate(kept):
            values, point = found[position]
            yield FeatureValue(geometry=point, properties={**values, "system:index": str(index)})

    return CollectionValue(features, "feature", budget=context.budget)


@algorithm("Image.stratifiedSample")
def stratified_sample(
    context: Context,
    image: ImageValue,
    num_points: int,
    class_band: str | None,
    geometry: GeometryValue | None,
    scale: float | None,
    projection: Projection | None,
    seed: int,
    class_values: list[int] | None,
    class_points: list[int] | None,
    drop_nulls: bool,
    tile_scale: float,
    geometries: bool,
) -> CollectionValue:
    name = "Image.stratifiedSample"
    region = _region(name, image, geometry)
    base = _projection(name, image, projection, None, scale)
    label = next(iter(image.bands)) if class_band is None else class_band
    if label not in image.bands:
        raise invalid(f"{name}: No band named '{label}'. Available band names: [{', '.join(image.bands)}].")
    wanted = dict(zip(class_values or (), class_points or (), strict=True))

    def features() -> Iterator[FeatureValue]:
        classes: dict[int, list[tuple[dict[str, Any], GeometryValue | None]]] = {}
        for values, point, complete in _pixel_features(context, image, region, base, geometries):
            if values[label] is not None and (complete or not drop_nulls):
                classes.setdefault(int(values[label]), []).append((values, point))
        generator = np.random.default_rng(seed)
        position = 0
        for code in sorted(classes):
            found = classes[code]
            count = min(wanted.get(code, num_points), len(found))
            for index in np.sort(generator.choice(len(found), count, replace=False)).tolist():
                values, point = found[index]
                yield FeatureValue(geometry=point, properties={**values, "system:index": str(position)})
                position += 1

    return CollectionValue(features, "feature", budget=context.budget)


@algorithm("Image.sampleRegions")
def sample_regions(
    context: Context,
    image: ImageValue,
    collection: CollectionValue,
    properties: list[str] | None,
    scale: float | None,
    projection: Projection | None,
    tile_scale: float,
    geometries: bool,
) -> CollectionValue:
    base = _projection("Image.sampleRegions", image, projection, None, scale)

    def features() -> Iterator[FeatureValue]:
        for feature in collection.elements():
            region = feature.geometry
            if region is None:
                continue
            kept = [k for k in feature.properties if not k.startswith("system:")] if properties is None else properties
            copied = {key: feature.properties.get(key) for key in kept}
            count = 0
            for values, point, complete in _pixel_features(context, image, region, base, geometries):
                if complete:
                    index = f"{feature.properties.get('system:index')}_{count}"
                    count += 1
                    yield FeatureValue(geometry=point, properties={**copied, **values, "system:index": index})

    return CollectionValue(features, "feature", budget=context.budget)


@algorithm("Image.sampleRectangle")
def sample_rectangle(
    context: Context,
    image: ImageValue,
    geometry: GeometryValue | None,
    properties: list[str] | None,
    default: float | None,
    default_array: Any,
) -> FeatureValue:
    name = "Image.sampleRectangle"
    region = _region(name, image, geometry)
    arrays: dict[str, Any] = {}
    for label, band in image.bands.items():
        grid = grid_around(region, band.projection)
        if grid.width * grid.height > context.limits.sample_rectangle_pixels:
            raise invalid(
                f"{name}: Too many pixels in sample; must be <= {context.limits.sample_rectangle_pixels}. "
                f"Got {grid.width * grid.height}."
            )
        pixels = context.reader.read([band], grid)[0]
        if default is None and not pixels.valid.all():
            raise invalid(
                f"{name}: Fully or partially masked band '{label}' without default values. "
                "Set the default value of sampleRectangle or unmask the image."
            )
        arrays[label] = pixels.values if default is None else np.where(pixels.valid, pixels.values, default)
    kept = [key for key in image.properties if not key.startswith("system:")] if properties is None else properties
    return FeatureValue(geometry=region, properties={**{key: image.properties.get(key) for key in kept}, **arrays})


def _optional(pixels: Pixels, chosen: npt.NDArray[np.bool_]) -> list[Any]:
    """The chosen values, None where masked."""
    pairs = zip(pixels.values[chosen].tolist(), pixels.valid[chosen].tolist(), strict=True)
    return [value if valid else None for value, valid in pairs]


@algorithm("ImageCollection.getRegion")
def get_region(
    context: Context,
    collection: CollectionValue,
    geometry: GeometryValue,
    scale: float | None,
    crs: Projection,
    transform: list[float] | None,
) -> list[list[Any]]:
    name = "ImageCollection.getRegion"
    projection = projection_from(name, crs, transform, scale, crs)
    images = [image for image in collection.elements() if isinstance(image, ImageValue)]
    if not images:
        raise invalid(f"{name}: No bands in collection.")
    names = list(images[0].bands)
    grid = grid_around(geometry, projection)
    chosen = (
        coverage(context, geometry, grid).inside if grid.width * grid.height <= context.limits.region_values else None
    )
    values = (grid.width * grid.height if chosen is None else int(chosen.sum())) * len(images) * len(names)
    if chosen is None or values > context.limits.region_values:
        raise invalid(f"{name}: Too many values: {values} > {context.limits.region_values}.")
    x, y = context.reader.maps.coordinates(grid, "EPSG:4326")
    lon, lat = x[chosen].tolist(), y[chosen].tolist()
    table: list[list[list[Any]]] = []
    for image in images:
        if image.bands.keys() != images[0].bands.keys():
            raise invalid(f"{name}: All images must have the same bands; got {list(image.bands)} and {names}.")
        pixels = context.reader.read([image.bands[band] for band in names], grid)
        columns = [_optional(item, chosen) for item in pixels]
        index, time = image.properties.get("system:index"), image.properties.get("system:time_start")
        table.append(
            [[index, a, b, time, *row] for a, b, row in zip(lon, lat, zip(*columns, strict=True), strict=True)]
        )
    header = ["id", "longitude", "latitude", "time", *names]
    return [header, *(row for rows in zip(*table, strict=True) for row in rows)]
