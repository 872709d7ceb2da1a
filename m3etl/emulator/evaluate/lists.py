"""List, Dictionary and Array algorithms; none of them changes its input."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from m3etl.emulator.evaluate.calls import algorithm, number
from m3etl.emulator.evaluate.filters import FilterValue, plain
from m3etl.emulator.evaluate.joins import sort_key
from m3etl.emulator.evaluate.reducers import ReducerValue, reduce_python
from m3etl.emulator.evaluate.values import FeatureValue, GeometryValue, type_name
from m3etl.emulator.model import invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context

List = list[Any]


def equal(a: Any, b: Any) -> bool:
    """Equality of values; numbers by value, other objects by what they are."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return bool(np.array_equal(a, b))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, GeometryValue) and isinstance(b, GeometryValue):
        return a.shape is not None and b.shape is not None and bool(a.lon_lat().equals(b.lon_lat()))
    return bool(a == b)


def _position(name: str, values: List, index: int) -> int:
    if not -len(values) <= index < len(values):
        raise invalid(
            f"{name}: List index must be between 0 and {len(values) - 1}, or -1 and {-len(values)}. Found {index}."
        )
    return index % len(values)


def _whole(value: float) -> float:
    return int(value) if float(value).is_integer() else value


@algorithm("List.get")
def list_get(context: Context, values: List, index: int) -> Any:
    return values[_position("List.get", values, index)]


def _typed(name: str, kinds: tuple[type, ...]) -> None:
    @algorithm(f"List.{name}")
    def typed(context: Context, values: List, index: int) -> Any:
        value = values[_position(f"List.{name}", values, index)]
        if value is not None and not isinstance(value, kinds):
            raise invalid(f"List.{name}: The element is a {type_name(value)}.")
        return value


_typed("getNumber", (int, float))
_typed("getString", (str,))
_typed("getGeometry", (GeometryValue,))
_typed("getArray", (np.ndarray, list))


@algorithm("List.size", "List.length")
def size(context: Context, values: List) -> int:
    return len(values)


@algorithm("List.add")
def add(context: Context, values: List, element: Any) -> List:
    return [*values, element]


@algorithm("List.cat")
def cat(context: Context, values: List, other: List) -> List:
    return [*values, *other]


@algorithm("List.contains")
def contains(context: Context, values: List, element: Any) -> bool:
    return any(equal(value, element) for value in values)


@algorithm("List.containsAll")
def contains_all(context: Context, values: List, other: List) -> bool:
    return all(contains(context, values, element) for element in other)


@algorithm("List.distinct")
def distinct(context: Context, values: List) -> List:
    kept: List = []
    seen: set[Any] = set()
    for value in values:
        if isinstance(value, str | int | float | bool) or value is None:
            if value not in seen:
                seen.add(value)
                kept.append(value)
        elif not any(equal(value, other) for other in kept):
            kept.append(value)
    return kept


@algorithm("List.equals")
def equals(context: Context, values: List, other: List) -> bool:
    return equal(values, other)


@algorithm("List.filter")
def filter_list(context: Context, values: List, filter: FilterValue) -> List:
    """Values are tested as elements with a property `item`; features and images as themselves."""
    return [value for value in values if filter.matches(_as_element(value))]


def _as_element(value: Any) -> Any:
    return value if hasattr(value, "properties") else FeatureValue(geometry=None, properties={"item": value})


@algorithm("List.flatten")
def flatten(context: Context, values: List) -> List:
    flat: List = []
    stack = list(reversed(values))
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack.extend(reversed(value))
        else:
            flat.append(value)
    return flat


@algorithm("List.frequency")
def frequency(context: Context, values: List, element: Any) -> int:
    return sum(1 for value in values if equal(value, element))


@algorithm("List.indexOf")
def index_of(context: Context, values: List, element: Any) -> int:
    return next((index for index, value in enumerate(values) if equal(value, element)), -1)


@algorithm("List.indexOfSublist")
def index_of_sublist(context: Context, values: List, target: List) -> int:
    width = len(target)
    return next((i for i in range(len(values) - width + 1) if equal(values[i : i + width], target)), -1)


@algorithm("List.insert")
def insert(context: Context, values: List, index: int, element: Any) -> List:
    position = index if index >= 0 else len(values) + index
    return [*values[:position], element, *values[position:]]


@algorithm("List.iterate")
def iterate(context: Context, values: List, function: Any, first: Any) -> Any:
    result = first
    for value in values:
        context.budget.check_time()
        result = function(value, result)
    return result


