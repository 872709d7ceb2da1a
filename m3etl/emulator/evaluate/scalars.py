"""Number and String algorithms, and the general ones: If, IsEqual, ObjectType, ErrorMargin, PixelType."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from m3etl.emulator.evaluate import arithmetic, pixel_types
from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.encode import encode
from m3etl.emulator.evaluate.graph import is_true
from m3etl.emulator.evaluate.lists import equal, text_of
from m3etl.emulator.evaluate.values import ErrorMarginValue, type_name
from m3etl.emulator.model import PixelType, invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context


def _value(result: Any, kind: PixelType) -> float:
    number = np.asarray(result).item()
    if kind.precision == "int" and isinstance(number, int | float | bool) and math.isfinite(number):
        return int(number)
    return float(number)


def _operand(value: float) -> Any:
    return np.asarray(value, dtype=np.int64 if isinstance(value, int) and abs(value) < 2**62 else np.float64)


def _kind(value: float) -> PixelType:
    return pixel_types.integer(value, value) if isinstance(value, int) else pixel_types.DOUBLE


def _register_binary(name: str, operation: str) -> None:
    binary = arithmetic.BINARY[operation]

    @algorithm(f"Number.{name}")
    def apply(context: Context, left: float, right: float) -> float:
        with np.errstate(all="ignore"):
            return _value(binary.function(_operand(left), _operand(right)), binary.result(_kind(left), _kind(right)))


def _register_unary(name: str, operation: str) -> None:
    unary = arithmetic.UNARY[operation]

    @algorithm(f"Number.{name}")
    def apply(context: Context, value: float) -> float:
        with np.errstate(all="ignore"):
            result = unary.function(_operand(value))
        if operation in ("round", "floor", "ceil", "signum") and np.isfinite(result):
            return int(result)
        return _value(result, unary.result(_kind(value)))


def _register_cast(name: str, kind: PixelType) -> None:
    @algorithm(f"Number.{name}")
    def apply(context: Context, value: float) -> float:
        return _value(pixel_types.convert(np.asarray(value, dtype=np.float64), kind), kind)


for _name in arithmetic.BINARY:
    _register_binary(_name, _name)
for _name in arithmetic.UNARY:
    _register_unary(_name, _name)
for _name, _target in arithmetic.ALIASES.items():
    (_register_binary if _target in arithmetic.BINARY else _register_unary)(_name, _target)
for _name, _cast in arithmetic.CAST_NAMES.items():
    _register_cast(_name, _cast)


@algorithm("Number.clamp")
def clamp(context: Context, number: float, low: float, high: float) -> float:
    return min(max(number, low), high)


@algorithm("Number.unitScale")
def unit_scale(context: Context, number: float, low: float, high: float) -> float:
    if low == high:
        raise invalid("Number.unitScale: min and max must differ.")
    return (number - low) / (high - low)


@algorithm("Number.parse")
def parse(context: Context, text: str, radix: int) -> float:
    try:
        return int(text, radix) if radix != 10 or re.fullmatch(r"\s*[+-]?\d+\s*", text) else float(text)
    except ValueError as error:
        raise invalid(f"Number.parse: Cannot parse '{text}' as a number.") from error


@algorithm("Number.format")
def format_number(context: Context, number: float, pattern: str) -> str:
    if pattern.endswith("%s") or "%s" in pattern:
        return pattern.replace("%s", text_of(number))
    try:
        return str(pattern % (int(number) if re.search(r"%[-+ 0#,]*\d*[dxXo]", pattern) else number))
    except (TypeError, ValueError) as error:
        raise invalid(f"Number.format: Invalid format '{pattern}'.") from error


@algorithm("If")
def choose(context: Context, condition: Any, true_case: Any, false_case: Any) -> Any:
    return true_case if is_true(condition) else false_case


@algorithm("IsEqual")
def is_equal(context: Context, left: Any, right: Any) -> bool:
    return equal(left, right)


@algorithm("ObjectType")
def object_type(context: Context, value: Any) -> str:
    name = type_name(value)
    if name == "Collection":
        return "ImageCollection" if value.kind == "image" else "FeatureCollection"
    if name == "Geometry":
        return "Geometry" if value.shape is None else str(value.shape.geom_type)
    return name


@algorithm("ErrorMargin")
def error_margin(context: Context, value: float | None, unit: str) -> ErrorMarginValue:
    return ErrorMarginValue(value=0.0 if value is None else value, unit=unit)


@algorithm("PixelType")
def pixel_type(context: Context, precision: Any, low: float | None, high: float | None, dimensions: int) -> PixelType:
    if isinstance(precision, PixelType):
        return precision
    if precision == "int":
        return PixelType(precision="int", minimum=low, maximum=high)
    if precision in ("float", "double"):
        return PixelType(precision=precision)
    return pixel_types.parse(precision)


def _register_pixel_type(name: str) -> None:
    @algorithm(f"PixelType.{name}")
    def named(context: Context) -> PixelType:
        return pixel_types.CASTS[name]


for _name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float", "double"):
    _register_pixel_type(_name)


@algorithm("PixelType.precision")
def precision(context: Context, kind: PixelType) -> str:
    return kind.precision


@algorithm("PixelType.minValue")
def min_value(context: Context, kind: PixelType) -> float | None:
    return kind.minimum


@algorithm("PixelType.maxValue")
def max_value(context: Context, kind: PixelType) -> float | None:
    return kind.maximum


@algorithm("String")
def string(context: Context, value: Any) -> str:
    if isinstance(value, str | int | float):
        return text_of(value)
    return json.dumps(encode(context, value))


@algorithm("String.cat")
def cat(context: Context, first: str, second: str) -> str:
    return first + second


@algorithm("String.compareTo")
def compare_to(context: Context, first: str, second: str) -> int:
    return (first > second) - (first < second)


@algorithm("String.decodeJSON")
def decode_json(context: Context, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise invalid(f"String.decodeJSON: Invalid JSON: {error}.") from error


@algorithm("String.encodeJSON")
def encode_json(context: Context, value: Any) -> str:
    return json.dumps(encode(context, value), separators=(",", ":"))


@algorithm("String.equals")
def string_equals(context: Context, reference: str, target: Any) -> bool:
    return bool(reference == target)


@algorithm("String.index")
def index(context: Context, target: str, pattern: str) -> int:
    return target.find(pattern)


@algorithm("String.rindex")
def rindex(context: Context, target: str, pattern: str) -> int:
    return target.rfind(pattern)


@algorithm("String.length")
def length(context: Context, text: str) -> int:
    return len(text)


def _compiled(name: str, regex: str, flags: str) -> re.Pattern[str]:
    options = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL}
    try:
        return re.compile(regex, sum(options[flag] for flag in set(flags) if flag in options))
    except re.error as error:
        raise invalid(f"{name}: Invalid regular expression '{regex}': {error}.") from error


@algorithm("String.match")
def match(context: Context, text: str, regex: str, flags: str) -> list[Any]:
    pattern = _compiled("String.match", regex, flags)
    if "g" in flags:
        return [found.group(0) for found in pattern.finditer(text)]
    found = pattern.search(text)
    return [] if found is None else [found.group(0), *found.groups()]


@algorithm("String.replace")
def replace(context: Context, text: str, regex: str, replacement: str, flags: str) -> str:
    template = re.sub(r"\$(\d)", r"\\\1", replacement.replace("\\", "\\\\"))
    return _compiled("String.replace", regex, flags).sub(template, text, count=0 if "g" in flags else 1)


@algorithm("String.slice")
def slice_text(context: Context, text: str, start: int, end: int | None) -> str:
    return text[start:end]


@algorithm("String.split")
def split(context: Context, text: str, regex: str, flags: str) -> list[str]:
    return list(text) if regex == "" else _compiled("String.split", regex, flags).split(text)


@algorithm("String.toLowerCase")
def to_lower_case(context: Context, text: str) -> str:
    return text.lower()


@algorithm("String.toUpperCase")
def to_upper_case(context: Context, text: str) -> str:
    return text.upper()


@algorithm("String.trim")
def trim(context: Context, text: str) -> str:
    return text.strip()
