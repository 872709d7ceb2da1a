"""What is shown and audited of a sealed campaign; each planted defect is found, a clean campaign has none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m3etl.campaign import open_campaign
from m3etl.errors import NothingSelectedError
from m3etl.io.plan import read_plan, write_plan
from m3etl.io.provenance import provenance_file, schema
from m3etl.io.store import open_store
from m3etl.stages.describe import longest_band_list, run_describe
from m3etl.stages.preview import run_preview
from m3etl.stages.summary import SilentProgress
from m3etl.stages.validate import run_validate
from tests.fakes.sealed import names, sealed_campaign


@pytest.fixture
def campaign(tmp_path):
    return sealed_campaign(tmp_path / "c")


def audit(campaign):
    summary = run_validate(campaign, progress=SilentProgress())
    return summary, {(item["check"], item["array"]) for item in summary.facts.get("findings", [])}


def change_records(campaign, shard, change):
    path = provenance_file(campaign.provenance_path, shard)
    frame = change(pq.read_table(path).to_pandas())
    pq.write_table(pa.Table.from_pandas(frame, schema=schema, preserve_index=False), path)


def test_clean_campaign_has_no_finding(campaign):
    summary, found = audit(campaign)
    assert (summary.failed, found, summary.done) == (0, set(), 6)
    assert json.loads((campaign.root / "validate.json").read_text()) == []


def test_flipped_byte_is_found_with_its_array(campaign):
    path = open_store(campaign.store_path).shard_path("worldcover", 0)
    content = bytearray(path.read_bytes())
    content[40] ^= 0xFF
    path.write_bytes(content)
    _, found = audit(campaign)
    assert found == {("damaged", "worldcover")}


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


# The end of a file of pictures is its index, 16 bytes a chip, and the checksum of that; vectors end with their own.
@pytest.mark.parametrize("array", ["sentinel2_l2a", "sentinel1_asc", "worldcover", "era5_temperature"])
@pytest.mark.parametrize("place", ["payload", "index", "checksum"])
def test_a_flipped_byte_is_named_by_file_chip_and_array(campaign, array, place):
    store = open_store(campaign.store_path)
    path = store.shard_path(array, 0)
    size = path.stat().st_size
    flip(path, {"payload": 30, "index": size - 4 - 16 * 3, "checksum": size - 2}[place])
    summary, found = audit(campaign)
    assert found == {("damaged", array)}
    (finding,) = summary.facts["findings"]
    one_chip = place == "payload" and array != "era5_temperature"
    assert finding["count"] == (1 if one_chip else 4)
    assert str(path) in finding["example"]
    assert array in finding["example"]
    assert store.chip_ids[0] in finding["example"]


def test_every_damaged_chip_is_counted_and_the_others_are_audited(campaign):
    store = open_store(campaign.store_path)
    path = store.shard_path("sentinel2_l2a", 0)
    index = zarr_index(path, 4)
    for place in (1, 3):
        flip(path, int(index[place, 0]) + 20)

    def other(frame: pd.DataFrame) -> pd.DataFrame:
        mine = (frame["array"] == "sentinel2_l2a") & frame["chip_id"].isin(store.chip_ids[[0, 1]])
        frame.loc[mine, "checksum"] = "0" * 64
        return frame

    change_records(campaign, 0, other)
    summary, _ = audit(campaign)
    counted = {item["check"]: (item["count"], item["example"]) for item in summary.facts["findings"]}
    assert counted["damaged"][0] == 2
    assert store.chip_ids[1] in counted["damaged"][1]
    assert counted["checksum"] == (1, store.chip_ids[0])


def zarr_index(path, chips):
    """Offset and length of each chunk, as Zarr's sharding codec has them before the last four bytes."""
    return np.frombuffer(path.read_bytes()[-4 - 16 * chips : -4], "<u8").reshape(chips, 2)


