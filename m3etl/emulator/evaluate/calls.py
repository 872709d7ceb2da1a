"""Calls of named algorithms: the registry, the check of every argument against the signature list, and conversions.

A call is matched by name with the client's own signature: unknown arguments, missing required ones and wrong types are
errors in the service's words, and defaults are filled in. Registered functions take the request context and then the
arguments in signature order.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from m3etl.emulator.evaluate import pixel_types
from m3etl.emulator.evaluate.values import (
    DateRangeValue,
    DateValue,
    ErrorMarginValue,
    FeatureValue,
    GeometryValue,
    ImageValue,
    JoinValue,
    KernelValue,
    MetricKernel,
    type_name,
)
from m3etl.emulator.model import PixelType, Projection, invalid
from m3etl.emulator.signatures import PREFIX, load_signatures

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context

Implementation = Callable[..., Any]
F = TypeVar("F", bound=Implementation)
REGISTRY: dict[str, Implementation] = {}


def algorithm(*names: str) -> Callable[[F], F]:
    """Register a function as the implementation of the named algorithms."""

    def register(function: F) -> F:
        for name in names:
            if name in REGISTRY:
                raise ValueError(f"{name} is registered twice")
            REGISTRY[name] = function
        return function

    return register


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One argument of a signature."""

    name: str
    kind: str
    optional: bool
    default: Any
    convert: Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A checked signature; `implementation` is None for algorithms that are known but not evaluated."""

    name: str
    parameters: tuple[Parameter, ...]
    known: frozenset[str]
    implementation: Implementation | None


class Mismatch(Exception):  # noqa: N818 - an internal signal, turned into the service's error at once
    """A value is not of the wanted type."""


@functools.cache
def signatures() -> Mapping[str, Signature]:
    """Every algorithm of the signature list by name."""
    return {entry["name"].removeprefix(PREFIX): _signature(entry) for entry in load_signatures()}


def _signature(entry: Mapping[str, Any]) -> Signature:
    name = entry["name"].removeprefix(PREFIX)
    parameters = []
    for argument in entry.get("arguments", ()):
        convert = converter(argument["type"])
        default = argument.get("defaultValue")
        parameters.append(
            Parameter(
                name=argument["argumentName"],
                kind=argument["type"].replace("<unknown bands>", ""),
                optional=bool(argument.get("optional")),
                default=None if default is None else convert(_decode_default(default)),
                convert=convert,
            )
        )
    return Signature(
        name=name,
        parameters=tuple(parameters),
        known=frozenset(parameter.name for parameter in parameters),
        implementation=REGISTRY.get(name),
    )


def _decode_default(default: Any) -> Any:
    if isinstance(default, dict) and default.get("type") == "ErrorMargin":
        return ErrorMarginValue(value=default["value"], unit=default.get("unit", "meters"))
    if isinstance(default, dict) and default.get("type") == "Projection":
        return Projection(crs=default["crs"], transform=tuple(float(x) for x in default["transform"]))  # type: ignore[arg-type]
    return default


def find_signature(name: str) -> Signature:
    """The signature of an algorithm that can be evaluated; otherwise an error that says which it is."""
    signature = signatures().get(name)
    if signature is None:
        raise invalid(f"Unknown algorithm: '{name}'. It is not in the client's signature list.")
    if signature.implementation is None:
        raise invalid(
            f"Algorithm '{name}' is part of Earth Engine but is not evaluated by the embedded Earth Engine of m3etl."
        )
    return signature


def call(context: Context, name: str, arguments: Mapping[str, Any]) -> Any:
    """The result of an algorithm for named arguments that are already evaluated."""
    signature = find_signature(name)
    if not arguments.keys() <= signature.known:
        unknown = sorted(arguments.keys() - signature.known)
        raise invalid(f"{name}: Unrecognized argument(s): {', '.join(unknown)}.")
    values = [_argument(signature, parameter, arguments) for parameter in signature.parameters]
    assert signature.implementation is not None
    return signature.implementation(context, *values)


def _argument(signature: Signature, parameter: Parameter, arguments: Mapping[str, Any]) -> Any:
    value = arguments.get(parameter.name)
    if value is None:
        if not parameter.optional:
            raise invalid(f"{signature.name}: Parameter '{parameter.name}' is required and may not be null.")
        return parameter.default
    try:
        return parameter.convert(value)
    except Mismatch:
        raise invalid(
            f"{signature.name}, argument '{parameter.name}': Invalid type.\n"
            f"Expected type: {parameter.kind}.\nActual type: {type_name(value)}."
        ) from None


@functools.cache
def converter(kind: str) -> Callable[[Any], Any]:
    """The function that checks a value of a signature type and gives it in the form that implementations expect."""
    kind = kind.replace("<unknown bands>", "")
    listed = re.fullmatch(r"List<(.+)>", kind)
    if listed is not None:
        return functools.partial(_list_of, converter(listed.group(1)))
    if kind.startswith("Dictionary<"):
        return _dictionary
    return _CONVERTERS.get(kind, _anything)


def _anything(value: Any) -> Any:
    return value


def _list_of(convert: Callable[[Any], Any], value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise Mismatch
    return list(value) if convert is _anything else [None if item is None else convert(item) for item in value]


def _dictionary(value: Any) -> Any:
    if not isinstance(value, dict):
        raise Mismatch
    return value


def number(value: Any) -> float:
    """An int or float; booleans count as 0 and 1."""
    if isinstance(value, bool | np.bool_):
        return int(value)
    if isinstance(value, int | float):
        return value
    if isinstance(value, np.number):
        return value.item()  # type: ignore[no-any-return]
    raise Mismatch


def _integer(value: Any) -> int:
    found = number(value)
    if found != found or found in (float("inf"), float("-inf")):
        raise Mismatch
    return int(found)


def _float(value: Any) -> float:
    return float(number(value))


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise Mismatch
    return value


def _boolean(value: Any) -> bool:
    return bool(number(value))


def _of(*types: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, types):
            raise Mismatch
        return value

    return check


def _projection(value: Any) -> Projection:
    if isinstance(value, str):
        from m3etl.emulator.evaluate.projections import IDENTITY, crs_of

        crs_of(value)
        return Projection(crs=value, transform=IDENTITY)
    if not isinstance(value, Projection):
        raise Mismatch
    return value


def _geometry(value: Any) -> GeometryValue:
    if isinstance(value, FeatureValue):
        if value.geometry is None:
            raise invalid("Feature has no geometry.")
        return value.geometry
    if isinstance(value, dict) and "type" in value:
        from m3etl.emulator.evaluate.geometry import from_geojson

        return from_geojson(value)
    if not isinstance(value, GeometryValue):
        raise Mismatch
    return value


def _collection(value: Any) -> Any:
    from m3etl.emulator.evaluate.collection_values import CollectionValue

    if not isinstance(value, CollectionValue):
        raise Mismatch
    return value


def _element(value: Any) -> Any:
    if isinstance(value, ImageValue | FeatureValue):
        return value
    if isinstance(value, GeometryValue):
        return FeatureValue(geometry=value, properties={})
    return _collection(value)


def _date(value: Any) -> DateValue:
    from m3etl.emulator.evaluate.dates import to_date

    try:
        return to_date(value)
    except TypeError:
        raise Mismatch from None


def _error_margin(value: Any) -> ErrorMarginValue:
    if isinstance(value, ErrorMarginValue):
        return value
    return ErrorMarginValue(value=float(number(value)))


def _algorithm(value: Any) -> Any:
    if not callable(value):
        raise Mismatch
    return value


def _array(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, list | int | float):
        return np.asarray(value)
    raise Mismatch


def _pixel_type(value: Any) -> PixelType:
    return pixel_types.parse(value)


def _filter(value: Any) -> Any:
    from m3etl.emulator.evaluate.filters import FilterValue

    if not isinstance(value, FilterValue):
        raise Mismatch
    return value


def _reducer(value: Any) -> Any:
    from m3etl.emulator.evaluate.reducers import ReducerValue

    if not isinstance(value, ReducerValue):
        raise Mismatch
    return value


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "Image": _of(ImageValue),
    "String": _string,
    "Integer": _integer,
    "Long": _integer,
    "Float": _float,
    "Number": number,
    "Boolean": _boolean,
    "Projection": _projection,
    "Geometry": _geometry,
    "Element": _element,
    "Feature": _of(FeatureValue),
    "FeatureCollection": _collection,
    "ImageCollection": _collection,
    "Reducer": _reducer,
    "ErrorMargin": _error_margin,
    "Date": _date,
    "DateRange": _of(DateRangeValue),
    "Filter": _filter,
    "Join": _of(JoinValue),
    "Kernel": _of(KernelValue, MetricKernel),
    "PixelType": _pixel_type,
    "Algorithm": _algorithm,
    "Array": _array,
}
