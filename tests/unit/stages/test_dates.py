"""Several dates a chip: each season's scene by the anchor's rule, its passes, its own status; in few requests, through
kills and as an addition."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.earth import FakeEarth, install
from fakes.tasks import FakeTasks
from fakes.tasks import place as cloud_place

from m3etl.campaign import ExportConfig
from m3etl.io.exports import Operation
from m3etl.io.flow import FlowCounts
from m3etl.io.ledger import open_ledger
from m3etl.io.outcomes import Failure, Kind
from m3etl.io.provenance import provenance_file, read_provenance, schema
from m3etl.io.store import open_store
from m3etl.learn.dataset import ChipDataset
from m3etl.spec.catalog import find_array, select_arrays
from m3etl.spec.dates import season_middle, season_window
from m3etl.spec.jobs import ArrayStatus
from m3etl.spec.modality import physical_of
from m3etl.spec.program import seasons
from m3etl.spec.scenes import day_ms, utc_ms
from m3etl.stages import batch
from m3etl.stages.asking import MeteredSession, PlanningRules
from m3etl.stages.planning import ScenePlanner
from m3etl.stages.shardaudit import audit_shard
from m3etl.stages.statistics import measure_store
from m3etl.stages.summary import SilentProgress
from tests.unit.stages.test_export import content, export, make_campaign, make_plan
from tests.unit.stages.test_planning import Book, Grouped, chips_of

names = ("sentinel2_dates", "sentinel2_dates_cloud", "sentinel1_dates_asc", "sentinel1_dates_desc")
modalities = ("sentinel2", "sentinel2_dates", "sentinel1_dates", "month")
specs = tuple(spec for spec in select_arrays(modalities) if spec.name != "sentinel2_l1c")


@pytest.fixture(autouse=True)
def _questions(monkeypatch):
    install(monkeypatch)


def plan(chips, earth, *, journal=None, book=None, seed=4, wanted=specs, block_chips=1, **config):
    book, counts, stop = book or Book(), FlowCounts(), threading.Event()
    rules = PlanningRules(
        specs=tuple(wanted),
        config=ExportConfig(**{"requests_per_second": 10_000.0, "max_attempts": 3, **config}),
        seed=seed,
        years=(2017, 2020),
        must_have_scene=True,
        journal=journal,
        block_chips=block_chips,
        base_wait_s=0.001,
    )
    planner = ScenePlanner(
        rules,
        service=MeteredSession(earth, rules),
        ledger=book,
        counts=counts,
        stop=stop,
    )
    planner.plan(Grouped([chip for chip in chips if chip.chip_id not in book.scenes]), len(chips))
    return book, counts


@pytest.fixture(scope="module")
def planned():
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        return plan(chips_of(1000), FakeEarth())


def test_seasons_belong_to_the_year_of_their_last_month():
    for season in seasons:
        start, end = (datetime.fromtimestamp(moment / 1000, UTC) for moment in season_window(2020, season))
        assert start.day == end.day == 1
        assert (end - start).days in (90, 91, 92)
    assert datetime.fromtimestamp(season_window(2020, "DJF")[0] / 1000, UTC) == datetime(2019, 12, 1, tzinfo=UTC)
    assert (season_window(2020, "DJF")[1] - season_window(2020, "DJF")[0]) / day_ms == 91, "the leap day is in it"
    windows = [season_window(2020, season) for season in seasons]
    assert [end for _, end in windows[:-1]] == [start for start, _ in windows[1:]], "no day twice, none left out"


def test_a_thousand_chips_with_four_dates_take_few_requests(planned):
    book, counts = planned
    assert len(book.scenes) == 1000
    assert counts.requests <= 50, "1.05 requests a chip, the one for its pixels included"


def test_each_season_has_its_own_scene_of_the_anchors_year(planned):
    book, _ = planned
    statuses = set()
    for scenes in book.scenes.values():
        year = int(scenes.anchor_time[:4])
        optical, cloud = scenes.arrays["sentinel2_dates"], scenes.arrays["sentinel2_dates_cloud"]
        assert list(optical.periods) == list(seasons)
        for season, item in optical.periods.items():
            statuses.add(item.status)
            assert cloud.periods[season].status is item.status
            if item.status is not ArrayStatus.OK:
                assert (item.scene_ids, item.time) == ((), None)
                continue
            start, end = season_window(year, season)
            assert start <= utc_ms(item.time) < end
            assert item.gap_days == 0.0
            assert item.cloud_fraction <= 0.1, "by the rule of anchors: cloud over the chip"
            assert cloud.periods[season].scene_ids[-1] == item.scene_ids[0]
        assert optical.scene_ids == tuple(scene for item in optical.periods.values() for scene in item.scene_ids)
        some = any(item.status is ArrayStatus.OK for item in optical.periods.values())
        assert optical.status is (ArrayStatus.OK if some else ArrayStatus.NO_SCENE)
    assert statuses == {ArrayStatus.OK, ArrayStatus.NO_SCENE}


def test_passes_lie_near_the_scene_of_their_season(planned):
    book, _ = planned
    without_anchor = 0
    for scenes in book.scenes.values():
        year = int(scenes.anchor_time[:4])
        for name in ("sentinel1_dates_asc", "sentinel1_dates_desc"):
            for season, item in scenes.arrays[name].periods.items():
                if item.status is not ArrayStatus.OK:
                    continue
                anchor = scenes.arrays["sentinel2_dates"].periods[season]
                if anchor.time is None:
                    without_anchor += 1
                    assert item.gap_days is None
                    assert abs(utc_ms(item.time) - season_middle(year, season)) <= 30 * day_ms
                else:
                    gap = (utc_ms(item.time) - utc_ms(anchor.time)) / day_ms
                    assert abs(gap) <= 30
                    assert item.gap_days == pytest.approx(gap, abs=1e-5)
    assert without_anchor > 100, "radar sees through the clouds of a season without a scene"


def test_decisions_hang_neither_on_batches_nor_on_order():
    chips = chips_of(40)
    together, _ = plan(chips, FakeEarth())
    alone, _ = plan(chips[::-1], FakeEarth(), plan_batch=1)
    assert together.scenes == alone.scenes
    other, _ = plan(chips, FakeEarth(), seed=5)
    assert other.scenes != together.scenes, "drawn by the seed"
    best, _ = plan(chips, FakeEarth(), anchor_rule="best")
    for chip_id, scenes in best.scenes.items():
        for season, item in scenes.arrays["sentinel2_dates"].periods.items():
            drawn = together.scenes[chip_id].arrays["sentinel2_dates"].periods[season]
            if best.scenes[chip_id].year == together.scenes[chip_id].year and item.status is ArrayStatus.OK:
                assert item.cloud_fraction <= drawn.cloud_fraction


def test_chips_of_a_block_have_the_same_dates():
    book, _ = plan(chips_of(64, wide=8), FakeEarth(), block_chips=8)
    found = {tuple(scenes.arrays["sentinel2_dates"].request_ids) for scenes in book.scenes.values()}
    assert len(found) == 1


def test_nothing_is_asked_twice_after_a_kill(tmp_path):
    chips, journal = chips_of(30), tmp_path / "journal"
    asked = []

    def fails(kind, question, number):
        if question.anchored:
            raise KeyboardInterrupt
        asked.extend((item.chip.chip_id, item.level, item.start_ms) for item in question.wanted)

    with pytest.raises(KeyboardInterrupt):
        plan(chips, FakeEarth(trouble=fails), journal=journal, max_in_flight=1)
    first, again = len(asked), []

    def listens(kind, question, number):
        again.extend((item.chip.chip_id, item.level, item.start_ms) for item in question.wanted)

    book, _ = plan(chips, FakeEarth(trouble=listens), journal=journal)
    assert first > 4 * 30
    assert not set(again) & set(asked)
    assert book.scenes == plan(chips, FakeEarth())[0].scenes


def test_the_dates_of_added_arrays_are_of_the_recorded_anchors_year():
    chips = chips_of(20)
    at_once, _ = plan(chips, FakeEarth())
    base, _ = plan(chips, FakeEarth(), wanted=tuple(spec for spec in specs if not spec.periods))
    from m3etl.stages.additions import _anchor_of

    anchored = [replace(chip, anchor=_anchor_of(base.scenes[chip.chip_id])) for chip in chips]
    later, _ = plan(anchored, FakeEarth(), wanted=tuple(spec for spec in specs if spec.periods))
    for chip_id, scenes in later.scenes.items():
        for name in names:
            assert scenes.arrays[name] == at_once.scenes[chip_id].arrays[name]


# --- exports --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        campaign = make_campaign(tmp_path_factory.mktemp("dates") / "c", make_plan(20), max_in_flight=4)
        earth = FakeEarth()
        summary = export(campaign, earth, modalities=modalities)
    return campaign, earth, summary


def test_all_dates_ride_in_the_one_request_of_a_chip(exported):
    _, earth, summary = exported
    assert (summary.done, summary.failed) == (20, 0)
    assert earth.calls["pixels"] == 20


def test_a_season_without_a_scene_is_fill_and_says_so(exported):
    campaign, _, _ = exported
    store = open_store(campaign.store_path)
    table = read_provenance(campaign.provenance_path).set_index(["chip_id", "array"])
    assert table["periods"].notna().sum() == 20 * len(names)
    seen = set()
    for row in np.flatnonzero(store.sealed):
        for name in names:
            spec = store.specs[name]
            values = store.read(name, [row])[0]
            parts = values.reshape(spec.with_periods(values.shape))
            record = table.loc[(store.chip_ids[row], name)]
            assert [item["period"] for item in record["periods"]] == list(seasons)
            for part, item in zip(parts, record["periods"], strict=True):
                seen.add(item["status"])
                assert (item["status"] == "ok") == bool((part != spec.fill).any()) == (item["valid_fraction"] > 0)
                assert (len(item["scene_ids"]) > 0) == (item["status"] == "ok")
                assert pd.isna(item["time"]) == (item["status"] != "ok")
            one = any(item["status"] == "ok" for item in record["periods"])
            assert record["status"] == ("ok" if one else "no_scene")
    assert seen == {"ok", "no_scene"}


def test_a_scene_that_has_gone_takes_its_own_season_with_it(exported, tmp_path):
    table = read_provenance(exported[0].provenance_path).set_index(["chip_id", "array"])
    whole = table.xs("sentinel2_dates", level="array")["periods"].map(
        lambda periods: sum(item["status"] == "ok" for item in periods)
    )
    victim = whole[whole >= 2].index[0]
    lost = next(item for item in table.loc[(victim, "sentinel2_dates"), "periods"] if item["status"] == "ok")
    campaign = make_campaign(tmp_path / "c", make_plan(20), max_in_flight=4)
    gone = lost["scene_ids"][0]

    def vanished(kind, subject, number):
        if kind == "pixels" and any(f":{gone}" in name for name in _ids_of(subject)):
            return Failure(kind=Kind.SOURCE_CHANGED, message="not found", status=404, asset=gone)
        return None

    earth = FakeEarth(trouble=vanished)
    export(campaign, earth, modalities=modalities)
    assert earth.calls["pixels"] == 21, "asked for once more, without it"
    now = read_provenance(campaign.provenance_path).set_index(["chip_id", "array"])
    one, other = open_store(campaign.store_path), open_store(exported[0].store_path)
    row = int(np.flatnonzero(one.chip_ids == victim)[0])
    for name in names[:2]:
        spec = one.specs[name]
        assert now.loc[(victim, name), "status"] == "ok"
        parts, before = (item.read(name, [row])[0].reshape(4, -1) for item in (one, other))
        for place, item in enumerate(now.loc[(victim, name), "periods"]):
            if item["period"] == lost["period"]:
                assert (item["status"], item["valid_fraction"]) == ("source_changed", 0.0)
                assert (parts[place] == spec.fill).all()
            else:
                np.testing.assert_array_equal(parts[place], before[place])


def _ids_of(request):
    return [mark for name in request.arrays for mark in request.job.scenes[name].request_ids]


def test_ledger_and_provenance_tell_the_same(exported):
    campaign, _, _ = exported
    table = read_provenance(campaign.provenance_path).set_index(["chip_id", "array"])
    ledger = open_ledger(campaign.ledger_path)
    for chip_id in table.index.levels[0]:
        scenes = ledger.scenes_of(chip_id)
        for name in names:
            for item in table.loc[(chip_id, name), "periods"]:
                recorded = scenes.arrays[name].periods[item["period"]]
                assert tuple(item["scene_ids"]) == recorded.scene_ids
                assert pd.isna(item["time"]) or item["time"].timestamp() * 1000 == utc_ms(recorded.time)
    ledger.close()


def test_added_to_sealed_rows_they_are_what_they_would_have_been(exported, tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(20), max_in_flight=4)
    export(campaign, FakeEarth(), modalities=("sentinel2", "month"))
    earth = FakeEarth()
    export(campaign, earth, modalities=("sentinel2_dates", "sentinel1_dates"))
    assert earth.calls["pixels"] == 20
    one, other = open_store(campaign.store_path), open_store(exported[0].store_path)
    rows = np.flatnonzero(one.sealed)
    np.testing.assert_array_equal(one.chip_ids, other.chip_ids)
    for name in names:
        np.testing.assert_array_equal(one.read(name, rows), other.read(name, rows), err_msg=name)


@pytest.fixture
def clouds(tmp_path, monkeypatch):
    """Makes a campaign of the batch lane and the tasks that it is exported by."""

    def make(trouble=None):
        campaign = make_campaign(tmp_path / "batch", make_plan(20), lane="batch", batch_tile_px=512)
        tasks = FakeTasks(tmp_path / "cloud", trouble=trouble)
        monkeypatch.setattr(batch, "connect", lambda session, where, layout: (tasks, tasks.bucket()))
        monkeypatch.setattr(batch, "_place_of", lambda campaign, session: cloud_place)
        return campaign, tasks

    return make


def test_the_batch_lane_brings_the_same_dates(exported, clouds):
    campaign, _ = clouds()
    assert export(campaign, FakeEarth(), modalities=modalities, base_wait_s=0.001).failed == 0
    assert content(campaign.root) == content(exported[0].root)


@pytest.mark.parametrize("periods", [1, 4], ids=["one-date", "every-date"])
def test_scenes_that_have_gone_cost_the_same_in_both_lanes(exported, tmp_path, clouds, periods):
    """The same chip by both lanes: identical integers, records and statuses, and nobody else's data change."""
    table = read_provenance(exported[0].provenance_path).set_index(["chip_id", "array"])
    victim, gone = next(
        (chip_id, ids)
        for (chip_id, name), ids in table["scene_ids"].items()
        if name == "sentinel2_dates" and len(ids) >= 2
    )
    gone = set(gone[1 : 1 + periods] if periods == 1 else gone)

    def vanished(kind, subject, number):
        ids = _ids_of(subject) if kind == "pixels" else marks_of(subject) if kind == "run" else ()
        missing = next((mark.partition(":")[2] for mark in ids if mark.partition(":")[2] in gone), None)
        if missing is None:
            return None
        failure = Failure(kind=Kind.SOURCE_CHANGED, message="not found", status=404, asset=missing)
        return failure if kind == "pixels" else Operation(name="x", done=True, failure=failure)

    by_pixels = make_campaign(tmp_path / "pixels", make_plan(20), max_in_flight=4)
    assert export(by_pixels, FakeEarth(trouble=vanished), modalities=modalities).failed == 0
    by_tasks, tasks = clouds(vanished)
    summary = export(by_tasks, FakeEarth(), modalities=modalities, base_wait_s=0.001)
    assert (summary.done, summary.failed) == (20, 0)
    assert content(by_tasks.root) == content(by_pixels.root)
    assert len(tasks.started()) == len(set(tasks.started())), "what has gone is asked for once"
    now = read_provenance(by_tasks.provenance_path).set_index(["chip_id", "array"])
    status, dates = now.loc[(victim, "sentinel2_dates"), ["status", "periods"]]
    assert status == ("ok" if periods == 1 else "source_changed")
    assert sum(item["status"] == "source_changed" for item in dates) == len(gone)
    changed = now["checksum"] != table["checksum"]
    assert set(now.index[changed]) == {(victim, "sentinel2_dates"), (victim, "sentinel2_dates_cloud")}