@algorithm("List.join")
def join(context: Context, values: List, separator: str) -> str:
    return separator.join(text_of(value) for value in values)


@algorithm("List.map")
def map_list(context: Context, values: List, function: Any, drop_nulls: bool) -> List:
    results = []
    for value in values:
        context.budget.check_time()
        result = function(value)
        if result is not None or not drop_nulls:
            results.append(result)
    return results


@algorithm("List.reduce")
def reduce_list(context: Context, values: List, reducer: ReducerValue) -> Any:
    if reducer.inputs == 1:
        columns = [[plain(value) for value in values]]
    else:
        columns = [[plain(row[index]) for row in values] for index in range(reducer.inputs)]
    outputs = reduce_python(reducer, columns)
    return outputs[0] if len(outputs) == 1 else dict(zip(reducer.outputs, outputs, strict=True))


@algorithm("List.remove")
def remove(context: Context, values: List, element: Any) -> List:
    index = index_of(context, values, element)
    return list(values) if index < 0 else [*values[:index], *values[index + 1 :]]


@algorithm("List.removeAll")
def remove_all(context: Context, values: List, other: List) -> List:
    return [value for value in values if not contains(context, other, value)]


@algorithm("List.repeat")
def repeat(context: Context, value: Any, count: int) -> List:
    return [value] * count


@algorithm("List.replace")
def replace(context: Context, values: List, old: Any, new: Any) -> List:
    index = index_of(context, values, old)
    return list(values) if index < 0 else [*values[:index], new, *values[index + 1 :]]


@algorithm("List.replaceAll")
def replace_all(context: Context, values: List, old: Any, new: Any) -> List:
    return [new if equal(value, old) else value for value in values]


@algorithm("List.reverse")
def reverse(context: Context, values: List) -> List:
    return values[::-1]


@algorithm("List.rotate")
def rotate(context: Context, values: List, distance: int) -> List:
    shift = distance % len(values) if values else 0
    return [*values[shift:], *values[:shift]]


@algorithm("List.sequence")
def sequence(context: Context, start: float, end: float | None, step: float, count: int | None) -> List:
    if end is None and count is None:
        raise invalid("List.sequence: At least one of end or count must be specified.")
    if end is None:
        assert count is not None
        return [_whole(start + step * index) for index in range(count)]
    if count is not None:
        if count == 1:
            return [_whole(start)]
        return [_whole(start + (end - start) * index / (count - 1)) for index in range(count)]
    if step == 0:
        raise invalid("List.sequence: The step must not be zero.")
    length = max(0, math.floor((end - start) / step + 1e-9) + 1)
    if length > 10_000_000:
        raise invalid("List.sequence: The list is too long.")
    return [_whole(start + step * index) for index in range(length)]


@algorithm("List.set")
def set_element(context: Context, values: List, index: int, element: Any) -> List:
    position = _position("List.set", values, index)
    return [*values[:position], element, *values[position + 1 :]]


@algorithm("List.shuffle")
def shuffle(context: Context, values: List, seed: Any) -> List:
    if seed is False:
        return list(values)
    order = np.random.default_rng(0 if seed is None else abs(hash(number(seed)))).permutation(len(values))
    return [values[index] for index in order]


@algorithm("List.slice")
def slice_list(context: Context, values: List, start: int, end: int | None, step: int | None) -> List:
    return values[start : end : step or 1]


@algorithm("List.sort")
def sort(context: Context, values: List, keys: List | None) -> List:
    if keys is None:
        return sorted(values, key=sort_key)
    if len(keys) != len(values):
        raise invalid(f"List.sort: The list has {len(values)} elements and the keys {len(keys)}.")
    order = sorted(range(len(values)), key=lambda index: sort_key(keys[index]))
    return [values[index] for index in order]


@algorithm("List.splice")
def splice(context: Context, values: List, start: int, count: int, other: List | None) -> List:
    position = start if start >= 0 else len(values) + start
    return [*values[:position], *(other or []), *values[position + count :]]


@algorithm("List.swap")
def swap(context: Context, values: List, first: int, second: int) -> List:
    a, b = _position("List.swap", values, first), _position("List.swap", values, second)
    result = list(values)
    result[a], result[b] = result[b], result[a]
    return result


@algorithm("List.unzip")
def unzip(context: Context, values: List) -> List:
    return [list(column) for column in zip(*values, strict=False)]


@algorithm("List.zip")
def zip_lists(context: Context, values: List, other: List) -> List:
    return [list(pair) for pair in zip(values, other, strict=False)]


def text_of(value: Any) -> str:
    """A value as text: whole numbers without a decimal point."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
