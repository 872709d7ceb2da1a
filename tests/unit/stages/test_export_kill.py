"""Kill -9 at any write of an export: the next run goes on, and the result is the same to the last bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from m3etl.campaign import open_campaign, save_config
from m3etl.stages.status import read_status
from tests.unit.stages.test_export import FakeEarth, content, export, install, make_campaign, make_plan

chips = 24
in_flight = 4


def campaign_of(path: Path, kind: str):
    """In one lot, or with losses in lots that are asked about together, each with its reserves."""
    if kind != "losses":
        return make_campaign(path, make_plan(chips), max_in_flight=in_flight)
    campaign = make_campaign(path, make_plan(chips, reserve=chips), strategy="biome", max_in_flight=in_flight)
    campaign = campaign.with_config(store=replace(campaign.config.store, lot_chips=8))
    save_config(campaign)
    return campaign


@pytest.mark.parametrize(("seed", "kind"), [(1, "none"), (2, "faults"), (3, "losses"), (4, "losses")])
def test_killed_at_any_write_the_result_is_the_same(tmp_path, monkeypatch, seed, kind):
    campaign, undisturbed = (campaign_of(tmp_path / name, kind) for name in ("c", "undisturbed"))
    tests = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}"}
    command = [sys.executable, "-m", "fakes.export_lives", str(campaign.root), str(seed), kind]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["lives"] >= 4
    install(monkeypatch)
    export(undisturbed, FakeEarth(lost=0.2 if kind == "losses" else 0.0))
    assert read_status(open_campaign(undisturbed.root)).facts["generations"] == (3 if kind == "losses" else 1)
    assert content(campaign.root) == content(undisturbed.root)
    assert report["sent"] <= chips + 2 * in_flight * report["lives"], "repeated: what was in flight or being written"
    assert not list(campaign.raw_path.glob("*.seg"))
