"""The budget of a campaign: dry runs with figures, pilots that leave nothing behind, runs that end at the budget."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

import pytest
from fakes.earth import FakeEarth, install

from m3etl.campaign import open_campaign, save_config
from m3etl.errors import BudgetError, DamagedError, InputError
from m3etl.io.ledger import open_ledger
from m3etl.stages.budget import pilot_name, read_figures, read_pilot
from m3etl.stages.export import run_export
from m3etl.stages.pilot import run_pilot
from m3etl.stages.status import read_status
from m3etl.stages.summary import SilentProgress
from tests.unit.stages.test_export import content, export, make_campaign, make_plan

chips = 60


@pytest.fixture(autouse=True)
def _questions(monkeypatch):
    install(monkeypatch)


def pilot(campaign, earth, count=12, **options):
    options = {"progress": SilentProgress(), "base_wait_s": 0.002, **options}
    return run_pilot(open_campaign(campaign.root), session=earth, chips=count, **options)


def dry_run(campaign):
    summary = run_export(open_campaign(campaign.root), session=None, dry_run=True, progress=SilentProgress())
    return summary.facts


def test_without_figures_the_cost_is_unknown_and_says_how_to_measure_it(tmp_path):
    facts = dry_run(make_campaign(tmp_path / "c", make_plan(chips)))
    assert facts["chips"] == chips
    assert facts["EECU-hours"] is None
    assert "--pilot" in facts["EECU figures from"]
    assert "EECU-hours spent" not in facts


def slowly(kind, subject, number):
    """An answer to a question takes a while, as on the network."""
    time.sleep(0.1 if kind == "plan" else 0.0)


@pytest.mark.parametrize(("count", "batch"), [(9, 4), (40, 50), (400, 20)])
def test_requests_are_about_as_many_as_said_before(tmp_path, count, batch):
    campaign = make_campaign(tmp_path / "c", make_plan(count), plan_batch=batch, modalities=("sentinel2", "worldcover"))
    said = dry_run(campaign)
    sent = export(campaign, FakeEarth(trouble=slowly)).facts
    assert said["requests"] == pytest.approx(sent["requests"], abs=3, rel=0.02)
    assert said["planning requests"] == pytest.approx(sent["planning requests"], abs=3, rel=0.2)


def wall_to_wall(path, side, **options):
    rows = []
    for number in range(side * side):
        column, row = 3000 + number % side, 33_000 + number // side
        corner = {"xmin": 160.0 * column, "ymin": 160.0 * row, "xmax": 160.0 * column + 160, "ymax": 160.0 * row + 160}
        rows.append({"chip_id": f"32632-0160-{column:04d}-{row:04d}", "epsg": 32632, **corner})
    plan = make_plan(side * side).assign(**{name: [row[name] for row in rows] for name in rows[0]})
    return make_campaign(path, plan, strategy="grid", **options)


def test_requests_of_blocks_are_counted_as_they_are_sent(tmp_path):
    campaign = wall_to_wall(tmp_path / "c", 9, block_chips=4, modalities=("aster", "worldcover"), check_every=0)
    said = dry_run(campaign)
    earth = FakeEarth()
    sent = export(campaign, earth)
    assert sent.failed == 0
    assert said["requests"] - said["planning requests"] == earth.calls["pixels"] == 13
    assert said["planning requests"] <= sent.facts["planning requests"] + 3


def test_a_dry_run_of_the_batch_lane_tells_its_tasks(tmp_path):
    options = {"modalities": ("sentinel2", "aster", "worldcover"), "batch_tile_px": 64}
    campaign = wall_to_wall(tmp_path / "c", 9, lane="batch", batch_in_flight=3, **options)
    facts = dry_run(campaign)
    groups = {row["arrays"]: row for row in facts["tasks by group"]}
    # Tiles of 4 x 4 chips from column 3000 (a multiple of 4) and row 33000: 3 x 3 of them.
    assert {row["tasks, one a tile"] for row in groups.values()} == {9}
    worldcover = groups["worldcover"]
    assert (worldcover["tasks at most"], worldcover["pixels"], worldcover["bucket bytes"]) == (9, 144**2, 144**2)
    scenes = next(row for name, row in groups.items() if "sentinel2_l2a" in name)
    assert (scenes["tasks, one a tile"], scenes["tasks at most"]) == (9, 9), (
        "one anchor a block of 8 x 8, here 2 x 2 blocks"
    )
    assert facts["bucket bytes (upper bound)"] == sum(row["bucket bytes"] for row in groups.values())
    tasks = sum(row["tasks, one a tile"] for row in groups.values())
    assert facts["seconds with 3 tasks running"] == 600 * -(-tasks // 3)
    assert facts["task time from"].startswith("assumed")
    assert facts["EECU-hours"] is None
    pilot(campaign, FakeEarth(eecu_s=36.0))
    assert dry_run(campaign)["EECU-hours"] > 0
    assert dry_run(campaign)["EECU figures from"].startswith("a pilot")


def test_a_pilot_tells_the_cost_and_leaves_nothing_else(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(chips))
    earth = FakeEarth(eecu_s=36.0)
    pilot(campaign, earth)
    assert {path.name for path in campaign.root.iterdir()} == {"campaign.toml", "chips.parquet", pilot_name, ".lock"}
    figures = read_pilot(campaign)
    assert figures.chips == 12
    assert len(figures.lanes["pixels"].samples) == figures.lanes["pixels"].requests == 12
    assert earth.calls["pixels"] == 12
    facts = dry_run(campaign)
    per_chip_h = 36.0 * (12 + figures.lanes["planning"].requests) / 12 / 3600
    assert facts["EECU-hours"] == pytest.approx(chips * per_chip_h, rel=0.5)
    assert facts["EECU-hours"] < facts["EECU-hours (95 % upper bound)"] < 3 * facts["EECU-hours"]
    assert facts["EECU figures from"].startswith("a pilot")
    assert facts["bytes down (estimate)"] > 0
    assert facts["EECU-hours spent"] == pytest.approx(figures.spent_s() / 3600, rel=0.01)
    assert [row["tier"] for row in facts["months of a tier"]] == ["Community", "Contributor", "Partner"]


def test_a_pilot_does_not_change_what_is_stored(tmp_path):
    plain, piloted = (make_campaign(tmp_path / name, make_plan(chips)) for name in ("a", "b"))
    export(plain, FakeEarth())
    pilot(piloted, FakeEarth())
    export(piloted, FakeEarth())
    assert content(piloted.root) == content(plain.root)
    spent = read_status(open_campaign(piloted.root)).facts
    assert spent["requests profiled"] >= 12
    assert spent["EECU-hours spent"] < spent["EECU-hours spent (95 % upper bound)"]


def test_a_tiny_pilot_is_refused_and_a_damaged_one_named(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(chips))
    with pytest.raises(InputError, match="says too little"):
        pilot(campaign, FakeEarth(), count=7)
    (campaign.root / pilot_name).write_text("{}")
    with pytest.raises(DamagedError, match=pilot_name):
        dry_run(campaign)


def test_a_run_ends_at_its_budget_and_goes_on_with_a_larger_one(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(chips), max_in_flight=2)
    earth = FakeEarth(eecu_s=36.0)  # a hundredth of an hour per request
    with pytest.raises(BudgetError, match="used up") as caught:
        export(campaign, earth, budget_eecu_hours=0.6)
    assert "--budget-eecu-hours" in caught.value.hint
    assert caught.value.exit_code == 2
    before = earth.calls["pixels"]
    assert 10 < before < chips
    status = read_status(open_campaign(campaign.root)).facts
    assert status["sealed"] + status["landed"] == before, "everything that came has landed"
    assert status["EECU-hours spent (95 % upper bound)"] <= 0.6
    with pytest.raises(BudgetError, match="nothing was sent"):
        export(campaign, earth, budget_eecu_hours=0.3)
    assert earth.calls["pixels"] == before
    left = dry_run(campaign)
    assert left["chips left"] == chips - before
    assert left["EECU figures from"].startswith("the runs so far")
    summary = export(campaign, earth, budget_eecu_hours=5.0)
    assert summary.done == chips
    assert earth.calls["pixels"] == chips


def test_each_part_stops_at_its_share_of_the_budget(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(chips), max_in_flight=1, max_attempts=1)
    campaign = campaign.with_config(store=replace(campaign.config.store, lot_chips=16))
    save_config(campaign)
    pilot(campaign, FakeEarth(eecu_s=36.0), count=8)
    before = read_pilot(campaign).spent_upper_s() / 3600
    pilot_h = read_pilot(campaign).spent_s() / 3600
    budget = before + 0.5
    said = Listening()
    spent = []
    for number in (1, 2):
        earth = FakeEarth(eecu_s=36.0)
        with pytest.raises(BudgetError, match=f"part {number}/2, its share") as caught:
            export(campaign, earth, part=(number, 2), budget_eecu_hours=budget, progress=said)
        assert caught.value.exit_code == 2
        part = replace(open_campaign(campaign.root), part=(number, 2))
        with contextlib.closing(open_ledger(part.ledger_path)) as ledger:
            spent.append(read_figures(part, ledger).spent_s() / 3600 - pilot_h)
        assert earth.calls["pixels"] > 0
    share = before + (budget - before) / 2
    assert f"this part stops at its share of the budget, {share:.4g} EECU-hours" in said.said
    assert all(hours <= (budget - before) / 2 for hours in spent)
    assert before + sum(spent) <= budget, "all parts together"
    for number in (1, 2):
        export(campaign, FakeEarth(), part=(number, 2), budget_eecu_hours=1000.0)
    assert export(campaign, FakeEarth()).done == chips


class Listening(SilentProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_a_dry_run_of_a_part_is_about_its_share(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(chips))
    campaign = campaign.with_config(store=replace(campaign.config.store, lot_chips=16))
    save_config(campaign)

    def facts():
        options = {"session": None, "dry_run": True, "progress": SilentProgress()}
        return run_export(open_campaign(campaign.root), part=(1, 2), **options).facts

    assert facts()["chips"] == chips / 2
    assert "share" in facts()["part"]
    done = export(campaign, FakeEarth(), part=(1, 2)).done
    assert (facts()["chips"], facts()["chips left"]) == (done, 0)
    assert "part" not in facts()


def test_a_budget_of_nothing_sends_nothing(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(chips))
    earth = FakeEarth()
    with pytest.raises(BudgetError, match="nothing was sent"):
        export(campaign, earth, budget_eecu_hours=0.0)
    assert earth.requests == 0


def test_a_pilot_keeps_to_the_budget_and_counts_when_it_is_broken_off(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(chips), max_in_flight=2)
    with pytest.raises(BudgetError):
        pilot(campaign, FakeEarth(eecu_s=36.0), count=40, budget_eecu_hours=0.4)
    assert 0 < read_pilot(campaign).spent_s() / 3600 <= 0.4
    with pytest.raises(BudgetError, match="nothing was sent"):
        pilot(campaign, FakeEarth(), budget_eecu_hours=0.05)


def test_one_request_in_so_many_is_profiled_and_kept(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(chips), profile_every=10)
    earth = FakeEarth()
    summary = export(campaign, earth)
    ledger = open_ledger(campaign.ledger_path)
    samples = ledger.profiles()
    ledger.close()
    assert sum(sample.lane == "pixels" for sample in samples) == chips // 10
    assert earth.profiles == len(samples)
    assert summary.facts["requests"] == earth.requests, "asking for profiles counts as requests"
