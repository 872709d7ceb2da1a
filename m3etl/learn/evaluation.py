"""Probes of frozen features: nearest neighbours and a linear classifier, swept on validation chips and scored once on
the whole test set, with bootstrap intervals."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m3etl.errors import NothingSelectedError

neighbour_counts = (1, 3, 5, 10, 20, 50)
inverse_regularisations = tuple(float(10.0**power) for power in np.arange(-4, 3.1, 0.5))
resamples = 1000
folds = 5
small_problem = 10_000_000  # numbers in the training features
least_chips = 2  # of training chips and of classes among them

Features = NDArray[np.float32]
Labels = NDArray[np.int64]
Chosen = int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Accuracy and macro-F1 over a whole test set with 95 % bootstrap intervals; chosen: the swept value that was used.

    macro_f1: mean over the classes that occur in the test set. selected_on, tested_on: where the chips came from.
    """

    probe: str
    accuracy: float
    accuracy_interval: tuple[float, float]
    macro_f1: float
    macro_f1_interval: tuple[float, float]
    chosen: Chosen
    train_chips: int
    test_chips: int
    classes: int
    selected_on: str
    tested_on: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFeatures:
    """Features (n, d) and labels (n,) of the chips of one split: class numbers, or float64 for a regression."""

    x: Features
    y: NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Labelled chips to fit, to choose (None: by cross-validation of train) and to test on, features standardised."""

    train: LabelledFeatures
    val: LabelledFeatures | None
    test: LabelledFeatures
    selected_on: str
    tested_on: str

    @property
    def fitting(self) -> LabelledFeatures:
        """What the chosen probe is fitted on: train and val together."""
        return self.train if self.val is None else together(self.train, self.val)


def score_probes(splits: Mapping[str, LabelledFeatures], *, seed: int) -> list[Score]:
    """Both probes on one kind of features and one label. splits: train, and val or test or both; -1 labels are dropped.

    The swept value is chosen on val (by cross-validation of train if val must serve as the test set or is empty); then
    the probe is fitted on train and val together. NothingSelectedError where there is too little to fit or to test.
    """
    known = {name: _known(part) for name, part in splits.items()}
    train = known.get("train")
    if train is None or len(train.y) < least_chips or len(np.unique(train.y)) < least_chips:
        raise NothingSelectedError("fewer than two labelled classes among the training chips")
    shares = share_out(known)
    with threads_for(shares.train.x):
        return [_scored(probe, shares, seed) for probe in ("knn", "linear")]


def share_out(known: Mapping[str, LabelledFeatures]) -> Shares:
    """The splits, each with labelled chips only and `train` among them, in their parts: without test chips those of val
    are tested. NothingSelectedError where neither has any.
    """
    train, val, test = known["train"], known.get("val"), known.get("test")
    selected_on, tested_on = "val", "test"
    if test is None or not len(test.y):
        test, val, tested_on = val, None, "val"
    if test is None or not len(test.y):
        raise NothingSelectedError("no labelled chip in the validation and test splits")
    if val is None or not len(val.y):
        val, selected_on = None, f"{folds}-fold cross-validation of train"
    centre, spread = train.x.mean(axis=0), train.x.std(axis=0)

    def standardised(part: LabelledFeatures) -> LabelledFeatures:
        return LabelledFeatures(x=_standardised(part.x, centre, spread), y=part.y)

    return Shares(
        train=standardised(train),
        val=None if val is None else standardised(val),
        test=standardised(test),
        selected_on=selected_on,
        tested_on=tested_on,
    )


def _scored(probe: str, shares: Shares, seed: int) -> Score:
    chosen = _swept(probe, shares.train, shares.val, seed)
    fitting, test = shares.fitting, shares.test
    measured = measure(test.y, _predicted(probe, chosen, fitting, test.x), seed=seed)
    return Score(
        probe=probe,
        chosen=chosen,
        train_chips=len(fitting.y),
        test_chips=len(test.y),
        classes=len(np.unique(fitting.y)),
        **measured,
        selected_on=shares.selected_on,
        tested_on=shares.tested_on,
    )


def majority_accuracy(splits: Mapping[str, LabelledFeatures], tested_on: str) -> float:
    """Accuracy of always answering the most frequent class of the training chips."""
    train, test = _known(splits["train"]), _known(splits[tested_on])
    return float(np.mean(test.y == np.bincount(train.y).argmax()))


def measure(truth: Labels, predicted: Labels, *, seed: int) -> dict[str, Any]:
    """accuracy, macro_f1 and their 95 % intervals from resampling the test chips with replacement."""
    _, codes = np.unique(np.concatenate([truth, predicted]), return_inverse=True)
    true, guess = codes[: len(truth)], codes[len(truth) :]
    size = int(codes.max()) + 1
    pairs = true * size + guess
    generator = np.random.default_rng(seed)
    drawn = [_scores(pairs[generator.integers(0, len(pairs), len(pairs))], size) for _ in range(resamples)]
    accuracy, macro_f1 = _scores(pairs, size)
    low, high = np.percentile(np.array(drawn), (2.5, 97.5), axis=0)
    return {
        "accuracy": accuracy,
        "accuracy_interval": (float(low[0]), float(high[0])),
        "macro_f1": macro_f1,
        "macro_f1_interval": (float(low[1]), float(high[1])),
    }


def _scores(pairs: NDArray[np.int64], size: int) -> tuple[float, float]:
    confusion = np.bincount(pairs, minlength=size * size).reshape(size, size)
    right, truth, guesses = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    occurring = truth > 0
    f1 = 2 * right[occurring] / (truth[occurring] + guesses[occurring])
    return float(right.sum() / len(pairs)), float(f1.mean())


def _swept(probe: str, train: LabelledFeatures, val: LabelledFeatures | None, seed: int) -> Chosen:
    """The value with the best accuracy; of equals the first, that is fewer neighbours or stronger regularisation."""
    candidates: Sequence[Chosen] = inverse_regularisations if probe == "linear" else neighbour_counts
    if val is not None:
        accuracies = [float(np.mean(_predicted(probe, value, train, val.x) == val.y)) for value in candidates]
    else:
        parts = np.array_split(np.random.default_rng(seed).permutation(len(train.y)), min(folds, len(train.y)))
        accuracies = [_cross_validated(probe, value, train, parts) for value in candidates]
    return candidates[int(np.argmax(accuracies))]


def _cross_validated(probe: str, value: Chosen, data: LabelledFeatures, parts: Sequence[NDArray[np.int64]]) -> float:
    right = 0
    for held_out in parts:
        kept = np.setdiff1d(np.arange(len(data.y)), held_out)
        fitting = LabelledFeatures(x=data.x[kept], y=data.y[kept])
        right += int(np.sum(_predicted(probe, value, fitting, data.x[held_out]) == data.y[held_out]))
    return right / len(data.y)


def _predicted(probe: str, value: Chosen, fitting: LabelledFeatures, x: Features) -> Labels:
    if len(np.unique(fitting.y)) == 1:
        return np.full(len(x), fitting.y[0])
    if probe == "knn":
        return _neighbours(int(value), fitting, x)
    return _linear(float(value), fitting, x)


def _neighbours(count: int, fitting: LabelledFeatures, x: Features) -> Labels:
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(min(count, len(fitting.y)), metric="cosine", algorithm="brute")
    return np.asarray(model.fit(fitting.x, fitting.y).predict(x))


def _linear(inverse_regularisation: float, fitting: LabelledFeatures, x: Features) -> Labels:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    fitted, x = in_span(fitting.x, x)
    model = LogisticRegression(C=inverse_regularisation, max_iter=300, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # weak regularisation of separable classes has no optimum
        return np.asarray(model.fit(fitted, fitting.y).predict(x))


def in_span(fitting: Features, x: Features) -> tuple[Features, Features]:
    """Coordinates in the span of the centred training features: the optimum of an L2 penalty lies in it, so with fewer
    chips than features the fit is the same and much cheaper."""
    if len(fitting) >= fitting.shape[1]:
        return fitting, x
    centre = fitting.mean(axis=0)
    axes = np.linalg.svd(fitting - centre, full_matrices=False)[2]
    return (fitting - centre) @ axes.T, (x - centre) @ axes.T


def threads_for(x: Features) -> Any:
    """One BLAS thread for small problems, where waiting threads cost more than they compute."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    return threadpool_limits(limits=1 if x.size < small_problem else None)


def _known(part: LabelledFeatures) -> LabelledFeatures:
    known = part.y >= 0
    return LabelledFeatures(x=part.x[known], y=part.y[known])


def together(one: LabelledFeatures, other: LabelledFeatures) -> LabelledFeatures:
    """The chips of two splits as one."""
    return LabelledFeatures(x=np.concatenate([one.x, other.x]), y=np.concatenate([one.y, other.y]))


def _standardised(x: Features, centre: Features, spread: Features) -> Features:
    return ((x - centre) / np.where(spread > 1e-6, spread, 1.0)).astype(np.float32)
