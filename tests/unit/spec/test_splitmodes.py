"""Splits by bands, ecoregion and held-out region: a function of place, no touching pair across sets, right shares."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from m3etl.spec.lattice import Cells
from m3etl.spec.leakage import leakage_of
from m3etl.spec.splitmodes import (
    BlockSplits,
    Splits,
    band_splits,
    ecoregion_splits,
    held_out_splits,
    split_of_ecoregion,
)
from m3etl.spec.splits import SplitRule, buffer, test, train, val
from m3etl.spec.walltowall import cells_in_region, polygons_lonlat

thirds = (0.6, 0.2, 0.2)
region = shapely.Polygon([(9.5, 44.0), (13.0, 43.6), (14.5, 46.0), (11.0, 47.2)])
halves = np.array(
    [shapely.box(9, 43, 12.03, 48), shapely.box(12.03, 43, 15, 45.31), shapely.box(12.1, 45.31, 15, 48)], object
)
eco_ids = np.array([11, 12, 14])


@pytest.fixture(scope="module")
def chips() -> Cells:
    batches = list(cells_in_region(region, 4480))
    epsg, column, row = (np.concatenate([getattr(b, name) for b in batches]) for name in ("epsg", "column", "row"))
    return Cells(cell_m=4480, epsg=epsg, column=column, row=row)


def ecoregion_of(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    found = np.full(len(lon), -1)
    for eco_id, shape in zip(eco_ids, halves, strict=True):
        found[shapely.contains_xy(shape, lon, lat)] = eco_id
    return found


def codes_of(splits: Splits, chips: Cells) -> np.ndarray:
    lon, lat = chips.centre_lonlat
    return splits.codes(lon, lat, ecoregion_of(lon, lat), 4480.0)


def every_mode(seed: int, buffer_km: float, angle: float) -> list[Splits]:
    return [
        BlockSplits(rule=SplitRule(seed=seed, block_km=60.0, fractions=thirds, buffer_km=buffer_km)),
        band_splits(region, bands=8, angle=angle, fractions=thirds, buffer_km=buffer_km),
        ecoregion_splits(eco_ids, halves, seed=seed, fractions=(0.4, 0.3, 0.3), buffer_km=buffer_km),
        held_out_splits(
            [shapely.Point(12.0, 45.2).buffer(0.7)], seed=seed, block_km=60.0, fractions=thirds, buffer_km=buffer_km
        ),
    ]


@settings(max_examples=12)
@given(st.integers(0, 2**31), st.floats(0.05, 6.0), st.floats(-1.5, 1.5))
def test_no_two_chips_of_different_splits_touch_or_come_closer_than_the_buffer(
    chips: Cells, seed: int, buffer_km: float, angle: float
):
    shapes = polygons_lonlat(chips)
    tree = shapely.STRtree(shapes)
    first, second = tree.query(shapes, predicate="dwithin", distance=1e-4)
    lon, lat = chips.centre_lonlat
    for splits in every_mode(seed, buffer_km, angle):
        codes = codes_of(splits, chips)
        across = (codes[first] != codes[second]) & (codes[first] != buffer) & (codes[second] != buffer)
        assert not across.any(), splits
        assert leakage_of(lon, lat, codes, chip_m=4480.0, distance_km=buffer_km).count == 0, splits


@pytest.mark.parametrize("mode", range(4))
def test_a_chips_split_does_not_depend_on_the_others(chips: Cells, mode: int):
    splits = every_mode(5, 3.0, 0.9)[mode]
    everything = codes_of(splits, chips)
    assert {train, val, test, buffer} >= set(everything.tolist())
    assert np.array_equal(codes_of(splits, chips[::-1])[::-1], everything)
    assert np.array_equal(codes_of(splits, chips[100:200]), everything[100:200])


def test_bands_repeat_train_train_train_test_val_along_the_angle():
    box = shapely.box(0.0, 0.0, 30.0, 20.0)
    lat = np.linspace(0.01, 19.99, 4001)
    lon = np.full_like(lat, 15.0)
    along = band_splits(box, bands=60, angle=0.0, fractions=thirds, buffer_km=0.0)
    codes = along.codes(lon, lat, np.zeros(4001, dtype=np.int64), 4480.0)
    changes = np.flatnonzero(np.diff(codes)) + 1
    order = codes[np.concatenate([[0], changes])].tolist()
    assert order == [train, test, val] * 12
    lengths = np.diff(np.concatenate([[0], changes, [4001]])) / 4001 * 60
    assert lengths.reshape(12, 3) == pytest.approx(np.tile([3.0, 1.0, 1.0], (12, 1)), abs=0.05)
    # At 0.9 rad, the border of a band is a straight line with the slope that geetiles gives it.
    slanted = band_splits(box, bands=60, angle=0.9, fractions=thirds, buffer_km=0.0)
    weight = (np.pi / 2 - 0.9) / (np.pi / 4)
    assert slanted.weights == pytest.approx((1.0, weight))
    step = 30.0 * weight / 20.0
    same = slanted.codes(15.1 - step * (lat - 10.0), lat, np.zeros(4001, dtype=np.int64), 4480.0)
    assert len(set(same.tolist())) == 1
    mirrored = band_splits(box, bands=60, angle=-0.9, fractions=thirds, buffer_km=0.0)
    assert mirrored.weights == pytest.approx((-1.0, weight))
    across = band_splits(box, bands=60, angle=0.3, fractions=thirds, buffer_km=0.0)
    assert across.weights == pytest.approx((0.3 / (np.pi / 4), 1.0))


def test_shares_of_bands_are_those_asked_for_where_there_is_no_buffer(chips: Cells):
    codes = codes_of(band_splits(region, bands=60, angle=0.9, fractions=thirds, buffer_km=0.0), chips)
    assert np.bincount(codes, minlength=4) / len(codes) == pytest.approx([0.6, 0.2, 0.2, 0.0], abs=0.05)


def test_bands_round_the_globe_keep_apart_at_the_antimeridian():
    globe = band_splits(shapely.box(-180, -80, 180, 84), bands=7, angle=1.57, fractions=thirds, buffer_km=5.0)
    lon, lat = np.array([179.99, -179.99, 0.0]), np.array([10.0, 10.0, 10.0])
    codes = globe.codes(lon, lat, np.zeros(3, dtype=np.int64), 1280.0)
    assert codes[:2].tolist() == [buffer, buffer]
    assert codes[2] != buffer


def test_an_ecoregion_is_one_split_and_none_is_buffer(chips: Cells):
    splits = ecoregion_splits(eco_ids, halves, seed=2, fractions=(0.4, 0.3, 0.3), buffer_km=3.0)
    lon, lat = chips.centre_lonlat
    eco_id = ecoregion_of(lon, lat)
    codes = codes_of(splits, chips)
    expected = split_of_ecoregion(2, (0.4, 0.3, 0.3), eco_ids)
    for number, code in zip(eco_ids, expected, strict=True):
        assert set(codes[eco_id == number].tolist()) <= {int(code), buffer}
    assert (codes[eco_id < 0] == buffer).all()
    shares = np.bincount(split_of_ecoregion(1, (0.8, 0.1, 0.1), np.arange(20_000)), minlength=3) / 20_000
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.01)


def test_a_held_out_region_is_all_test_and_nothing_else_is(chips: Cells):
    held = shapely.Point(12.0, 45.2).buffer(0.7)
    splits = held_out_splits([held], seed=1, block_km=60.0, fractions=(0.6, 0.3, 0.1), buffer_km=4.0)
    codes = codes_of(splits, chips)
    inside = shapely.contains_xy(held, *chips.centre_lonlat)
    assert (codes[inside] == test).all()
    assert set(codes[~inside].tolist()) == {train, val, buffer}
    # Train and val keep their proportion of two to one.
    assert splits.blocks.fractions == pytest.approx((2 / 3, 1 / 3, 0.0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: band_splits(region, bands=1, angle=2.0, fractions=(0.5, 0.2, 0.2), buffer_km=-1.0),
            r"bands.*angle.*add up.*buffer",
        ),
        (
            lambda: ecoregion_splits(eco_ids, halves, seed=0, fractions=(1.0, 0.5, -0.5), buffer_km=500.0),
            "negative.*buffer_km",
        ),
        (lambda: held_out_splits([], seed=0, block_km=60.0, fractions=thirds, buffer_km=3.0), "no region"),
        (
            lambda: held_out_splits([region], seed=0, block_km=60.0, fractions=(0, 0, 1.0), buffer_km=3.0),
            "nothing for train",
        ),
    ],
)
def test_impossible_ways_are_refused_with_every_reason(make, words: str):
    with pytest.raises(ValueError, match=words):
        make()
