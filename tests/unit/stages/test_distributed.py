"""Stages on Dask workers: the same bytes as in one process."""

from __future__ import annotations

import json

import pytest
from fakes.campaigns import make_campaign
from fakes.dask_cluster import dask_cluster

from m3etl.errors import RemoteError
from m3etl.io import workers
from m3etl.stages.normalize import run_normalize
from m3etl.stages.summary import SilentProgress
from m3etl.stages.validate import run_validate

silent = SilentProgress()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with dask_cluster(tmp_path_factory.mktemp("dask")) as found:
        yield found


def test_statistics_have_the_same_bytes(cluster, tmp_path):
    campaign = make_campaign(tmp_path / "c", count=11)
    alone = campaign.stats_path.read_bytes()
    campaign.stats_path.unlink()
    summary = run_normalize(campaign, scheduler=cluster.address, progress=silent)
    assert campaign.stats_path.read_bytes() == alone
    assert summary.done == summary.facts["train chips"] > 0


def test_an_audit_finds_the_same(cluster, tmp_path):
    campaign = make_campaign(tmp_path / "c", count=11)
    path = next(campaign.store_path.glob("*/data/c.2.0.0.0"))
    content = bytearray(path.read_bytes())
    content[10] ^= 0xFF
    path.write_bytes(content)
    alone = run_validate(campaign, progress=silent)
    report = (campaign.root / "validate.json").read_bytes()
    (campaign.root / "validate.json").unlink()
    together = run_validate(campaign, scheduler=cluster.address, progress=silent)
    assert (campaign.root / "validate.json").read_bytes() == report
    assert together.errors == alone.errors
    assert together.facts["checksums compared"] == alone.facts["checksums compared"]
    assert any(item["check"] == "damaged" for item in json.loads(report))


def test_without_a_scheduler_nothing_is_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "connect_timeout_s", 0.5)
    campaign = make_campaign(tmp_path / "c")
    before = campaign.stats_path.read_bytes()
    with pytest.raises(RemoteError, match="no Dask scheduler answers"):
        run_normalize(campaign, scheduler="tcp://127.0.0.1:9", progress=silent)
    assert campaign.stats_path.read_bytes() == before
