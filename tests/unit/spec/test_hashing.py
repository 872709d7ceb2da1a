"""Hashed numbers: uniform, independent of order, separate per purpose and key."""

from __future__ import annotations

import numpy as np

from m3etl.spec.hashing import hashed_uniform, stream


def test_values_are_fixed_for_ever():
    # A changed number would move every chip of every campaign to another split or year.
    assert hashed_uniform(0, "split", [0, 1, -1]).tolist() == [
        0.8747369902085635,
        0.09163166429825564,
        0.2071328419234959,
    ]
    assert stream(0, "cells", 100).integers(0, 1000, 3).tolist() == [224, 286, 920]


def test_uniform_over_neighbouring_keys_and_independent_of_order():
    row, column = np.divmod(np.arange(40_000), 200)
    values = hashed_uniform(3, "split", row, column)
    counts = np.histogram(values, bins=20, range=(0, 1))[0]
    assert values.min() >= 0
    assert values.max() < 1
    assert np.abs(counts - 2000).max() < 5 * np.sqrt(2000)
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.02
    assert np.array_equal(hashed_uniform(3, "split", row[::-1], column[::-1])[::-1], values)


def test_seed_purpose_and_every_key_matter():
    base = hashed_uniform(1, "a", 5, 6)
    others = [hashed_uniform(2, "a", 5, 6), hashed_uniform(1, "b", 5, 6), hashed_uniform(1, "a", 6, 5)]
    assert base.shape == ()
    assert all(base != other for other in others)
    assert stream(1, "a", 2).random() != stream(1, "a", 3).random()
