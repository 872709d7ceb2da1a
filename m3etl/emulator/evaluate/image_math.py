"""Image algorithms that work pixel by pixel on values: arithmetic, logic, casts, clamp, remap, normalised difference.

Bands of two images are matched as documented: a single band against all, equal names by name, otherwise in order.
Masks combine by AND. Results of arithmetic keep the index of the first image but none of its other properties.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from m3etl.emulator.evaluate import arithmetic, pixel_types
from m3etl.emulator.evaluate.bands import Array, Band, ConstantBand, Pixels, PointwiseBand, meaningful_projection
from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.pixel_types import convert
from m3etl.emulator.evaluate.values import ImageValue, intersect_footprint
from m3etl.emulator.model import PixelType, invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context

KEPT = ("system:index", "system:footprint")


def computed(source: ImageValue, bands: Mapping[str, Band]) -> ImageValue:
    """The result of arithmetic on an image."""
    return ImageValue(bands, {name: source.properties[name] for name in KEPT if name in source.properties})


def pairs(algorithm_name: str, left: ImageValue, right: ImageValue) -> list[tuple[str, Band, Band]]:
    """(output name, left band, right band) of a binary operation."""
    a, b = left.bands, right.bands
    if not a or not b:
        return []
    if len(b) == 1 and len(a) != 1:
        only = next(iter(b.values()))
        return [(name, band, only) for name, band in a.items()]
    if len(a) == 1 and len(b) != 1:
        only = next(iter(a.values()))
        return [(name, only, band) for name, band in b.items()]
    if a.keys() == b.keys():
        return [(name, band, b[name]) for name, band in a.items()]
    if len(a) == len(b):
        return [(name, band, other) for (name, band), other in zip(a.items(), b.values(), strict=True)]
    common = [name for name in a if name in b]
    if not common:
        raise invalid(
            f"{algorithm_name}: Images must contain the same number of bands, or contain bands with the same names, "
            f"or one of them must contain exactly 1 band. Got {len(a)} and {len(b)}."
        )
    return [(name, a[name], b[name]) for name in common]


def combine_footprints(bands: Sequence[Band]) -> Any:
    """Where all the bands may be valid."""
    footprint = bands[0].footprint
    for band in bands[1:]:
        other = band.footprint
        if other is not None and other is not footprint:
            footprint = intersect_footprint(footprint, other)
    return footprint


def binary_band(name: str, left: Band, right: Band) -> Band:
    """The lazy result of a binary operation on two bands."""
    operation = arithmetic.BINARY[name]
    kind = operation.result(left.pixel_type, right.pixel_type)
    native = name in arithmetic.NATIVE_DTYPE

    def compute(a: Pixels, b: Pixels) -> Pixels:
        with np.errstate(all="ignore"):
            if native:
                values: Array = operation.function(a.values, b.values).view(np.uint8)
            else:
                values = operation.function(arithmetic.widen(a.values), arithmetic.widen(b.values))
        return _checked(values, a.valid & b.valid, kind)

    operands = (left, right)
    return PointwiseBand(compute, operands, kind, meaningful_projection(operands), combine_footprints(operands))


def unary_band(operand: Band, function: Callable[[Array], Array], kind: PixelType) -> Band:
    """The lazy result of a function of one band; NaN is masked."""

    def compute(a: Pixels) -> Pixels:
        with np.errstate(all="ignore"):
            return _checked(function(arithmetic.widen(a.values)), a.valid, kind)

    return PointwiseBand(compute, (operand,), kind, operand.projection, operand.footprint)


def _checked(values: Array, valid: Any, kind: PixelType) -> Pixels:
    if values.dtype.kind == "f":
        nan = np.isnan(values)
        if nan.any():
            valid = valid & ~nan
            values = np.where(nan, 0.0, values)
    return Pixels(convert(values, kind), valid)


def cast_band(operand: Band, kind: PixelType) -> Band:
    """A band in another type."""
    if operand.pixel_type == kind:
        return operand

    def compute(a: Pixels) -> Pixels:
        return Pixels(convert(a.values, kind), a.valid)

    return PointwiseBand(compute, (operand,), kind, operand.projection, operand.footprint)


def _register_binary(name: str, operation: str) -> None:
    full = f"Image.{name}"

    @algorithm(full)
    def apply(context: Context, image1: ImageValue, image2: ImageValue) -> ImageValue:
        bands = {band: binary_band(operation, a, b) for band, a, b in pairs(full, image1, image2)}
        return computed(image1, bands)


def _register_unary(name: str, operation: str) -> None:
    unary = arithmetic.UNARY[operation]

    @algorithm(f"Image.{name}")
    def apply(context: Context, value: ImageValue) -> ImageValue:
        bands = {
            band: unary_band(operand, unary.function, unary.result(operand.pixel_type))
            for band, operand in value.bands.items()
        }
        return computed(value, bands)


def _register_cast(name: str, kind: PixelType) -> None:
    @algorithm(f"Image.{name}")
    def apply(context: Context, value: ImageValue) -> ImageValue:
        return value.with_bands({band: cast_band(operand, kind) for band, operand in value.bands.items()})


for _name in arithmetic.BINARY:
    _register_binary(_name, _name)
for _name in arithmetic.UNARY:
    _register_unary(_name, _name)
for _name, _target in arithmetic.ALIASES.items():
    (_register_binary if _target in arithmetic.BINARY else _register_unary)(_name, _target)
for _name, _kind in arithmetic.CAST_NAMES.items():
    _register_cast(_name, _kind)


@algorithm("Image.cast")
def cast(context: Context, image: ImageValue, band_types: dict[str, Any], band_order: list[str] | None) -> ImageValue:
    kinds = {name: pixel_types.parse(kind) for name, kind in band_types.items()}
    bands = {name: cast_band(band, kinds.get(name, band.pixel_type)) for name, band in image.bands.items()}
    if band_order is None:
        return image.with_bands(bands)
    missing = sorted(set(band_order) ^ set(bands))
    if missing:
        raise invalid(f"Image.cast: bandOrder must list every band of the result; differs in {', '.join(missing)}.")
    return image.with_bands({name: bands[name] for name in band_order})


@algorithm("Image.clamp")
def clamp(context: Context, input: ImageValue, low: float, high: float) -> ImageValue:
    def result(kind: PixelType) -> PixelType:
        if kind.precision != "int" or not (float(low).is_integer() and float(high).is_integer()):
            return kind if kind.precision != "int" else pixel_types.real(kind)
        ends = pixel_types.limits(kind)
        return pixel_types.integer(min(max(ends[0], low), high), max(min(ends[1], high), low))

    bands = {
        name: unary_band(band, lambda a: np.clip(a, low, high), result(band.pixel_type))
        for name, band in input.bands.items()
    }
    return computed(input, bands)


@algorithm("Image.unitScale")
def unit_scale(context: Context, input: ImageValue, low: float, high: float) -> ImageValue:
    if low == high:
        raise invalid("Image.unitScale: low and high must differ.")
    bands = {
        name: unary_band(band, lambda a: (a - low) / (high - low), pixel_types.real(band.pixel_type))
        for name, band in input.bands.items()
    }
    return computed(input, bands)


@algorithm("Image.polynomial")
def polynomial(context: Context, image: ImageValue, coefficients: list[float]) -> ImageValue:
    bands = {
        name: unary_band(band, lambda a: np.polyval(coefficients[::-1], a), pixel_types.DOUBLE)
        for name, band in image.bands.items()
    }
    return computed(image, bands)


@algorithm("Image.normalizedDifference")
def normalized_difference(context: Context, input: ImageValue, band_names: list[str] | None) -> ImageValue:
    names = list(input.bands)[:2] if band_names is None else band_names
    if len(names) != 2:
        raise invalid(f"Image.normalizedDifference: Exactly 2 bands are needed, got {len(names)}.")
    for name in names:
        if name not in input.bands:
            raise invalid(f"Image.normalizedDifference: No band named '{name}'. Available band names: {_list(input)}.")
    first, second = (input.bands[name] for name in names)

    def compute(a: Pixels, b: Pixels) -> Pixels:
        x, y = a.values.astype(np.float64), b.values.astype(np.float64)
        total = x + y
        values = np.where(total == 0, 0.0, (x - y) / np.where(total == 0, 1.0, total))
        return Pixels(values.astype(np.float32), a.valid & b.valid & (x >= 0) & (y >= 0))

    operands = (first, second)
    band = PointwiseBand(
        compute, operands, pixel_types.FLOAT, meaningful_projection(operands), combine_footprints(operands)
    )
    return computed(input, {"nd": band})


def _list(image: ImageValue) -> str:
    return "[" + ", ".join(image.bands) + "]"


@algorithm("Image.remap")
def remap(
    context: Context, image: ImageValue, source: list[Any], target: list[Any], default_value: Any, band_name: str | None
) -> ImageValue:
    if len(source) != len(target):
        raise invalid(
            f"Image.remap: The 'from' and 'to' lists must have the same size, got {len(source)} and {len(target)}."
        )
    band = image.first_band("Image.remap") if band_name is None else image.bands.get(band_name)
    if band is None:
        raise invalid(f"Image.remap: No band named '{band_name}'. Available band names: {_list(image)}.")
    table = dict(zip((float(x) for x in source), (float(x) for x in target), strict=True))
    keys = np.array(sorted(table))
    mapped = np.array([table[key] for key in keys])
    results = [*mapped, *([] if default_value is None else [float(default_value)])]
    kind = pixel_types.union([pixel_types.of_number(value) for value in results]) if results else band.pixel_type

    def compute(a: Pixels) -> Pixels:
        if not keys.size:
            found = np.zeros(a.values.shape, bool)
            values = np.zeros(a.values.shape)
        else:
            numbers = a.values.astype(np.float64)
            index = np.minimum(np.searchsorted(keys, numbers), keys.size - 1)
            found = keys[index] == numbers
            values = mapped[index]
        if default_value is None:
            return Pixels(convert(values, kind), a.valid & found)
        return Pixels(convert(np.where(found, values, float(default_value)), kind), a.valid)

    return computed(image, {"remapped": PointwiseBand(compute, (band,), kind, band.projection, band.footprint)})


@algorithm("Image.interpolate")
def interpolate(context: Context, image: ImageValue, x: list[float], y: list[float], behavior: str) -> ImageValue:
    if len(x) != len(y) or len(x) < 2 or any(b <= a for a, b in pairwise(x)):
        raise invalid("Image.interpolate: x must be strictly increasing and as long as y, with at least 2 values.")
    if behavior not in ("extrapolate", "clamp", "mask", "input"):
        raise invalid(f"Image.interpolate: Unknown behavior '{behavior}'.")
    band = image.first_band("Image.interpolate")
    xs, ys = np.array(x), np.array(y)

    def compute(a: Pixels) -> Pixels:
        numbers = a.values.astype(np.float64)
        values = np.interp(numbers, xs, ys)
        below, above = numbers < xs[0], numbers > xs[-1]
        if behavior == "extrapolate":
            values = np.where(below, ys[0] + (numbers - xs[0]) * (ys[1] - ys[0]) / (xs[1] - xs[0]), values)
            values = np.where(above, ys[-1] + (numbers - xs[-1]) * (ys[-1] - ys[-2]) / (xs[-1] - xs[-2]), values)
        elif behavior == "input":
            values = np.where(below | above, numbers, values)
        return Pixels(values, a.valid & ~(below | above) if behavior == "mask" else a.valid)

    name = next(iter(image.bands))
    return computed(image, {name: PointwiseBand(compute, (band,), pixel_types.DOUBLE, band.projection, band.footprint)})


def constant_bands(value: Any) -> dict[str, Band]:
    """Bands `constant`, `constant_1`, … of a number or a list of numbers."""
    numbers = value if isinstance(value, list) else [value]
    bands: dict[str, Band] = {}
    for index, number in enumerate(numbers):
        if isinstance(number, bool):
            number = int(number)
        if not isinstance(number, int | float | np.number):
            raise invalid(f"Image.constant: Expected a number, got {number!r}.")
        bands["constant" if index == 0 else f"constant_{index}"] = ConstantBand(float(number))
    return bands


@algorithm("Image.constant")
def constant(context: Context, value: Any) -> ImageValue:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return ImageValue(constant_bands(value))
