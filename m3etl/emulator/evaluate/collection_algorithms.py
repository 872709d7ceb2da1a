"""Collection algorithms for features and images alike: load, filter, map, limit, list, aggregate, distinct,
reduceColumns.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.collection_values import CollectionValue, SourceFeatures, SourceImages
from m3etl.emulator.evaluate.context import not_found_asset
from m3etl.emulator.evaluate.filter_expressions import parse_filter
from m3etl.emulator.evaluate.filters import FilterValue, all_of, element_geometry, plain
from m3etl.emulator.evaluate.joins import sort_key
from m3etl.emulator.evaluate.limits import memory_exceeded
from m3etl.emulator.evaluate.values import FeatureValue, GeometryValue, ImageValue
from m3etl.emulator.model import invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context

MAX_LIST = 1_000_000


@algorithm("ImageCollection.load")
def load_images(context: Context, id: str, version: int | None) -> CollectionValue:
    source = context.assets.collection(id)
    if source is None:
        if context.assets.image(id) is not None:
            raise invalid(f"ImageCollection.load: Asset '{id}' is not an ImageCollection.")
        raise not_found_asset("ImageCollection.load", "ImageCollection", id)
    return SourceImages(context, source)


@algorithm("Collection.loadTable")
def load_table(context: Context, table_id: str, geometry_column: str | None, version: int) -> CollectionValue:
    table = context.assets.table(table_id)
    if table is None:
        raise not_found_asset("Collection.loadTable", "Collection", table_id)
    return SourceFeatures(context, table)


def _numbered(elements: Sequence[Any]) -> Iterator[Any]:
    """Elements with an index of their own where they have none."""
    for position, element in enumerate(elements):
        if element.properties.get("system:index") is not None:
            yield element
            continue
        properties = {**element.properties, "system:index": str(position)}
        if isinstance(element, ImageValue):
            yield element.with_properties(properties)
        else:
            yield FeatureValue(geometry=element.geometry, properties=properties)


@algorithm("ImageCollection.fromImages")
def from_images(context: Context, images: list[ImageValue]) -> CollectionValue:
    for image in images:
        if not isinstance(image, ImageValue):
            raise invalid("ImageCollection.fromImages: Expected a list of images.")
    return CollectionValue(lambda: _numbered(images), "image", budget=context.budget)


@algorithm("Collection")
def collection(context: Context, features: list[Any]) -> CollectionValue:
    for feature in features:
        if not isinstance(feature, FeatureValue | ImageValue | CollectionValue):
            raise invalid("Collection: Expected a list of features.")
    if features and all(isinstance(feature, CollectionValue) for feature in features):
        return CollectionValue(lambda: iter(features), "feature", budget=context.budget)
    return CollectionValue(lambda: _numbered(features), None if features else "feature", budget=context.budget)


@algorithm("Collection.filter")
def filter_collection(context: Context, collection: CollectionValue, filter: Any) -> CollectionValue:
    if isinstance(filter, list):
        filter = all_of(filter)
    if isinstance(filter, str):
        filter = parse_filter(filter)
    if not isinstance(filter, FilterValue):
        raise invalid("Collection.filter: Expected a filter.")
    return collection.filtered(filter)


@algorithm("Collection.map")
def map_collection(context: Context, collection: CollectionValue, function: Any, drop_nulls: bool) -> CollectionValue:
    return collection.mapped(function, drop_nulls=drop_nulls)


@algorithm("Collection.iterate")
def iterate(context: Context, collection: CollectionValue, function: Any, first: Any) -> Any:
    result = first
    for element in collection.elements():
        result = function(element, result)
    return result


@algorithm("Collection.first")
def first(context: Context, collection: CollectionValue) -> Any:
    return collection.first()


@algorithm("Collection.size")
def size(context: Context, collection: CollectionValue) -> int:
    return collection.size()


@algorithm("Collection.cache")
def cache(context: Context, collection: CollectionValue) -> CollectionValue:
    return collection


@algorithm("Collection.toList")
def to_list(context: Context, collection: CollectionValue, count: int, offset: int) -> list[Any]:
    if count < 0 or offset < 0:
        raise invalid("Collection.toList: count and offset must not be negative.")
    return list(islice(collection.elements(), offset, offset + min(count, MAX_LIST)))


@algorithm("Collection.limit")
def limit(
    context: Context, collection: CollectionValue, limit: int | None, key: str | None, ascending: bool
) -> CollectionValue:
    if limit is not None and limit < 0:
        raise invalid("Collection.limit: The limit must not be negative.")

    def elements() -> Iterator[Any]:
        ordered: Iterator[Any] = collection.elements()
        if key is not None:
            ordered = iter(
                sorted(ordered, key=lambda element: sort_key(element.properties.get(key)), reverse=not ascending)
            )
        return ordered if limit is None else islice(ordered, limit)

    return collection.derived(elements)


@algorithm("Collection.merge", "ImageCollection.merge")
def merge(context: Context, first: CollectionValue, second: CollectionValue) -> CollectionValue:
    def elements() -> Iterator[Any]:
        for prefix, source in (("1", first), ("2", second)):
            for element in source.elements():
                index = f"{prefix}_{element.properties.get('system:index')}"
                yield with_properties(element, {**element.properties, "system:index": index})

    return first.derived(elements)


def with_properties(element: Any, properties: dict[str, Any]) -> Any:
    """The element with other properties."""
    if isinstance(element, FeatureValue):
        return FeatureValue(geometry=element.geometry, properties=properties)
    return element.with_properties(properties)


@algorithm("Collection.flatten")
def flatten(context: Context, collection: CollectionValue) -> CollectionValue:
    def elements() -> Iterator[Any]:
        for position, inner in enumerate(collection.elements()):
            if not isinstance(inner, CollectionValue):
                raise invalid("Collection.flatten: The collection must contain collections.")
            for element in inner.elements():
                index = f"{position}_{element.properties.get('system:index')}"
                yield with_properties(element, {**element.properties, "system:index": index})

    return CollectionValue(elements, None, budget=context.budget)


def _key(element: Any, name: str) -> Any:
    if name in (".geo", ".all"):
        geometry = element_geometry(element)
        return None if geometry is None or geometry.shape is None else geometry.shape.wkb
    value = plain(element.properties.get(name))
    return value if isinstance(value, str | int | float | bool) or value is None else repr(value)


@algorithm("Collection.distinct")
def distinct(context: Context, collection: CollectionValue, properties: Any) -> CollectionValue:
    names = properties if isinstance(properties, list) else [properties]

    def elements() -> Iterator[Any]:
        seen = set()
        for element in collection.elements():
            key = tuple(_key(element, str(name)) for name in names)
            if key not in seen:
                seen.add(key)
                yield element

    return collection.derived(elements)


@algorithm("Collection.randomColumn")
def random_column(
    context: Context, collection: CollectionValue, name: str, seed: int, distribution: str, row_keys: list[str]
) -> CollectionValue:
    if distribution not in ("uniform", "normal"):
        raise invalid(f"Collection.randomColumn: Unknown distribution '{distribution}'; one of uniform, normal.")

    def added(element: Any) -> Any:
        text = "\x1f".join(str(_key(element, key)) for key in row_keys)
        digest = hashlib.blake2b(f"{seed}\x1f{text}".encode(), digest_size=16).digest()
        first = int.from_bytes(digest[:8], "big") / 2.0**64
        second = int.from_bytes(digest[8:], "big") / 2.0**64
        normal = math.sqrt(-2 * math.log1p(-first)) * math.cos(2 * math.pi * second)
        value = first if distribution == "uniform" else normal
        return with_properties(element, {**element.properties, name: value})

    return collection.mapped(added)


@algorithm("Collection.remap")
def remap(
    context: Context, collection: CollectionValue, lookup_in: list[Any], lookup_out: list[int], column: str
) -> CollectionValue:
    table = dict(zip(lookup_in, lookup_out, strict=True))

    def elements() -> Iterator[Any]:
        for element in collection.elements():
            value = element.properties.get(column)
            if value in table:
                yield with_properties(element, {**element.properties, column: table[value]})

    return collection.derived(elements)


@algorithm("Collection.geometry")
def geometry(context: Context, collection: CollectionValue, max_error: Any) -> GeometryValue:
    return collection.union_geometry()


@algorithm("Collection.bounds")
def bounds(context: Context, collection: CollectionValue, max_error: Any, proj: Any) -> GeometryValue:
    union = collection.union_geometry()
    return union if union.is_unbounded else GeometryValue(shapely.box(*union.lon_lat().bounds), geodesic=False)


@algorithm("Collection.union")
def union(context: Context, collection: CollectionValue, max_error: Any) -> CollectionValue:
    def elements() -> Iterator[Any]:
        yield FeatureValue(geometry=collection.union_geometry(), properties={"system:index": "0"})

    return CollectionValue(elements, "feature", budget=context.budget)


@algorithm("FeatureCollection.randomPoints")
def random_points(context: Context, region: GeometryValue, points: int, seed: int, max_error: Any) -> CollectionValue:
    """Points uniform on the sphere inside a region. Deterministic in the seed, but not the service's own points."""
    if points > MAX_LIST:
        raise memory_exceeded()

    def elements() -> Iterator[Any]:
        for index, (lon, lat) in enumerate(_uniform(context, region, points, seed)):
            yield FeatureValue(geometry=GeometryValue(shapely.Point(lon, lat)), properties={"system:index": str(index)})

    return CollectionValue(elements, "feature", budget=context.budget)


