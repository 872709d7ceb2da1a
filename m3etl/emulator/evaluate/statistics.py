"""Statistics over the first axis of a stack with validity and optional weights: the numerical core of the reducers.

Every function takes values (n, ...), valid (n, ...) and weights (broadcastable to them, or None) and returns float64
or the input dtype (...), together with where the result is valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]
Weights = npt.NDArray[np.float64] | None
Result = tuple[Array, BoolArray]


def _present(valid: BoolArray) -> BoolArray:
    return np.asarray(valid.any(axis=0))


def _weights(valid: BoolArray, weights: Weights) -> Array:
    return valid.astype(np.float64) if weights is None else np.where(valid, weights, 0.0)


def count(values: Array, valid: BoolArray, weights: Weights) -> Result:
    total = valid.sum(axis=0)
    return total, np.ones(total.shape, bool)


def total(values: Array, valid: BoolArray, weights: Weights) -> Result:
    if weights is None and values.dtype.kind in "iu":
        summed = np.where(valid, values, 0).sum(axis=0, dtype=np.int64)
    else:
        summed = np.sum(np.where(valid, values, 0).astype(np.float64) * _weights(valid, weights), axis=0)
    return summed, _present(valid)


def product(values: Array, valid: BoolArray, weights: Weights) -> Result:
    return np.where(valid, values, 1).astype(np.float64).prod(axis=0), _present(valid)


def mean(values: Array, valid: BoolArray, weights: Weights) -> Result:
    weight = _weights(valid, weights)
    mass = weight.sum(axis=0)
    clean = np.where(valid, values, 0).astype(np.float64)
    return (clean * weight).sum(axis=0) / np.where(mass > 0, mass, 1.0), mass > 0


def _moments(values: Array, valid: BoolArray, weights: Weights) -> tuple[Array, Array, BoolArray]:
    weight = _weights(valid, weights)
    mass = weight.sum(axis=0)
    centre, present = mean(values, valid, weights)
    deviation = np.where(valid, values - centre, 0.0)
    return (weight * deviation**2).sum(axis=0), mass, present


def variance(values: Array, valid: BoolArray, weights: Weights) -> Result:
    squares, mass, present = _moments(values, valid, weights)
    return squares / np.where(mass > 0, mass, 1.0), present


def standard_deviation(values: Array, valid: BoolArray, weights: Weights) -> Result:
    spread, present = variance(values, valid, weights)
    return np.sqrt(spread), present


def sample_variance(values: Array, valid: BoolArray, weights: Weights) -> Result:
    squares, mass, _ = _moments(values, valid, weights)
    return squares / np.where(mass > 1, mass - 1, 1.0), mass > 1


def sample_standard_deviation(values: Array, valid: BoolArray, weights: Weights) -> Result:
    spread, present = sample_variance(values, valid, weights)
    return np.sqrt(spread), present


def _standardized(values: Array, valid: BoolArray, weights: Weights, power: int) -> Result:
    weight = _weights(valid, weights)
    mass = weight.sum(axis=0)
    centre, _ = mean(values, valid, weights)
    spread, _ = variance(values, valid, weights)
    deviation = np.where(valid, values - centre, 0.0)
    moment = (weight * deviation**power).sum(axis=0) / np.where(mass > 0, mass, 1.0)
    known = (mass > 0) & (spread > 0)
    return moment / np.where(known, spread, 1.0) ** (power / 2), known


def skew(values: Array, valid: BoolArray, weights: Weights) -> Result:
    return _standardized(values, valid, weights, 3)


def kurtosis(values: Array, valid: BoolArray, weights: Weights) -> Result:
    fourth, known = _standardized(values, valid, weights, 4)
    return fourth - 3.0, known


def _extreme(values: Array, highest: bool) -> Any:
    if values.dtype.kind in "iu":
        info = np.iinfo(values.dtype)
        return info.max if highest else info.min
    return np.inf if highest else -np.inf


def minimum(values: Array, valid: BoolArray, weights: Weights) -> Result:
    if not len(values):
        return _nothing(values)
    return np.where(valid, values, _extreme(values, True)).min(axis=0), _present(valid)


def maximum(values: Array, valid: BoolArray, weights: Weights) -> Result:
    if not len(values):
        return _nothing(values)
    return np.where(valid, values, _extreme(values, False)).max(axis=0), _present(valid)


def _nothing(values: Array) -> Result:
    shape = values.shape[1:]
    return np.zeros(shape, values.dtype), np.zeros(shape, bool)


def _pick(values: Array, valid: BoolArray, index: Array) -> Result:
    if not len(values):
        return _nothing(values)
    return np.take_along_axis(values, index[None], axis=0)[0], _present(valid)


def first(values: Array, valid: BoolArray, weights: Weights) -> Result:
    return _pick(values, valid, valid.argmax(axis=0)) if len(values) else _nothing(values)


def last(values: Array, valid: BoolArray, weights: Weights) -> Result:
    if not len(values):
        return _nothing(values)
    return _pick(values, valid, len(values) - 1 - valid[::-1].argmax(axis=0))


def all_nonzero(values: Array, valid: BoolArray, weights: Weights) -> Result:
    return ((values != 0) | ~valid).all(axis=0).astype(np.uint8), _present(valid)


def any_nonzero(values: Array, valid: BoolArray, weights: Weights) -> Result:
    return ((values != 0) & valid).any(axis=0).astype(np.uint8), _present(valid)


def _bitwise(operation: Any, values: Array, valid: BoolArray, neutral: int) -> Result:
    return operation.reduce(np.where(valid, values, neutral).astype(np.int64), axis=0), _present(valid)


def bitwise_and(values: Array, valid: BoolArray, weights: Weights) -> Result:
    return _bitwise(np.bitwise_and, values, valid, -1)


def bitwise_or(values: Array, valid: BoolArray, weights: Weights) -> Result:
    return _bitwise(np.bitwise_or, values, valid, 0)


def _sorted(values: Array, valid: BoolArray) -> tuple[Array, Array]:
    """Valid values ascending along the last axis, invalid ones behind them; and how many are valid."""
    flat = np.moveaxis(values, 0, -1)
    present = np.moveaxis(valid, 0, -1)
    number = present.sum(axis=-1)
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        ordered = np.where(present, flat, 2.0**20).astype(np.float32)
    else:
        ordered = np.where(present, flat, np.inf)
    ordered = np.ascontiguousarray(ordered)
    ordered.sort(axis=-1)
    return ordered, number


def percentiles(values: Array, valid: BoolArray, weights: Weights, wanted: Sequence[float]) -> list[Result]:
    """Percentiles, linear between the order statistics at positions p/100 (n-1); weighted ones at cumulated weights."""
    if not len(values):
        return [_nothing(values.astype(np.float64)) for _ in wanted]
    if weights is not None:
        return [_weighted_percentile(values, valid, weights, p) for p in wanted]
    ordered, number = _sorted(values, valid)
    results = []
    for p in wanted:
        position = np.maximum(number - 1, 0) * (p / 100.0)
        low = np.floor(position).astype(np.int64)
        high = np.minimum(low + 1, np.maximum(number - 1, 0))
        bottom = np.take_along_axis(ordered, low[..., None], axis=-1)[..., 0].astype(np.float64)
        top = np.take_along_axis(ordered, high[..., None], axis=-1)[..., 0].astype(np.float64)
        present = number > 0
        bottom, top = np.where(present, bottom, 0.0), np.where(present, top, 0.0)
        results.append((bottom + (top - bottom) * (position - low), present))
    return results


def _weighted_percentile(values: Array, valid: BoolArray, weights: Array, percentile: float) -> Result:
    """The smallest value whose cumulated weight reaches the share; half way to the next where it is met exactly."""
    weight = np.where(valid, np.broadcast_to(weights, values.shape), 0.0)
    order = np.argsort(np.where(valid, values, np.inf), axis=0, kind="stable")
    ranked = np.take_along_axis(values, order, axis=0).astype(np.float64)
    cumulated = np.cumsum(np.take_along_axis(weight, order, axis=0), axis=0)
    mass = cumulated[-1]
    share = mass * percentile / 100.0
    index = np.minimum((cumulated < share - 1e-12 * mass).sum(axis=0), len(values) - 1)
    chosen = np.take_along_axis(ranked, index[None], axis=0)[0]
    exact = np.abs(np.take_along_axis(cumulated, index[None], axis=0)[0] - share) <= 1e-12 * mass
    after = np.minimum(index + 1, np.maximum((cumulated < mass * (1 - 1e-12)).sum(axis=0), 0))
    following = np.take_along_axis(ranked, after[None], axis=0)[0]
    return np.where(exact, (chosen + following) / 2, chosen), mass > 0


def mode(values: Array, valid: BoolArray, weights: Weights) -> Result:
    """The most common value; the smallest of several."""
    if not len(values) or not valid.any():
        return _nothing(values)
    classes = _few_classes(values, valid)
    if classes is None:
        return _mode_by_sorting(values, valid, weights)
    best = np.zeros(values.shape[1:], values.dtype)
    most = np.zeros(values.shape[1:])
    for value in classes:
        matches = (values == value) & valid
        found = matches.sum(axis=0) if weights is None else np.where(matches, weights, 0.0).sum(axis=0)
        better = found > most
        best[better] = value
        most[better] = found[better]
    return best, _present(valid)


def _few_classes(values: Array, valid: BoolArray) -> Array | None:
    """The distinct valid values in ascending order if they are few."""
    if values.dtype.itemsize == 1 and values.dtype.kind in "iu":
        counts = np.bincount(values[valid].astype(np.int64) + 128, minlength=1)
        classes = np.flatnonzero(counts) - 128
        return classes if classes.size <= 32 else None
    sample = np.unique(values[valid][:4096])
    if sample.size > 32:
        return None
    classes = np.unique(values[valid])
    return classes if classes.size <= 32 else None


def _mode_by_sorting(values: Array, valid: BoolArray, weights: Weights) -> Result:
    key = np.where(valid, values.astype(np.float64), np.inf)
    order = np.argsort(key, axis=0, kind="stable")
    ranked = np.take_along_axis(key, order, axis=0)
    weight = np.take_along_axis(np.broadcast_to(_weights(valid, weights), key.shape), order, axis=0)
    best = np.zeros(values.shape[1:])
    most = np.zeros(values.shape[1:])
    run = np.zeros(values.shape[1:])
    previous = np.full(values.shape[1:], np.nan)
    for layer, mass in zip(ranked, weight, strict=True):
        run = np.where(layer == previous, run, 0.0) + mass
        better = run > most
        best = np.where(better, layer, best)
        most = np.where(better, run, most)
        previous = layer
    return best.astype(values.dtype), _present(valid)


def circular_mean(values: Array, valid: BoolArray, weights: Weights) -> Result:
    weight = _weights(valid, weights)
    sine = (np.sin(np.where(valid, values, 0.0)) * weight).sum(axis=0)
    cosine = (np.cos(np.where(valid, values, 0.0)) * weight).sum(axis=0)
    return np.arctan2(sine, cosine), weight.sum(axis=0) > 0


def count_distinct(values: Array, valid: BoolArray, weights: Weights) -> Result:
    ordered, number = _sorted(values, valid)
    changes = (ordered[..., 1:] != ordered[..., :-1]) & (np.arange(1, ordered.shape[-1]) < number[..., None])
    return changes.sum(axis=-1) + (number > 0), np.ones(number.shape, bool)
