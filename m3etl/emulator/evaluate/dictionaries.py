"""Dictionary algorithms, and the few about arrays that dictionaries and samples lead to; none changes its input."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.values import GeometryValue, type_name
from m3etl.emulator.model import invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context

List = list[Any]


@algorithm("Dictionary")
def dictionary(context: Context, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and len(value) % 2 == 0:
        return {str(key): item for key, item in zip(value[::2], value[1::2], strict=True)}
    if hasattr(value, "properties"):
        return dict(value.properties)
    raise invalid(f"Dictionary: Cannot make a dictionary of a {type_name(value)}.")


@algorithm("Dictionary.fromLists")
def from_lists(context: Context, keys: list[str], values: List) -> dict[str, Any]:
    if len(keys) != len(values):
        raise invalid(f"Dictionary.fromLists: Got {len(keys)} keys and {len(values)} values.")
    return dict(zip(keys, values, strict=True))


def _lookup(name: str, table: dict[str, Any], key: str) -> Any:
    if key not in table:
        raise invalid(f"{name}: Dictionary does not contain key: '{key}'.")
    return table[key]


@algorithm("Dictionary.get")
def dictionary_get(context: Context, table: dict[str, Any], key: str, default: Any) -> Any:
    if key not in table and default is not None:
        return default
    value = _lookup("Dictionary.get", table, key)
    return default if value is None else value


def _typed_entry(name: str, kinds: tuple[type, ...]) -> None:
    @algorithm(f"Dictionary.{name}")
    def typed(context: Context, table: dict[str, Any], key: str) -> Any:
        value = _lookup(f"Dictionary.{name}", table, key)
        if value is not None and not isinstance(value, kinds):
            raise invalid(f"Dictionary.{name}: The value of '{key}' is a {type_name(value)}.")
        return value


_typed_entry("getNumber", (int, float))


_typed_entry("getString", (str,))


_typed_entry("getGeometry", (GeometryValue,))


_typed_entry("getArray", (np.ndarray, list))


@algorithm("Dictionary.set")
def dictionary_set(context: Context, table: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    return {**table, key: value}


@algorithm("Dictionary.combine")
def dictionary_combine(
    context: Context, first: dict[str, Any], second: dict[str, Any], overwrite: bool
) -> dict[str, Any]:
    return {**first, **second} if overwrite else {**second, **first}


@algorithm("Dictionary.contains")
def dictionary_contains(context: Context, table: dict[str, Any], key: str) -> bool:
    return key in table


@algorithm("Dictionary.keys")
def keys(context: Context, table: dict[str, Any]) -> list[str]:
    return sorted(table)


@algorithm("Dictionary.values")
def dictionary_values(context: Context, table: dict[str, Any], keys: list[str] | None) -> List:
    return [_lookup("Dictionary.values", table, key) for key in (sorted(table) if keys is None else keys)]


@algorithm("Dictionary.size")
def dictionary_size(context: Context, table: dict[str, Any]) -> int:
    return len(table)


@algorithm("Dictionary.map")
def dictionary_map(context: Context, table: dict[str, Any], function: Any) -> dict[str, Any]:
    return {key: function(key, table[key]) for key in sorted(table)}


def _selected(name: str, table: dict[str, Any], selectors: list[str], ignore: bool) -> list[str]:
    chosen: list[str] = []
    for selector in selectors:
        matched = [selector] if selector in table else [key for key in sorted(table) if re.fullmatch(selector, key)]
        if not matched and not ignore:
            raise invalid(f"{name}: Dictionary does not contain key: '{selector}'.")
        chosen += [key for key in matched if key not in chosen]
    return chosen


@algorithm("Dictionary.select")
def dictionary_select(context: Context, table: dict[str, Any], selectors: list[str], ignore: bool) -> dict[str, Any]:
    return {key: table[key] for key in _selected("Dictionary.select", table, selectors, ignore)}


@algorithm("Dictionary.remove")
def dictionary_remove(context: Context, table: dict[str, Any], selectors: list[str], ignore: bool) -> dict[str, Any]:
    dropped = set(_selected("Dictionary.remove", table, selectors, ignore))
    return {key: value for key, value in table.items() if key not in dropped}


@algorithm("Dictionary.rename")
def dictionary_rename(
    context: Context, table: dict[str, Any], old: list[str], new: list[str], overwrite: bool
) -> dict[str, Any]:
    names = dict(zip(old, new, strict=True))
    for name in names:
        _lookup("Dictionary.rename", table, name)
    kept = {key: value for key, value in table.items() if key not in names}
    clashes = sorted(kept.keys() & set(new))
    if clashes and not overwrite:
        raise invalid(f"Dictionary.rename: Key(s) {', '.join(clashes)} exist already.")
    return {**kept, **{names[key]: table[key] for key in names}}


@algorithm("Dictionary.toArray")
def dictionary_to_array(context: Context, table: dict[str, Any], keys: list[str] | None, axis: int) -> Any:
    return np.array([_lookup("Dictionary.toArray", table, key) for key in (sorted(table) if keys is None else keys)])


@algorithm("Array")
def array(context: Context, values: Any, pixel_type: Any) -> Any:
    return np.asarray(values)


@algorithm("Array.get")
def array_get(context: Context, values: Any, position: list[int]) -> float:
    return values[tuple(position)].item()  # type: ignore[no-any-return]


@algorithm("Array.toList")
def array_to_list(context: Context, values: Any) -> List:
    return values.tolist()  # type: ignore[no-any-return]


@algorithm("Array.length")
def array_length(context: Context, values: Any) -> Any:
    return np.asarray(values.shape)
