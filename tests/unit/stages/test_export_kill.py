"""Kill -9 at any write of an export: the next run goes on, and the result is the same to the last bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.stages.test_export import FakeEarth, content, export, install, make_campaign, make_plan

chips = 24
in_flight = 4


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        campaign = make_campaign(
            tmp_path_factory.mktemp("undisturbed") / "c", make_plan(chips), max_in_flight=in_flight
        )
        export(campaign, FakeEarth())
    return content(campaign.root)


@pytest.mark.parametrize(("seed", "faults"), [(1, "none"), (2, "faults")])
def test_killed_at_any_write_the_result_is_the_same(undisturbed, tmp_path, seed, faults):
    campaign = make_campaign(tmp_path / "c", make_plan(chips), max_in_flight=in_flight)
    tests = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}"}
    command = [sys.executable, "-m", "fakes.export_lives", str(campaign.root), str(seed), faults]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["lives"] >= 4
    assert content(campaign.root) == undisturbed
    assert report["sent"] <= chips + 2 * in_flight * report["lives"], "repeated: what was in flight or being written"
    assert not list(campaign.raw_path.glob("*.seg"))