def marks_of(task):
    return [mark for ids in task.scenes.values() for mark in ids]


def test_killed_at_any_write_the_result_is_the_same(exported, tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(20), max_in_flight=4)
    tests = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}"}
    command = [sys.executable, "-m", "fakes.export_lives", str(campaign.root), "3", "faults", *modalities]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["lives"] >= 3
    assert content(campaign.root) == content(exported[0].root)


def test_samples_have_the_four_dates(exported):
    dataset = ChipDataset(exported[0].root, arrays=names, split=None, values="physical")
    item = dataset[0]
    assert item["sentinel2_dates"].shape == (4, 12, 16, 16)
    assert item["sentinel1_dates_asc_valid"].shape == (4, 4, 16, 16)
    assert find_array("sentinel2_dates").band_names == find_array("sentinel2_l2a").bands


def tampered(exported, tmp_path, change):
    """The findings of the audit about time and dates, after `change` was made to the records of the campaign."""
    campaign = exported[0]
    records = pq.read_table(provenance_file(campaign.provenance_path, 0)).to_pylist()
    change(records)
    pq.write_table(pa.Table.from_pylist(records, schema=schema), provenance_file(tmp_path, 0))
    store = open_store(campaign.store_path)
    names_of = [str(name) for name in store.chip_ids[: store.shard_chips]]
    found = audit_shard(campaign.store_path, tmp_path, 0, names_of).findings
    return {(item.check, item.array) for item in found if item.check in about_dates}


