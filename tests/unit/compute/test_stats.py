"""Statistics: equal to numpy on the values themselves, exact for integers; parts merge to the whole in any order."""

from __future__ import annotations

import itertools
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3etl.compute.stats import merge_counts, start_counts, summarise
from m3etl.spec.catalog import arrays as catalogue
from m3etl.spec.modality import Shape, Transform

sentinel2 = catalogue["sentinel2_l2a"]
sentinel1 = catalogue["sentinel1_asc"]
precipitation = catalogue["era5_precipitation"]
wide = replace(catalogue["aster_elevation"], dtype="int32", fill=-(2**31), bands=("a", "b"))
halves = replace(sentinel1, dtype="float16", fill=None, scale=1.0, bands=("a", "b"))
floats = replace(sentinel1, dtype="float32", fill=None, scale=1.0, bands=("a", "b"))
percentiles = {"p01": 1, "p25": 25, "p50": 50, "p75": 75, "p99": 99}


def counted(spec, chips, usable=None):
    counts = start_counts(spec)
    for position, chip in enumerate(chips):
        counts.add(chip, None if usable is None else usable[position])
    return counts


def make_chips(spec, count, seed=0):
    rng = np.random.default_rng(seed)
    shape = (len(spec.bands),) if spec.shape is Shape.VECTOR else (len(spec.bands), 6, 5)
    low = 0 if np.dtype(spec.dtype).kind == "u" or spec is precipitation else -900
    chips = [(low + 2000 * rng.random(shape)).astype(spec.dtype) for _ in range(count)]
    for chip in chips:
        chip[rng.random(shape) < 0.3] = spec.fill_value()
    return chips


@pytest.mark.parametrize(
    "spec", [sentinel2, sentinel1, precipitation, wide, floats, halves], ids=lambda spec: f"{spec.name}-{spec.dtype}"
)
def test_equals_numpy_on_the_physical_values(spec):
    chips = make_chips(spec, 7)
    found = summarise(spec, counted(spec, chips))
    for position, band in enumerate(spec.bands):
        stored = np.concatenate([chip[position].reshape(-1) for chip in chips])
        kept = stored[~np.isnan(stored)] if spec.fill is None else stored[stored != spec.fill]
        physical = kept.astype(np.float64) * spec.scale + spec.offset
        assert found[band]["count"] == kept.size
        expected = {"mean": physical.mean(), "std": physical.std(), "min": physical.min(), "max": physical.max()}
        expected |= {name: np.percentile(physical, percent) for name, percent in percentiles.items()}
        spread = physical.std()
        for name, value in expected.items():
            assert found[band][name] == pytest.approx(value, rel=1e-9, abs=1e-9 * spread), (band, name)


def test_integer_sums_are_exact_far_beyond_float_precision():
    spec = replace(sentinel2, bands=("B1",), scale=1.0)
    counts = start_counts(spec)
    counts.counts[0, 65534] = 10**15
    counts.counts[0, 65532] = 10**15
    found = summarise(spec, counts)["B1"]
    assert found["mean"] == 65533.0
    assert found["std"] == 1.0
    assert found["p50"] == 65533.0
    assert (found["p25"], found["p99"]) == (65532.0, 65534.0)


@settings(max_examples=40)
@given(
    spec=st.sampled_from([sentinel2, sentinel1, precipitation, wide, floats, halves, catalogue["worldcover"]]),
    cuts=st.lists(st.integers(0, 9), max_size=3),
    seed=st.integers(0, 5),
    reverse=st.booleans(),
)
def test_merged_parts_equal_the_whole(spec, cuts, seed, reverse):
    chips = make_chips(spec, 9, seed)
    edges = [0, *sorted(cuts), 9]
    parts = [counted(spec, chips[low:high]) for low, high in itertools.pairwise(edges)]
    if reverse:
        parts.reverse()
    total = start_counts(spec)
    for part in parts:
        total = merge_counts(total, part)
    assert summarise(spec, total) == summarise(spec, counted(spec, chips))


def test_parts_travel_small_and_whole():
    for spec in (sentinel2, sentinel1, precipitation, catalogue["worldcover"]):
        counts = counted(spec, make_chips(spec, 5))
        sent = pickle.dumps(counts)
        assert len(sent) < 60_000
        back = pickle.loads(sent)  # noqa: S301 - our own counts, as a scheduler sends them
        assert summarise(spec, back) == summarise(spec, counts)
        assert summarise(spec, merge_counts(back, counts)) == summarise(spec, merge_counts(counts, counts))


