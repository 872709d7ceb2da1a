"""Filters of geometry, time and missing values, and filters made of other filters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import shapely

from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.dates import to_date, to_datetime
from m3etl.emulator.evaluate.filters import (
    TIME,
    Bounds,
    FilterValue,
    all_of,
    comparable,
    element_geometry,
    operands,
    plain,
)
from m3etl.emulator.evaluate.geometry import area_m2, distance_m
from m3etl.emulator.evaluate.images import geometry_of
from m3etl.emulator.evaluate.values import DateRangeValue, ErrorMarginValue, GeometryValue
from m3etl.emulator.model import invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context


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
        left, right = operands(full, left_field, right_value, right_field, left_value)

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

    full = "Filter.withinDistance"
    left_value = None if left_value is None else geometry_of(full, left_value)
    right_value = None if right_value is None else geometry_of(full, right_value)
    left, right = operands(full, left_field, right_value, right_field, left_value)

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
    left, right = operands("Filter.maxDifference", left_field, right_value, right_field, left_value)

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
    left, right = operands(name, left_field, right_value, right_field, left_value)

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

    def test(a: Any, b: Any) -> bool:
        geometry = element_geometry(a)
        return geometry is not None and not geometry.is_unbounded and low <= area_m2(geometry) <= high

    return FilterValue(test=test)
