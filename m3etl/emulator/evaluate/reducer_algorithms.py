"""Reducers of lists, histograms and pairs, and reducers made of other reducers: combine, repeat, group, setOutputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from m3etl.emulator.evaluate import statistics
from m3etl.emulator.evaluate.bands import Array
from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.pixel_types import DOUBLE
from m3etl.emulator.evaluate.projections import BoolArray
from m3etl.emulator.evaluate.reducers import AnyWeights, ReducerValue, Weights, always, resolve
from m3etl.emulator.model import PixelType, invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context


def _object_reducer(name: str, output: str, function: Callable[[Array, Weights], Any], weighted: bool) -> ReducerValue:
    def objects(columns: Sequence[Array], valid: BoolArray, weights: AnyWeights) -> list[Any]:
        chosen, numbers = resolve(weighted, valid, weights)
        return [function(columns[0][chosen], None if numbers is None else numbers[chosen])]

    return ReducerValue(
        name=name, inputs=1, outputs=(output,), types=always(DOUBLE), objects=objects, weighted=weighted
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
        chosen, _ = resolve(False, valid, weights)
        picked = [column[chosen].tolist() for column in columns]
        return [picked[0] if tuple_size is None else [list(row) for row in zip(*picked, strict=True)]]

    return ReducerValue(name="toList", inputs=size, outputs=("list",), types=always(DOUBLE), objects=objects)


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
        types=always(DOUBLE),
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


@algorithm("Reducer.forEach")
def for_each(context: Context, reducer: ReducerValue, names: list[str]) -> ReducerValue:
    """One copy of a reducer per name; outputs take that name, and the reducer's own where it has several."""
    if reducer.inputs != 1 or reducer.numeric is None:
        raise invalid("Reducer.forEach: Only numeric reducers of a single input are evaluated here.")
    numeric = reducer.numeric

    def each(stacks: Sequence[Array], valid: BoolArray, weights: Weights) -> list[statistics.Result]:
        return [result for stack in stacks for result in numeric([stack], valid, weights)]

    single = len(reducer.outputs) == 1
    outputs = names if single else [f"{name}_{output}" for name in names for output in reducer.outputs]
    return replace(
        reducer,
        inputs=len(names),
        outputs=tuple(outputs),
        numeric=each,
        objects=None,
        types=lambda kinds: [output for kind in kinds for output in reducer.types([kind])],
    )
