"""Decisions about one chip: they survive JSON, and the size of a request is what the service counts."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from m3etl.spec.catalog import arrays
from m3etl.spec.jobs import (
    ArrayScenes,
    ArrayStatus,
    ChipScenes,
    field_name,
    max_request_bytes,
    request_bytes,
    split_mark,
)

fractions = st.none() | st.floats(0, 1)
scenes = st.builds(
    ArrayScenes,
    status=st.sampled_from(ArrayStatus),
    scene_ids=st.lists(st.text("ab/_", max_size=8), max_size=3).map(tuple),
    time=st.none() | st.just("2019-07-01T10:00:00Z"),
    gap_days=st.none() | st.floats(-400, 400),
    cloud_fraction=fractions,
    valid_fraction=fractions,
    values=st.none() | st.lists(st.none() | st.floats(-1e6, 1e6), max_size=4).map(tuple),
    license=st.sampled_from(["", "CC-BY-4.0"]),
    synthetic=st.booleans(),
)


dated = st.lists(scenes, min_size=1, max_size=4).map(
    lambda found: ArrayScenes.of_periods(dict(zip(("DJF", "MAM", "JJA", "SON"), found, strict=False)))
)


@given(st.dictionaries(st.sampled_from(list(arrays)), scenes | dated, max_size=4), st.none() | st.just("S2/x"))
def test_decisions_survive_json(by_array, anchor):
    chip = ChipScenes(chip_id="c", year=2019, anchor_id=anchor, anchor_time="2019-07-01T00:00:00Z", arrays=by_array)
    assert ChipScenes.from_json(json.loads(json.dumps(chip.to_json()))) == chip


@given(dated)
def test_an_array_of_several_dates_is_made_of_the_scenes_of_all(found):
    again = ArrayScenes.from_json(json.loads(json.dumps(found.to_json(), sort_keys=True)))
    assert list(again.periods) == list(found.periods), "in their order"
    there = {period: item for period, item in found.periods.items() if item.status is ArrayStatus.OK}
    assert found.status is (ArrayStatus.OK if there else ArrayStatus.NO_SCENE)
    assert found.scene_ids == tuple(scene_id for item in there.values() for scene_id in item.scene_ids)
    marks = [split_mark(request_id) for request_id in again.request_ids]
    assert marks == [(period, scene_id) for period, item in there.items() for scene_id in item.scene_ids]


def test_absent_keys_have_their_defaults():
    assert ArrayScenes.from_json({"status": "no_scene"}) == ArrayScenes(status=ArrayStatus.NO_SCENE)


def test_bytes_are_counted_with_one_mask_byte_per_band():
    # 12 bands of uint16 (2 + 1 bytes) and one band of uint8 (1 + 1 bytes) on 128 x 128 pixels.
    assert request_bytes(128, 128, [arrays["sentinel2_l2a"], arrays["worldcover"]]) == 128 * 128 * (12 * 3 + 2)


def test_a_whole_chip_fits_into_one_request():
    rasters = [spec for spec in arrays.values() if spec.native_gsd_m and spec.native_gsd_m < 1000]
    assert request_bytes(128, 128, rasters) < max_request_bytes / 10


def test_a_field_is_named_by_array_and_band():
    assert field_name("sentinel1_asc", "VV") == "sentinel1_asc__VV"
