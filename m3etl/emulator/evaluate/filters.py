"""Filters: tests of one element or of a pair, and what of them a source can answer itself (region, time, index).

A missing property passes no test. Geometries are compared in lon/lat with straight edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import shapely

from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.dates import to_date, to_datetime
from m3etl.emulator.evaluate.images import geometry_of
from m3etl.emulator.evaluate.values import (
    UNBOUNDED,
    DateRangeValue,
    DateValue,
    ErrorMarginValue,
    FeatureValue,
    GeometryValue,
    ImageValue,
)
from m3etl.emulator.model import invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context

GEOMETRY_FIELDS = (".all", ".geo")
TIME = "system:time_start"
INDEX = "system:index"
Getter = Callable[[Any, Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Necessary conditions of a filter; `exact` if they are the whole of it."""

    region: GeometryValue | None = None
    start_ms: float = -math.inf
    end_ms: float = math.inf
    indexes: tuple[str, ...] | None = None
    exact: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FilterValue:
    """A test of (left, right); a test of one element gets it on both sides.

    `measure` gives a join's measure, `equal_fields` the (left, right) properties that a match needs equal.
    """

    test: Callable[[Any, Any], bool]
    bounds: Bounds | None = None
    parts: tuple[FilterValue, ...] = ()
    measure: Callable[[Any, Any], float | None] | None = None
    equal_fields: tuple[str, str] | None = None

    def matches(self, element: Any) -> bool:
        """Whether a single element passes."""
        return self.test(element, element)

    def conjuncts(self) -> tuple[FilterValue, ...]:
        """The filters that must all pass."""
        return self.parts or (self,)


def element_geometry(element: Any) -> GeometryValue | None:
    """The geometry of an element; unbounded images have the unbounded one."""
    if isinstance(element, FeatureValue):
        return element.geometry
    if isinstance(element, ImageValue):
        return element.footprint or UNBOUNDED
    return geometry_of("Filter", element)


def _field(name: str, left: bool) -> Getter:
    if name in GEOMETRY_FIELDS:
        return lambda a, b: element_geometry(a if left else b)

    def get(a: Any, b: Any) -> Any:
        return plain((a if left else b).properties.get(name))

    return get


def plain(value: Any) -> Any:
    """Dates as milliseconds, so that they compare with numbers."""
    return value.millis if isinstance(value, DateValue) else value


def _operands(name: str, left_field: Any, right_value: Any, right_field: Any, left_value: Any) -> tuple[Getter, Getter]:
    if (left_field is None) == (left_value is None):
        raise invalid(f"{name}: Exactly one of leftField and leftValue must be given.")
    if (right_field is None) == (right_value is None):
        raise invalid(f"{name}: Exactly one of rightField and rightValue must be given.")
    left_constant, right_constant = plain(left_value), plain(right_value)
    left = (lambda a, b: left_constant) if left_field is None else _field(left_field, True)
    right = (lambda a, b: right_constant) if right_field is None else _field(right_field, False)
    return left, right


def comparable(a: Any, b: Any) -> bool:
    """Whether two values have an order: both numbers or both texts."""
    if isinstance(a, int | float) and isinstance(b, int | float):
        return True
    return isinstance(a, str) and isinstance(b, str)


def _equal(a: Any, b: Any) -> bool:
    return a is not None and b is not None and (comparable(a, b) or type(a) is type(b)) and bool(a == b)


