"""Regressions on frozen features: nearest neighbours and ridge, swept on validation chips and scored once on the whole
test set, with bootstrap intervals. The counterpart of the classifiers in `evaluation`, for labels that are numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m3etl.errors import NothingSelectedError
from m3etl.learn.evaluation import (
    Chosen,
    Features,
    LabelledFeatures,
    folds,
    in_span,
    neighbour_counts,
    resamples,
    share_out,
    threads_for,
)

ridge_strengths = tuple(float(10.0**power) for power in np.arange(4, -3.1, -0.5))

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressionScore:
    """R2 (1 - squared error / variance of the test labels) with a 95 % bootstrap interval, and the root mean squared
    error in the label's own units. chosen: the swept value; selected_on, tested_on: where the chips came from.
    """

    probe: str
    r2: float
    r2_interval: tuple[float, float]
    rmse: float
    chosen: Chosen
    train_chips: int
    test_chips: int
    selected_on: str
    tested_on: str


def score_regressions(splits: Mapping[str, LabelledFeatures], *, seed: int) -> list[RegressionScore]:
    """Both probes on one kind of features and one label of numbers, as `score_probes` does for classes; chips with a
    label that is not finite are dropped. NothingSelectedError where the labels of a part do not vary.
    """
    known = {name: _known(part) for name, part in splits.items()}
    if "train" not in known or len(np.unique(known["train"].y)) < 2:
        raise NothingSelectedError("fewer than two different numbers among the training chips")
    shares = share_out(known)
    if len(np.unique(shares.test.y)) < 2:
        raise NothingSelectedError(f"fewer than two different numbers in the split {shares.tested_on}")
    fitting, test = shares.fitting, shares.test
    scores = []
    with threads_for(shares.train.x):
        for probe in ("knn", "linear"):
            chosen = _swept(probe, shares.train, shares.val, seed)
            predicted = _predicted(probe, chosen, fitting, test.x)
            r2, interval = r2_with_interval(test.y, predicted, seed=seed)
            scores.append(
                RegressionScore(
                    probe=probe,
                    r2=r2,
                    r2_interval=interval,
                    rmse=float(np.sqrt(np.mean((test.y - predicted) ** 2))),
                    chosen=chosen,
                    train_chips=len(fitting.y),
                    test_chips=len(test.y),
                    selected_on=shares.selected_on,
                    tested_on=shares.tested_on,
                )
            )
    return scores


def r2_with_interval(truth: Numbers, predicted: Numbers, *, seed: int) -> tuple[float, tuple[float, float]]:
    """R2 and its 95 % interval from resampling the test chips; draws whose labels do not vary are left out."""
    draws = np.random.default_rng(seed).integers(0, len(truth), (resamples, len(truth)))
    drawn = _r2(truth[draws], predicted[draws])
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return float(_r2(truth[None], predicted[None])[0]), (float(low), float(high))


def _r2(truth: Numbers, predicted: Numbers) -> Numbers:
    error = ((truth - predicted) ** 2).sum(axis=1)
    variance = ((truth - truth.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    share: Numbers = np.divide(error, variance, out=np.full(len(truth), np.nan), where=variance > 0)
    return 1.0 - share


def _swept(probe: str, train: LabelledFeatures, val: LabelledFeatures | None, seed: int) -> Chosen:
    """The value with the least squared error; of equals the first, that is fewer neighbours or a stronger penalty."""
    candidates: Sequence[Chosen] = ridge_strengths if probe == "linear" else neighbour_counts
    if val is not None:
        errors = [_error(probe, value, train, val) for value in candidates]
    else:
        parts = np.array_split(np.random.default_rng(seed).permutation(len(train.y)), min(folds, len(train.y)))
        errors = [_cross_validated(probe, value, train, parts) for value in candidates]
    return candidates[int(np.argmin(errors))]


def _cross_validated(probe: str, value: Chosen, data: LabelledFeatures, parts: Sequence[NDArray[np.int64]]) -> float:
    total = 0.0
    for held_out in parts:
        kept = np.setdiff1d(np.arange(len(data.y)), held_out)
        fitting, rest = (LabelledFeatures(x=data.x[rows], y=data.y[rows]) for rows in (kept, held_out))
        total += _error(probe, value, fitting, rest) * len(held_out)
    return total / len(data.y)


def _error(probe: str, value: Chosen, fitting: LabelledFeatures, rest: LabelledFeatures) -> float:
    return float(np.mean((_predicted(probe, value, fitting, rest.x) - rest.y) ** 2))


def _predicted(probe: str, value: Chosen, fitting: LabelledFeatures, x: Features) -> Numbers:
    model: Any
    if probe == "knn":
        from sklearn.neighbors import KNeighborsRegressor

        model = KNeighborsRegressor(min(int(value), len(fitting.y)), metric="cosine", algorithm="brute")
        return np.asarray(model.fit(fitting.x, fitting.y).predict(x), dtype=np.float64)
    from sklearn.linear_model import Ridge

    fitted, x = in_span(fitting.x, x)
    model = Ridge(alpha=float(value), solver="svd")
    return np.asarray(model.fit(fitted.astype(np.float64), fitting.y).predict(x), dtype=np.float64)


def _known(part: LabelledFeatures) -> LabelledFeatures:
    known = np.isfinite(part.y)
    return LabelledFeatures(x=part.x[known], y=part.y[known])