@pytest.fixture(scope="module")
def rainfall():
    """More different numbers than a table holds, as single numbers and counted in three parts."""
    values = np.random.default_rng(0).gamma(2.0, 40.0, (120_000, 3)).astype(np.float32)
    return values, [counted(precipitation, part) for part in np.split(values, [50_000, 110_000])]


def test_many_floats_have_exact_moments_and_a_small_table(rainfall):
    values, (first, second, third) = rainfall
    counts = merge_counts(merge_counts(first, second), third)
    table, times = counts.table(0)
    assert times.sum() == 120_000
    assert table.size < 30_000 < first.table(0)[0].size
    for position, band in enumerate(precipitation.bands):
        found = summarise(precipitation, counts)[band]
        wide = values[:, position].astype(np.float64)
        assert found["mean"] == pytest.approx(wide.mean(), rel=1e-12)
        assert found["std"] == pytest.approx(wide.std(), rel=1e-12)
        assert (found["min"], found["max"]) == (wide.min(), wide.max())
        for name, percent in percentiles.items():
            assert found[name] == pytest.approx(np.percentile(wide, percent), rel=1.3e-4)
        logs = np.log1p(wide / found["log_scale"])
        assert found["log_mean"] == pytest.approx(logs.mean(), abs=1e-5)
        assert found["log_std"] == pytest.approx(logs.std(), abs=1e-5)


def test_the_order_of_parts_does_not_matter_where_tables_are_rounded(rainfall):
    _, parts = rainfall
    found = [
        summarise(precipitation, merge_counts(merge_counts(parts[a], parts[b]), parts[c]))
        for a, b, c in itertools.permutations(range(3))
    ]
    assert all(one == found[0] for one in found)


def test_cloudy_pixels_are_left_out():
    chip = np.stack([np.full((2, 2), 1000 * (band + 1), np.uint16) for band in range(12)])
    chip[:, 0, 0] = 60000
    usable = np.array([[False, True], [True, True]])
    found = summarise(sentinel2, counted(sentinel2, [chip], [usable]))
    assert found["B1"]["count"] == 3
    assert found["B12"]["max"] == pytest.approx(1.2)
    vector = summarise(floats, counted(floats, [np.ones((2, 2, 2), np.float32)], [usable]))
    assert vector["a"]["count"] == 3


def test_nothing_observed_gives_nulls():
    empty = np.full((12, 3, 3), 65535, np.uint16)
    found = summarise(sentinel2, counted(sentinel2, [empty]))["B1"]
    assert found["count"] == 0
    assert found["mean"] is None
    assert found["p99"] is None
    assert summarise(precipitation, start_counts(precipitation))["total_precipitation_sum_year"]["log_std"] is None
    assert json.loads(json.dumps(found)) == found


def test_one_value_has_no_spread():
    found = summarise(precipitation, counted(precipitation, [np.full(3, 0.25, np.float32)]))
    assert found["total_precipitation_sum_month"]["std"] == 0.0
    assert found["total_precipitation_sum_month"]["p01"] == 0.25


def test_classes_are_counted_by_code():
    spec = catalogue["worldcover"]
    chip = np.array([[[10, 10, 255], [95, 100, 10], [255, 255, 20]]], np.uint8)
    assert summarise(spec, counted(spec, [chip, chip])) == {
        "Map": {"count": 12, "codes": {"10": 6, "20": 2, "95": 2, "100": 2}}
    }


@pytest.mark.parametrize("values", [[0.01, 0.02, 0.05, 3.0], [0.0, 0.0, 0.0, 0.3], [0.0, 0.0]])
def test_log_moments(values):
    found = summarise(precipitation, counted(precipitation, [np.full(3, value, np.float32) for value in values]))
    band = found["total_precipitation_sum_year"]
    exact = np.array(values, np.float32).astype(np.float64)
    scale = np.median(exact) or exact.mean() or 1.0
    logs = np.log1p(exact / scale)
    assert band["log_scale"] == pytest.approx(scale)
    assert band["log_mean"] == pytest.approx(logs.mean())
    assert band["log_std"] == pytest.approx(logs.std())
    assert precipitation.transform is Transform.LOG_ZSCORE


@pytest.mark.parametrize("spec", [floats, halves], ids=lambda spec: spec.dtype)
def test_infinite_numbers_are_not_observations(spec):
    found = summarise(spec, counted(spec, [np.array([[[1.0, np.inf]], [[np.nan, -np.inf]]], spec.dtype)]))
    assert (found["a"]["count"], found["b"]["count"]) == (1, 0)


def test_counts_of_different_kinds_do_not_merge():
    with pytest.raises(TypeError, match="different kinds"):
        merge_counts(start_counts(sentinel2), start_counts(precipitation))