def _has_type(value: Any, name: Any) -> bool:
    kinds: dict[str, type | tuple[type, ...]] = {
        "string": str, "float": (int, float), "number": (int, float), "integer": int, "list": list, "dictionary": dict,
    }  # fmt: skip
    wanted = kinds.get(str(name).lower())
    return wanted is not None and isinstance(value, wanted)


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "equals": _equal,
    "notEquals": lambda a, b: a is not None and b is not None and not _equal(a, b),
    "lessThan": lambda a, b: comparable(a, b) and a < b,
    "lessThanOrEquals": lambda a, b: comparable(a, b) and a <= b,
    "greaterThan": lambda a, b: comparable(a, b) and a > b,
    "greaterThanOrEquals": lambda a, b: comparable(a, b) and a >= b,
    "stringContains": lambda a, b: isinstance(a, str) and isinstance(b, str) and b in a,
    "stringStartsWith": lambda a, b: isinstance(a, str) and isinstance(b, str) and a.startswith(b),
    "stringEndsWith": lambda a, b: isinstance(a, str) and isinstance(b, str) and a.endswith(b),
    "listContains": lambda a, b: isinstance(a, list) and b is not None and any(_equal(plain(x), b) for x in a),
    "hasType": _has_type,
    "inList": lambda a, b: isinstance(b, list) and a is not None and any(_equal(plain(x), a) for x in b),
}
_SHORT = {
    "eq": "equals",
    "neq": "notEquals",
    "lt": "lessThan",
    "lte": "lessThanOrEquals",
    "gt": "greaterThan",
    "gte": "greaterThanOrEquals",
}


def _comparison_bounds(
    kind: str, left_field: Any, right_value: Any, right_field: Any, left_value: Any
) -> Bounds | None:
    if kind == "equals" and left_field == INDEX and isinstance(right_value, str):
        return Bounds(indexes=(right_value,))
    if kind == "equals" and right_field == INDEX and isinstance(left_value, str):
        return Bounds(indexes=(left_value,))
    if kind == "listContains" and right_field == INDEX and isinstance(left_value, list):
        return Bounds(indexes=tuple(dict.fromkeys(str(value) for value in left_value)))
    number = plain(right_value)
    if left_field == TIME and isinstance(number, int | float):
        if kind in ("greaterThan", "greaterThanOrEquals"):
            return Bounds(start_ms=number, exact=False)
        if kind in ("lessThan", "lessThanOrEquals"):
            return Bounds(end_ms=number + 1, exact=False)
    return None


def _register_comparison(name: str, kind: str) -> None:
    compare = _COMPARISONS[kind]

    @algorithm(f"Filter.{name}")
    def comparison(
        context: Context, left_field: str | None, right_value: Any, right_field: str | None, left_value: Any
    ) -> FilterValue:
        left, right = _operands(f"Filter.{name}", left_field, right_value, right_field, left_value)
        fields = (left_field, right_field) if left_field is not None and right_field is not None else None
        return FilterValue(
            test=lambda a, b: compare(left(a, b), right(a, b)),
            bounds=_comparison_bounds(kind, left_field, right_value, right_field, left_value),
            equal_fields=fields if kind == "equals" and fields and fields[0] not in GEOMETRY_FIELDS else None,
        )


for _name in _COMPARISONS:
    _register_comparison(_name, _name)
for _name, _kind in _SHORT.items():
    _register_comparison(_name, _kind)


def _relation(name: str, a: GeometryValue, b: GeometryValue) -> bool:
    if a.is_unbounded or b.is_unbounded:
        covers = {"intersects": True, "contains": a.is_unbounded, "isContained": b.is_unbounded, "disjoint": False}
        return covers[name]
    if name in ("intersects", "disjoint"):
        return bool(shapely.intersects(b.prepared(), a.lon_lat())) == (name == "intersects")
    outer, inner = (a, b) if name == "contains" else (b, a)
    return bool(shapely.covers(outer.lon_lat(), inner.lon_lat()))


def _register_relation(name: str) -> None:
    @algorithm(f"Filter.{name}")
    def relation(
        context: Context,
        left_field: str | None,
        right_value: Any,
        right_field: str | None,
        left_value: Any,
        max_error: ErrorMarginValue,
    ) -> FilterValue:
        full = f"Filter.{name}"
        left_value = None if left_value is None else geometry_of(full, left_value)
        right_value = None if right_value is None else geometry_of(full, right_value)
        left, right = _operands(full, left_field, right_value, right_field, left_value)

        def test(a: Any, b: Any) -> bool:
            first, second = left(a, b), right(a, b)
            return first is not None and second is not None and _relation(name, first, second)

        constant = right_value if right_value is not None else left_value
        bounds = None
        if name != "disjoint" and constant is not None and not constant.is_unbounded:
            bounds = Bounds(region=constant, exact=name == "intersects")
        return FilterValue(test=test, bounds=bounds)


