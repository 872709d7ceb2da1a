"""Lazy collections: elements are made on iteration and kept for the request; filters sink into the source."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import shapely

from m3etl.emulator.evaluate.context import Context
from m3etl.emulator.evaluate.filters import Bounds, FilterValue, narrowed, plain
from m3etl.emulator.evaluate.limits import Budget
from m3etl.emulator.evaluate.values import FeatureValue, GeometryValue, ImageValue, union_footprint
from m3etl.emulator.model import CollectionQuery, SourceCollection, SourceTable, invalid

Element = Any  # ImageValue, FeatureValue or CollectionValue


class CollectionValue:
    """A sequence of images or features with properties of its own."""

    def __init__(
        self,
        source: Callable[[], Iterator[Element]],
        kind: str | None = None,
        *,
        budget: Budget,
        id: str | None = None,
        properties: Mapping[str, Any] | None = None,
    ) -> None:
        self._source = source
        self._kind = kind
        self.budget = budget
        self.id = id
        self.properties: Mapping[str, Any] = {} if properties is None else properties
        self._made: list[Element] = []
        self._iterator: Iterator[Element] | None = None
        self._by_property: dict[str, dict[Any, Element]] = {}

    @property
    def kind(self) -> str:
        """ "image" or "feature", looked up in the first element where it is not known."""
        if self._kind is None:
            self._kind = "image" if isinstance(next(self.elements(), None), ImageValue) else "feature"
        return self._kind

    def elements(self) -> Iterator[Element]:
        """The elements in order; each is made once."""
        position = 0
        while True:
            if position < len(self._made):
                yield self._made[position]
                position += 1
                continue
            if self._iterator is None:
                self._iterator = self._source()
            self.budget.check_time()
            try:
                self._made.append(next(self._iterator))
            except StopIteration:
                return

    def derived(self, source: Callable[[], Iterator[Element]], kind: str | None = None) -> CollectionValue:
        """Another collection with this one's id and properties."""
        return CollectionValue(source, kind or self._kind, budget=self.budget, id=self.id, properties=self.properties)

    def with_properties(self, properties: Mapping[str, Any]) -> CollectionValue:
        """The collection with other properties."""
        return CollectionValue(self.elements, self._kind, budget=self.budget, id=self.id, properties=properties)

    def filtered(self, item: FilterValue) -> CollectionValue:
        """The elements that pass a filter."""
        return self.derived(lambda: (element for element in self.elements() if item.matches(element)))

    def mapped(self, function: Callable[[Element], Element], *, drop_nulls: bool = False) -> CollectionValue:
        """Every element replaced; the index of the source element is kept."""

        def made() -> Iterator[Element]:
            for element in self.elements():
                result = function(element)
                if isinstance(result, GeometryValue):
                    result = FeatureValue(geometry=result, properties={})
                if isinstance(result, ImageValue | FeatureValue | CollectionValue):
                    yield _indexed(result, element)
                elif result is not None or not drop_nulls:
                    raise invalid("Collection.map: A mapped algorithm must return a Feature or Image.")

        return CollectionValue(made, None, budget=self.budget, id=self.id, properties=self.properties)

    def first(self) -> Element | None:
        """The first element, None if there is none."""
        return next(self.elements(), None)

    def size(self) -> int:
        """How many elements there are."""
        return sum(1 for _ in self.elements())

    def find_by_property(self, name: str, value: Any) -> Element | None:
        """The first element whose property has a value."""
        table = self._by_property.get(name)
        if table is None:
            table = {}
            for element in self.elements():
                key = plain(element.properties.get(name))
                if isinstance(key, str | int | float):
                    table.setdefault(key, element)
            self._by_property[name] = table
        return table.get(plain(value))

    def union_geometry(self) -> GeometryValue:
        """The union of the elements' geometries."""
        shapes = []
        for element in self.elements():
            geometry = element.footprint if isinstance(element, ImageValue) else element.geometry
            if geometry is None and isinstance(element, ImageValue):
                return GeometryValue(None)
            if geometry is not None:
                shapes.append(geometry)
        found = union_footprint(shapes) if shapes else None
        return found or GeometryValue(shapely.GeometryCollection())


