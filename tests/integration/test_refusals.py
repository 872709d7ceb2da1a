"""What the service and the user's own limits refuse, as typed: one clear message, the right exit code, nothing lost,
and the same data when the command runs again without the trouble.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from m3etl.campaign import open_campaign
from m3etl.emulator.process import start_embedded
from m3etl.io.earthengine import open_session
from m3etl.stages.export import run_export
from m3etl.stages.status import read_status
from m3etl.stages.summary import SilentProgress
from tests.unit.stages.test_export import content, make_campaign, make_plan

chips = 5
full_queue = "Too many tasks already in the queue (3000). Please wait for some of them to complete."


@dataclass(frozen=True)
class Refusal:
    """A command and the trouble that it meets. words: of the message; landed: chips that are there afterwards."""

    name: str
    arguments: tuple[str, ...]
    rules: tuple[dict[str, Any], ...]
    code: int
    words: tuple[str, ...]
    landed: int = 0


batch = ("--lane", "batch", "--bucket", "gs://my-bucket/deep")
refusals = (
    Refusal("over budget", ("--budget-eecu-hours", "0"), (), 2, ("budget of 0 EECU-hours", "--budget-eecu-hours")),
    Refusal(
        "unknown bucket",
        batch,
        ({"path": "/my-bucket", "status": 404, "message": "The specified bucket does not exist."},),
        2,
        ("there is no bucket gs://my-bucket/deep", "gcloud storage buckets create"),
    ),
    Refusal(
        "no permission",
        batch,
        ({"path": "/my-bucket", "method": "PUT", "status": 403, "message": "Denied."},),
        4,
        ("no permission to write", "gs://my-bucket/deep", "Storage Object Admin"),
    ),
    Refusal(
        "login expires while tasks are asked for",
        batch,
        ({"path": "image:export", "calls": {"after": 1}, "status": 401},),
        4,
        ("login", "earthengine authenticate", "nothing landed is lost"),
    ),
    Refusal(
        "login expires while planning",
        (),
        ({"path": "value:compute", "calls": {"after": 1}, "status": 401},),
        4,
        ("login", "earthengine authenticate", "nothing landed is lost"),
    ),
    Refusal(
        "login expires among pixels",
        (),
        ({"path": "computePixels", "calls": {"after": 2}, "status": 401},),
        4,
        ("login", "earthengine authenticate", "nothing landed is lost"),
        landed=2,
    ),
    Refusal(
        "a queue that is full for a while",
        batch,
        ({"path": "image:export", "calls": {"first": 2}, "status": 400, "message": full_queue},),
        0,
        ("queue of export tasks is full",),
        landed=chips,
    ),
)


def campaign_in(path):
    modalities = ("sentinel2", "worldcover")
    return make_campaign(path, make_plan(chips), modalities=modalities, max_in_flight=1, plan_batch=2)


def go_on(campaign, state, **lane):
    with start_embedded(state_dir=state) as server, open_session(url=server.url, project="") as session:
        return run_export(
            open_campaign(campaign.root), session=session, progress=SilentProgress(), base_wait_s=0.02, **lane
        )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    campaign = campaign_in(folder / "c")
    go_on(campaign, folder / "state")
    return content(campaign.root)


@pytest.mark.parametrize("refusal", refusals, ids=lambda refusal: refusal.name.replace(" ", "-"))
def test_one_message_and_the_same_command_goes_on(undisturbed, tmp_path, refusal):
    campaign = campaign_in(tmp_path / "c")
    command = [sys.executable, "-W", "ignore", "-m", "m3etl", "-C", str(campaign.root), "export", *refusal.arguments]
    faults = tmp_path / "faults.json"
    faults.write_text(json.dumps({"rules": list(refusal.rules)}))
    with start_embedded(state_dir=tmp_path / "state", faults=faults) as server:
        result = subprocess.run(command, env={**os.environ, "M3ETL_EE_URL": server.url}, capture_output=True, text=True)
    assert result.returncode == refusal.code, result.stderr
    assert "Traceback" not in result.stderr
    assert all(word in result.stderr for word in refusal.words), result.stderr
    if campaign.ledger_path.exists():
        status = read_status(open_campaign(campaign.root))
        assert (status.done, status.failed) == (refusal.landed, 0)
    lane = {"lane": "batch", "bucket": "gs://my-bucket/deep"} if refusal.arguments == batch else {}
    summary = go_on(campaign, tmp_path / "state", **lane)
    assert (summary.done, summary.failed) == (chips, 0)
    assert content(campaign.root) == undisturbed