for _name in ("intersects", "contains", "isContained", "disjoint"):
    _register_relation(_name)


@algorithm("Filter.withinDistance")
def within_distance(
    context: Context,
    distance: float,
    left_field: str | None,
    right_value: Any,
    right_field: str | None,
    left_value: Any,
    max_error: ErrorMarginValue,
) -> FilterValue:
    from m3etl.emulator.evaluate.geometry import distance_m

    full = "Filter.withinDistance"
    left_value = None if left_value is None else geometry_of(full, left_value)
    right_value = None if right_value is None else geometry_of(full, right_value)
    left, right = _operands(full, left_field, right_value, right_field, left_value)

    def measure(a: Any, b: Any) -> float | None:
        first, second = left(a, b), right(a, b)
        return None if first is None or second is None else distance_m(first, second)

    def test(a: Any, b: Any) -> bool:
        found = measure(a, b)
        return found is not None and found <= distance

    return FilterValue(test=test, measure=measure)


@algorithm("Filter.maxDifference")
def max_difference(
    context: Context,
    difference: float,
    left_field: str | None,
    right_value: Any,
    right_field: str | None,
    left_value: Any,
) -> FilterValue:
    left, right = _operands("Filter.maxDifference", left_field, right_value, right_field, left_value)

    def measure(a: Any, b: Any) -> float | None:
        first, second = left(a, b), right(a, b)
        return abs(first - second) if isinstance(first, int | float) and isinstance(second, int | float) else None

    def test(a: Any, b: Any) -> bool:
        found = measure(a, b)
        return found is not None and found <= difference

    bounds = None
    number = plain(right_value)
    if left_field == TIME and isinstance(number, int | float):
        bounds = Bounds(start_ms=number - difference, end_ms=number + difference + 1, exact=False)
    return FilterValue(test=test, measure=measure, bounds=bounds)


@algorithm("Filter.dateRangeContains")
def date_range_contains(
    context: Context, left_field: str | None, right_value: Any, right_field: str | None, left_value: Any
) -> FilterValue:
    name = "Filter.dateRangeContains"
    left, right = _operands(name, left_field, right_value, right_field, left_value)

    def test(a: Any, b: Any) -> bool:
        span, moment = left(a, b), right(a, b)
        if not isinstance(span, DateRangeValue) or moment is None:
            return False
        try:
            return span.start <= to_date(moment).millis < span.end
        except TypeError:
            return False

    bounds = None
    if isinstance(left_value, DateRangeValue) and right_field == TIME:
        bounds = Bounds(start_ms=left_value.start, end_ms=left_value.end)
    return FilterValue(test=test, bounds=bounds)


_CALENDAR: dict[str, Callable[[Any], int]] = {
    "year": lambda moment: moment.year,
    "month": lambda moment: moment.month,
    "hour": lambda moment: moment.hour,
    "minute": lambda moment: moment.minute,
    "day_of_year": lambda moment: moment.timetuple().tm_yday,
    "day_of_month": lambda moment: moment.day,
    "day_of_week": lambda moment: moment.isoweekday(),
}


@algorithm("Filter.calendarRange")
def calendar_range(context: Context, start: int, end: int | None, field: str) -> FilterValue:
    read = _CALENDAR.get(field)
    if read is None:
        raise invalid(f"Filter.calendarRange: Unknown field '{field}'; one of {', '.join(_CALENDAR)}.")
    last = start if end is None else end

    def test(a: Any, b: Any) -> bool:
        time = plain(a.properties.get(TIME))
        if not isinstance(time, int | float):
            return False
        value = read(to_datetime(time))
        return start <= value <= last if start <= last else value >= start or value <= last

    return FilterValue(test=test)


@algorithm("Filter.dayOfYear")
def day_of_year(context: Context, start: int, end: int) -> FilterValue:
    """Days of the year in [start, end), as the older filter counts them."""
    return calendar_range(context, start, end - 1, "day_of_year")


