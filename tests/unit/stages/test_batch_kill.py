"""Kill -9 at any write of the batch lane: nothing is started twice, and the data is the same to the last bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.tasks import FakeTasks

from tests.unit.stages.test_batch import chips, selection
from tests.unit.stages.test_export import FakeEarth, content, export, install, make_campaign, make_plan


@pytest.fixture(scope="module")
def by_pixels(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        campaign = make_campaign(tmp_path_factory.mktemp("pixels") / "c", make_plan(chips), **selection)
        export(campaign, FakeEarth())
    return content(campaign.root)


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_any_write_nothing_is_started_twice(by_pixels, tmp_path, seed):
    campaign = make_campaign(tmp_path / "c", make_plan(chips), lane="batch", batch_tile_px=512, **selection)
    tests = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}"}
    command = [sys.executable, "-m", "fakes.batch_lives", str(campaign.root), str(tmp_path / "cloud"), str(seed)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["lives"] >= 4
    started = FakeTasks(tmp_path / "cloud").started()
    assert len(started) == len(set(started)), "one operation per attempt"
    assert max(attempt for _, attempt in started) == 2, "further attempts only where one had failed"
    assert content(campaign.root) == by_pixels
    assert not list((tmp_path / "cloud" / "buckets").rglob("*.tif"))