def _uniform(context: Context, region: GeometryValue, count: int, seed: int) -> Iterator[tuple[float, float]]:
    generator = np.random.default_rng(seed & 0xFFFFFFFFFFFFFFFF)
    shape = region.lon_lat()
    dimension = int(shapely.get_dimensions(shape))
    if shape.is_empty:
        raise invalid("FeatureCollection.randomPoints: The region is empty.")
    if dimension < 2:
        coordinates = shapely.get_coordinates(shape)
        for _ in range(count):
            if dimension == 0:
                lon, lat = coordinates[generator.integers(len(coordinates))]
            else:
                line: Any = shape
                lon, lat = line.interpolate(generator.random(), normalized=True).coords[0]
            yield float(lon), float(lat)
        return
    shape = region.prepared()
    west, south, east, north = shape.bounds
    low, high = math.sin(math.radians(south)), math.sin(math.radians(north))
    made = 0
    while made < count:
        context.budget.check_time()
        batch = max(64, 2 * (count - made))
        lon = generator.uniform(west, east, batch)
        lat = np.degrees(np.arcsin(generator.uniform(low, high, batch)))
        kept = shapely.contains_xy(shape, lon, lat)
        for x, y in islice(zip(lon[kept].tolist(), lat[kept].tolist(), strict=True), count - made):
            made += 1
            yield x, y


@algorithm("Collection.fromColumns")
def from_columns(
    context: Context, columns: list[list[Any]], names: list[str], types: list[Any] | None
) -> CollectionValue:
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    features = [FeatureValue(geometry=None, properties=row) for row in rows]
    return CollectionValue(lambda: _numbered(features), "feature", budget=context.budget)
