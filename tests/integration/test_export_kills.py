"""Kill -9 at random moments of an export under faults: the next run goes on, and the data are the same to the last bit.

12 kills by default; `pytest --kills 50` for more. What a kill makes to be asked again is bounded: requests that are at
the service, and as many whose answers are not durable yet (see `io.flow.Flow`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from fakes.remembering import remembering_service

from m3etl.campaign import open_campaign
from m3etl.emulator.server import running
from m3etl.io.earthengine import open_session
from m3etl.stages.export import run_export
from m3etl.stages.summary import SilentProgress
from tests.unit.stages.test_export import content, make_campaign, make_plan

in_flight = 3
modalities = ("sentinel2", "worldcover")
chips_per_kill = 2


def campaign_of(root: Path, chips: int):
    return make_campaign(
        root, make_plan(chips), modalities=modalities, max_in_flight=in_flight, max_attempts=12, check_every=1
    )


def test_killed_at_random_moments_under_faults(tmp_path, request):
    kills = request.config.getoption("--kills")
    chips = 16 + chips_per_kill * kills
    killed = campaign_of(tmp_path / "killed", chips)
    tests = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-W", "ignore", "-m", "fakes.killed_exports", str(tmp_path), str(killed.root)]
    result = subprocess.run(
        [*command, str(kills), "1", str(chips)],
        env={**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}"},
        capture_output=True,
        text=True,
        timeout=560,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    request.node.add_report_section("call", "kills", json.dumps(report))
    whole = campaign_of(tmp_path / "whole", chips)
    with (
        running(remembering_service(tmp_path / "other")) as server,
        open_session(url=server.url, project="") as session,
    ):
        summary = run_export(open_campaign(whole.root), session=session, progress=SilentProgress())
    assert (summary.done, summary.failed) == (chips, 0)
    assert content(killed.root) == content(whole.root)
    assert report["killed"] == kills, report
    assert report["chips"] == chips
    assert report["faults"] > kills / 2
    assert report["most lost by a kill"] <= 2 * in_flight, "what was at the service, and as many being written"
    assert report["pixels repeated"] <= 2 * in_flight * kills
    assert report["planning repeated"] <= in_flight * kills
