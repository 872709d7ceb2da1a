"""The evaluator as the server uses it: a value, pixels, features or images of an expression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from m3etl.emulator.evaluate import (
    aggregates,
    collection_algorithms,
    composites,
    dates,
    dictionaries,
    elements,
    expressions,
    filter_algorithms,
    geometry,
    graph,
    image_grids,
    image_math,
    images,
    joins,
    kernels,
    lists,
    masks,
    neighborhoods,
    painting,
    projections,
    reducer_algorithms,
    reducers,
    regions,
    samples,
    scalars,
    visualize,
)
from m3etl.emulator.evaluate.collection_values import CollectionValue
from m3etl.emulator.evaluate.context import Context, TableIndexes
from m3etl.emulator.evaluate.encode import columns_of, encode, feature_json, image_asset
from m3etl.emulator.evaluate.images import select_bands
from m3etl.emulator.evaluate.limits import Limits, Usage, memory_exceeded
from m3etl.emulator.evaluate.projections import ProjectionMaps
from m3etl.emulator.evaluate.values import FeatureValue, ImageValue, type_name
from m3etl.emulator.model import AssetSource, Grid, Raster, invalid

# Modules whose import registers algorithms.
ALGORITHM_MODULES = (
    aggregates, collection_algorithms, composites, dates, dictionaries, elements, expressions, filter_algorithms,
    geometry, image_grids, image_math, images, joins, kernels, lists, masks, neighborhoods, painting,
    reducer_algorithms, reducers, regions, samples, scalars, visualize,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageShape:
    """What an image would deliver: its grid and the dtype of each band, without reading pixels."""

    grid: Grid
    dtypes: Mapping[str, np.dtype[Any]]


class Evaluator:
    """Evaluates expressions over an asset source. Thread-safe: every request has its own state."""

    def __init__(self, assets: AssetSource, *, limits: Limits | None = None) -> None:
        self.assets = assets
        self.limits = limits or Limits()
        self._maps = ProjectionMaps()
        self._tables = TableIndexes()

    @contextmanager
    def _request(self, usage: Usage | None) -> Iterator[Context]:
        """The state of one request; what only shows when it is too late becomes an error of the service."""
        try:
            yield Context(
                self.assets,
                limits=self.limits,
                usage=Usage() if usage is None else usage,
                maps=self._maps,
                tables=self._tables,
            )
        except RecursionError as error:
            raise invalid("The computation is nested too deeply.") from error
        except MemoryError as error:
            raise memory_exceeded() from error
        except shapely.errors.GEOSException as error:
            raise invalid(f"Geometry: {error}") from error

    def value(self, expression: Mapping[str, Any], *, usage: Usage | None = None) -> Any:
        """The JSON result of value:compute."""
        with self._request(usage) as context:
            return encode(context, graph.evaluate(expression, context))

    def pixels(
        self,
        expression: Mapping[str, Any],
        *,
        grid: Grid | None = None,
        band_ids: Sequence[str] | None = None,
        visualization: Mapping[str, Any] | None = None,
        usage: Usage | None = None,
    ) -> Raster:
        """Evaluated pixels on a grid, by default the image's own."""
        with self._request(usage) as context:
            image = self._image(context, expression, band_ids, visualization)
            target = image_grids.own_grid(image) if grid is None else grid
            projections.crs_of(target.projection.crs)
            projections.invert(target.projection.transform)
            return _raster(context, image, target)

    def shape(
        self,
        expression: Mapping[str, Any],
        *,
        grid: Grid | None = None,
        band_ids: Sequence[str] | None = None,
        visualization: Mapping[str, Any] | None = None,
        usage: Usage | None = None,
    ) -> ImageShape:
        """Grid and dtypes of what `pixels` would return, for checking sizes before reading."""
        with self._request(usage) as context:
            image = self._image(context, expression, band_ids, visualization)
            target = image_grids.own_grid(image) if grid is None else grid
            return ImageShape(grid=target, dtypes={name: band.pixel_type.dtype for name, band in image.bands.items()})

    def _image(
        self,
        context: Context,
        expression: Mapping[str, Any],
        band_ids: Sequence[str] | None,
        visualization: Mapping[str, Any] | None,
    ) -> ImageValue:
        image = graph.evaluate(expression, context)
        if isinstance(image, CollectionValue) and image.kind == "image":
            image = composites.mosaic(context, image)
        if not isinstance(image, ImageValue):
            raise invalid(f"Expected an image, got {type_name(image)}.")
        if band_ids:
            image = select_bands("Image.select", image, list(band_ids), None)
        if visualization:
            image = visualize.from_options(image, visualization)
        if not image.bands:
            raise invalid("The image has no bands.")
        return image

    def features(self, expression: Mapping[str, Any], *, usage: Usage | None = None) -> FeatureRows:
        """All features of a collection as GeoJSON, with `columns`; the server pages them."""
        with self._request(usage) as context:
            value = graph.evaluate(expression, context)
            if isinstance(value, FeatureValue):
                found: list[Any] = [value]
            elif isinstance(value, CollectionValue):
                found = list(value.elements())
            else:
                raise invalid(f"Expected a feature collection, got {type_name(value)}.")
            rows = FeatureRows(feature_json(context, _as_feature(item)) for item in found)
            rows.columns = columns_of(found)
            return rows

    def images(self, expression: Mapping[str, Any], *, usage: Usage | None = None) -> list[dict[str, Any]]:
        """All images of a collection as EarthEngineAsset dictionaries."""
        with self._request(usage) as context:
            value = graph.evaluate(expression, context)
            if not isinstance(value, CollectionValue):
                raise invalid(f"Expected an image collection, got {type_name(value)}.")
            return [image_asset(context, image) for image in composites.images_of("computeImages", value)]


class FeatureRows(list[dict[str, Any]]):
    """GeoJSON features, with the names and types of their properties."""

    columns: Mapping[str, str]


def _as_feature(element: Any) -> FeatureValue:
    if isinstance(element, ImageValue):
        return FeatureValue(geometry=element.footprint, properties=element.properties)
    if isinstance(element, FeatureValue):
        return element
    raise invalid(f"Expected a feature, got {type_name(element)}.")


def _raster(context: Context, image: ImageValue, grid: Grid) -> Raster:
    """The pixels of an image, evaluated block by block where the grid is big."""
    names, bands = list(image.bands), list(image.bands.values())
    size = context.limits.block_pixels
    if grid.width * grid.height <= 2 * size * size:
        pixels = context.reader.read(bands, grid)
        return Raster(
            grid=grid,
            bands={name: item.values for name, item in zip(names, pixels, strict=True)},
            valid={name: item.valid for name, item in zip(names, pixels, strict=True)},
        )
    shape = (grid.height, grid.width)
    context.budget.hold(sum(grid.width * grid.height * (band.pixel_type.dtype.itemsize + 1) for band in bands))
    values = {name: np.empty(shape, band.pixel_type.dtype) for name, band in zip(names, bands, strict=True)}
    valid = {name: np.empty(shape, bool) for name in names}
    for rows, columns, part in regions.blocks(grid, size):
        for name, item in zip(names, context.reader.read(bands, part), strict=True):
            values[name][rows, columns] = item.values
            valid[name][rows, columns] = item.valid
    return Raster(grid=grid, bands=values, valid=valid)
