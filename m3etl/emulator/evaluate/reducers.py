"""Reducers: what they take, how their outputs are named and typed, and how they work on stacks, regions and lists.

Weighted reducers use the weights they are given (coverage of a region's edge pixels, kernel cells); the others count a
value that is present as one. Histograms, lists and groups give dictionaries and lists and work on regions and lists
only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from m3etl.emulator.evaluate import statistics
from m3etl.emulator.evaluate.bands import Array, Band, Pixels
from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.pixel_types import BOOLEAN, DOUBLE, INT64, convert, integer
from m3etl.emulator.evaluate.projections import BoolArray
from m3etl.emulator.model import PixelType, invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """How much of each pixel lies in a region (weights of weighted reducers) and whether its centre does (for the
    others).
    """

    fraction: npt.NDArray[np.float64]
    inside: BoolArray


Weights = npt.NDArray[np.float64] | None
AnyWeights = Weights | Coverage
Numeric = Callable[[Sequence[Array], BoolArray, Weights], list[statistics.Result]]
Objects = Callable[[Sequence[Array], BoolArray, AnyWeights], list[Any]]
Types = Callable[[Sequence[PixelType]], list[PixelType]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReducerValue:
    """A reducer with `inputs` inputs and named outputs.

    `numeric` gives (value, valid) arrays for any stack; `objects` gives lists or dictionaries for one-dimensional
    inputs and is used where there is no `numeric`. `raw` gets Python values instead (lists of anything).
    """

    name: str
    inputs: int
    outputs: tuple[str, ...]
    types: Types
    numeric: Numeric | None = None
    objects: Objects | None = None
    weighted: bool = False
    empty: Any = None  # output for no input: counts and sums of nothing are 0

    def output_types(self, kinds: Sequence[PixelType]) -> list[PixelType]:
        """Pixel types of the outputs for inputs of these types."""
        return self.types(kinds)

    def check_inputs(self, name: str, bands: Sequence[Band]) -> list[Band]:
        """The bands as inputs of a reducer of several inputs."""
        if len(bands) != self.inputs:
            raise invalid(f"{name}: Need {self.inputs} bands for Reducer.{self.name}, image has {len(bands)}.")
        return list(bands)

    def reduce_stack(self, stacks: Sequence[Array], valid: BoolArray, weights: Weights = None) -> list[Pixels]:
        """Outputs (...) of stacks (n, ...) with one validity."""
        if self.numeric is None:
            raise invalid(f"Reducer.{self.name} does not produce numbers and cannot make an image.")
        results = self.numeric(stacks, valid, weights if self.weighted else None)
        kinds = self.types([PixelType.of(str(stack.dtype)) for stack in stacks])
        return [
            Pixels(convert(np.asarray(value), kind), np.asarray(present))
            for (value, present), kind in zip(results, kinds, strict=True)
        ]

    def reduce_values(self, columns: Sequence[Array], valid: BoolArray, weights: AnyWeights = None) -> list[Any]:
        """Outputs of one-dimensional inputs as Python values; `empty` where there was nothing to reduce."""
        if self.objects is not None:
            return self.objects(columns, valid, weights)
        assert self.numeric is not None
        results = self.numeric(columns, *resolve(self.weighted, valid, weights))
        return [_python(value) if present else self.empty for value, present in results]


def _python(value: Any) -> Any:
    return value.item() if isinstance(value, np.ndarray | np.generic) else value


def resolve(weighted: bool, valid: BoolArray, weights: AnyWeights) -> tuple[BoolArray, Weights]:
    """The validity and weights that a reducer works with."""
    if isinstance(weights, Coverage):
        return (valid & (weights.fraction > 0), weights.fraction) if weighted else (valid & weights.inside, None)
    return valid, weights if weighted else None


def _keep(kinds: Sequence[PixelType]) -> list[PixelType]:
    return [kinds[0]]


def always(kind: PixelType) -> Types:
    return lambda kinds: [kind]


def _total(kinds: Sequence[PixelType]) -> list[PixelType]:
    return [INT64 if kinds[0].precision == "int" else DOUBLE]


def _single(function: Callable[[Array, BoolArray, Weights], statistics.Result]) -> Numeric:
    return lambda stacks, valid, weights: [function(stacks[0], valid, weights)]


_SIMPLE: dict[str, tuple[str, Callable[..., statistics.Result], Types, bool, Any]] = {
    # algorithm: output name, statistic, types, weighted, result for nothing
    "mean": ("mean", statistics.mean, always(DOUBLE), True, None),
    "sum": ("sum", statistics.total, _total, True, 0),
    "count": ("count", statistics.count, always(integer(0, 2**31 - 1)), False, 0),
    "countEvery": ("count", statistics.count, always(integer(0, 2**31 - 1)), False, 0),
    "countDistinct": ("count", statistics.count_distinct, always(integer(0, 2**31 - 1)), False, 0),
    "countDistinctNonNull": ("count", statistics.count_distinct, always(integer(0, 2**31 - 1)), False, 0),
    "product": ("product", statistics.product, always(DOUBLE), False, 1),
    "mode": ("mode", statistics.mode, _keep, True, None),
    "first": ("first", statistics.first, _keep, False, None),
    "firstNonNull": ("first", statistics.first, _keep, False, None),
    "last": ("last", statistics.last, _keep, False, None),
    "lastNonNull": ("last", statistics.last, _keep, False, None),
    "stdDev": ("stdDev", statistics.standard_deviation, always(DOUBLE), True, None),
    "variance": ("variance", statistics.variance, always(DOUBLE), True, None),
    "sampleStdDev": ("stdDev", statistics.sample_standard_deviation, always(DOUBLE), True, None),
    "sampleVariance": ("variance", statistics.sample_variance, always(DOUBLE), True, None),
    "skew": ("skew", statistics.skew, always(DOUBLE), True, None),
    "kurtosis": ("kurtosis", statistics.kurtosis, always(DOUBLE), True, None),
    "circularMean": ("mean", statistics.circular_mean, always(DOUBLE), True, None),
    "allNonZero": ("all", statistics.all_nonzero, always(BOOLEAN), False, None),
    "anyNonZero": ("any", statistics.any_nonzero, always(BOOLEAN), False, None),
    "and": ("and", statistics.all_nonzero, always(BOOLEAN), False, None),
    "or": ("or", statistics.any_nonzero, always(BOOLEAN), False, None),
    "bitwiseAnd": ("bitwise_and", statistics.bitwise_and, always(INT64), False, None),
    "bitwiseOr": ("bitwise_or", statistics.bitwise_or, always(INT64), False, None),
}
_MODULAR = {"mode"}


def named_reducer(name: str) -> ReducerValue:
    """A reducer of one input and one output by its algorithm name."""
    if name == "median":
        return _percentile_reducer("median", [50.0], ["median"])
    if name in ("min", "max"):
        return _extreme_reducer(name, 1)
    output, function, types, weighted, empty = _SIMPLE[name]
    return ReducerValue(
        name=name,
        inputs=1,
        outputs=(output,),
        types=types,
        numeric=_single(function),
        weighted=weighted,
        empty=empty,
    )


def _register_simple(name: str) -> None:
    if name in _MODULAR:

        @algorithm(f"Reducer.{name}")
        def histogram_based(context: Context, max_buckets: Any, min_width: Any, max_raw: Any) -> ReducerValue:
            return named_reducer(name)

    else:

        @algorithm(f"Reducer.{name}")
        def simple(context: Context) -> ReducerValue:
            return named_reducer(name)


for _name in _SIMPLE:
    _register_simple(_name)


def _percentile_reducer(name: str, percentiles: Sequence[float], outputs: Sequence[str]) -> ReducerValue:
    return ReducerValue(
        name=name,
        inputs=1,
        outputs=tuple(outputs),
        types=lambda kinds: [DOUBLE] * len(outputs),
        numeric=lambda stacks, valid, weights: statistics.percentiles(stacks[0], valid, weights, percentiles),
        weighted=True,
    )


@algorithm("Reducer.median")
def median(context: Context, max_buckets: Any, min_width: Any, max_raw: Any) -> ReducerValue:
    return named_reducer("median")


@algorithm("Reducer.percentile")
def percentile(
    context: Context, percentiles: list[float], names: list[str] | None, buckets: Any, width: Any, raw: Any
) -> ReducerValue:
    if any(not 0 <= p <= 100 for p in percentiles):
        raise invalid(f"Reducer.percentile: Percentiles must be between 0 and 100, got {percentiles}.")
    outputs = [f"p{p:g}" for p in percentiles] if names is None else names
    if len(outputs) != len(percentiles):
        raise invalid(f"Reducer.percentile: Need {len(percentiles)} output names, got {len(outputs)}.")
    return _percentile_reducer("percentile", percentiles, outputs)


def _extreme_reducer(name: str, count: int) -> ReducerValue:
    function = statistics.minimum if name == "min" else statistics.maximum

    def numeric(stacks: Sequence[Array], valid: BoolArray, weights: Weights) -> list[statistics.Result]:
        if len(stacks) == 1 or not len(stacks[0]):
            return [function(stack, valid, weights) for stack in stacks]
        limit = np.inf if name == "min" else -np.inf
        ranked = np.where(valid, stacks[0].astype(np.float64), limit)
        index = ranked.argmin(axis=0) if name == "min" else ranked.argmax(axis=0)
        return [(np.take_along_axis(stack, index[None], axis=0)[0], np.asarray(valid.any(axis=0))) for stack in stacks]

    outputs = (name,) if count == 1 else (name, *(f"{name}{index}" for index in range(1, count)))
    return ReducerValue(name=name, inputs=count, outputs=outputs, types=list, numeric=numeric)


@algorithm("Reducer.min")
def minimum(context: Context, count: int) -> ReducerValue:
    return _extreme_reducer("min", count)


@algorithm("Reducer.max")
def maximum(context: Context, count: int) -> ReducerValue:
    return _extreme_reducer("max", count)


@algorithm("Reducer.minMax")
def min_max(context: Context) -> ReducerValue:
    def numeric(stacks: Sequence[Array], valid: BoolArray, weights: Weights) -> list[statistics.Result]:
        return [statistics.minimum(stacks[0], valid, None), statistics.maximum(stacks[0], valid, None)]

    return ReducerValue(
        name="minMax", inputs=1, outputs=("min", "max"), types=lambda kinds: [kinds[0]] * 2, numeric=numeric
    )


def reduce_python(reducer: ReducerValue, columns: Sequence[Sequence[Any]], weights: Weights = None) -> list[Any]:
    """Outputs for columns of Python values; rows with a null input are dropped, text stays text where the reducer
    allows.
    """
    arrays = [_column(column) for column in columns]
    length = len(columns[0]) if columns else 0
    valid = np.ones(length, bool)
    for column in columns:
        valid &= np.array([value is not None for value in column], dtype=bool)
    return reducer.reduce_values(arrays, valid, weights)


def _column(values: Sequence[Any]) -> Array:
    present = [value for value in values if value is not None]
    if all(isinstance(value, int) and abs(value) < 2**62 for value in present):
        return np.array([0 if value is None else int(value) for value in values], dtype=np.int64)
    if all(isinstance(value, int | float) for value in present):
        return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)
    column = np.empty(len(values), dtype=object)
    column[:] = ["" if value is None and present and isinstance(present[0], str) else value for value in values]
    return column
