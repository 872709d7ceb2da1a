"""Element-wise mathematics with the service's names, conventions and result types, shared by images and numbers.

Functions take float64 or int64 arrays. Division and remainder by zero give 0, as documented; NaN results are masked in
images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from m3etl.emulator.evaluate import pixel_types
from m3etl.emulator.evaluate.pixel_types import BOOLEAN, integer, limits, real, union
from m3etl.emulator.model import PixelType

Array = npt.NDArray[Any]
INT32 = PixelType.of("int32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unary:
    """A function of one value and the type of its result."""

    function: Callable[[Array], Array]
    result: Callable[[PixelType], PixelType]


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary:
    """A function of two values and the type of its result."""

    function: Callable[[Array, Array], Array]
    result: Callable[[PixelType, PixelType], PixelType]


def _same(kind: PixelType) -> PixelType:
    return kind


def _absolute(kind: PixelType) -> PixelType:
    if kind.precision != "int":
        return kind
    low, high = limits(kind)
    return integer(0 if low <= 0 <= high else min(abs(low), abs(high)), max(abs(low), abs(high)))


def _real(kind: PixelType) -> PixelType:
    return real(kind)


def _boolean(*kinds: PixelType) -> PixelType:
    return BOOLEAN


def _bits(*kinds: PixelType) -> PixelType:
    """Bit operations: integers, as wide as the inputs; 32 bits for floats."""
    if not all(kind.precision == "int" for kind in kinds):
        return INT32
    low = min(limits(kind)[0] for kind in kinds)
    high = max(limits(kind)[1] for kind in kinds)
    bits = max(1, math.ceil(math.log2(max(high, -low - 1, 1) + 1)))
    return integer(0 if low >= 0 else -(2.0**bits), 2.0**bits - 1)


def _shift(*kinds: PixelType) -> PixelType:
    return INT32 if not all(kind.precision == "int" for kind in kinds) else union([*kinds, INT32])


def _interval(combine: Callable[[float, float], float]) -> Callable[[PixelType, PixelType], PixelType]:
    """The type of an operation that is monotonic in each operand: its values at the ends of both ranges."""

    def result(left: PixelType, right: PixelType) -> PixelType:
        if left.precision != "int" or right.precision != "int":
            return real(left, right)
        ends = [combine(a, b) for a in limits(left) for b in limits(right)]
        return integer(min(ends), max(ends))

    return result


def _remainder(left: PixelType, right: PixelType) -> PixelType:
    if left.precision != "int" or right.precision != "int":
        return real(left, right)
    return union([left, PixelType(precision="int", minimum=0, maximum=0)])


def _union(left: PixelType, right: PixelType) -> PixelType:
    return union([left, right])


def _whole(values: Array) -> Array:
    return values if values.dtype.kind in "iu" else np.trunc(values).astype(np.int64)


def _divide(left: Array, right: Array) -> Array:
    safe = np.where(right == 0, 1, right)
    return np.where(right == 0, 0.0, np.true_divide(left, safe))


def _modulo(left: Array, right: Array) -> Array:
    safe = np.where(right == 0, 1, right)
    return np.where(right == 0, 0, np.fmod(left, safe))


def _power(left: Array, right: Array) -> Array:
    return np.power(left.astype(np.float64), right.astype(np.float64))


def _round(values: Array) -> Array:
    return values if values.dtype.kind in "iu" else np.floor(values + 0.5)


def _bit_count(values: Array) -> Array:
    return np.bitwise_count(_whole(values)).astype(np.int64)


UNARY: dict[str, Unary] = {
    "abs": Unary(function=np.abs, result=_absolute),
    "ceil": Unary(function=np.ceil, result=_same),
    "floor": Unary(function=np.floor, result=_same),
    "round": Unary(function=_round, result=_same),
    "signum": Unary(function=np.sign, result=_same),
    "not": Unary(function=lambda a: (a == 0).astype(np.int64), result=_boolean),
    "bitwiseNot": Unary(function=lambda a: ~_whole(a), result=lambda kind: INT32),
    "bitCount": Unary(function=_bit_count, result=lambda kind: integer(0, 64)),
    "exp": Unary(function=np.exp, result=_real),
    "log": Unary(function=np.log, result=_real),
    "log10": Unary(function=np.log10, result=_real),
    "sqrt": Unary(function=np.sqrt, result=_real),
    "cbrt": Unary(function=np.cbrt, result=_real),
    "sin": Unary(function=np.sin, result=_real),
    "cos": Unary(function=np.cos, result=_real),
    "tan": Unary(function=np.tan, result=_real),
    "asin": Unary(function=np.arcsin, result=_real),
    "acos": Unary(function=np.arccos, result=_real),
    "atan": Unary(function=np.arctan, result=_real),
    "sinh": Unary(function=np.sinh, result=_real),
    "cosh": Unary(function=np.cosh, result=_real),
    "tanh": Unary(function=np.tanh, result=_real),
    "erf": Unary(function=special.erf, result=_real),
    "erfc": Unary(function=special.erfc, result=_real),
    "gamma": Unary(function=special.gamma, result=_real),
}

BINARY: dict[str, Binary] = {
    "add": Binary(function=np.add, result=_interval(lambda a, b: a + b)),
    "subtract": Binary(function=np.subtract, result=_interval(lambda a, b: a - b)),
    "multiply": Binary(function=np.multiply, result=_interval(lambda a, b: a * b)),
    "divide": Binary(function=_divide, result=real),
    "mod": Binary(function=_modulo, result=_remainder),
    "pow": Binary(function=_power, result=real),
    "min": Binary(function=np.minimum, result=_interval(min)),
    "max": Binary(function=np.maximum, result=_interval(max)),
    "hypot": Binary(function=np.hypot, result=real),
    # The guide calls y.atan2(x): the first operand is y.
    "atan2": Binary(function=np.arctan2, result=real),
    "first": Binary(function=lambda a, b: a, result=_union),
    "firstNonZero": Binary(function=lambda a, b: np.where(a != 0, a, b), result=_union),
    "eq": Binary(function=np.equal, result=_boolean),
    "neq": Binary(function=np.not_equal, result=_boolean),
    "lt": Binary(function=np.less, result=_boolean),
    "lte": Binary(function=np.less_equal, result=_boolean),
    "gt": Binary(function=np.greater, result=_boolean),
    "gte": Binary(function=np.greater_equal, result=_boolean),
    "and": Binary(function=lambda a, b: (a != 0) & (b != 0), result=_boolean),
    "or": Binary(function=lambda a, b: (a != 0) | (b != 0), result=_boolean),
    "bitwiseAnd": Binary(function=lambda a, b: _whole(a) & _whole(b), result=_bits),
    "bitwiseOr": Binary(function=lambda a, b: _whole(a) | _whole(b), result=_bits),
    "bitwiseXor": Binary(function=lambda a, b: _whole(a) ^ _whole(b), result=_bits),
    "leftShift": Binary(function=lambda a, b: _whole(a) << _whole(b), result=_shift),
    "rightShift": Binary(function=lambda a, b: _whole(a) >> _whole(b), result=_shift),
}

# Older names that the client still knows.
ALIASES = {
    "bitwise_not": "bitwiseNot",
    "bitwise_and": "bitwiseAnd",
    "bitwise_or": "bitwiseOr",
    "bitwise_xor": "bitwiseXor",
    "left_shift": "leftShift",
    "right_shift": "rightShift",
    "first_nonzero": "firstNonZero",
}
# What does not depend on integer exactness may be compared or chosen in the inputs' own dtype.
NATIVE_DTYPE = {"eq", "neq", "lt", "lte", "gt", "gte", "and", "or", "not"}

CAST_NAMES: dict[str, PixelType] = {
    **pixel_types.CASTS,
    **{"to" + name[0].upper() + name[1:]: kind for name, kind in pixel_types.CASTS.items()},
}


def widen(values: Array) -> Array:
    """Values as int64 or float64, so that arithmetic neither overflows nor rounds early."""
    return values.astype(np.int64 if values.dtype.kind in "iub" else np.float64, copy=False)
