"""Tiling seals what has landed and nothing else; damage and absence are said in words."""

from __future__ import annotations

import numpy as np
import pytest

from m3etl.errors import DamagedError, NothingSelectedError
from m3etl.io.ledger import open_ledger
from m3etl.io.segments import segment_numbers, segment_path
from m3etl.spec.catalog import find_array
from m3etl.stages.status import read_status
from m3etl.stages.tile import run_tile, stored_vector
from tests.unit.stages.test_export import (
    AuthenticationError,
    Failure,
    FakeEarth,
    Kind,
    SilentProgress,
    content,
    export,
    install,
    make_campaign,
    make_plan,
    open_campaign,
)


@pytest.fixture(autouse=True)
def _questions(monkeypatch):
    install(monkeypatch)


def interrupted(tmp_path, count=20):
    """A campaign whose login was lost half way."""

    def trouble(kind, subject, number):
        if kind == "pixels" and earth.calls["pixels"] > 12:
            return Failure(kind=Kind.AUTH, message="expired", status=401)
        return None

    campaign = make_campaign(tmp_path / "c", make_plan(count), max_in_flight=2)
    earth = FakeEarth(trouble=trouble)
    with pytest.raises(AuthenticationError):
        export(campaign, earth)
    return campaign


def test_nothing_exported_yet(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(3))
    with pytest.raises(NothingSelectedError, match="nothing was exported"):
        run_tile(campaign, progress=SilentProgress())
    assert read_status(campaign).facts["state"] == "nothing is exported yet"


def test_chips_that_no_export_knows_yet_are_not_passed_over(tmp_path):
    """An export that ended before it read the plan leaves an empty ledger: that is not `0 left`."""
    campaign = make_campaign(tmp_path / "c", make_plan(3))
    open_ledger(campaign.ledger_path).close()
    facts = read_status(campaign).facts
    assert (facts["of them in no export yet"], facts["waiting"], facts["seconds left"]) == (3, 0, None)
    export(campaign, FakeEarth())
    facts = read_status(open_campaign(campaign.root)).facts
    assert "of them in no export yet" not in facts
    assert (facts["sealed"], facts["seconds left"]) == (3, 0)


def test_only_whole_shards_are_sealed_and_the_rest_waits(tmp_path):
    campaign = interrupted(tmp_path)
    before = content(campaign.root)
    summary = run_tile(open_campaign(campaign.root), progress=SilentProgress())
    assert content(campaign.root) == before
    status = read_status(campaign)
    assert status.facts["sealed"] == 8
    assert summary.facts["chips waiting for their shard"] == status.facts["landed"] > 0
    assert segment_numbers(campaign.raw_path), "bytes that are not sealed stay"


def test_landed_bytes_that_changed_on_the_disk_are_damage(tmp_path):
    campaign = interrupted(tmp_path)
    ledger = open_ledger(campaign.ledger_path)
    records = [record for record in ledger.shard_records(1, shard_chips=8) if record.place is not None]
    ledger.close()
    path = segment_path(campaign.raw_path, records[0].place.segment)
    body = bytearray(path.read_bytes())
    body[records[0].place.offset + records[0].place.length - 5] ^= 0xFF
    path.write_bytes(body)
    with pytest.raises(DamagedError, match="damaged at byte"):
        export(campaign, FakeEarth())


def test_raw_bytes_can_be_kept(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(4))
    text = campaign.config_path.read_text().replace("keep_raw = false", "keep_raw = true")
    campaign.config_path.write_text(text)
    export(campaign, FakeEarth())
    assert segment_numbers(campaign.raw_path) == [0]


def test_vectors_are_stored_by_declaration():
    temperature = stored_vector(find_array("era5_temperature"), (280.5, None, 100.0, *[270.0] * 6))
    assert temperature[0] == np.float32(280.5)
    assert np.isnan(temperature[1])
    assert np.isnan(temperature[2]), "below absolute possibility: not a value"
    assert stored_vector(find_array("biome"), (None,))[0] == 255
    assert stored_vector(find_array("ecoregion"), (812.0,))[0] == 812
