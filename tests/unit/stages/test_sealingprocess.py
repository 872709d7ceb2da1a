"""Sealing in a process of its own: the same bytes as here, whatever becomes of the child."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import pytest
from fakes.earth import FakeEarth, install

from m3etl.campaign import open_campaign
from m3etl.errors import DamagedError
from m3etl.io.ledger import open_ledger
from m3etl.io.segments import segment_numbers, segment_path
from m3etl.io.workers import usable_cores
from m3etl.stages.layout import read_layout_of
from m3etl.stages.sealingprocess import SealingProcess
from m3etl.stages.shardwork import seal_work
from m3etl.stages.tile import Sealer
from tests.unit.stages import test_export as exporting

pytestmark = pytest.mark.skipif(usable_cores() < 2, reason="one core: everything is sealed here")


@pytest.fixture(scope="module")
def landed(tmp_path_factory):
    """A campaign all of whose chips have landed and none is sealed."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        patch.setattr(Sealer, "seal", lambda self, shard: 0)
        campaign = exporting.make_campaign(tmp_path_factory.mktemp("landed") / "c", exporting.make_plan(60))
        exporting.export(campaign, FakeEarth())
    return campaign


@pytest.fixture(scope="module")
def alone(landed, tmp_path_factory):
    return sealed(landed, tmp_path_factory.mktemp("alone") / "c", seal_work)


@pytest.fixture
def process():
    """One whose child is there from the second shard on."""
    made = SealingProcess(after_s=0.0)
    yield made
    made.close()


def sealed(landed, root, perform):
    campaign = open_campaign(shutil.copytree(landed.root, root))
    ledger = open_ledger(campaign.ledger_path)
    try:
        sealer = Sealer(campaign, ledger, read_layout_of(ledger), perform)
        shards = ledger.ready_shards()
        assert len(shards) == 8
        for shard in shards:
            sealer.seal(shard)
        sealer.finish()
        assert not ledger.ready_shards()
    finally:
        ledger.close()
    return exporting.content(root)


def child_of(process):
    assert wait_for(lambda: process._child is not None and process._child.is_ready)
    return process._child._process


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_the_child_leaves_the_same_bytes(landed, alone, process, tmp_path):
    by_the_child = []

    def perform(work):
        if process._child is not None:
            by_the_child.append(child_of(process).pid)
        return process.seal(work)

    assert sealed(landed, tmp_path / "c", perform) == alone
    assert len(by_the_child) >= 6, "the first shard is sealed here, and starts it"
    assert len(set(by_the_child)) == 1


def test_what_a_lost_child_had_is_done_here(landed, alone, process, tmp_path):
    lost = []

    def perform(work):
        if process._child is not None and not lost:
            child = child_of(process)
            child.kill()
            lost.append(child.wait())
        return process.seal(work)

    assert sealed(landed, tmp_path / "c", perform) == alone
    assert lost == [-9]


def test_damage_is_told_as_it_would_be_here(landed, process, tmp_path):
    campaign = open_campaign(shutil.copytree(landed.root, tmp_path / "c"))
    ledger = open_ledger(campaign.ledger_path)
    try:
        sealer = Sealer(campaign, ledger, read_layout_of(ledger), process.seal)
        first, second, third, *_ = ledger.ready_shards()
        sealer.seal(first)
        sealer.seal(second)
        child_of(process)
        for number in segment_numbers(campaign.raw_path):
            path = segment_path(campaign.raw_path, number)
            path.write_bytes(bytes(path.stat().st_size))
        with pytest.raises(DamagedError, match="is damaged at byte") as caught:
            sealer.seal(third)
        assert caught.value.hint
        assert child_of(process).poll() is None
        assert third in ledger.ready_shards()
    finally:
        ledger.close()


def test_a_short_run_starts_no_child(landed, alone, tmp_path):
    patient = SealingProcess(after_s=60.0)
    assert sealed(landed, tmp_path / "c", patient.seal) == alone
    assert patient._child is None
    patient.close()


def test_a_long_run_seals_nothing_here(landed, alone, tmp_path, monkeypatch):
    def here(work):
        raise AssertionError("sealed beside the requests in flight")

    monkeypatch.setattr("m3etl.stages.sealingprocess.seal_work", here)
    process = SealingProcess()
    process.expect(1_000_000)
    try:
        assert sealed(landed, tmp_path / "c", process.seal) == alone
    finally:
        process.close()


def test_what_cannot_be_started_is_done_without(landed, alone, process, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    assert sealed(landed, tmp_path / "c", process.seal) == alone
    assert process._child is None


def test_the_child_ends_when_its_parent_is_killed():
    code = (
        "import sys, time\n"
        "from m3etl.stages.childprocess import ChildProcess\n"
        "child = ChildProcess('m3etl.stages.sealingprocess')\n"
        "while not child.is_ready: time.sleep(0.02)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        pid = int(parent.stdout.readline())
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    assert wait_for(lambda: not is_running(pid))


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