@algorithm("Filter.rangeContains")
def range_contains(context: Context, field: str, low: Any, high: Any) -> FilterValue:
    lowest, highest = plain(low), plain(high)

    def test(a: Any, b: Any) -> bool:
        value = plain(a.properties.get(field))
        return comparable(value, lowest) and comparable(value, highest) and lowest <= value <= highest

    bounds = None
    if field == TIME and isinstance(lowest, int | float) and isinstance(highest, int | float):
        bounds = Bounds(start_ms=lowest, end_ms=highest + 1, exact=False)
    return FilterValue(test=test, bounds=bounds)


@algorithm("Filter.notNull")
def not_null(context: Context, properties: list[str]) -> FilterValue:
    return FilterValue(test=lambda a, b: all(a.properties.get(name) is not None for name in properties))


@algorithm("Filter.hasGeometry")
def has_geometry(context: Context) -> FilterValue:
    return FilterValue(test=lambda a, b: element_geometry(a) is not None)


@algorithm("Filter.always")
def always(context: Context) -> FilterValue:
    return FilterValue(test=lambda a, b: True)


@algorithm("Filter.never")
def never(context: Context) -> FilterValue:
    return FilterValue(test=lambda a, b: False)


def _checked(name: str, filters: Sequence[Any]) -> list[FilterValue]:
    for item in filters:
        if not isinstance(item, FilterValue):
            raise invalid(f"{name}: Expected a list of filters.")
    return list(filters)


@algorithm("Filter.and")
def every(context: Context, filters: list[Any]) -> FilterValue:
    return all_of(_checked("Filter.and", filters))


def all_of(filters: Sequence[FilterValue]) -> FilterValue:
    """The filter that passes what all pass."""
    parts = tuple(part for item in filters for part in item.conjuncts())
    measured = [part.measure for part in parts if part.measure is not None]
    equal = [part.equal_fields for part in parts if part.equal_fields is not None]
    return FilterValue(
        test=lambda a, b: all(part.test(a, b) for part in parts),
        parts=parts,
        measure=measured[0] if measured else None,
        equal_fields=equal[0] if equal else None,
    )


@algorithm("Filter.or")
def any_of(context: Context, filters: list[Any]) -> FilterValue:
    choices = _checked("Filter.or", filters)
    spans = [conjunction_bounds(choice) for choice in choices]
    bounds = None
    if spans:
        bounds = Bounds(
            start_ms=min(span.start_ms for span in spans), end_ms=max(span.end_ms for span in spans), exact=False
        )
    return FilterValue(test=lambda a, b: any(choice.test(a, b) for choice in choices), bounds=bounds)


def conjunction_bounds(item: FilterValue) -> Bounds:
    """The times outside of which a filter passes nothing."""
    start, end = -math.inf, math.inf
    for part in item.conjuncts():
        if part.bounds is not None:
            start, end = max(start, part.bounds.start_ms), min(end, part.bounds.end_ms)
    return Bounds(start_ms=start, end_ms=end, exact=False)


@algorithm("Filter.not")
def negation(context: Context, filter: FilterValue) -> FilterValue:
    return FilterValue(test=lambda a, b: not filter.test(a, b))


@algorithm("Filter.area")
def area_range(context: Context, low: float, high: float, max_error: Any, selector: str | None) -> FilterValue:
    from m3etl.emulator.evaluate.geometry import area_m2

    def test(a: Any, b: Any) -> bool:
        geometry = element_geometry(a)
        return geometry is not None and not geometry.is_unbounded and low <= area_m2(geometry) <= high

    return FilterValue(test=test)


def narrowed(bounds: Bounds, item: FilterValue) -> tuple[Bounds, bool]:
    """Bounds narrowed by one filter, and whether they now answer it completely."""
    wanted = item.bounds
    if wanted is None:
        return bounds, False
    exact = wanted.exact
    region = bounds.region
    if wanted.region is not None:
        if region is None:
            region = wanted.region
        else:
            exact = False
    indexes = bounds.indexes
    if wanted.indexes is not None:
        indexes = wanted.indexes if indexes is None else tuple(i for i in indexes if i in wanted.indexes)
    narrower = replace(
        bounds,
        region=region,
        start_ms=max(bounds.start_ms, wanted.start_ms),
        end_ms=min(bounds.end_ms, wanted.end_ms),
        indexes=indexes,
    )
    return narrower, exact
