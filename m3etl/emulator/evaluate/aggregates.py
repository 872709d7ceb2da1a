"""Statistics of one property over a collection, and reduceColumns."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.collection_values import CollectionValue
from m3etl.emulator.evaluate.filters import plain
from m3etl.emulator.evaluate.joins import sort_key
from m3etl.emulator.evaluate.reducers import ReducerValue, reduce_python
from m3etl.emulator.model import invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context


@algorithm("Collection.reduceColumns")
def reduce_columns(
    context: Context,
    collection: CollectionValue,
    reducer: ReducerValue,
    selectors: list[str],
    weight_selectors: list[str] | None,
) -> dict[str, Any]:
    if len(selectors) != reducer.inputs:
        raise invalid(
            f"Collection.reduceColumns: Need {reducer.inputs} input(s) for Reducer.{reducer.name}, "
            f"got {len(selectors)} selector(s)."
        )
    rows = [[plain(element.properties.get(name)) for name in selectors] for element in collection.elements()]
    weights = None
    if weight_selectors:
        weights = np.array(
            [float(element.properties.get(weight_selectors[0]) or 0) for element in collection.elements()]
        )
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in selectors]
    return dict(zip(reducer.outputs, reduce_python(reducer, columns, weights), strict=True))


def _column(collection: CollectionValue, name: str) -> list[Any]:
    values = (plain(element.properties.get(name)) for element in collection.elements())
    return [value for value in values if value is not None]


def _numbers(name: str, collection: CollectionValue, property: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = _column(collection, property)
    for value in values:
        if not isinstance(value, int | float):
            raise invalid(f"{name}: Property '{property}' must be numeric, got {value!r}.")
    return np.array(values, dtype=np.float64)


@algorithm("AggregateFeatureCollection.array")
def aggregate_array(context: Context, collection: CollectionValue, property: str) -> list[Any]:
    values = (element.properties.get(property) for element in collection.elements())
    return [value for value in values if value is not None]


@algorithm("AggregateFeatureCollection.count")
def aggregate_count(context: Context, collection: CollectionValue, property: str) -> int:
    return len(_column(collection, property))


@algorithm("AggregateFeatureCollection.count_distinct")
def aggregate_count_distinct(context: Context, collection: CollectionValue, property: str) -> int:
    return len({repr(value) for value in _column(collection, property)})


@algorithm("AggregateFeatureCollection.first")
def aggregate_first(context: Context, collection: CollectionValue, property: str) -> Any:
    element = collection.first()
    return None if element is None else element.properties.get(property)


@algorithm("AggregateFeatureCollection.histogram")
def aggregate_histogram(context: Context, collection: CollectionValue, property: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in _column(collection, property):
        label = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        counts[label] = counts.get(label, 0) + 1
    return dict(sorted(counts.items()))


@algorithm("AggregateFeatureCollection.min")
def aggregate_min(context: Context, collection: CollectionValue, property: str) -> Any:
    return min(_column(collection, property), key=sort_key, default=None)


@algorithm("AggregateFeatureCollection.max")
def aggregate_max(context: Context, collection: CollectionValue, property: str) -> Any:
    return max(_column(collection, property), key=sort_key, default=None)


@algorithm("AggregateFeatureCollection.stats")
def aggregate_stats(context: Context, collection: CollectionValue, property: str) -> dict[str, Any]:
    values = _numbers("AggregateFeatureCollection.stats", collection, property)
    names = ("mean", "min", "max", "sum", "sample_sd", "sample_var", "total_sd", "total_var")
    results = {name: _STATISTICS[name](values) for name in names if name in _STATISTICS}
    results["min"] = float(values.min()) if values.size else None
    results["max"] = float(values.max()) if values.size else None
    counts = {"total_count": collection.size(), "valid_count": int(values.size), "weight_sum": int(values.size)}
    return {**results, **counts, "sum_sq": float((values**2).sum())}


def _spread(degrees: int, root: bool) -> Any:
    def statistic(values: Any) -> float | None:
        if values.size <= degrees:
            return None
        variance = float(values.var(ddof=degrees))
        return math.sqrt(variance) if root else variance

    return statistic


_STATISTICS: dict[str, Any] = {
    "mean": lambda values: float(values.mean()) if values.size else None,
    "sum": lambda values: float(values.sum()),
    "product": lambda values: float(values.prod()),
    "sample_sd": _spread(1, True),
    "sample_var": _spread(1, False),
    "total_sd": _spread(0, True),
    "total_var": _spread(0, False),
}


def _register_statistic(name: str) -> None:
    full = f"AggregateFeatureCollection.{name}"

    @algorithm(full)
    def aggregate(context: Context, collection: CollectionValue, property: str) -> Any:
        return _STATISTICS[name](_numbers(full, collection, property))


for _name in _STATISTICS:
    _register_statistic(_name)
