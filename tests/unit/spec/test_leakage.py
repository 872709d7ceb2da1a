"""Leakage between splits: counts and the closest pair against brute force, over the antimeridian, and in slices."""

from __future__ import annotations

import numpy as np
import pyproj
from hypothesis import given, settings
from hypothesis import strategies as st

from m3etl.spec.leakage import leakage_of, leakage_of_slice, merged
from m3etl.spec.nearness import chord_of_km, km_of_chord
from m3etl.spec.splits import buffer, test, train, val

geod = pyproj.Geod(ellps="WGS84")


def brute_force(lon: np.ndarray, lat: np.ndarray, split: np.ndarray, chip_m: float) -> np.ndarray:
    """Gap of every pair of different splits in km, infinite for others; ellipsoidal."""
    count = len(lon)
    first, second = (part.ravel() for part in np.meshgrid(np.arange(count), np.arange(count), indexing="ij"))
    _, _, metres = geod.inv(lon[first], lat[first], lon[second], lat[second])
    gap = np.maximum(metres / 1000.0 - np.sqrt(2.0) * chip_m / 1000.0, 0.0).reshape(count, count)
    differ = (split[:, None] != split[None]) & (split[:, None] != buffer) & (split[None] != buffer)
    return np.where(differ & (np.arange(count)[:, None] < np.arange(count)[None]), gap, np.inf)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.sampled_from([(10.0, 45.0), (180.0, 0.0), (20.0, 83.0)]), st.floats(0.0, 12.0))
def test_counts_and_the_closest_pair_are_those_of_brute_force(seed: int, place: tuple[float, float], distance: float):
    generator = np.random.default_rng(seed)
    lon = (place[0] + generator.uniform(-0.5, 0.5, 80) + 180.0) % 360.0 - 180.0
    lat = place[1] + generator.uniform(-0.3, 0.3, 80)
    split = generator.integers(0, 4, 80).astype(np.int8)
    gaps = brute_force(lon, lat, split, 1280.0)
    found = leakage_of(lon, lat, split, chip_m=1280.0, distance_km=distance)
    # Distances are understated by up to 1 %, so a pair can be counted a little early and is never missed.
    reach = 1.811
    assert np.sum(gaps <= distance) <= found.count <= np.sum(gaps + reach <= (distance + reach) * 1.011)
    closest = gaps.min()
    assert (closest + reach) * 0.989 - reach <= found.closest_km <= closest + 1e-6
    assert gaps[min(found.closest), max(found.closest)] <= (closest + reach) * 1.011 - reach + 1e-6


def test_touching_chips_are_at_no_distance_and_pairs_are_told_apart():
    lon = np.array([10.0, 10.0, 10.0, 10.5, 11.0])
    lat = np.array([45.0, 45.04, 45.08, 45.0, 45.0])
    split = np.array([train, test, val, train, buffer], dtype=np.int8)
    found = leakage_of(lon, lat, split, chip_m=4480.0, distance_km=0.0)
    assert found.pairs == {("train", "val"): 0, ("train", "test"): 1, ("val", "test"): 1}
    assert found.closest_km == 0.0
    assert leakage_of(lon, lat, split, chip_m=4480.0, distance_km=4.0).pairs["train", "val"] == 1


def test_without_a_pair_there_is_no_distance():
    found = leakage_of(np.array([1.0]), np.array([2.0]), np.array([train], dtype=np.int8), chip_m=1e3, distance_km=5.0)
    assert (found.count, found.closest, found.closest_km) == (0, (-1, -1), np.inf)


def test_slices_add_up_to_the_whole():
    generator = np.random.default_rng(4)
    lon, lat = generator.uniform(5, 7, 600), generator.uniform(40, 42, 600)
    split = generator.integers(0, 3, 600).astype(np.int8)
    whole = leakage_of(lon, lat, split, chip_m=4480.0, distance_km=6.0)
    total = None
    for south, north in ((40.0, 40.7), (40.7, 41.1), (41.1, 42.1)):
        chosen = (lat >= south) & (lat < north + 0.2)
        part = leakage_of_slice(
            lon[chosen], lat[chosen], split[chosen], lat[chosen] < north, chip_m=4480.0, distance_km=6.0
        )
        total = part if total is None else merged(total, part)
    assert total is not None
    assert total.pairs == whole.pairs
    assert total.closest_km == whole.closest_km


def test_chords_and_kilometres_are_inverse():
    km = np.array([0.0, 1.0, 5000.0])
    assert np.allclose(km_of_chord([chord_of_km(value) for value in km]), km)
