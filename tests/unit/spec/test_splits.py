"""Splits: equal blocks, nothing but the own block decides, and a buffer that holds by brute force, round the globe."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3etl.spec.splits import SplitRule, blocks_of, buffer, names_of_splits, split_of_lonlat

rule = SplitRule(seed=3, block_km=100.0, fractions=(0.8, 0.1, 0.1), buffer_km=5.0)
geod = pyproj.Geod(ellps="WGS84")


def points(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    low, high = np.sin(np.radians([-80.0, 84.0]))
    return generator.uniform(-180, 180, count), np.degrees(np.arcsin(generator.uniform(low, high, count)))


@pytest.mark.parametrize("block_km", [20.0, 100.0, 1000.0])
def test_blocks_cover_the_sphere_with_equal_areas_and_are_about_square(block_km: float):
    blocks = blocks_of(block_km)
    area = np.diff(np.sin(np.radians(blocks.edge_lat))) / blocks.columns
    assert np.ptp(area) < 1e-9 * area.mean() * len(area)
    assert blocks.edge_lat[[0, -1]].tolist() == [-90.0, 90.0]
    assert np.sqrt(area.mean() * 2 * np.pi) * 6371.0 == pytest.approx(block_km, rel=0.02)
    inside = (blocks.edge_lat[:-1] > -81) & (blocks.edge_lat[1:] < 85)
    height = np.radians(np.diff(blocks.edge_lat))[inside] * 6371.0
    edge = np.maximum(np.abs(blocks.edge_lat[:-1]), np.abs(blocks.edge_lat[1:]))[inside]
    width = 2 * np.pi * 6371.0 * np.cos(np.radians(edge)) / blocks.columns[inside]
    assert height.min() > 0.75 * block_km
    assert width.min() > 0.6 * block_km


def test_fractions_are_those_asked_for():
    lon, lat = points(60_000)
    free = SplitRule(seed=1, block_km=50.0, fractions=(0.6, 0.3, 0.1), buffer_km=0.0)
    codes = split_of_lonlat(free, lon, lat, 1280.0)
    shares = np.bincount(codes, minlength=4) / len(codes)
    assert np.abs(shares - [0.6, 0.3, 0.1, 0.0]).max() < 0.01
    assert set(names_of_splits(codes).tolist()) == {"train", "val", "test"}


@settings(max_examples=25)
@given(st.integers(0, 2**40), st.integers(1, 40))
def test_a_chips_split_does_not_depend_on_the_others(seed: int, count: int):
    lon, lat = points(40, seed=7)
    some = SplitRule(seed=seed, block_km=100.0, fractions=(0.8, 0.1, 0.1), buffer_km=5.0)
    everything = split_of_lonlat(some, lon, lat, 1280.0)
    assert np.array_equal(split_of_lonlat(some, lon[:count], lat[:count], 1280.0), everything[:count])
    assert np.array_equal(split_of_lonlat(some, lon[::-1], lat[::-1], 1280.0)[::-1], everything)


@pytest.mark.parametrize(
    ("lon", "lat"), [(0.0, 0.0), (180.0, -17.0), (25.0, 70.5), (-60.0, -79.0), (10.0, 83.6), (100.0, 45.0)]
)
def test_chips_of_different_splits_keep_their_distance(lon: float, lat: float):
    """All pairs of chips within 150 km of a place, by ellipsoidal distance."""
    generator = np.random.default_rng(5)
    azimuth, distance = generator.uniform(0, 360, 2500), 150_000 * np.sqrt(generator.random(2500))
    near_lon, near_lat, _ = geod.fwd(np.full(2500, lon), np.full(2500, lat), azimuth, distance)
    reachable = (near_lat <= 84.0) & (near_lat >= -80.0)
    near_lon, near_lat = near_lon[reachable], near_lat[reachable]
    strict = SplitRule(seed=2, block_km=60.0, fractions=(0.5, 0.25, 0.25), buffer_km=5.0)
    codes = split_of_lonlat(strict, near_lon, near_lat, 1280.0)
    assert 0.05 < np.mean(codes == buffer) < 0.8
    used = [np.flatnonzero(codes == code) for code in range(3)]
    closest = np.inf
    for first, second in ((0, 1), (0, 2), (1, 2)):
        a, b = (part.ravel() for part in np.meshgrid(used[first], used[second]))
        # A cheap bound first: pairs more than 0.2 degrees of latitude apart are more than 20 km apart.
        close = np.abs(near_lat[a] - near_lat[b]) < 0.2
        a, b = a[close], b[close]
        if len(a):
            closest = min(closest, geod.inv(near_lon[a], near_lat[a], near_lon[b], near_lat[b])[2].min())
    # Both keep away from the border between their blocks, so centres are twice as far apart as each is from it.
    reach = 5000.0 + np.sqrt(0.5) * 1280.0
    assert 2 * reach <= closest < 2.6 * reach


def test_buffer_is_exactly_the_chips_near_a_foreign_block():
    """Against brute force: the split of points all around each chip, at just under and just over the reach."""
    lon, lat = points(3000, seed=9)
    codes = split_of_lonlat(rule, lon, lat, 1280.0)
    bare = SplitRule(seed=3, block_km=100.0, fractions=(0.8, 0.1, 0.1), buffer_km=0.0)
    own = split_of_lonlat(bare, lon, lat, 1280.0)
    reach_m = rule.reach_km(1280.0) * 1000.0

    def foreign_within(radius_m: float) -> np.ndarray:
        found = np.zeros(len(lon), dtype=bool)
        for share in (0.34, 0.67, 1.0):
            for azimuth in np.arange(0, 360, 15):
                turn, far = np.full(len(lon), azimuth), np.full(len(lon), radius_m * share)
                other_lon, other_lat, _ = geod.fwd(lon, lat, turn, far)
                found |= split_of_lonlat(bare, other_lon, other_lat, 1280.0) != own
        return found

    assert not np.any(foreign_within(reach_m * 0.985) & (codes != buffer))
    assert np.mean((codes == buffer) & ~foreign_within(reach_m * 1.03)) < 0.002
    assert np.array_equal(codes[codes != buffer], own[codes != buffer])


def test_impossible_rules_are_refused_with_every_reason():
    with pytest.raises(ValueError, match=r"block_km .* add up to 1.* buffer_km"):
        SplitRule(seed=0, block_km=0.1, fractions=(0.8, 0.1, 0.2), buffer_km=50.0)
    with pytest.raises(ValueError, match="too small"):
        SplitRule(seed=0, block_km=10.0, fractions=(0.8, 0.1, 0.1), buffer_km=4.0).reach_km(4480.0)
