"""Pixels as features and tables: sample, stratifiedSample, sampleRegions, sampleRectangle, getRegion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import shapely

from m3etl.emulator.evaluate.bands import Pixels
from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.collection_values import CollectionValue
from m3etl.emulator.evaluate.image_grids import grid_around
from m3etl.emulator.evaluate.regions import aggregation_projection, blocks, bounded_region, coverage
from m3etl.emulator.evaluate.resampling import projection_from
from m3etl.emulator.evaluate.values import FeatureValue, GeometryValue, ImageValue
from m3etl.emulator.model import Projection, invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context


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
    region = bounded_region(name, image, geometry)
    base = aggregation_projection(name, image, projection, None, scale)

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
    region = bounded_region(name, image, geometry)
    base = aggregation_projection(name, image, projection, None, scale)
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
    base = aggregation_projection("Image.sampleRegions", image, projection, None, scale)

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
    region = bounded_region(name, image, geometry)
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