def test_value_that_differs_from_its_checksum_is_found(campaign):
    def other(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[(frame["array"] == "aster_elevation") & (frame.index < 14), "checksum"] = "0" * 64
        return frame

    change_records(campaign, 0, other)
    summary, found = audit(campaign)
    assert found == {("checksum", "aster_elevation")}
    assert summary.errors == {"checksum aster_elevation": 2}


def test_lost_record_of_a_shard_is_a_finding(campaign):
    provenance_file(campaign.provenance_path, 1).unlink()
    _, found = audit(campaign)
    assert {("damaged record", ""), ("no record", "")} <= found


def test_missing_and_double_records_are_found(campaign):
    change_records(campaign, 0, lambda frame: pd.concat([frame.iloc[1:], frame.iloc[-1:]]))
    _, found = audit(campaign)
    assert {("no record", ""), ("two records", "")} <= found


def test_scene_beyond_the_gap_is_found(campaign):
    def late(frame: pd.DataFrame) -> pd.DataFrame:
        mine = frame["array"] == "sentinel1_asc"
        frame.loc[mine, "gap_days"] = 31.0
        frame.loc[mine, "time"] += pd.Timedelta(days=29.5)
        return frame

    change_records(campaign, 1, late)
    _, found = audit(campaign)
    assert found == {("time gap", "sentinel1_asc")}


def test_leaking_split_and_swapped_rows_are_found(campaign):
    plan = read_plan(campaign.plan_path)
    plan.loc[0, "split"] = "test"
    plan.loc[[2, 3], "row"] = [3, 2]
    write_plan(campaign.plan_path, plan)
    _, found = audit(campaign)
    assert found == {("leakage", ""), ("row", ""), ("split", "")}


def test_describe_counts_what_was_observed(campaign):
    facts = run_describe(campaign).facts
    rows = {row["array"]: row for row in facts["arrays"]}
    assert facts["chips stored"] == 6
    assert rows["sentinel1_asc"]["chips"] == 5
    assert rows["worldcover"]["chips"] == 6
    assert rows["aster_elevation"]["size"] == "11 px"
    assert rows["sentinel2_l2a"]["bands"].split()[0] == "B1"
    assert max(len(row["bands"]) for row in facts["arrays"]) <= longest_band_list


def test_describe_keeps_the_unused_reserve_apart(campaign, monkeypatch):
    plan = read_plan(campaign.plan_path)
    spare = plan.index[-2:]
    plan.loc[spare, "row"] = -1
    plan.loc[spare, "reserve"] = True
    write_plan(campaign.plan_path, plan)
    monkeypatch.chdir(campaign.root)
    facts = run_describe(open_campaign(Path())).facts
    assert (facts["chips planned"], facts["reserve"]) == (len(plan) - 2, 2)
    assert sum(row["chips"] for row in facts["splits"]) == len(plan) - 2
    assert facts["campaign"] == campaign.root.name


def test_preview_writes_a_picture_of_every_array_and_a_map(campaign):
    summary = run_preview(campaign, progress=SilentProgress())
    written = {path.name for path in campaign.previews_path.iterdir()}
    assert written == {f"{name}.png" for name in names} | {"overview.png", "map.html"}
    assert len(summary.facts["pictures"]) == len(names) + 2
    assert "32632-0320-1563-17312" in (campaign.previews_path / "map.html").read_text()


@pytest.mark.parametrize("run", [run_preview, run_validate])
def test_nothing_exported_yet(tmp_path, run):
    from m3etl.campaign import CampaignConfig, create_campaign

    empty = create_campaign(tmp_path / "empty", CampaignConfig())
    with pytest.raises(NothingSelectedError, match="yet"):
        run(empty, progress=SilentProgress())


def test_swapped_scene_dates_are_found(campaign):
    def other_scene(frame: pd.DataFrame) -> pd.DataFrame:
        mine = frame["array"] == "sentinel2_l2a"
        scene = "COPERNICUS/S2_SR_HARMONIZED/20200601T103031_20200601T103025_T32TPS"
        frame.loc[mine, "scene_ids"] = pd.Series([[scene]] * int(mine.sum()), index=frame.index[mine])
        return frame

    change_records(campaign, 0, other_scene)
    summary, found = audit(campaign)
    assert found == {("swapped date", "sentinel2_l2a")}
    assert summary.errors == {"swapped date sentinel2_l2a": 4}


def test_chip_with_the_values_of_another_is_found(campaign):
    def repeat(frame: pd.DataFrame) -> pd.DataFrame:
        mine = frame[frame["array"] == "sentinel2_l2a"].index
        frame.loc[mine[1], "checksum"] = frame.loc[mine[0], "checksum"]
        return frame

    change_records(campaign, 0, repeat)
    _, found = audit(campaign)
    assert found == {("duplicated chip", "sentinel2_l2a"), ("checksum", "sentinel2_l2a")}