def _indexed(result: Element, source: Element) -> Element:
    index = source.properties.get("system:index")
    if index is None or isinstance(result, CollectionValue) or result.properties.get("system:index") == index:
        return result
    properties = {**result.properties, "system:index": index}
    if isinstance(result, ImageValue):
        return result.with_properties(properties)
    return FeatureValue(geometry=result.geometry, properties=properties)


class SourceImages(CollectionValue):
    """An image collection asset: filters on region, time and index are answered by the source."""

    def __init__(
        self,
        context: Context,
        source: SourceCollection,
        bounds: Bounds | None = None,
        rest: tuple[FilterValue, ...] = (),
        properties: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            self._find,
            "image",
            budget=context.budget,
            id=source.id,
            properties=source.properties if properties is None else properties,
        )
        self._context = context
        self._collection = source
        self._bounds = bounds or Bounds()
        self._rest = rest

    def filtered(self, item: FilterValue) -> CollectionValue:
        bounds, rest = self._bounds, list(self._rest)
        for part in item.conjuncts():
            bounds, answered = narrowed(bounds, part)
            if not answered:
                rest.append(part)
        return SourceImages(self._context, self._collection, bounds, tuple(rest), self.properties)

    def with_properties(self, properties: Mapping[str, Any]) -> CollectionValue:
        return SourceImages(self._context, self._collection, self._bounds, self._rest, properties)

    def find_by_property(self, name: str, value: Any) -> Element | None:
        if name == "system:index" and isinstance(value, str):
            index = FilterValue(test=lambda a, b: True, bounds=Bounds(indexes=(value,)))
            return self.filtered(index).first()
        return super().find_by_property(name, value)

    def _find(self) -> Iterator[Element]:
        bounds = self._bounds
        if bounds.start_ms >= bounds.end_ms:
            return
        for query in self._queries(bounds):
            for source in self._collection.find(query):
                self._context.usage.elements += 1
                image = self._context.open_image(source)
                if all(item.matches(image) for item in self._rest):
                    yield image

    def _queries(self, bounds: Bounds) -> list[CollectionQuery]:
        region = None
        if bounds.region is not None and not bounds.region.is_unbounded:
            region = bounds.region.lon_lat()
        start = None if math.isinf(bounds.start_ms) else bounds.start_ms
        end = None if math.isinf(bounds.end_ms) else bounds.end_ms
        indexes = (None,) if bounds.indexes is None else sorted(bounds.indexes)
        return [CollectionQuery(region=region, start_ms=start, end_ms=end, index=index) for index in indexes]


class SourceFeatures(CollectionValue):
    """A table asset: the first region filter uses a spatial index."""

    def __init__(
        self,
        context: Context,
        table: SourceTable,
        region: GeometryValue | None = None,
        rest: tuple[FilterValue, ...] = (),
    ) -> None:
        super().__init__(self._find, "feature", budget=context.budget, id=table.id, properties=table.properties)
        self._context = context
        self._table = table
        self._region = region
        self._rest = rest

    def filtered(self, item: FilterValue) -> CollectionValue:
        region = self._region
        for part in item.conjuncts():
            if region is None and part.bounds is not None:
                region = part.bounds.region
        return SourceFeatures(self._context, self._table, region, (*self._rest, *item.conjuncts()))

    def _find(self) -> Iterator[Element]:
        table, region = self._table, self._region
        if region is None or region.is_unbounded:
            positions = range(len(table.features))
        else:
            positions = self._context.tables.near(table, region.lon_lat())  # type: ignore[assignment]
        for position in positions:
            row = table.features[position]
            geometry = None if row.geometry is None else GeometryValue(row.geometry)
            feature = FeatureValue(geometry=geometry, properties={**row.properties, "system:index": row.id})
            if all(item.matches(feature) for item in self._rest):
                yield feature
