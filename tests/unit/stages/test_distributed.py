"""Stages on Dask workers: the same bytes as in one process."""

from __future__ import annotations

import json
import shutil

import pytest
from fakes.campaigns import make_campaign
from fakes.dask_cluster import dask_cluster
from fakes.earth import FakeEarth, install

from m3etl.campaign import open_campaign
from m3etl.errors import RemoteError
from m3etl.io import workers
from m3etl.stages.normalize import run_normalize
from m3etl.stages.summary import SilentProgress
from m3etl.stages.tile import Sealer, run_tile
from m3etl.stages.validate import run_validate
from tests.unit.stages import test_export as exporting

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


@pytest.fixture(scope="module")
def landed(tmp_path_factory):
    """A campaign all of whose chips have landed and none is sealed."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        patch.setattr(Sealer, "seal", lambda self, shard: 0)
        campaign = exporting.make_campaign(tmp_path_factory.mktemp("landed") / "c", exporting.make_plan(60))
        exporting.export(campaign, FakeEarth())
    assert not campaign.store_path.exists()
    return campaign


@pytest.fixture(scope="module")
def alone(landed, tmp_path_factory):
    """What one process makes of it: every byte, and the chips."""
    root = shutil.copytree(landed.root, tmp_path_factory.mktemp("alone") / "c")
    summary = run_tile(open_campaign(root), progress=silent)
    assert summary.facts["shards sealed"] == 8
    return exporting.content(root), summary.done


def test_shards_sealed_by_workers_have_the_same_bytes(landed, alone, cluster, tmp_path):
    campaign = open_campaign(shutil.copytree(landed.root, tmp_path / "c"))
    summary = run_tile(campaign, scheduler=cluster.address, progress=silent)
    assert (exporting.content(campaign.root), summary.done) == alone
    assert run_tile(campaign, scheduler=cluster.address, progress=silent).facts["shards sealed now"] == 0


def test_a_worker_killed_while_it_seals_loses_nothing(landed, alone, tmp_path):
    campaign = open_campaign(shutil.copytree(landed.root, tmp_path / "c"))

    class KillAtFirst(SilentProgress):
        def advance(self, count=1, **fields):
            if together.workers[0].poll() is None:
                together.workers[0].kill()

    with dask_cluster(tmp_path / "dask") as together:
        summary = run_tile(campaign, scheduler=together.address, progress=KillAtFirst())
        assert together.workers[0].wait(10) == -9
        assert together.workers[1].poll() is None
    assert (exporting.content(campaign.root), summary.done) == alone
    assert not list(campaign.store_path.rglob("*.tmp")), "nothing half-written is left"


def test_a_run_without_any_worker_left_goes_on_where_it_stopped(landed, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "worker_timeout_s", 1.0)
    campaign = open_campaign(shutil.copytree(landed.root, tmp_path / "c"))
    with dask_cluster(tmp_path / "dask", workers=0) as empty, pytest.raises(RemoteError, match="has no workers"):
        run_tile(campaign, scheduler=empty.address, progress=silent)
    assert run_tile(campaign, progress=silent).done == alone[1]
    assert exporting.content(campaign.root) == alone[0]
