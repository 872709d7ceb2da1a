"""Exact sums against arithmetic with fractions; parts equal the whole to the last bit, in any order."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3etl.compute.moments import Moments, moments_of, moments_of_table, most_values, unit_bits

single = st.floats(width=32, allow_nan=False, allow_infinity=False)


def exact(values):
    numbers = [Fraction(value) for value in values.tolist()]
    return sum(numbers, Fraction()), sum((number * number for number in numbers), Fraction())


@given(st.lists(single, min_size=1, max_size=60))
def test_float_sums_are_exact(numbers):
    values = np.array(numbers, dtype=np.float32)
    found = moments_of(values)
    total, squares = exact(values)
    assert Fraction(found.total, 1 << unit_bits) == total
    assert Fraction(found.squares, 1 << 2 * unit_bits) == squares
    assert (found.low, found.high, found.count) == (values.min(), values.max(), len(numbers))


@given(st.sampled_from(["int32", "uint32", "int16", "uint8"]), st.integers(0, 9), st.integers(1, 50))
def test_integer_sums_are_exact(dtype, seed, count):
    limits = np.iinfo(dtype)
    values = np.random.default_rng(seed).integers(limits.min, limits.max, count, dtype=dtype, endpoint=True)
    found = moments_of(values)
    assert found.total == sum(values.tolist()) << unit_bits
    assert found.squares == sum(value * value for value in values.tolist()) << 2 * unit_bits
    table, counts = np.unique(values, return_counts=True)
    assert moments_of_table(table.astype(np.int64), counts) == found


@given(st.lists(single, min_size=1, max_size=40), st.lists(st.integers(0, 40), max_size=3), st.randoms())
def test_parts_in_any_order_are_the_whole(numbers, cuts, random):
    values = np.array(numbers, dtype=np.float32)
    edges = [0, *sorted(cuts), len(numbers)]
    parts = [moments_of(values[low:high]) for low, high in itertools.pairwise(edges)]
    random.shuffle(parts)
    whole = moments_of(values)
    assert sum(parts, Moments()) == whole
    assert whole.mean() == pytest.approx(math.fsum(values.tolist()) / values.size, rel=1e-15, abs=1e-300)


def test_deviation_does_not_cancel():
    values = np.array([16_777_215, 16_777_216], dtype=np.float32)
    assert moments_of(values).deviation() == 0.5
    assert moments_of(np.full(1000, 1e30, np.float32)).deviation() == 0.0


def test_a_full_block_of_the_largest_mantissas_is_exact():
    values = np.full(most_values, np.nextafter(np.float32(2), np.float32(0)))
    found, largest = moments_of(values), 0xFFFFFF
    assert found.total == (largest * most_values << unit_bits) >> 23
    assert found.squares == (largest**2 * most_values << 2 * unit_bits) >> 46
    with pytest.raises(ValueError, match="at a time"):
        moments_of(np.zeros(most_values + 1, np.float32))


def test_nothing_has_no_moments():
    assert moments_of(np.empty(0, np.float32)) == Moments()
    assert moments_of_table(np.empty(0, np.int64), np.empty(0, np.int64)).count == 0
