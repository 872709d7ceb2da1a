"""A run that goes on where another stopped takes up what it is asked for, no more; raw bytes go as shards seal."""

from __future__ import annotations

import functools
import json
import time
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from m3etl.campaign import save_config
from m3etl.errors import AuthenticationError, NothingSelectedError
from m3etl.io.outcomes import Failure, Kind
from m3etl.io.plan import read_plan, write_plan
from m3etl.io.segments import SegmentWriter, segment_numbers
from m3etl.io.store import open_store
from m3etl.learn.dataset import ChipDataset
from m3etl.stages.describe import run_describe
from m3etl.stages.status import read_status
from m3etl.stages.summary import SilentProgress
from m3etl.stages.validate import run_validate
from tests.unit.stages.test_export import FakeEarth, content, export, install, make_campaign, make_plan, open_campaign


@pytest.fixture(autouse=True)
def _questions(monkeypatch):
    install(monkeypatch)


class South:
    """A region: what lies south of a latitude."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def contains_lonlat(self, lon, lat):
        return np.asarray(lat) < self.limit


def failing(victims, kind=Kind.DETERMINISTIC, message="Unknown algorithm"):
    def trouble(what, subject, number):
        if what == "pixels" and subject.job.chip.chip_id in victims:
            return Failure(kind=kind, message=message)
        return None

    return trouble


def expired_after(count, earths):
    def trouble(what, subject, number):
        if what == "pixels" and earths[0].calls["pixels"] > count:
            return Failure(kind=Kind.AUTH, message="expired", status=401)
        return None

    return trouble


def test_a_region_takes_up_no_other_open_chip(tmp_path, monkeypatch):
    campaign = make_campaign(tmp_path / "c", make_plan(24), max_in_flight=1)
    earths = []
    earths.append(FakeEarth(trouble=expired_after(5, earths)))
    with pytest.raises(AuthenticationError):
        export(campaign, earths[0])
    landed = read_status(open_campaign(campaign.root)).done
    plan = read_plan(campaign.plan_path)
    limit = float(plan["lat"].median())
    monkeypatch.setattr("m3etl.stages.scheduling.read_region", lambda name: South(limit))
    second = FakeEarth()
    summary = export(campaign, second, region="south")
    wanted = set(plan.loc[plan["lat"] < limit, "chip_id"])
    asked = {name for name in second.calls if name.startswith("3")}
    assert asked < wanted
    assert len(asked) >= 12 - landed
    assert summary.done == 12
    assert second.calls["plan"] == 0
    third = FakeEarth()
    assert export(campaign, third).done == 24
    assert not {name for name in third.calls if name.startswith("3")} & wanted


def test_a_region_after_planning_was_cut_short_plans_only_its_own(tmp_path, monkeypatch):
    def trouble(what, subject, number):
        return Failure(kind=Kind.AUTH, message="expired", status=401) if what == "plan" and number > 2 else None

    campaign = make_campaign(tmp_path / "c", make_plan(24), max_in_flight=1)
    with pytest.raises(AuthenticationError):
        export(campaign, FakeEarth(trouble=trouble))
    plan = read_plan(campaign.plan_path)
    limit = float(plan["lat"].median())
    monkeypatch.setattr("m3etl.stages.scheduling.read_region", lambda name: South(limit))
    assert export(campaign, FakeEarth(), region="south").done == 12
    assert read_status(open_campaign(campaign.root)).facts["sealed"] == 12
    assert export(campaign, FakeEarth()).done == 24


def test_only_one_kind_of_failure_is_tried_again(tmp_path):
    plan = make_plan(16)
    broken, lost = plan["chip_id"][3], plan["chip_id"][8]

    def trouble(what, subject, number):
        return failing({broken})(what, subject, number) or failing({lost}, Kind.WRONG, "odd pixels")(
            what, subject, number
        )

    campaign = make_campaign(tmp_path / "c", plan, max_attempts=1)
    assert export(campaign, FakeEarth(trouble=trouble)).failed == 2
    with pytest.raises(NothingSelectedError, match="no failed chip has the kind 'odder'"):
        export(campaign, FakeEarth(), only="odder")
    second = FakeEarth()
    summary = export(campaign, second, only="odd PIXELS")
    assert second.calls["pixels"] == second.calls[lost] == 1
    assert summary.errors == {"deterministic: Unknown algorithm": 1}
    third = FakeEarth()
    assert export(campaign, third, only="deterministic").failed == 0
    assert third.calls["pixels"] == third.calls[broken] == 1
    assert open_store(campaign.store_path).rows == 25, "each retry has a generation of its own"


def test_chips_that_cannot_be_planned_are_replaced(tmp_path):
    plan = make_plan(12, reserve=6)
    victims = set(plan["chip_id"][:3])

    def trouble(what, subject, number):
        if what == "plan" and victims & {item.chip.chip_id for item in subject.items}:
            return Failure(kind=Kind.DETERMINISTIC, message="Invalid geometry", status=400)
        return None

    campaign = make_campaign(tmp_path / "c", plan, strategy="biome")
    summary = export(campaign, FakeEarth(trouble=trouble))
    assert (summary.done, summary.failed) == (12, 3)
    assert sum(row["from the reserve"] for row in summary.facts["biomes"]) == 3
    again = export(campaign, FakeEarth(), retry_failed=True)
    assert (again.done, again.failed) == (15, 0), "those that were replaced come on top"


def test_raw_segments_go_as_soon_as_their_chips_are_sealed(tmp_path, monkeypatch):
    most = []

    def watch(what, subject, number):
        if what == "pixels":
            most.append(len(segment_numbers(campaign.raw_path)))

    small = functools.partial(SegmentWriter, limit_bytes=1)  # a segment a chip
    monkeypatch.setattr("m3etl.stages.landing.SegmentWriter", small)
    campaign = make_campaign(tmp_path / "c", make_plan(64), max_in_flight=1)
    export(campaign, FakeEarth(trouble=watch, delay_s=0.02))
    assert 4 < max(most) < 32, "about a shard's worth of chips, not the campaign's"
    assert not segment_numbers(campaign.raw_path)
    assert read_status(open_campaign(campaign.root)).facts["sealed"] == 64


def test_a_chip_that_has_another_row_since_counts_once(tmp_path):
    plan = make_plan(16)
    victim = plan["chip_id"][5]
    campaign = make_campaign(tmp_path / "c", plan, max_attempts=1)
    export(campaign, FakeEarth(trouble=failing({victim})))
    before = content(campaign.root)
    old_reader = open_store(campaign.store_path)
    old_row = int(np.flatnonzero(old_reader.chip_ids == victim)[0])
    assert export(campaign, FakeEarth(), retry_failed=True).failed == 0
    store = open_store(campaign.store_path)
    names = store.chip_ids[store.chip_ids != ""]
    assert len(names) == len(set(names)) == 16
    assert np.flatnonzero(store.chip_ids == victim).tolist() == [16] == read_rows(campaign, victim)
    assert not store.sealed[old_row]
    assert store.sealed.sum() == len(ChipDataset(campaign.store_path, values="stored")) == 16
    assert run_describe(campaign).facts["chips stored"] == 16
    with warnings.catch_warnings():  # made-up pixels have no shifts to measure
        warnings.simplefilter("ignore", RuntimeWarning)
        report = run_validate(campaign, progress=SilentProgress()).facts.get("findings", [])
    assert not {"row", "unknown chip", "no record", "two records", "checksum"} & {item["check"] for item in report}
    root = json.loads((campaign.store_path / "zarr.json").read_bytes())
    assert root["attributes"]["superseded_rows"] == [old_row]
    after = content(campaign.root)
    sealed = [name for name in before if name.endswith(".parquet") or "/c." in name]
    assert all(after[name] == before[name] for name in sealed if name != "chips.parquet")
    assert (old_reader.chip_ids == victim).sum() == 1, "a reader of the old metadata sees what it saw"


def read_rows(campaign, chip_id):
    plan = read_plan(campaign.plan_path)
    return plan.loc[plan["chip_id"] == chip_id, "row"].tolist()


def test_growing_the_plan_leaves_what_is_sealed_bit_for_bit(tmp_path):
    plan = make_plan(30)
    campaign = make_campaign(tmp_path / "c", plan[:20])
    export(campaign, FakeEarth())
    before = content(campaign.root)
    old_reader = open_store(campaign.store_path)
    grown = pd.concat([pd.DataFrame(read_plan(campaign.plan_path)), plan[20:].assign(year=2021)], ignore_index=True)
    write_plan(campaign.plan_path, grown)
    earth = FakeEarth()
    summary = export(campaign, earth)
    assert (summary.done, summary.facts["new chips"], earth.calls["pixels"]) == (30, 10, 10)
    after = content(campaign.root)
    assert all(after[name] == before[name] for name in before if "/c." in name or name.startswith("provenance"))
    assert old_reader.rows == 20
    everything = np.arange(20)
    store = open_store(campaign.store_path)
    for name in store.specs:
        np.testing.assert_array_equal(old_reader.read(name, everything), store.read(name, everything))
    assert set(read_plan(campaign.plan_path)["generation"]) == {0, 1}
    assert (store.chip_ids[24:34] != "").all(), "from the next whole shard on"


@pytest.mark.parametrize("block", ["", "plan", "pixels"])
def test_whichever_is_slower_changes_nothing_but_the_order_of_the_work(tmp_path, monkeypatch, block):
    """Rows, scenes and pixels are the same whether planning is far ahead of the pixels or the other way round."""
    monkeypatch.setattr("m3etl.stages.feeding.chips_ahead", 4)

    def trouble(what, subject, number):
        time.sleep(0.02 if what == block else 0)

    made = []
    for slow in (False, True):
        campaign = make_campaign(
            tmp_path / str(slow), make_plan(48, reserve=24), strategy="biome", plan_batch=8 if slow else 50
        )
        campaign = campaign.with_config(store=replace(campaign.config.store, lot_chips=16))
        save_config(campaign)
        earth = FakeEarth(lost=0.2, trouble=trouble if slow else None)
        assert export(campaign, earth).failed == 0
        assert earth.high_volume
        made.append(campaign)
    assert content(made[0].root) == content(made[1].root)
    assert read_status(made[1]).facts["generations"] == 3


def test_pixels_come_before_a_lot_is_planned(tmp_path):
    asked = []
    campaign = make_campaign(tmp_path / "c", make_plan(48), plan_batch=4, max_in_flight=4)

    def trouble(what, subject, number):
        time.sleep(0.2 if what == "plan" else 0)
        asked.append(what)

    export(campaign, FakeEarth(trouble=trouble))
    last_question = len(asked) - asked[::-1].index("plan")
    assert asked[0] == "plan"
    assert asked[:last_question].count("pixels") >= 4
    assert read_status(campaign).facts["generations"] == 1


def test_what_an_earlier_run_decided_holds_nothing_up(tmp_path, monkeypatch):
    """Decided chips wait for room among those to be fetched, and answers about others are taken in meanwhile."""
    monkeypatch.setattr("m3etl.stages.feeding.chips_ahead", 4)
    campaign = make_campaign(tmp_path / "c", make_plan(48), plan_batch=16, max_in_flight=4)
    campaign = campaign.with_config(store=replace(campaign.config.store, lot_chips=16))
    save_config(campaign)
    earths = []
    earths.append(FakeEarth(trouble=expired_after(2, earths)))
    with pytest.raises(AuthenticationError):
        export(campaign, earths[0])
    earth = FakeEarth()
    assert export(campaign, earth).done == 48
    assert earth.calls["pixels"] <= 48
    whole = make_campaign(tmp_path / "whole", make_plan(48))
    save_config(whole.with_config(store=replace(whole.config.store, lot_chips=16)))
    export(whole, FakeEarth())
    assert content(campaign.root) == content(whole.root)
