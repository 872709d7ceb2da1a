"""The export of every modality through the real client over a socket: faults of the wire leave the same data, to the
last bit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from m3etl.campaign import open_campaign
from m3etl.emulator.process import start_embedded
from m3etl.errors import RemoteError
from m3etl.io.earthengine import open_session
from m3etl.io.flow import Pace
from m3etl.io.outcomes import Failure, Kind, RequestFailed
from m3etl.io.provenance import read_provenance
from m3etl.io.store import open_store
from m3etl.stages.export import run_export
from m3etl.stages.status import read_status
from m3etl.stages.summary import SilentProgress
from tests.unit.stages.test_export import content, make_campaign, make_plan

chips = 9
fault_rules = [
    {"status": 429, "calls": {"probability": 0.06}, "headers": {"Retry-After": "0"}},
    {"status": 503, "calls": {"probability": 0.06}},
    {"status": 500, "calls": {"probability": 0.06}},
    {"status": 504, "html": "<html>Gateway timeout</html>", "calls": {"probability": 0.06}},
    {"html": "<html>busy</html>", "calls": {"probability": 0.06}},
    {"drop": True, "calls": {"probability": 0.06}},
    {"drop": "after", "calls": {"probability": 0.06}},
    {"truncate": True, "calls": {"probability": 0.06}},
]


def export(campaign, url):
    with open_session(url=url, project="") as session:
        return run_export(open_campaign(campaign.root), session=session, progress=SilentProgress(), base_wait_s=0.02)


def plan():
    return make_plan(chips)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    campaign = make_campaign(folder / "c", plan())
    log = folder / "requests.jsonl"
    with start_embedded(state_dir=folder / "state", log=log) as server:
        summary = export(campaign, server.url)
    requests = [json.loads(line) for line in log.read_text().splitlines()]
    return campaign, summary, requests


def test_one_pixel_request_a_chip_and_few_to_plan(undisturbed):
    _, summary, requests = undisturbed
    assert (summary.done, summary.failed) == (chips, 0)
    sent = [item for item in requests if "computePixels" in item["path"]]
    assert len(sent) == chips
    assert summary.facts["requests"] == len(sent) + sum("value:compute" in item["path"] for item in requests)
    assert sum(item["status"] != 200 for item in requests) == 0
    assert sum(item["bytes"] for item in sent) >= summary.facts["bytes"]


def test_what_is_stored_is_observed_and_named(undisturbed):
    campaign, _, _ = undisturbed
    store = open_store(campaign.store_path)
    provenance = read_provenance(campaign.provenance_path)
    assert len(provenance) == chips * len(store.specs)
    observed = provenance[provenance["status"] == "ok"]
    assert set(observed["array"]) >= {"sentinel2_cloud", "aster_slope", "worldcover", "era5_temperature"}
    assert observed["array"].isin(["sentinel2_l2a", "sentinel2_l1c"]).sum() == chips
    assert set(observed[observed["array"] == "worldcover"]["origin"]) == {"planet"}
    assert (observed["valid_fraction"] > 0).all()
    radar = observed[observed["array"].str.startswith("sentinel1")]
    assert (radar["gap_days"].abs() <= 30).all()
    values = store.read("aster_elevation", np.arange(chips))
    assert values.shape == (chips, 1, 5, 5)


def test_faults_of_the_wire_leave_no_trace(undisturbed, tmp_path):
    faults = tmp_path / "faults.json"
    faults.write_text(json.dumps({"seed": 11, "rules": [{"path": "compute", **rule} for rule in fault_rules]}))
    campaign = make_campaign(tmp_path / "c", plan(), plan_batch=1, max_attempts=12)
    log = tmp_path / "requests.jsonl"
    with start_embedded(state_dir=tmp_path / "state", faults=faults, log=log) as server:
        summary = export(campaign, server.url)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for path in ("computePixels", "value:compute"):
        assert sum(path in line["path"] and "fault" in line for line in lines) > 2, "faults were injected"
    assert summary.failed == 0
    assert content(campaign.root) == content(undisturbed[0].root)


def test_an_expired_login_is_exit_4_and_resumable(undisturbed, tmp_path):
    faults = tmp_path / "faults.json"
    faults.write_text(json.dumps({"rules": [{"path": "computePixels", "calls": {"after": 4}, "status": 401}]}))
    campaign = make_campaign(tmp_path / "c", plan(), max_in_flight=2)
    command = [sys.executable, "-W", "ignore", "-m", "m3etl", "-C", str(campaign.root), "export"]
    with start_embedded(state_dir=tmp_path / "state", faults=faults) as server:
        result = subprocess.run(command, env={**os.environ, "M3ETL_EE_URL": server.url}, capture_output=True, text=True)
    assert result.returncode == 4
    assert "login" in result.stderr
    assert "Traceback" not in result.stderr
    with start_embedded(state_dir=tmp_path / "state") as server:
        export(campaign, server.url)
    assert content(campaign.root) == content(undisturbed[0].root)


def short_patience(monkeypatch):
    monkeypatch.setitem(Pace.__init__.__kwdefaults__, "patience_s", 1.0)


@pytest.mark.parametrize("path", ["computePixels", "value:compute"])
def test_a_long_outage_of_5xx_fails_no_chip_and_the_next_run_goes_on(undisturbed, tmp_path, monkeypatch, path):
    short_patience(monkeypatch)
    campaign = make_campaign(tmp_path / "c", plan(), max_in_flight=2, max_attempts=2, plan_batch=2)
    rules = [{"path": path, "calls": {"after": 2}, "status": 503}]
    (tmp_path / "faults.json").write_text(json.dumps({"rules": rules}))
    with (
        start_embedded(state_dir=tmp_path / "state", faults=tmp_path / "faults.json") as server,
        pytest.raises(RemoteError, match="has not answered for a while") as caught,
    ):
        export(campaign, server.url)
    assert caught.value.exit_code == 4
    assert "nothing landed is lost" in caught.value.hint
    status = read_status(open_campaign(campaign.root))
    assert status.failed == 0
    assert status.done == (2 if path == "computePixels" else 0)
    with start_embedded(state_dir=tmp_path / "state") as server:
        assert export(campaign, server.url).failed == 0
    assert content(campaign.root) == content(undisturbed[0].root)


def test_one_poisonous_chip_among_good_ones_is_reported(undisturbed, tmp_path):
    victim = plan()["chip_id"][4]
    campaign = make_campaign(tmp_path / "c", plan(), max_attempts=3)
    with start_embedded(state_dir=tmp_path / "state") as server, open_session(url=server.url, project="") as session:
        ask = type(session).compute_pixels

        def compute_pixels(self, request):
            west, north = victim_corner
            if isinstance(request, str) and f"{west}" in request and f"{north}" in request:
                raise RequestFailed(Failure(kind=Kind.TRANSIENT, message="An internal error has occurred", status=500))
            return ask(self, request)

        row = plan().set_index("chip_id").loc[victim]
        victim_corner = (int(row["xmin"]), int(row["ymax"]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(session), "compute_pixels", compute_pixels)
            summary = run_export(
                open_campaign(campaign.root), session=session, progress=SilentProgress(), base_wait_s=0.02
            )
    assert (summary.done, summary.failed) == (chips - 1, 1)
    assert summary.errors == {"transient: An internal error has occurred": 1}


def test_a_service_that_goes_away_fails_no_chip_and_the_next_run_goes_on(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setitem(Pace.__init__.__kwdefaults__, "patience_s", 0.5)
    campaign = make_campaign(tmp_path / "c", plan(), max_in_flight=2, max_attempts=2)
    with start_embedded(state_dir=tmp_path / "state") as server, open_session(url=server.url, project="") as session:
        ask, asked = type(session).compute_pixels, []

        def compute_pixels(self, request):
            asked.append(request)
            if len(asked) == 4:
                server.stop()
            return ask(self, request)

        monkeypatch.setattr(type(session), "compute_pixels", compute_pixels)
        with pytest.raises(RemoteError, match="nothing landed is lost") as caught:
            run_export(open_campaign(campaign.root), session=session, progress=SilentProgress(), base_wait_s=0.02)
        assert caught.value.exit_code == 4
    monkeypatch.undo()
    status = read_status(open_campaign(campaign.root))
    assert status.failed == 0
    assert 1 <= status.done < chips
    with start_embedded(state_dir=tmp_path / "state") as server:
        export(campaign, server.url)
    assert content(campaign.root) == content(undisturbed[0].root)
