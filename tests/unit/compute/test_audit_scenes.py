"""Dates, offsets and repeated values of scenes: each planted defect is found, and nothing where there is none."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from m3etl.compute.audit import RepeatedContent, find_in_chips, find_split_anchors, find_wrong_times
from m3etl.spec.catalog import find_array

l2a, l1c = find_array("sentinel2_l2a"), find_array("sentinel2_l1c")


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def checks(spec, stored: npt.NDArray[np.uint16]) -> set[str]:
    names = [f"chip-{index}" for index in range(len(stored))]
    return {item.check for item in find_in_chips(spec, stored, names, ["ok"] * len(stored))}


def dark_scene(spec, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    stored = rng.integers(100, 3000, (2, len(spec.bands), 32, 32)).astype(np.uint16)
    if "B10" in spec.bands:
        stored[:, spec.bands.index("B10")] = rng.integers(5, 60, (2, 32, 32))
    return stored


@pytest.mark.parametrize("spec", [l2a, l1c], ids=lambda spec: spec.name)
def test_the_offset_of_baseline_04_00_is_found(spec) -> None:
    stored = dark_scene(spec, np.random.default_rng(1))
    assert checks(spec, stored) == set()
    assert checks(spec, stored + np.uint16(1000)) == {"offset jump"}


def test_a_bright_desert_has_no_offset() -> None:
    # Floors of a real-looking desert: they rise from blue to short-wave infrared.
    floors = np.array([1093, 1300, 1826, 2506, 2798, 2945, 3057, 3149, 3392, 3407, 4092, 3598], np.uint16)
    noise = np.random.default_rng(2).integers(0, 400, (1, 12, 32, 32)).astype(np.uint16)
    assert checks(l2a, floors[None, :, None, None] + noise) == set()


@pytest.mark.parametrize("level", ["S2L2A", "S2L1C"])
def test_the_real_chip_over_chile_kept_its_offset_and_the_others_did_not(level: str, real_data: Path) -> None:
    import rasterio

    spec = l2a if level == "S2L2A" else l1c
    found = {}
    for path in sorted((real_data / "terramind" / level).glob("*.tif")):
        with rasterio.open(path) as source:
            values = source.read().astype(np.uint16)
        found[path.stem] = "offset jump" in checks(spec, values[None])
    assert found == {"38D_378R_2_3": False, "433D_629L_3_1": True, "637U_59R_1_3": False}


def test_saturated_chip_is_found() -> None:
    stored = dark_scene(l2a, np.random.default_rng(3))
    stored[1, :, :24] = round(l2a.stored_max)
    assert checks(l2a, stored) == {"saturated"}


def test_swapped_dates_are_found() -> None:
    s1 = "COPERNICUS/S1_GRD/S1A_IW_GRDH_1SDV_20200304T054321_20200304T054346_031523_03A1B2_0F0F"
    s2 = "COPERNICUS/S2_SR_HARMONIZED/20200601T103031_20200601T103025_T32TPS"
    right = [("a", s1, ms("2020-03-04T05:43:21")), ("b", s2, ms("2020-06-01T10:35:42"))]
    assert find_wrong_times("any", right) == []
    swapped = [("a", s1, right[1][2]), ("b", s2, right[0][2]), ("c", "ESA/WorldCover/v100/2020", 0)]
    (finding,) = find_wrong_times("any", swapped)
    assert (finding.check, finding.count, finding.example) == ("swapped date", 2, "a")


def test_arrays_that_disagree_on_the_anchor_are_found() -> None:
    anchor = ms("2020-06-01T10:35:42")
    day = 86_400_000
    agreeing = [(anchor, 0.0), (anchor + 3 * day, 3.0), (anchor - day // 2, -0.5)]
    assert find_split_anchors({"a": agreeing, "b": []}) == []
    (finding,) = find_split_anchors({"a": agreeing, "c": [*agreeing[:2], (anchor - day // 2, 0.5)]})
    assert (finding.count, finding.example) == (1, "c")


def test_values_of_another_chip_are_found_over_shards() -> None:
    repeated = RepeatedContent()
    assert repeated.find("sentinel1_asc", {"a": "ab" * 32, "b": "cd" * 32}) == []
    assert repeated.find("worldcover", {"a": "ab" * 32, "b": "ab" * 32}) == [], "sea is sea"
    assert repeated.find("sentinel1_desc", {"c": "ab" * 32}) == [], "another array"
    for array in ("sentinel1_asc_angle", "sentinel1_asc_counts"):
        assert repeated.find(array, {"a": "ab" * 32, "b": "ab" * 32}) == [], "angles and counts of chips are alike"
    (finding,) = repeated.find("sentinel1_asc", {"c": "ab" * 32})
    assert (finding.check, finding.example) == ("duplicated chip", "c")
