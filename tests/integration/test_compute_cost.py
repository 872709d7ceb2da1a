"""Compute cost through the real client: profiling header, table of a profile, a pilot, and what the ledger keeps."""

from __future__ import annotations

import json

import pytest

from m3etl.campaign import open_campaign
from m3etl.emulator.server import make_service, running
from m3etl.io.earthengine import open_session
from m3etl.io.ledger import open_ledger
from m3etl.stages.budget import read_pilot
from m3etl.stages.export import run_export
from m3etl.stages.pilot import run_pilot
from m3etl.stages.summary import SilentProgress
from tests.unit.stages.test_export import make_campaign, make_plan

chips, pilot_chips = 24, 8
modalities = ("aster", "worldcover")


def test_profiles_tell_what_the_server_spent(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(chips), modalities=modalities, profile_every=4)
    log = tmp_path / "requests.jsonl"
    progress = SilentProgress()
    with (
        running(make_service(tmp_path / "state"), log=log) as server,
        open_session(url=server.url, project="") as session,
    ):
        run_pilot(open_campaign(campaign.root), session=session, chips=pilot_chips, progress=progress)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        pilot = read_pilot(campaign)
        facts = run_export(open_campaign(campaign.root), session=None, dry_run=True, progress=progress).facts
        summary = run_export(open_campaign(campaign.root), session=session, progress=progress)
        ledger = open_ledger(campaign.ledger_path)
        samples = ledger.profiles()
        ledger.close()
    spent = sum(line["eecu_s"] for line in lines)
    profiled = len(pilot.lanes["pixels"].samples) + len(pilot.lanes["planning"].samples)
    assert len(pilot.lanes["pixels"].samples) == pilot_chips
    assert pilot.spent_s() == pytest.approx(spent, abs=0.0006 * profiled), "the table has three decimals"
    assert pilot.spent_s() > 0
    assert facts["EECU-hours"] > 0
    assert facts["EECU-hours"] <= facts["EECU-hours (95 % upper bound)"]
    assert summary.done == chips
    assert sum(sample.lane == "pixels" for sample in samples) == chips // 4
    sent = sum("compute" in json.loads(line)["path"] for line in log.read_text().splitlines())
    assert sent == summary.facts["requests"] + sum("compute" in line["path"] for line in lines)
