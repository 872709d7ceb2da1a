"""`m3etl validate` as typed: a clean set gives nothing and 0; each planted defect is named, alone, with exit code 3."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from m3etl.campaign import Campaign
from m3etl.cli.main import run
from m3etl.io.plan import read_plan, write_plan
from m3etl.io.store import open_store
from m3etl.spec.catalog import find_array
from tests.fakes.audited import Made, audited_campaign, chips, s1, shifted

optical = find_array("sentinel2_l2a")


def found_by(campaign: Campaign, capsys: pytest.CaptureFixture[str]) -> dict[tuple[str, str], dict]:
    """The findings of the command by check and array; the exit code says whether there are any."""
    code = run(["-C", str(campaign.root), "--json", "validate"])
    document = json.loads(capsys.readouterr().out)
    findings = document["findings"]
    assert code == (3 if findings else 0)
    assert document["failed"] == len(findings)
    assert findings == json.loads((campaign.root / "validate.json").read_text())
    return {(item["check"], item["array"]): item for item in findings}


def test_a_clean_set_has_nothing_to_report_and_its_arrays_are_in_place(tmp_path, capsys):
    campaign = audited_campaign(tmp_path / "c")
    assert found_by(campaign, capsys) == {}
    assert run(["-C", str(campaign.root), "validate"]) == 0
    text = capsys.readouterr().out
    (radar,) = [line.split() for line in text.splitlines() if line.startswith("sentinel1_asc")]
    assert radar[-2:] == ["in", "place"]
    assert int(radar[-3]) >= 50
    assert "findings" in text
    assert "none" in text
    with Image.open(campaign.previews_path / "registration.png") as picture:
        assert picture.width > 400


def test_a_shift_of_0_7_px_is_found(tmp_path, capsys):
    campaign = audited_campaign(tmp_path / "c", shifted("sentinel1_asc", 0.7))
    found = found_by(campaign, capsys)
    assert set(found) == {("registration", "sentinel1_asc")}
    item = found["registration", "sentinel1_asc"]
    assert item["count"] >= 50
    assert float(item["example"].split()[0]) == pytest.approx(0.7, abs=0.15)
    assert run(["-C", str(campaign.root), "validate"]) == 3
    assert "shifted" in capsys.readouterr().out


def test_swapped_dates_are_found(tmp_path, capsys):
    def swap(made: Sequence[Made]) -> None:
        made[4].records["sentinel1_asc"]["scene_ids"] = (s1.replace("20200604T054321", "20200616T054321"),)

    found = found_by(audited_campaign(tmp_path / "c", swap), capsys)
    assert set(found) == {("swapped date", "sentinel1_asc")}
    assert found["swapped date", "sentinel1_asc"]["count"] == 1


def test_arrays_of_one_chip_with_two_anchors_are_found(tmp_path, capsys):
    def swap(made: Sequence[Made]) -> None:
        made[4].records["sentinel1_asc"]["gap_days"] *= -1

    assert set(found_by(audited_campaign(tmp_path / "c", swap), capsys)) == {("anchor", "")}


def test_a_scene_too_far_from_the_anchor_is_found(tmp_path, capsys):
    def late(made: Sequence[Made]) -> None:
        record = made[7].records["sentinel1_asc"]
        record["scene_ids"] = (s1.replace("20200604T", "20200804T"),)
        record["time"] += 61 * 86_400_000
        record["gap_days"] += 61.0

    assert set(found_by(audited_campaign(tmp_path / "c", late), capsys)) == {("time gap", "sentinel1_asc")}


def test_a_chip_that_kept_the_offset_of_baseline_04_00_is_found(tmp_path, capsys):
    def add_1000(made: Sequence[Made]) -> None:
        values = made[9].arrays["sentinel2_l2a"]
        values[values != optical.fill] = (values[values != optical.fill] - 299).clip(1) + 1000

    found = found_by(audited_campaign(tmp_path / "c", add_1000), capsys)
    assert set(found) == {("offset jump", "sentinel2_l2a")}


def test_the_real_chip_over_chile_is_found_among_real_chips(tmp_path, capsys, real_data: Path):
    import rasterio

    def insert(made: Sequence[Made]) -> None:
        for chip, path in zip(made, sorted((real_data / "terramind" / "S2L2A").glob("*.tif")), strict=False):
            with rasterio.open(path) as source:
                chip.arrays["sentinel2_l2a"] = source.read()[:, :64, :64].astype(np.uint16)
            real.append(path.stem)

    real: list[str] = []
    campaign = audited_campaign(tmp_path / "c", insert)
    assert real == ["38D_378R_2_3", "433D_629L_3_1", "637U_59R_1_3"]
    found = found_by(campaign, capsys)
    assert set(found) == {("offset jump", "sentinel2_l2a")}
    item = found["offset jump", "sentinel2_l2a"]
    assert (item["count"], item["example"]) == (1, open_store(campaign.store_path).chip_ids[1])


def _blank(made: Sequence[Made]) -> None:
    made[3].arrays["sentinel2_l2a"][:] = optical.fill


def _saturated(made: Sequence[Made]) -> None:
    made[3].arrays["sentinel2_l2a"][:, :40] = round(optical.stored_max)


def _constant(made: Sequence[Made]) -> None:
    made[3].arrays["sentinel1_asc"][:] = -1200


def _code(made: Sequence[Made]) -> None:
    made[3].arrays["worldcover"][0, 5, 5] = 11


def _repeated(made: Sequence[Made]) -> None:
    made[40].arrays["sentinel2_l2a"] = made[3].arrays["sentinel2_l2a"]


def _steep(made: Sequence[Made]) -> None:
    made[3].arrays["aster_slope"][0, 5, 5] = 9100


def _unexplained(made: Sequence[Made]) -> None:
    made[3].records["worldcover"]["status"] = "no_scene"


@pytest.mark.parametrize(
    ("plant", "check", "array"),
    [
        (_blank, "blank", "sentinel2_l2a"),
        (_saturated, "saturated", "sentinel2_l2a"),
        (_constant, "constant", "sentinel1_asc"),
        (_code, "unknown class", "worldcover"),
        (_repeated, "duplicated chip", "sentinel2_l2a"),
        (_steep, "out of range", "aster_slope"),
        (_unexplained, "unexplained data", "worldcover"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_bad_chip_is_found_by_its_values(tmp_path, capsys, plant, check, array):
    campaign = audited_campaign(tmp_path / "c", plant)
    found = found_by(campaign, capsys)
    assert set(found) == {(check, array)}
    assert found[check, array]["count"] == 1
    assert found[check, array]["example"] in set(open_store(campaign.store_path).chip_ids[[3, 40]])


def test_a_flipped_byte_is_found(tmp_path, capsys):
    campaign = audited_campaign(tmp_path / "c")
    path = open_store(campaign.store_path).shard_path("sentinel1_asc", 0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    assert set(found_by(campaign, capsys)) == {("damaged", "sentinel1_asc")}


def test_chips_on_the_same_ground_are_found(tmp_path, capsys):
    campaign = audited_campaign(tmp_path / "c")
    plan = read_plan(campaign.plan_path)
    plan.loc[5, ["xmin", "xmax"]] += 10.0
    write_plan(campaign.plan_path, plan)
    found = found_by(campaign, capsys)
    assert set(found) == {("overlap", ""), ("place", "")}, "and the store has the chip elsewhere than the plan"
    assert found["overlap", ""]["count"] == found["place", ""]["count"] == 1


def test_a_chip_that_is_planned_twice_is_found(tmp_path, capsys):
    campaign = audited_campaign(tmp_path / "c")
    plan = read_plan(campaign.plan_path)
    pd.concat([plan, plan.iloc[[5]]]).to_parquet(campaign.plan_path, index=False)
    assert set(found_by(campaign, capsys)) == {("duplicate chip", "")}


def test_leaking_splits_are_found(tmp_path, capsys):
    def leak(made: Sequence[Made]) -> None:
        made[5].plan["split"] = "test"

    found = found_by(audited_campaign(tmp_path / "c", leak), capsys)
    assert set(found) == {("leakage", "")}
    assert found["leakage", ""]["count"] == chips // 2 - 1


def test_a_plan_that_was_given_other_splits_after_the_export_is_found(tmp_path, capsys):
    """Training reads the store's split: a plan that says otherwise would hide a leak."""
    campaign = audited_campaign(tmp_path / "c")
    plan = read_plan(campaign.plan_path)
    plan["split"] = "train"
    write_plan(campaign.plan_path, plan)
    found = found_by(campaign, capsys)
    assert set(found) == {("split", "")}
    assert found["split", ""]["count"] == chips // 2