about_dates = ("swapped date", "wrong season", "anchor", "time gap", "blank", "unexplained data", "no record")


def first_of(records, array, **wanted):
    return next(
        item
        for record in records
        if record["array"] == array
        for item in record["periods"]
        if all(item[name] == value for name, value in wanted.items())
    )


def test_the_audit_finds_nothing_wrong_with_the_dates(exported, tmp_path):
    assert tampered(exported, tmp_path, lambda records: None) == set()


def test_the_audit_finds_a_scene_of_another_season(exported, tmp_path):
    def change(records):
        item = first_of(records, "sentinel2_dates", status="ok", period="JJA")
        item["time"] -= pd.Timedelta(days=120)

    found = tampered(exported, tmp_path, change)
    assert ("wrong season", "sentinel2_dates") in found
    assert ("anchor", "") in found, "cloud and reflectance of one season are of one scene"


def test_the_audit_finds_a_pass_that_does_not_lie_where_its_gap_says(exported, tmp_path):
    def change(records):
        item = next(
            item
            for record in records
            if record["array"] == "sentinel1_dates_asc"
            for item in record["periods"]
            if item["status"] == "ok" and item["gap_days"] is not None
        )
        item["gap_days"] += 45.0

    assert tampered(exported, tmp_path, change) == {("anchor", ""), ("time gap", "sentinel1_dates_asc")}


