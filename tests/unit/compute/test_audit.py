"""Each defect is planted and found; a clean set has no finding."""

from __future__ import annotations

import numpy as np
import pytest

from m3etl.compute.audit import find_in_chips, find_leaks, find_overlaps
from m3etl.spec.catalog import arrays

ids = ("a", "b", "c")


def checks(findings):
    return {finding.check: finding for finding in findings}


def clean_reflectance():
    rng = np.random.default_rng(0)
    return rng.integers(300, 4000, (3, 12, 8, 8)).astype(np.uint16)


def test_clean_chips_have_no_finding():
    assert find_in_chips(arrays["sentinel2_l2a"], clean_reflectance(), ids, ["ok"] * 3) == []


def test_partly_observed_chip_is_clean():
    stored = clean_reflectance()
    stored[1, :, :4] = 65535
    assert find_in_chips(arrays["sentinel2_l2a"], stored, ids, ["ok"] * 3) == []


def test_blank_constant_and_unexplained_chips_are_found():
    stored = clean_reflectance()
    stored[0] = 65535
    stored[1] = 1000
    found = checks(find_in_chips(arrays["sentinel2_l2a"], stored, ids, ["ok", "ok", "no_scene"]))
    assert set(found) == {"blank", "constant", "unexplained data"}
    assert (found["blank"].example, found["constant"].example, found["unexplained data"].example) == ids


def test_code_outside_the_class_table_is_found():
    stored = np.full((3, 1, 4, 4), 10, np.uint8)
    stored[2, 0, 0, 0] = 11
    found = checks(find_in_chips(arrays["worldcover"], stored, ids, ["ok"] * 3))
    assert set(found) == {"unknown class"}
    assert found["unknown class"].example == "c"


def test_value_outside_the_physical_range_is_found():
    stored = np.full((3, 1, 4, 4), 100, np.int16)
    stored[1, 0, 2, 2] = 9100
    found = checks(find_in_chips(arrays["aster_slope"], stored, ids, ["ok"] * 3))
    assert set(found) == {"out of range"}
    assert found["out of range"].count == 1


def test_missing_float_values_are_no_defect():
    stored = np.full((3, 9), 280.0, np.float32)
    stored[1] = np.nan
    assert find_in_chips(arrays["era5_temperature"], stored, ids, ["ok", "no_scene", "ok"]) == []


def plan(xmin, split=("train", "test"), lon=(10.0, 12.0)):
    xmin = np.asarray(xmin, float)
    zeros = np.zeros(len(xmin))
    return {
        "chip_id": np.array([f"chip{index}" for index in range(len(xmin))]),
        "epsg": np.full(len(xmin), 32632),
        "xmin": xmin,
        "xmax": xmin + 1280,
        "ymin": zeros,
        "ymax": zeros + 1280,
        "lon": np.asarray(lon, float),
        "lat": np.full(len(xmin), 50.0),
        "split": np.asarray(split),
    }


@pytest.mark.parametrize(("shift", "overlaps"), [(1280, 0), (1279, 1), (0, 1)])
def test_overlap_is_found_to_the_metre(shift, overlaps):
    assert len(find_overlaps(plan([0, shift]))) == overlaps


def test_duplicate_chip_is_found():
    table = plan([0, 1280])
    table["chip_id"] = np.array(["same", "same"])
    assert "duplicate chip" in checks(find_overlaps(table))


def test_chips_that_touch_leak_whatever_their_size():
    """Side by side, chips of 20 km have centres 20 km apart and no ground between them."""
    table = plan([0, 20_000], split=("train", "test"), lon=(10.0, 10.18))
    table["xmax"] = table["xmin"] + 20_000.0
    assert [finding.count for finding in find_leaks(table, 5.0)] == [1]


@pytest.mark.parametrize(
    ("lon", "split", "leaks"),
    [
        ((10.0, 10.05), ("train", "test"), 1),
        ((10.0, 10.05), ("train", "train"), 0),
        ((10.0, 10.05), ("train", "buffer"), 0),
        ((10.0, 10.2), ("train", "test"), 0),
        ((179.99, -179.99), ("val", "test"), 1),
    ],
)
def test_leak_is_found_across_splits_only(lon, split, leaks):
    assert len(find_leaks(plan([0, 5000], split=split, lon=lon), 5.0)) == leaks
