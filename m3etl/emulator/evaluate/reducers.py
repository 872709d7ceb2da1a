"""Reducers: what they take, how their outputs are named and typed, and how they work on stacks, regions and lists.

Weighted reducers use the weights they are given (coverage of a region's edge pixels, kernel cells); the others count a
value that is present as one. Histograms, lists and groups give dictionaries and lists and work on regions and lists
only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
        results = self.numeric(columns, *_resolve(self.weighted, valid, weights))
        return [_python(value) if present else self.empty for value, present in results]


def _python(value: Any) -> Any:
    return value.item() if isinstance(value, np.ndarray | np.generic) else value


def _resolve(weighted: bool, valid: BoolArray, weights: AnyWeights) -> tuple[BoolArray, Weights]:
    """The validity and weights that a reducer works with."""
    if isinstance(weights, Coverage):
        return (valid & (weights.fraction > 0), weights.fraction) if weighted else (valid & weights.inside, None)
    return valid, weights if weighted else None


def _keep(kinds: Sequence[PixelType]) -> list[PixelType]:
    return [kinds[0]]


def _always(kind: PixelType) -> Types:
    return lambda kinds: [kind]


def _total(kinds: Sequence[PixelType]) -> list[PixelType]:
    return [INT64 if kinds[0].precision == "int" else DOUBLE]


def _single(function: Callable[[Array, BoolArray, Weights], statistics.Result]) -> Numeric:
    return lambda stacks, valid, weights: [function(stacks[0], valid, weights)]


_SIMPLE: dict[str, tuple[str, Callable[..., statistics.Result], Types, bool, Any]] = {
    # algorithm: output name, statistic, types, weighted, result for nothing
    "mean": ("mean", statistics.mean, _always(DOUBLE), True, None),
    "sum": ("sum", statistics.total, _total, True, 0),
    "count": ("count", statistics.count, _always(integer(0, 2**31 - 1)), False, 0),
    "countEvery": ("count", statistics.count, _always(integer(0, 2**31 - 1)), False, 0),
    "countDistinct": ("count", statistics.count_distinct, _always(integer(0, 2**31 - 1)), False, 0),
    "countDistinctNonNull": ("count", statistics.count_distinct, _always(integer(0, 2**31 - 1)), False, 0),
    "product": ("product", statistics.product, _always(DOUBLE), False, 1),
    "mode": ("mode", statistics.mode, _keep, True, None),
    "first": ("first", statistics.first, _keep, False, None),
    "firstNonNull": ("first", statistics.first, _keep, False, None),
    "last": ("last", statistics.last, _keep, False, None),
    "lastNonNull": ("last", statistics.last, _keep, False, None),
    "stdDev": ("stdDev", statistics.standard_deviation, _always(DOUBLE), True, None),
    "variance": ("variance", statistics.variance, _always(DOUBLE), True, None),
    "sampleStdDev": ("stdDev", statistics.sample_standard_deviation, _always(DOUBLE), True, None),
    "sampleVariance": ("variance", statistics.sample_variance, _always(DOUBLE), True, None),
    "skew": ("skew", statistics.skew, _always(DOUBLE), True, None),
    "kurtosis": ("kurtosis", statistics.kurtosis, _always(DOUBLE), True, None),
    "circularMean": ("mean", statistics.circular_mean, _always(DOUBLE), True, None),
    "allNonZero": ("all", statistics.all_nonzero, _always(BOOLEAN), False, None),
    "anyNonZero": ("any", statistics.any_nonzero, _always(BOOLEAN), False, None),
    "and": ("and", statistics.all_nonzero, _always(BOOLEAN), False, None),
    "or": ("or", statistics.any_nonzero, _always(BOOLEAN), False, None),
    "bitwiseAnd": ("bitwise_and", statistics.bitwise_and, _always(INT64), False, None),
    "bitwiseOr": ("bitwise_or", statistics.bitwise_or, _always(INT64), False, None),
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


def _object_reducer(name: str, output: str, function: Callable[[Array, Weights], Any], weighted: bool) -> ReducerValue:
    def objects(columns: Sequence[Array], valid: BoolArray, weights: AnyWeights) -> list[Any]:
        chosen, numbers = _resolve(weighted, valid, weights)
        return [function(columns[0][chosen], None if numbers is None else numbers[chosen])]

    return ReducerValue(
        name=name, inputs=1, outputs=(output,), types=_always(DOUBLE), objects=objects, weighted=weighted
    )


def _frequencies(values: Array, weights: Weights) -> dict[str, float]:
    distinct, inverse = np.unique(values, return_inverse=True)
    counts = np.bincount(inverse, weights=weights, minlength=distinct.size)
    return {_label(value): float(count) for value, count in zip(distinct.tolist(), counts, strict=True)}


def _label(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _histogram(max_buckets: int, min_width: float) -> Callable[[Array, Weights], Any]:
    def function(values: Array, weights: Weights) -> Any:
        if not values.size:
            return None
        low, high = float(values.min()), float(values.max())
        distinct = np.unique(values)
        width = min_width or (float(np.diff(distinct).min()) if distinct.size > 1 else 1.0)
        while (high - low) / width >= max_buckets:
            width *= 2
        start = np.floor(low / width) * width
        index = np.floor((values - start) / width).astype(np.int64)
        counts = np.bincount(index, weights=weights)
        means = np.bincount(index, weights=values) / np.maximum(np.bincount(index), 1)
        return {
            "bucketMeans": means.tolist(),
            "bucketMin": float(start),
            "bucketWidth": float(width),
            "histogram": counts.astype(float).tolist(),
        }

    return function


@algorithm("Reducer.frequencyHistogram")
def frequency_histogram(context: Context) -> ReducerValue:
    return _object_reducer("frequencyHistogram", "histogram", _frequencies, True)


@algorithm("Reducer.histogram")
def histogram(context: Context, max_buckets: int | None, min_width: float | None, max_raw: int | None) -> ReducerValue:
    return _object_reducer("histogram", "histogram", _histogram(max_buckets or 256, min_width or 0.0), True)


@algorithm("Reducer.fixedHistogram")
def fixed_histogram(context: Context, low: float, high: float, steps: int, cumulative: bool) -> ReducerValue:
    if not low < high or steps < 1:
        raise invalid("Reducer.fixedHistogram: min must be below max, and steps positive.")

    def function(values: Array, weights: Weights) -> Any:
        kept = (values >= low) & (values < high)
        edges = np.linspace(low, high, steps + 1)
        counts, _ = np.histogram(values[kept], bins=edges, weights=None if weights is None else weights[kept])
        counts = np.cumsum(counts) if cumulative else counts
        return [[float(edge), float(number)] for edge, number in zip(edges[:-1], counts, strict=True)]

    return _object_reducer("fixedHistogram", "histogram", function, True)


@algorithm("Reducer.toList")
def to_list(context: Context, tuple_size: int | None, optional: int) -> ReducerValue:
    size = tuple_size or 1

    def objects(columns: Sequence[Array], valid: BoolArray, weights: AnyWeights) -> list[Any]:
        chosen, _ = _resolve(False, valid, weights)
        picked = [column[chosen].tolist() for column in columns]
        return [picked[0] if tuple_size is None else [list(row) for row in zip(*picked, strict=True)]]

    return ReducerValue(name="toList", inputs=size, outputs=("list",), types=_always(DOUBLE), objects=objects)


def _pairwise(
    name: str, function: Callable[[Array, Array, Array], list[float | None]], outputs: Sequence[str]
) -> ReducerValue:
    def numeric(stacks: Sequence[Array], valid: BoolArray, weights: Weights) -> list[statistics.Result]:
        weight = valid.astype(np.float64) if weights is None else np.where(valid, weights, 0.0)
        results = function(stacks[0].astype(np.float64), stacks[1].astype(np.float64), weight)
        present = valid.sum(axis=0) > 1
        return [(np.where(present, np.nan_to_num(np.asarray(result)), 0.0), present) for result in results]

    return ReducerValue(
        name=name,
        inputs=2,
        outputs=tuple(outputs),
        types=lambda kinds: [DOUBLE] * len(outputs),
        numeric=numeric,
        weighted=True,
    )


def _covariances(x: Array, y: Array, weight: Array) -> tuple[Array, Array, Array, Array, Array]:
    mass = np.maximum(weight.sum(axis=0), 1e-300)
    mean_x, mean_y = (x * weight).sum(axis=0) / mass, (y * weight).sum(axis=0) / mass
    xx = (weight * (x - mean_x) ** 2).sum(axis=0)
    yy = (weight * (y - mean_y) ** 2).sum(axis=0)
    xy = (weight * (x - mean_x) * (y - mean_y)).sum(axis=0)
    return xx, yy, xy, mean_x, mean_y


def _fit(x: Array, y: Array, weight: Array) -> list[Any]:
    xx, _, xy, mean_x, mean_y = _covariances(x, y, weight)
    slope = np.where(xx > 0, xy / np.where(xx > 0, xx, 1.0), 0.0)
    return [slope, mean_y - slope * mean_x]


def _correlate(x: Array, y: Array, weight: Array) -> list[Any]:
    xx, yy, xy, _, _ = _covariances(x, y, weight)
    scale = np.sqrt(xx * yy)
    return [np.where(scale > 0, xy / np.where(scale > 0, scale, 1.0), 0.0)]


@algorithm("Reducer.linearFit")
def linear_fit(context: Context) -> ReducerValue:
    return _pairwise("linearFit", _fit, ("scale", "offset"))


@algorithm("Reducer.pearsonsCorrelation")
def pearsons_correlation(context: Context) -> ReducerValue:
    return _pairwise("pearsonsCorrelation", _correlate, ("correlation",))


@algorithm("Reducer.combine")
def combine(context: Context, first: ReducerValue, second: ReducerValue, prefix: str, shared: bool) -> ReducerValue:
    outputs = [*first.outputs]
    for name in (prefix + output for output in second.outputs):
        if name in outputs:
            raise invalid(f"Reducer.combine: Duplicate output name '{name}'.")
        outputs.append(name)
    if shared and first.inputs != second.inputs:
        raise invalid("Reducer.combine: With sharedInputs both reducers must have the same number of inputs.")
    split = 0 if shared else first.inputs

    def parts(columns: Sequence[Array]) -> tuple[Sequence[Array], Sequence[Array]]:
        return columns[: first.inputs], columns[split : split + second.inputs]

    def weights_for(reducer: ReducerValue, weights: Weights) -> Weights:
        return weights if reducer.weighted else None

    def numeric(columns: Sequence[Array], valid: BoolArray, weights: Weights) -> list[statistics.Result]:
        left, right = parts(columns)
        assert first.numeric is not None
        assert second.numeric is not None
        return first.numeric(left, valid, weights_for(first, weights)) + second.numeric(
            right, valid, weights_for(second, weights)
        )

    def objects(columns: Sequence[Array], valid: BoolArray, weights: AnyWeights) -> list[Any]:
        left, right = parts(columns)
        return first.reduce_values(left, valid, weights) + second.reduce_values(right, valid, weights)

    def types(kinds: Sequence[PixelType]) -> list[PixelType]:
        return first.types(kinds[: first.inputs]) + second.types(kinds[split : split + second.inputs])

    return ReducerValue(
        name=f"combine({first.name},{second.name})",
        inputs=first.inputs if shared else first.inputs + second.inputs,
        outputs=tuple(outputs),
        types=types,
        numeric=numeric if first.numeric is not None and second.numeric is not None else None,
        objects=objects,
        weighted=first.weighted or second.weighted,
    )


@algorithm("Reducer.repeat")
def repeat(context: Context, reducer: ReducerValue, count: int) -> ReducerValue:
    def objects(columns: Sequence[Array], valid: BoolArray, weights: AnyWeights) -> list[Any]:
        runs = [
            reducer.reduce_values(columns[i * reducer.inputs : (i + 1) * reducer.inputs], valid, weights)
            for i in range(count)
        ]
        return [list(output) for output in zip(*runs, strict=True)]

    return ReducerValue(
        name=f"repeat({reducer.name})",
        inputs=reducer.inputs * count,
        outputs=reducer.outputs,
        types=lambda kinds: reducer.types(kinds[: reducer.inputs]),
        objects=objects,
        weighted=reducer.weighted,
    )


@algorithm("Reducer.group")
def group(context: Context, reducer: ReducerValue, field: int, name: str) -> ReducerValue:
    def objects(columns: Sequence[Array], valid: BoolArray, weights: AnyWeights) -> list[Any]:
        keys = columns[field]
        rest = [column for index, column in enumerate(columns) if index != field]
        groups = []
        for key in np.unique(keys[valid]).tolist():
            member = valid & (keys == key)
            outputs = reducer.reduce_values(rest, member, weights)
            groups.append({name: key, **dict(zip(reducer.outputs, outputs, strict=True))})
        return [groups]

    return ReducerValue(
        name=f"group({reducer.name})",
        inputs=reducer.inputs + 1,
        outputs=("groups",),
        types=_always(DOUBLE),
        objects=objects,
        weighted=reducer.weighted,
    )


@algorithm("Reducer.unweighted")
def unweighted(context: Context, reducer: ReducerValue) -> ReducerValue:
    return replace(reducer, weighted=False)


@algorithm("Reducer.splitWeights")
def split_weights(context: Context, reducer: ReducerValue) -> ReducerValue:
    """The second input of every value becomes its weight."""
    if not reducer.weighted:
        raise invalid(f"Reducer.splitWeights: Reducer.{reducer.name} takes no weights.")
    numeric = reducer.numeric
    if numeric is None or reducer.inputs != 1:
        raise invalid("Reducer.splitWeights: Only numeric reducers of a single input are evaluated here.")

    def split(stacks: Sequence[Array], valid: BoolArray, weights: Weights) -> list[statistics.Result]:
        return numeric(stacks[:1], valid, stacks[1].astype(np.float64))

    return replace(reducer, inputs=2, numeric=split, weighted=False)


@algorithm("Reducer.setOutputs")
def set_outputs(context: Context, reducer: ReducerValue, outputs: list[str]) -> ReducerValue:
    if len(outputs) != len(reducer.outputs):
        raise invalid(f"Reducer.setOutputs: Need {len(reducer.outputs)} names, got {len(outputs)}.")
    kept = [index for index, name in enumerate(outputs) if name]
    names = tuple(outputs[index] for index in kept)
    if reducer.numeric is None:

        def objects(columns: Sequence[Array], valid: BoolArray, weights: AnyWeights) -> list[Any]:
            results = reducer.reduce_values(columns, valid, weights)
            return [results[index] for index in kept]

        return replace(reducer, outputs=names, objects=objects)
    numeric = reducer.numeric

    def chosen(stacks: Sequence[Array], valid: BoolArray, weights: Weights) -> list[statistics.Result]:
        results = numeric(stacks, valid, weights)
        return [results[index] for index in kept]

    def types(kinds: Sequence[PixelType]) -> list[PixelType]:
        found = reducer.types(kinds)
        return [found[index] for index in kept]

    return replace(reducer, outputs=names, numeric=chosen, objects=None, types=types)


@algorithm("Reducer.getOutputs")
def get_outputs(context: Context, reducer: ReducerValue) -> list[str]:
    return list(reducer.outputs)


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