def test_the_audit_finds_a_season_that_is_said_to_be_there_and_one_that_is_not(exported, tmp_path):
    def change(records):
        first_of(records, "sentinel2_dates", status="no_scene")["status"] = "ok"
        first_of(records, "sentinel1_dates_desc", status="ok", period="SON")["status"] = "no_scene"

    found = tampered(exported, tmp_path, change)
    assert {(check, array.partition("/")[0]) for check, array in found} == {
        ("blank", "sentinel2_dates"), ("unexplained data", "sentinel1_dates_desc")
    }  # fmt: skip


def test_statistics_leave_out_the_clouds_of_each_season(exported):
    spec, cloud = find_array("sentinel2_dates"), find_array("sentinel2_dates_cloud")
    store = open_store(exported[0].store_path)
    rows = np.flatnonzero(store.sealed)
    stats = measure_store(store, rows, SilentProgress(), threads=1)
    values = physical_of(spec, store.read(spec.name, rows)).reshape(len(rows), 4, 12, 16, 16)
    clouds = store.read(cloud.name, rows).reshape(len(rows), 4, 3, 16, 16)
    known = np.isfinite(values)
    cloudy = (clouds[:, :, 1] < 60) & (clouds[:, :, 1] != cloud.fill) | np.isin(clouds[:, :, 2], (3, 8, 9, 10))
    for place, season in enumerate(seasons):
        clear = known[:, place, 3] & ~cloudy[:, place]
        entry = stats[spec.name][f"{season}_B4"]
        assert 0 < entry["count"] == clear.sum() < known[:, place, 3].sum()
        assert entry["mean"] == pytest.approx(values[:, place, 3][clear].mean())
