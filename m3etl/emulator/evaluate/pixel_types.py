"""Pixel types: ranges under arithmetic, unions, casts, and their JSON.

Integers carry a range and are stored in the smallest dtype that holds it. The service documents results as "the union
of the input types"; ranges here are widened by interval arithmetic so that no integer operation overflows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from m3etl.emulator.model import PixelType, invalid

FLOAT = PixelType(precision="float")
DOUBLE = PixelType(precision="double")
BOOLEAN = PixelType(precision="int", minimum=0, maximum=1)
INT64 = PixelType(precision="int", minimum=-(2.0**63), maximum=2.0**63 - 1)

# Name of a cast, without a leading "to", to its type.
CASTS: dict[str, PixelType] = {
    "int8": PixelType.of("int8"),
    "uint8": PixelType.of("uint8"),
    "byte": PixelType.of("uint8"),
    "int16": PixelType.of("int16"),
    "short": PixelType.of("int16"),
    "uint16": PixelType.of("uint16"),
    "int32": PixelType.of("int32"),
    "int": PixelType.of("int32"),
    "uint32": PixelType.of("uint32"),
    "int64": INT64,
    "long": INT64,
    "float": FLOAT,
    "double": DOUBLE,
}


def integer(low: float, high: float) -> PixelType:
    """The integer type of a range; a range beyond 64 bits becomes double."""
    if not (math.isfinite(low) and math.isfinite(high)) or low < -(2.0**63) or high > 2.0**63:
        return DOUBLE
    return PixelType(precision="int", minimum=low, maximum=high)


def of_number(value: float) -> PixelType:
    """The type of a constant: whole numbers are integers, as they are for the service, others double."""
    return integer(value, value) if float(value).is_integer() else DOUBLE


def limits(kind: PixelType) -> tuple[float, float]:
    """The range of an integer type."""
    low = -(2.0**63) if kind.minimum is None else kind.minimum
    high = 2.0**63 - 1 if kind.maximum is None else kind.maximum
    return low, high


def is_small_integer(kind: PixelType) -> bool:
    """Whether every value is exact in a 32-bit float (at most 16 bits)."""
    if kind.precision != "int":
        return False
    low, high = limits(kind)
    return low >= -65536 and high <= 65536


def real(*kinds: PixelType) -> PixelType:
    """The floating type of a result of these inputs: float if all are float or short integers, else double."""
    return FLOAT if all(k.precision == "float" or is_small_integer(k) for k in kinds) else DOUBLE


def union(kinds: Iterable[PixelType]) -> PixelType:
    """The smallest type that holds all the given ones."""
    kinds = list(kinds)
    if all(kind.precision == "int" for kind in kinds):
        ranges = [limits(kind) for kind in kinds]
        return PixelType(precision="int", minimum=min(r[0] for r in ranges), maximum=max(r[1] for r in ranges))
    return real(*kinds)


def convert(values: npt.NDArray[Any], kind: PixelType) -> npt.NDArray[Any]:
    """Values cast to a type: integers are truncated towards zero and clamped to the range."""
    target = kind.dtype
    if kind.precision != "int":
        with np.errstate(over="ignore"):
            return values.astype(target, copy=False)
    low, high = limits(kind)
    if values.dtype == target and values.dtype.kind in "iu":
        info = np.iinfo(values.dtype)
        if low <= info.min and info.max <= high:
            return values
    if values.dtype.kind == "f":
        values = np.trunc(np.nan_to_num(values, nan=0.0))
    return np.asarray(np.clip(values, low, high).astype(target))


def encode(kind: PixelType) -> dict[str, Any]:
    """The `data_type` of getInfo."""
    encoded: dict[str, Any] = {"type": "PixelType", "precision": kind.precision}
    if kind.precision == "int":
        low, high = limits(kind)
        encoded["min"], encoded["max"] = low, high
    return encoded


def parse(value: Any) -> PixelType:
    """A pixel type from a PixelType or one of the service's type names."""
    if isinstance(value, PixelType):
        return value
    found = CASTS.get(str(value).lower())
    if found is None:
        raise invalid(f"PixelType: Unknown pixel type {value!r}; known: {', '.join(sorted(CASTS))}.")
    return found
