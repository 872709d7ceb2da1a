"""Options of `export` as a user types them: what it will cost, where it stops, parts of it, what is tried again; one
process at a time.
"""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from m3etl.campaign import locked, save_config
from m3etl.cli.main import run
from m3etl.emulator.process import start_embedded
from m3etl.spec.budget import hour_s
from m3etl.stages.budget import read_pilot
from tests.unit.stages.test_export import content, make_campaign, make_plan

chips, pilot_chips = 24, 16
modalities = ("aster", "worldcover")
tiers = {"Community": 150, "Contributor": 1000, "Partner": 100_000}
first_fails = {"path": "computePixels", "calls": {"first": 1}, "status": 400, "message": "Unknown band Q."}


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    """Runs commands in a campaign against an embedded server: `typed(code, *arguments)` gives (document, messages)."""
    log, faults = tmp_path / "requests.jsonl", tmp_path / "faults.json"
    faults.write_text(json.dumps({"rules": [first_fails]}))
    campaign = make_campaign(
        tmp_path / "c", make_plan(chips), modalities=modalities, max_in_flight=1, requests_per_second=100.0
    )
    campaign = campaign.with_config(store=replace(campaign.config.store, lot_chips=8))
    save_config(campaign)

    def pixel_requests() -> int:
        return log.read_text().count("computePixels") if log.exists() else 0

    def command(code: int, *arguments: str):
        assert run(["-C", str(campaign.root), "--json", *arguments]) == code
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return json.loads(captured.out) if captured.out else None, captured.err

    def start(*, failing: bool = False):
        server = start_embedded(state_dir=tmp_path / "state", log=log, faults=faults if failing else None)
        monkeypatch.setenv("M3ETL_EE_URL", server.url)
        return server

    return SimpleNamespace(command=command, start=start, campaign=campaign, pixel_requests=pixel_requests)


def test_cost_before_and_a_budget_that_ends_a_run(typed):
    with typed.start():
        unmeasured, _ = typed.command(0, "export", "--dry-run")
        assert typed.pixel_requests() == 0
        assert unmeasured["chips"] == chips
        assert unmeasured["requests"] == chips + unmeasured["planning requests"]
        assert unmeasured["bytes down (upper bound)"] > unmeasured["bytes on disk (estimate)"] > 0
        assert unmeasured["seconds at the quota"] > 0
        assert unmeasured["EECU-hours"] is None
        known, _ = typed.command(0, "export", "--dry-run", "--pilot", str(pilot_chips))
        assert typed.pixel_requests() == pilot_chips
        assert 0 < known["EECU-hours"] <= known["EECU-hours (95 % upper bound)"]
        assert f"{pilot_chips} chips" in known["EECU figures from"]
        assert {row["tier"]: row["EECU-hours a month"] for row in known["months of a tier"]} == tiers
        assert all(row["at most"] >= 1 for row in known["months of a tier"])
        spent = read_pilot(typed.campaign).spent_upper_s() / hour_s
        budget = spent + known["EECU-hours (95 % upper bound)"] / 2
        document, messages = typed.command(2, "export", "--budget-eecu-hours", repr(budget))
        assert document is None
        assert "is used up" in messages
        assert "--budget-eecu-hours" in messages
        landed, _ = typed.command(0, "status")
        assert 0 < landed["done"] == typed.pixel_requests() - pilot_chips < chips
        assert landed["EECU-hours spent (95 % upper bound)"] <= budget * 1.001
        finished, _ = typed.command(0, "export", "--budget-eecu-hours", "150")
        assert finished["done"] == chips
        assert typed.pixel_requests() == pilot_chips + chips, "nothing that had landed is asked for again"


def test_parts_in_one_directory(typed, tmp_path):
    with typed.start():
        assert "no part" in typed.command(2, "export", "--part", "3/2")[1]
        for part in ("2/2", "1/2"):
            typed.command(0, "export", "--part", part)
        assert "in 2 parts" in typed.command(2, "export", "--part", "1/3")[1]
        status, _ = typed.command(0, "status")
        assert (status["parts"], status["done"]) == ("1, 2 of 2", chips)
        typed.command(0, "export")
        assert typed.pixel_requests() == chips
        status, _ = typed.command(0, "status")
        assert status["shards sealed"] == "3 of 3"
        whole = make_campaign(tmp_path / "whole", make_plan(chips), modalities=modalities)
        save_config(whole.with_config(store=typed.campaign.config.store))
        assert run(["-C", str(whole.root), "export"]) == 0
        assert content(typed.campaign.root) == content(whole.root)


def test_only_what_failed_for_a_reason_is_tried_again(typed):
    with typed.start(failing=True):
        report, _ = typed.command(4, "export")
        assert (report["done"], report["failed"]) == (chips - 1, 1)
        assert report["errors"] == {"deterministic: Unknown band Q.": 1}
        before = typed.pixel_requests()
        assert "no failed chip has the kind 'memory'" in typed.command(3, "export", "--only", "memory")[1]
        assert typed.command(4, "export")[0]["failed"] == 1
        assert typed.pixel_requests() == before
        assert typed.command(0, "export", "--only", "band q")[0]["done"] == chips
        assert typed.pixel_requests() == before + 1


def test_a_second_process_is_refused(typed):
    with typed.start(), locked(typed.campaign):
        assert "another m3etl process" in typed.command(2, "export")[1]
        assert "another m3etl process" in typed.command(2, "export", "--part", "1/2")[1]
        typed.command(0, "status")
        assert typed.pixel_requests() == 0
