"""A modality added to sealed rows is what it would have been from the first, whatever interrupts it; nothing else
changes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from m3etl.errors import AuthenticationError, InputError
from m3etl.io import ledger as ledger_module
from m3etl.io.outcomes import Failure, Kind
from m3etl.io.plan import read_plan, write_plan
from m3etl.io.provenance import provenance_file, read_provenance
from m3etl.io.store import dataset_id, open_store
from m3etl.spec.modality import Shape
from m3etl.stages.describe import run_describe
from m3etl.stages.status import read_status
from m3etl.stages.summary import SilentProgress
from m3etl.stages.tile import run_tile
from tests.unit.stages.test_export import FakeEarth, content, export, install, make_campaign, make_plan, open_campaign

first, second = ("sentinel2", "worldcover"), ("sentinel1", "aster", "month", "era5_temperature")


@pytest.fixture(autouse=True)
def _questions(monkeypatch):
    install(monkeypatch)


def begun(path, chips=20, **options):
    """A campaign whose first export is done."""
    campaign = make_campaign(path, make_plan(chips), **options)
    export(campaign, FakeEarth(), modalities=first)
    return campaign


@pytest.fixture(scope="module")
def at_once(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        campaign = make_campaign(tmp_path_factory.mktemp("once") / "c", make_plan(20))
        export(campaign, FakeEarth(), modalities=first + second)
    return campaign


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        campaign = begun(tmp_path_factory.mktemp("added") / "c")
        before, earth = content(campaign.root), FakeEarth()
        old_reader, old_id = open_store(campaign.store_path), dataset_id(campaign.store_path)
        summary = export(campaign, earth, modalities=second)
    return campaign, before, earth, old_reader, old_id, summary


def same_values(store, other):
    assert set(store.specs) == set(other.specs)
    np.testing.assert_array_equal(store.chip_ids, other.chip_ids)
    everything = np.flatnonzero(store.sealed)
    for name in store.specs:
        np.testing.assert_array_equal(store.read(name, everything), other.read(name, everything), err_msg=name)


def records(campaign):
    table = read_provenance(campaign.provenance_path)
    table["scene_ids"] = [" ".join(names) for names in table["scene_ids"]]
    return table.sort_values(["chip_id", "array"]).reset_index(drop=True)


def test_values_and_records_are_those_of_one_export(added, at_once):
    campaign = added[0]
    same_values(open_store(campaign.store_path), open_store(at_once.store_path))
    pd.testing.assert_frame_equal(records(campaign), records(at_once))


def test_scenes_lie_around_the_recorded_anchor(added):
    table = read_provenance(added[0].provenance_path)
    anchors = table[table["array"] == "sentinel2_cloud"].set_index("chip_id")["time"]
    radar = table[(table["array"] == "sentinel1_asc") & (table["status"] == "ok")]
    assert len(radar) > 5
    gaps = (radar["time"] - radar["chip_id"].map(anchors)) / pd.Timedelta(days=1)
    np.testing.assert_allclose(gaps, radar["gap_days"], atol=1e-5)


def test_what_was_sealed_stays_and_old_readers_are_right(added):
    campaign, before, earth, old_reader, old_id, summary = added
    after = content(campaign.root)
    documents = {name for name in before if name.endswith("zarr.json")}
    assert all(after[name] == before[name] for name in before if name not in documents)
    assert earth.calls["pixels"] == 20, "one request a chip, for the new arrays alone"
    assert "sentinel1_asc" not in old_reader.specs
    same = np.arange(20)
    np.testing.assert_array_equal(
        old_reader.read("worldcover", same), open_store(campaign.store_path).read("worldcover", same)
    )
    assert dataset_id(campaign.store_path) != old_id, "statistics are made anew"
    assert provenance_file(campaign.provenance_path, 0, 1).exists()
    assert summary.facts["added to existing rows"][0]["chips"] == 20
    assert (summary.done, summary.failed, summary.facts["new chips"]) == (20, 0, 0)


def test_the_campaign_has_the_modality_from_now_on(added):
    campaign = open_campaign(added[0].root)
    names = set(open_store(campaign.store_path).specs)
    assert set(campaign.config.catalogue) == names
    assert {row["array"] for row in run_describe(campaign).facts["arrays"]} == names
    again = FakeEarth()
    export(campaign, again, modalities=second)
    assert again.requests == 0
    assert "adding to existing rows" not in read_status(campaign).facts


def test_further_chips_get_every_array_at_once(tmp_path):
    campaign = begun(tmp_path / "c", 12)
    export(campaign, FakeEarth(), modalities=second)
    grown = pd.concat([pd.DataFrame(read_plan(campaign.plan_path)), make_plan(16)[12:]], ignore_index=True)
    write_plan(campaign.plan_path, grown)
    earth = FakeEarth()
    assert export(campaign, earth).done == 16
    assert earth.calls["pixels"] == 4
    store = open_store(campaign.store_path)
    for name, spec in store.specs.items():
        if spec.shape is Shape.RASTER and name != "sentinel2_l1c":
            assert store.present(name)[store.sealed].sum() > 8, name
    statuses = read_provenance(campaign.provenance_path)["status"]
    assert set(statuses) <= {"ok", "no_scene"}
    assert not read_provenance(campaign.provenance_path).duplicated(["chip_id", "array"]).any()
    export(campaign, FakeEarth(), modalities=("canopy_height",))
    assert (campaign.provenance_path / "added-2").is_dir()
    assert len(read_provenance(campaign.provenance_path)) == 16 * len(open_store(campaign.store_path).specs)


@pytest.mark.parametrize("place", ["plan", "pixels"])
def test_a_lost_login_on_the_way_and_the_next_run_goes_on(added, tmp_path, place):
    campaign = begun(tmp_path / "c", max_in_flight=2)
    earth = FakeEarth()

    def expires(what, subject, number):
        if what == place and earth.calls[place] > (1 if place == "plan" else 9):
            return Failure(kind=Kind.AUTH, message="expired", status=401)
        return None

    earth.trouble = expires
    before = open_store(campaign.store_path)
    with pytest.raises(AuthenticationError):
        export(campaign, earth, modalities=second)
    assert list(open_store(campaign.store_path).specs) == list(before.specs), "named when it is whole"
    same_values(open_store(campaign.store_path), before)
    standing = read_status(open_campaign(campaign.root)).facts["adding to existing rows"][0]
    assert standing["waiting"] > 0
    last = FakeEarth()
    export(campaign, last)
    assert last.calls["pixels"] == 20 - (standing["chips"] if place == "pixels" else 0)
    assert content(campaign.root) == content(added[0].root)


@pytest.mark.parametrize("seed", ["1", "8"])
def test_killed_at_any_write_the_result_is_the_same(added, tmp_path, seed):
    campaign = begun(tmp_path / "c", max_in_flight=4)

    def expires(what, subject, number):
        return Failure(kind=Kind.AUTH, message="expired", status=401)

    with pytest.raises(AuthenticationError):
        export(campaign, FakeEarth(trouble=expires), modalities=second)
    tests = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}"}
    command = [sys.executable, "-m", "fakes.export_lives", str(campaign.root), seed, "faults"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["lives"] >= 3
    assert content(campaign.root) == content(added[0].root)
    assert not list(campaign.raw_path.rglob("*.seg"))


def test_a_chip_that_fails_stays_fill_in_the_new_arrays_alone(tmp_path):
    campaign = begun(tmp_path / "c", 10, max_attempts=1)
    victim = make_plan(10)["chip_id"][4]

    def fails(what, subject, number):
        failing = what == "pixels" and subject.job.chip.chip_id == victim
        return Failure(kind=Kind.WRONG, message="odd") if failing else None

    assert export(campaign, FakeEarth(trouble=fails), modalities=("aster",)).failed == 1
    table = read_provenance(campaign.provenance_path).set_index(["chip_id", "array"])["status"]
    assert table[victim, "aster_slope"] == "failed"
    assert table[victim, "worldcover"] == "ok"
    store = open_store(campaign.store_path)
    row = np.flatnonzero(store.chip_ids == victim)
    assert (store.read("aster_slope", row) == store.specs["aster_slope"].fill).all()
    assert (store.read("worldcover", row) != store.specs["worldcover"].fill).any()


def test_rows_that_were_superseded_do_not_stand_in_the_way(tmp_path):
    plan = make_plan(12)
    victim = plan["chip_id"][7]
    campaign = make_campaign(tmp_path / "c", plan, max_attempts=1)

    def fails(what, subject, number):
        failing = what == "pixels" and subject.job.chip.chip_id == victim
        return Failure(kind=Kind.WRONG, message="odd") if failing else None

    export(campaign, FakeEarth(trouble=fails), modalities=first)
    export(campaign, FakeEarth(), retry_failed=True)
    assert export(campaign, FakeEarth(), modalities=("aster",)).failed == 0
    store = open_store(campaign.store_path)
    assert store.present("aster_slope")[store.sealed].all()
    assert store.sealed.sum() == 12
    run_tile(open_campaign(campaign.root), progress=SilentProgress())


def test_a_chip_that_had_failed_before_is_fetched_with_every_array(tmp_path):
    plan = make_plan(12)
    victim = plan["chip_id"][7]
    campaign = make_campaign(tmp_path / "c", plan, max_attempts=1)

    def fails(what, subject, number):
        failing = what == "pixels" and subject.job.chip.chip_id == victim
        return Failure(kind=Kind.WRONG, message="odd") if failing else None

    assert export(campaign, FakeEarth(trouble=fails), modalities=first).failed == 1
    export(campaign, FakeEarth(), modalities=("aster",))
    summary = export(campaign, FakeEarth(), retry_failed=True)
    assert (summary.done, summary.failed) == (12, 0)
    store = open_store(campaign.store_path)
    row = np.flatnonzero(store.chip_ids == victim)
    assert row.tolist() == [16]
    for name in ("aster_slope", "worldcover"):
        assert (store.read(name, row) != store.specs[name].fill).any()


def test_it_concerns_the_whole_campaign_and_the_declaration_it_began_with(tmp_path, monkeypatch):
    campaign = begun(tmp_path / "c", 6)
    with pytest.raises(InputError, match="added to all of its rows"):
        export(campaign, FakeEarth(), modalities=("aster",), region="globe")
    with pytest.raises(InputError, match="exported as a whole"):
        export(campaign, FakeEarth(), modalities=("aster",), part=(1, 2))

    def expires(what, subject, number):
        return Failure(kind=Kind.AUTH, message="expired", status=401)

    with pytest.raises(AuthenticationError):
        export(campaign, FakeEarth(trouble=expires), modalities=("aster",))
    ledger = ledger_module.open_ledger(campaign.ledger_path)
    adding = ledger.read_meta("adding")
    ledger.write_meta("adding", {**adding, "aster_slope": "0" * 64})
    ledger.close()
    with pytest.raises(InputError, match="otherwise than when the campaign began: aster_slope"):
        export(campaign, FakeEarth())
    assert not replace(campaign, addition=2).ledger_path.exists()
