"""`doctor` offline: it answers in seconds, says what to do, and shows no secret."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from m3etl.campaign import CampaignConfig, EarthEngineConfig, ExportConfig
from m3etl.emulator.process import start_embedded
from m3etl.io import machine
from m3etl.stages import doctor
from m3etl.stages.doctor import run_doctor


@pytest.fixture(autouse=True)
def _no_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CLOUDSDK_CONFIG", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)


def checks_of(root: Path, **source: str) -> dict[str, dict[str, str]]:
    summary = run_doctor(root, config=CampaignConfig(), source=EarthEngineConfig(**source))
    return {item["check"]: item for item in summary.facts["checks"]}


def test_offline_it_answers_and_nothing_that_is_needed_fails(tmp_path):
    started = time.monotonic()
    summary = run_doctor(tmp_path, config=CampaignConfig(), source=EarthEngineConfig())
    assert time.monotonic() - started < 10
    assert summary.failed == 0
    checks = {item["check"]: item for item in summary.facts["checks"]}
    assert checks["Earth Engine"]["state"] == "warn"
    assert "--ee-url embedded" in checks["Earth Engine"]["advice"]
    assert "earthengine authenticate" in checks["Earth Engine login"]["advice"]
    assert "--ee-project" in checks["Earth Engine project"]["advice"]
    assert {item["state"] for item in checks.values()} <= {"ok", "warn"}


def test_every_line_that_is_not_ok_says_what_to_do(tmp_path):
    for item in checks_of(tmp_path).values():
        assert item["found"]
        assert bool(item["advice"]) == (item["state"] != "ok"), item


def test_a_login_is_found_and_its_content_never_shown(tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / ".config" / "earthengine").mkdir(parents=True)
    (home / ".config" / "earthengine" / "credentials").write_text('{"refresh_token": "s3cr3t"}')
    monkeypatch.setenv("HF_TOKEN", "hf_s3cr3t")
    text = json.dumps(checks_of(tmp_path, url="https://user:s3cr3t@example.invalid/", project="my-project"))
    assert "s3cr3t" not in text
    assert "~/.config/earthengine/credentials" in text
    assert "example.invalid" in text
    assert "my-project" in text


def bucket_check(root, url, bucket, **options):
    source = EarthEngineConfig(url=url, **options)
    checks = run_doctor(root, config=CampaignConfig(), source=source, bucket=bucket).facts["checks"]
    return next(item for item in checks if item["check"].startswith("bucket"))


def test_a_bucket_is_listed_written_and_left_clean(tmp_path):
    found = bucket_check(tmp_path, "embedded", "gs://my-bucket/deep")
    assert found["state"] == "ok"
    assert "gs://my-bucket/deep" in found["found"]
    config = CampaignConfig(export=ExportConfig(bucket="gs://of-the-campaign"))
    checks = run_doctor(tmp_path, config=config, source=EarthEngineConfig(url="embedded")).facts["checks"]
    assert "gs://of-the-campaign can be" in next(item["found"] for item in checks if "bucket" in item["check"])


@pytest.mark.parametrize(
    ("rule", "found", "advice"),
    [
        ({"status": 404}, "there is no bucket gs://my-bucket/deep (asked to list", "gcloud storage buckets create"),
        ({"status": 403}, "no permission to list", "Storage Object Admin"),
        ({"status": 403, "method": "PUT"}, "no permission to write", "Storage Object Admin"),
        ({"status": 401}, "login for Cloud Storage was rejected", "earthengine authenticate"),
    ],
)
def test_a_bucket_that_refuses_says_what_and_what_to_do(tmp_path, monkeypatch, rule, found, advice):
    faults = tmp_path / "faults.json"
    faults.write_text(json.dumps({"rules": [{"path": "/my-bucket", **rule}]}))
    with start_embedded(state_dir=tmp_path / "state", faults=faults) as server:
        item = bucket_check(tmp_path, server.url, "gs://my-bucket/deep")
    assert item["state"] == "fail"
    assert found in item["found"]
    assert advice in item["advice"]


def test_a_bucket_without_a_login_and_one_that_is_none_fail(tmp_path):
    assert "no login" in bucket_check(tmp_path, "", "gs://my-bucket")["found"]
    assert bucket_check(tmp_path, "", "gs://my-bucket")["state"] == "fail"
    assert "is no place in Cloud Storage" in bucket_check(tmp_path, "", "s3://my-bucket")["found"]


def test_a_login_is_needed_where_a_project_is_named(tmp_path):
    assert checks_of(tmp_path)["Earth Engine login"]["state"] == "warn", "the embedded one works without"
    assert checks_of(tmp_path, project="my-project")["Earth Engine login"]["state"] == "fail"


def test_an_address_that_was_given_and_does_not_answer_fails(tmp_path):
    item = checks_of(tmp_path, url="http://127.0.0.1:9")["Earth Engine"]
    assert item["state"] == "fail"
    assert "cannot be reached" in item["found"]


def test_a_slow_address_does_not_hold_it_up(monkeypatch):
    monkeypatch.setattr(machine, "_ask", lambda url, timeout_s: time.sleep(5))
    started = time.monotonic()
    assert machine.probe("http://192.0.2.1/", timeout_s=0.1).reason == "no answer in time"
    assert time.monotonic() - started < 2


def test_a_directory_that_cannot_be_written_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "write_problem", lambda root: "Read-only file system")
    summary = run_doctor(tmp_path, config=CampaignConfig(), source=EarthEngineConfig())
    assert summary.failed == 1
    item = next(item for item in summary.facts["checks"] if item["check"] == "campaign directory")
    assert "Read-only file system" in item["found"]
    assert "-C DIR" in item["advice"]


@pytest.mark.parametrize(("free", "state"), [(10**6, "fail"), (10**9, "warn"), (10**11, "ok")])
def test_little_space_is_said(tmp_path, monkeypatch, free, state):
    monkeypatch.setattr(machine, "free_bytes", lambda root: free)
    assert checks_of(tmp_path)["disk space"]["state"] == state


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    installed = machine.package_version
    monkeypatch.setattr(machine, "package_version", lambda name: "" if name == "lightning" else installed(name))
    item = checks_of(tmp_path)["packages for pretrain, evaluate and embed"]
    assert (item["state"], item["advice"]) == ("warn", 'pip install "m3etl[train]"')
    assert "lightning" in item["found"]


def test_a_directory_that_does_not_exist_yet_is_judged_by_its_parent(tmp_path):
    assert machine.write_problem(tmp_path / "a" / "b") == ""
    assert machine.free_bytes(tmp_path / "a" / "b") > 0


def test_extras_are_those_of_the_package():
    import tomllib

    document = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    declared = set(document["project"]["optional-dependencies"]) - {"all", "dev"}
    assert set(doctor.extras) == declared
