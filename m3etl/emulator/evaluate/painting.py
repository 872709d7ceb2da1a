"""Features turned into pixels: Image.paint and Collection.reduceToImage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from m3etl.emulator.evaluate import pixel_types, projections
from m3etl.emulator.evaluate.bands import Band, GridBand, Need, PickBand, Pixels, PointwiseBand
from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.collection_values import CollectionValue
from m3etl.emulator.evaluate.values import GeometryValue, ImageValue
from m3etl.emulator.model import Grid, PixelType, invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context
    from m3etl.emulator.evaluate.projections import BoolArray
    from m3etl.emulator.evaluate.reader import Reader
    from m3etl.emulator.evaluate.reducers import ReducerValue


def _covered(reader: Reader, geometry: GeometryValue, grid: Grid, width: float | None) -> BoolArray:
    """Pixels whose centre lies in a geometry, or within half a line width of its outline."""
    if width is None:
        return reader.inside(geometry, grid)
    outline = geometry.in_pixels(grid.projection)
    line = outline.boundary if outline.geom_type.endswith("Polygon") else outline
    return reader.inside(GeometryValue(line.buffer(width / 2), grid.projection, geodesic=False), grid)


@algorithm("Image.paint")
def paint(context: Context, image: ImageValue, features: CollectionValue, color: Any, width: Any) -> ImageValue:
    shapes: list[tuple[GeometryValue, float, float | None]] = []
    for feature in features.elements():
        if feature.geometry is not None:
            value = _number("color", color, feature)
            shapes.append((feature.geometry, value, None if width is None else _number("width", width, feature)))

    def painted(reader: Reader, grid: Grid) -> Pixels:
        values = np.zeros((grid.height, grid.width))
        present = np.zeros((grid.height, grid.width), bool)
        for geometry, value, line in shapes:
            if reader.may_meet(geometry, grid):
                covered = _covered(reader, geometry, grid, line)
                values[covered] = value
                present |= covered
        return Pixels(values, present)

    kind = pixel_types.union([pixel_types.of_number(value) for _, value, _ in shapes] or [pixel_types.BOOLEAN])
    brush = GridBand(painted, pixel_types.DOUBLE)
    bands: dict[str, Band] = {}
    for name, band in image.bands.items():
        result = pixel_types.union([band.pixel_type, kind])

        def over(a: Pixels, b: Pixels, kind: PixelType = result) -> Pixels:
            return Pixels(pixel_types.convert(np.where(b.valid, b.values, a.values), kind), a.valid)

        bands[name] = PointwiseBand(over, (band, brush), result, band.projection, band.footprint)
    return image.with_bands(bands)


def _number(name: str, value: Any, feature: Any) -> float:
    found = feature.properties.get(value) if isinstance(value, str) else value
    if not isinstance(found, int | float):
        raise invalid(f"Image.paint: The {name} {value!r} is neither a number nor a numeric property.")
    return float(found)


class FeatureNode(Band):
    """Numeric properties of the features over each pixel, reduced."""

    __slots__ = ("_names", "_reducer", "_source")

    def __init__(self, source: CollectionValue, names: Sequence[str], reducer: ReducerValue) -> None:
        super().__init__(pixel_types.DOUBLE, projections.COMPOSITE)
        self._source = source
        self._names = tuple(names)
        self._reducer = reducer

    def inputs(self, reader: Reader, grid: Grid) -> Sequence[Need]:
        return ()

    def compute(self, reader: Reader, grid: Grid, inputs: Sequence[Any]) -> Sequence[Pixels]:
        rows: list[list[float]] = []
        masks: list[BoolArray] = []
        for feature in self._source.elements():
            values = [feature.properties.get(name) for name in self._names]
            geometry = feature.geometry
            if geometry is None or any(not isinstance(value, int | float) for value in values):
                continue
            if reader.may_meet(geometry, grid):
                rows.append([float(value) for value in values])
                masks.append(reader.inside(geometry, grid))
        shape = (len(rows), grid.height, grid.width)
        valid = np.stack(masks) if masks else np.zeros(shape, bool)
        table = np.array(rows, dtype=np.float64).reshape(len(rows), len(self._names))
        stacks = [np.broadcast_to(column[:, None, None], shape) for column in table.T]
        return self._reducer.reduce_stack(stacks, valid)


@algorithm("Collection.reduceToImage")
def reduce_to_image(
    context: Context, collection: CollectionValue, properties: list[str], reducer: ReducerValue
) -> ImageValue:
    if len(properties) != reducer.inputs:
        raise invalid(
            f"Collection.reduceToImage: Need {reducer.inputs} properties for Reducer.{reducer.name}, "
            f"got {len(properties)}."
        )
    node = FeatureNode(collection, properties, reducer)
    kinds = reducer.output_types([pixel_types.DOUBLE] * reducer.inputs)
    outputs = zip(reducer.outputs, kinds, strict=True)
    return ImageValue({name: PickBand(node, index, kind) for index, (name, kind) in enumerate(outputs)})
