"""Quotas: sums, the remainder rule, at least one each, and draws that only grow."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from m3etl.spec.quotas import equal_quotas, largest_remainder, quotas_by_area

areas_of = st.lists(st.floats(0.5, 1e6), min_size=1, max_size=30).map(np.array)


@given(st.integers(1, 5000), st.sets(st.integers(0, 13), min_size=1), st.integers(0, 2**40))
def test_biomes_are_equal_within_one_and_only_grow(total: int, chosen: set[int], seed: int):
    biomes = sorted(chosen)
    quotas = equal_quotas(total, biomes, seed)
    assert sum(quotas.values()) == total
    assert max(quotas.values()) - min(quotas.values()) <= 1
    more = equal_quotas(total + 1, biomes, seed)
    assert all(more[biome] >= quotas[biome] for biome in biomes)


@given(areas_of, st.integers(0, 5000), st.integers(0, 2**40))
def test_ecoregions_add_up_and_each_gets_one_when_it_can(areas: np.ndarray, total: int, seed: int):
    keys = np.arange(len(areas))
    quotas = quotas_by_area(total, areas, keys, seed)
    assert quotas.sum() == total
    if total >= len(areas):
        assert quotas.min() >= 1
        large = quotas > 1
        # Among those above the minimum the share follows the area, to within one chip.
        if large.any():
            share = (total - np.sum(~large)) * areas / areas[large].sum()
            assert np.all(np.abs(quotas - share)[large] < 1.0 + np.sum(~large))


def test_largest_remainder_is_hamiltons_method():
    assert largest_remainder(10, np.array([5.0, 3.0, 1.0])).tolist() == [6, 3, 1]
    assert largest_remainder(7, np.array([1.0, 1.0, 1.0])).tolist() == [3, 2, 2]
    assert largest_remainder(0, np.array([1.0, 2.0])).tolist() == [0, 0]
    assert quotas_by_area(100, np.array([1000.0, 500.0, 1.0]), np.arange(3), 0).tolist() == [66, 33, 1]


@given(areas_of, st.integers(0, 29), st.integers(0, 2**40))
def test_small_draws_only_grow(areas: np.ndarray, total: int, seed: int):
    keys = np.arange(len(areas))
    total = min(total, max(len(areas) - 2, 0))
    assert np.all(
        quotas_by_area(total, areas, keys, seed) <= quotas_by_area(min(total + 1, len(areas) - 1), areas, keys, seed)
    )


def test_small_draws_follow_the_area_on_average():
    areas = np.array([8.0, 4.0, 2.0, 1.0, 1.0])
    drawn = np.mean([quotas_by_area(2, areas, np.arange(5), seed) for seed in range(4000)], axis=0)
    assert np.abs(drawn - 2 * areas / areas.sum()).max() < 0.05


def test_an_ecoregions_luck_is_its_own():
    areas, keys = np.array([3.0, 2.0, 2.0]), np.array([7, 8, 9])
    order = np.array([2, 0, 1])
    assert np.array_equal(quotas_by_area(1, areas, keys, 5)[order], quotas_by_area(1, areas[order], keys[order], 5))
