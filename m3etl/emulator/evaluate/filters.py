"""Filters: tests of one element or of a pair, and what of them a source can answer itself (region, time, index).

A missing property passes no test. Geometries are compared in lon/lat with straight edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.images import geometry_of
from m3etl.emulator.evaluate.values import (
    UNBOUNDED,
    DateValue,
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


def operands(name: str, left_field: Any, right_value: Any, right_field: Any, left_value: Any) -> tuple[Getter, Getter]:
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
        left, right = operands(f"Filter.{name}", left_field, right_value, right_field, left_value)
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
