"""The export stage against an Earth Engine in this process: what lands is right, faults change nothing, interruptions
neither.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fakes.earth import FakeEarth, fraction, install, pixels
from pyproj import Transformer

from m3etl.campaign import (
    Campaign,
    CampaignConfig,
    ExportConfig,
    SampleConfig,
    StoreConfig,
    create_campaign,
    open_campaign,
    save_config,
)
from m3etl.errors import AuthenticationError, InputError, NothingSelectedError, RemoteError
from m3etl.io.outcomes import Failure, Kind
from m3etl.io.plan import read_plan, write_plan
from m3etl.io.provenance import read_provenance
from m3etl.io.store import open_store
from m3etl.spec.chipgrid import ChipGrid
from m3etl.spec.modality import Shape
from m3etl.spec.scenes import day_ms
from m3etl.stages.export import run_export
from m3etl.stages.status import read_status
from m3etl.stages.summary import SilentProgress
from m3etl.stages.tile import run_tile

chip_px = 16
cell_m = 160


@pytest.fixture(autouse=True)
def _questions(monkeypatch):
    install(monkeypatch)


def make_plan(count: int, reserve: int = 0, **columns) -> pd.DataFrame:
    rows = []
    for number in range(count + reserve):
        epsg = 32632 if number % 2 else 32733
        column, row = 3000 + 11 * number, (33_000 if number % 2 else 50_000) + 7 * number  # land on the planet too
        x, y = (column + 0.5) * cell_m, (row + 0.5) * cell_m
        lon, lat = Transformer.from_crs(f"EPSG:{epsg}", "EPSG:4326", always_xy=True).transform(x, y)
        rows.append(
            {
                "chip_id": f"{epsg}-{cell_m:04d}-{column:04d}-{row:04d}",
                "row": -1,
                "generation": -1,
                "epsg": epsg,
                "xmin": column * cell_m * 1.0,
                "ymin": row * cell_m * 1.0,
                "xmax": (column + 1) * cell_m * 1.0,
                "ymax": (row + 1) * cell_m * 1.0,
                "lon": lon,
                "lat": lat,
                "biome": number % 3,
                "ecoregion": number % 3 * 10 + number % 6 // 3,
                "realm": "R",
                "region": "globe",
                "year": 2017 + number % 4,
                "split": "train",
                "reserve": number >= count,
            }
        )
    return pd.DataFrame(rows).assign(**columns)


def make_campaign(path: Path, plan: pd.DataFrame, *, strategy: str = "points", **export) -> Campaign:
    config = CampaignConfig(
        sample=SampleConfig(chip_px=chip_px, strategy=strategy, seed=5),
        export=replace(ExportConfig(plan_batch=4, requests_per_second=5000.0, check_every=5), **export),
        store=StoreConfig(shard_chips=8),
    )
    campaign = create_campaign(path, config)
    write_plan(campaign.plan_path, plan)
    return campaign


def export(campaign: Campaign, earth: FakeEarth, **options):
    options = {"progress": SilentProgress(), "base_wait_s": 0.002, **options}
    return run_export(open_campaign(campaign.root), session=earth, **options)


def content(root: Path) -> dict[str, bytes]:
    """Every byte of the result: store, provenance, plan."""
    files = [root / "chips.parquet"]
    for name in ("chips.zarr", "provenance"):
        files += [path for path in (root / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        campaign = make_campaign(tmp_path_factory.mktemp("undisturbed") / "c", make_plan(20))
        earth = FakeEarth()
        summary = export(campaign, earth)
    return campaign, earth, summary


def test_every_chip_is_sealed_with_the_values_that_were_sent(undisturbed):
    campaign, earth, summary = undisturbed
    assert (summary.done, summary.failed, summary.rejected) == (20, 0, 0)
    assert summary.facts["requests"] == earth.requests
    assert earth.calls["pixels"] == 20, "one pixel request a chip"
    store = open_store(campaign.store_path)
    plan = read_plan(campaign.plan_path).set_index("chip_id")
    provenance = read_provenance(campaign.provenance_path).set_index(["chip_id", "array"])
    assert sorted(store.chip_ids[store.chip_ids != ""]) == sorted(plan.index)
    assert (store.chip_ids[:20] != "").all()
    for chip_id, place in plan.iterrows():
        assert store.chip_ids[place["row"]] == chip_id
        records = provenance.loc[chip_id]
        for name, spec in store.specs.items():
            record = records.loc[name]
            values = store.read(name, np.array([place["row"]]))[0]
            if spec.shape is Shape.VECTOR:
                continue
            if record["status"] != "ok":
                assert (values == spec.fill).all()
                continue
            expected = expected_values(spec, str(chip_id), place, record["scene_ids"])
            np.testing.assert_array_equal(values, expected, err_msg=f"{chip_id} {name}")
    assert not list(campaign.raw_path.glob("*.seg")), "raw segments go when they are sealed"


def expected_values(spec, chip_id, place, scene_ids):
    from fakes.earth import _band

    side = spec.pixels(chip_px * 10.0)
    rows, columns = np.mgrid[0:side, 0:side]
    return np.stack([_band(spec, band, (chip_id, *scene_ids), rows, columns) for band in spec.bands])


def test_vectors_come_from_plan_and_planning(undisturbed):
    campaign, _, _ = undisturbed
    store = open_store(campaign.store_path)
    plan = read_plan(campaign.plan_path).set_index("chip_id")
    for chip_id, place in plan.iterrows():
        row = np.array([place["row"]])
        assert store.read("biome", row)[0, 0] == place["biome"]
        assert store.read("ecoregion", row)[0, 0] == place["ecoregion"]
        lat, lon = np.radians(place["lat"]), np.radians(place["lon"])
        wanted = [np.sin(lat), np.cos(lat), np.sin(lon), np.cos(lon)]
        np.testing.assert_allclose(store.read("geolocation", row)[0], wanted, atol=1e-6)
        precipitation = store.read("era5_precipitation", row)[0]
        time = read_provenance(campaign.provenance_path).set_index(["chip_id", "array"]).loc[chip_id]
        anchor = time.loc["sentinel2_cloud"]["time"]
        month = (anchor.year, anchor.month)
        assert precipitation[1] == pytest.approx(fraction(chip_id, month), rel=1e-6)
        angle = 2 * np.pi * anchor.month / 12
        np.testing.assert_allclose(store.read("month", row)[0], [np.sin(angle), np.cos(angle)], atol=1e-6)


def test_auto_takes_2a_where_it_exists_else_1c(undisturbed):
    campaign, _, _ = undisturbed
    provenance = read_provenance(campaign.provenance_path).pivot(index="chip_id", columns="array", values="status")
    levels = provenance[["sentinel2_l2a", "sentinel2_l1c"]]
    assert ((levels == "ok").sum(axis=1) == 1).all()
    assert 0 < (levels["sentinel2_l1c"] == "ok").sum() < 12


def asked_for(name, tmp_path, plan, **earth) -> list:
    """Every question about scenes of an export: (chip, level, start, end, wished moment)."""
    asked = []

    def listen(kind, subject, number):
        if kind == "plan":
            asked.extend(
                (item.chip.chip_id, item.level, item.start_ms, item.end_ms, item.wish_ms) for item in subject.wanted
            )

    export(make_campaign(tmp_path / name, plan), FakeEarth(trouble=listen, **earth))
    return asked


def test_years_before_2a_was_global_are_asked_about_at_either_level(tmp_path):
    plan = make_plan(8)
    first = {chip_id: level for chip_id, level, *_ in reversed(asked_for("c", tmp_path, plan))}
    assert [first[name] for name in plan["chip_id"]] == 2 * ["either", "either", "l2a", "l2a"]


def test_provenance_names_gaps_times_and_terms(undisturbed):
    campaign, _, _ = undisturbed
    provenance = read_provenance(campaign.provenance_path)
    radar = provenance[(provenance["array"] == "sentinel1_asc") & (provenance["status"] == "ok")]
    assert radar["gap_days"].between(1, 11).all()
    assert (radar["valid_fraction"] < 1).all()
    assert (radar["origin"] == "planet").all()
    assert (radar["license"] == "synthetic").all()
    canopy = provenance[provenance["array"] == "canopy_height"].iloc[0]
    assert canopy["time"] == pd.Timestamp("2020-01-01", tz="UTC")
    assert len(canopy["scene_ids"]) == 2
    missing = provenance[(provenance["array"] == "sentinel1_asc") & (provenance["status"] == "no_scene")]
    assert len(missing) > 0
    assert missing["checksum"].notna().all()


def test_exporting_and_tiling_again_changes_nothing(undisturbed):
    campaign, earth, _ = undisturbed
    before, sent = content(campaign.root), earth.requests
    summary = export(campaign, earth)
    run_tile(open_campaign(campaign.root), progress=SilentProgress())
    assert earth.requests == sent
    assert summary.skipped == 20
    assert content(campaign.root) == before


def test_status_reads_the_ledger(undisturbed):
    campaign, earth, _ = undisturbed
    status = read_status(open_campaign(campaign.root))
    assert (status.done, status.failed, status.skipped) == (20, 0, 0)
    assert status.facts["sealed"] == 20
    assert status.facts["requests"] == earth.requests
    assert status.facts["shards sealed"] == "3 of 3"


def test_status_is_answered_at_once(undisturbed):
    """Loading Earth Engine's client and pandas takes longer than all that the ledger is asked."""
    program = (
        "import sys\n"
        "from m3etl.cli.main import run\n"
        f"code = run(['-C', {str(undisturbed[0].root)!r}, 'status'])\n"
        "slow = ('ee', 'pandas', 'geopandas', 'torch', 'zarr', 'rasterio', 'numba', 'matplotlib')\n"
        "print('LOADED', [name for name in slow if name in sys.modules])\n"
        "sys.exit(code)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "3 of 3" in result.stdout
    assert "LOADED []" in result.stdout


kinds = [Kind.RATE, Kind.CAPACITY, Kind.TRANSIENT, Kind.NETWORK]


def bad_bodies(request) -> list[bytes]:
    """Bodies with status 200 that must never be accepted."""
    good = pixels(request)
    other = replace(request.job, chip=replace(request.job.chip, chip_id="another chip"))
    shifted = replace(request.job, chip=replace(request.job.chip, xmin=request.job.chip.xmin + 10))
    narrow = replace(request, window=replace(request.window, width=request.window.width - 1))
    bodies = [b"<html>busy</html>", good[: len(good) // 2], good[:-1], good + b"x", b"", pixels(narrow)]
    bodies.append(pixels(replace(request, arrays=request.arrays[:-1])))
    if request.check:
        bodies += [pixels(replace(request, job=other)), pixels(replace(request, job=shifted))]
    return bodies


def test_faults_leave_no_trace(undisturbed, tmp_path):
    def trouble(kind, subject, number):
        key = subject.job.chip.chip_id if kind == "pixels" else "plan"
        if fraction(key, number, "fault") > 0.5 or number > 4:
            return None
        if kind == "pixels" and fraction(key, number, "body") < 0.5:
            bodies = bad_bodies(subject)
            return bodies[int(fraction(key, number, "which") * len(bodies))]
        return Failure(kind=kinds[int(fraction(key, number) * 4)], message="injected")

    campaign = make_campaign(tmp_path / "c", make_plan(20))
    earth = FakeEarth(trouble=trouble)
    summary = export(campaign, earth)
    assert summary.failed == 0
    assert earth.calls["pixels"] > 28
    assert content(campaign.root) == content(undisturbed[0].root)


def test_every_bad_body_is_refused_and_quarantined(undisturbed, tmp_path):
    plan = make_plan(9)
    victims = plan["chip_id"].tolist()

    def trouble(kind, subject, number):
        if kind != "pixels":
            return None
        bodies = bad_bodies(replace(subject, check=True))
        body = bodies[victims.index(subject.job.chip.chip_id) % len(bodies)]
        return body

    campaign = make_campaign(tmp_path / "c", plan, max_attempts=2, check_every=1)
    summary = export(campaign, FakeEarth(trouble=trouble))
    assert summary.failed == 9
    assert summary.done == 0
    assert len(summary.errors) >= 5
    store = open_store(campaign.store_path)
    for name, spec in store.specs.items():
        values = store.read(name, np.arange(9))
        assert (np.isnan(values) if spec.fill is None else values == spec.fill).all()
    assert set(read_provenance(campaign.provenance_path)["status"]) == {"failed"}


def test_values_that_cannot_be_are_refused(tmp_path):
    def trouble(kind, subject, number):
        if kind != "pixels":
            return None
        fields = np.load(__import__("io").BytesIO(pixels(subject)))
        chip = subject.job.chip.chip_id
        if chip == names[0]:
            fields["worldcover__Map"][3, 3] = 11
        elif chip == names[1]:
            fields["aster_slope__slope"][0, 0] = 9001
        elif chip == names[2]:
            for band in fields.dtype.names:
                if band.startswith("sentinel2_l"):
                    fields[band] = 65535
        stream = __import__("io").BytesIO()
        np.save(stream, fields)
        return stream.getvalue()

    plan = make_plan(4)
    names = plan["chip_id"].tolist()
    campaign = make_campaign(tmp_path / "c", plan, max_attempts=2)
    summary = export(campaign, FakeEarth(trouble=trouble))
    assert (summary.done, summary.failed) == (1, 3)
    reasons = " ".join(summary.errors)
    assert "no class" in reasons
    assert "outside its range" in reasons
    assert "all fill where planning promised" in reasons


def test_deterministic_errors_are_sent_once_and_reported(tmp_path):
    plan = make_plan(6)
    victim = plan["chip_id"][2]

    def trouble(kind, subject, number):
        if kind == "pixels" and subject.job.chip.chip_id == victim:
            return Failure(kind=Kind.DETERMINISTIC, message="Unknown algorithm", status=400)
        return None

    campaign = make_campaign(tmp_path / "c", plan)
    earth = FakeEarth(trouble=trouble)
    summary = export(campaign, earth)
    assert earth.calls[victim] == 1
    assert (summary.done, summary.failed) == (5, 1)
    assert summary.errors == {"deterministic: Unknown algorithm": 1}
    again = FakeEarth()
    assert export(campaign, again).failed == 1
    assert again.requests == 0
    third = export(campaign, again, retry_failed=True)
    assert (third.done, third.failed) == (6, 0)
    stored = open_store(campaign.store_path)
    assert [row for row in range(stored.rows) if stored.chip_ids[row] == victim][-1] == 8, (
        "a row of the next generation"
    )


def test_too_large_is_split_and_gives_the_same_data(undisturbed, tmp_path):
    def trouble(kind, subject, number):
        if kind == "plan" and len(subject.items) > 1:
            return Failure(kind=Kind.TOO_LARGE, message="Computation timed out.", status=400)
        if kind == "pixels" and len(subject.arrays) > 2:
            return Failure(kind=Kind.TOO_LARGE, message="User memory limit exceeded.", status=400)
        return None

    campaign = make_campaign(tmp_path / "c", make_plan(20))
    assert export(campaign, FakeEarth(trouble=trouble)).failed == 0
    assert content(campaign.root) == content(undisturbed[0].root)


def test_a_vanished_image_is_source_changed_and_nothing_else_is_lost(undisturbed, tmp_path):
    plan = make_plan(5)
    victim = plan["chip_id"][1]
    gone = f"GOOGLE/DYNAMICWORLD/V1/{victim}_1"

    def trouble(kind, subject, number):
        if kind == "pixels" and "dynamic_world" in subject.arrays and subject.job.chip.chip_id == victim:
            return Failure(kind=Kind.SOURCE_CHANGED, message="not found", status=404, asset=gone)
        return None

    campaign = make_campaign(tmp_path / "c", plan)
    assert export(campaign, FakeEarth(trouble=trouble)).failed == 0
    provenance = read_provenance(campaign.provenance_path).set_index(["chip_id", "array"])["status"]
    assert provenance[victim, "dynamic_world"] == "source_changed"
    assert provenance[victim, "worldcover"] == "ok"
    assert (provenance.drop(index=(victim, "dynamic_world")) != "source_changed").all()


def test_reserves_replace_what_has_no_anchor(tmp_path):
    plan = make_plan(30, reserve=30)
    campaign = make_campaign(tmp_path / "c", plan, strategy="biome")
    summary = export(campaign, FakeEarth(lost=0.3))
    lost = [name for name in plan["chip_id"][:30] if fraction(name, "lost") < 0.3]
    assert 4 < len(lost) < 16
    stored = open_store(campaign.store_path).chip_ids
    assert not set(lost) & set(stored)
    assert summary.done == 30
    assert [row["usable"] for row in summary.facts["biomes"]] == [10, 10, 10]
    assert sum(row["from the reserve"] for row in summary.facts["biomes"]) == len(lost)


def test_biomes_stay_balanced_over_lots(tmp_path):
    """Each lot makes up for its own losses; later lots get none of the reserves that an earlier one has used."""
    plan = make_plan(120, reserve=60)
    campaign = make_campaign(tmp_path / "c", plan, strategy="biome")
    save_config(campaign.with_config(store=replace(campaign.config.store, lot_chips=24)))
    summary = export(campaign, FakeEarth(lost=0.1))
    assert read_status(open_campaign(campaign.root)).facts["generations"] == 5
    assert [row["usable"] for row in summary.facts["biomes"]] == [40, 40, 40]
    lost = sum(fraction(name, "lost") < 0.1 for name in plan["chip_id"][:120])
    assert sum(row["from the reserve"] for row in summary.facts["biomes"]) == lost > 8


def test_points_take_the_best_scene_below_the_thresholds(tmp_path):
    plan = make_plan(12)
    campaign = make_campaign(tmp_path / "c", plan)
    summary = export(campaign, FakeEarth(lost=1.0))
    assert (summary.done, summary.rejected) == (12, 0)
    provenance = read_provenance(campaign.provenance_path)
    optical = provenance[provenance["array"].isin(["sentinel2_l2a", "sentinel2_l1c"]) & (provenance["status"] == "ok")]
    assert len(optical) == 12
    assert (optical["cloud_fraction"] >= 0.3).all()


def test_a_date_wins_over_the_year(tmp_path):
    plan = make_plan(8, date="2019-06-10")
    campaign = make_campaign(tmp_path / "c", plan)
    export(campaign, FakeEarth())
    provenance = read_provenance(campaign.provenance_path)
    anchors = provenance[provenance["array"] == "sentinel2_cloud"]["time"]
    wished = pd.Timestamp("2019-06-10T12:00:00Z")
    assert ((anchors - wished).abs() <= pd.Timedelta(days=15)).all()


def test_a_cloudy_date_is_followed_by_the_least_cloudy_scenes_around_it(tmp_path):
    asked = asked_for("c", tmp_path, make_plan(2, date="2019-06-10"), lost=1.0)
    days = [(round((end - start) / 2 / day_ms), level, wish is not None) for _, level, start, end, wish in asked]
    near, wider = days[:4], days[4:]
    assert sorted(near) == [(15, "l1c", True)] * 2 + [(15, "l2a", True)] * 2
    assert sorted(set(wider)) == [(reach, level, False) for reach in (60, 180) for level in ("l1c", "l2a")]
    assert len(wider) == 8


def test_without_sentinel2_the_anchor_is_midsummer(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(4))
    export(campaign, FakeEarth(), modalities=("month", "sentinel1"))
    store = open_store(campaign.store_path)
    assert list(store.specs) == ["sentinel1_asc", "sentinel1_desc", "month"]
    np.testing.assert_allclose(store.read("month", np.arange(4))[:, 0], np.sin(2 * np.pi * 7 / 12), atol=1e-6)
    provenance = read_provenance(campaign.provenance_path)
    assert provenance["gap_days"].isna().all()


def test_growing_by_another_selection_is_a_new_generation(tmp_path, monkeypatch):
    campaign = make_campaign(tmp_path / "c", make_plan(12))
    plan = read_plan(campaign.plan_path)
    south = plan["lat"] < plan["lat"].median()

    class Half:
        def contains_lonlat(self, lon, lat):
            return np.asarray(lat) < plan["lat"].median()

    monkeypatch.setattr("m3etl.stages.scheduling.read_region", lambda name: Half())
    assert "observed" not in export(campaign, FakeEarth(), region="half").facts, "the shares are those of all chips"
    first = content(campaign.root)
    assert "observed" in export(campaign, FakeEarth()).facts
    rows = read_plan(campaign.plan_path)
    assert rows[south]["row"].max() == 5
    assert rows[~south]["row"].min() == 8
    assert set(rows[~south]["generation"]) == {1}
    after = content(campaign.root)
    assert all(after[name] == first[name] for name in first if "/c/0" in name or name.startswith("provenance"))


def test_a_region_without_chips_is_refused(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(4))
    with pytest.raises(NothingSelectedError, match="--strategy grid") as caught:
        export(campaign, FakeEarth(), region="conus")
    assert "m3etl sample --region conus" in str(caught.value)


def test_arrays_are_fixed_by_the_first_export(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(3))
    export(campaign, FakeEarth(), modalities=("worldcover",))
    assert export(campaign, FakeEarth(), modalities=("worldcover",)).done == 3
    assert list(open_campaign(campaign.root).config.catalogue) == ["worldcover"]


def test_a_changed_declaration_is_refused(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(3))
    export(campaign, FakeEarth(), modalities=("worldcover",))
    digest = open_campaign(campaign.root).config.catalogue["worldcover"]
    campaign.config_path.write_text(campaign.config_path.read_text().replace(digest, "0" * 64))
    with pytest.raises(InputError, match="otherwise than when the campaign began: worldcover"):
        export(campaign, FakeEarth())


def test_the_level_is_fixed_by_the_first_export(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(3))
    export(campaign, FakeEarth(), s2="l1c", modalities=("sentinel2",))
    assert list(open_store(campaign.store_path).specs) == ["sentinel2_l1c", "sentinel2_cloud"]
    assert export(campaign, FakeEarth()).done == 3, "recorded in campaign.toml"
    with pytest.raises(InputError, match="fixed the Sentinel-2 level 'l1c'"):
        export(campaign, FakeEarth(), s2="both")


@pytest.mark.parametrize("option", [{"s2": "l3"}, {"anchor_rule": "prettiest"}])
def test_unknown_options_are_refused_before_anything_is_sent(tmp_path, option):
    campaign = make_campaign(tmp_path / "c", make_plan(3), **option)
    earth = FakeEarth()
    with pytest.raises(InputError, match="unknown"):
        export(campaign, earth)
    assert earth.requests == 0


def test_a_second_process_is_refused(tmp_path):
    from m3etl.campaign import locked

    campaign = make_campaign(tmp_path / "c", make_plan(3))
    with locked(campaign), pytest.raises(InputError, match="another m3etl process"):
        export(campaign, FakeEarth())


def test_a_lost_login_stops_and_the_next_run_goes_on(undisturbed, tmp_path):
    def trouble(kind, subject, number):
        if kind == "pixels" and earth.calls["pixels"] > 9:
            return Failure(kind=Kind.AUTH, message="expired", status=401)
        return None

    campaign = make_campaign(tmp_path / "c", make_plan(20), max_in_flight=3)
    earth = FakeEarth(trouble=trouble)
    with pytest.raises(AuthenticationError, match="expired"):
        export(campaign, earth)
    landed = read_status(open_campaign(campaign.root)).done
    assert 5 <= landed <= 9
    second = FakeEarth()
    export(campaign, second)
    assert second.calls["pixels"] == 20 - landed
    assert content(campaign.root) == content(undisturbed[0].root)


def test_planning_that_fails_for_good_can_be_taken_up_again(undisturbed, tmp_path):
    def trouble(kind, subject, number):
        if kind == "plan" and subject.kind == "companions":
            return Failure(kind=Kind.TRANSIENT, message="An internal error has occurred", status=500)
        return None

    campaign = make_campaign(tmp_path / "c", make_plan(20), max_attempts=2)
    with pytest.raises(RemoteError, match="planning requests failed"):
        export(campaign, FakeEarth(trouble=trouble))
    export(campaign, FakeEarth())
    assert content(campaign.root) == content(undisturbed[0].root)


@pytest.mark.parametrize(("kind", "count"), [("deterministic", 9), ("transient", 9), ("transient", 1)])
def test_a_chip_that_spoils_planning_is_found_and_left_out(tmp_path, kind, count):
    plan = make_plan(count)
    victim = plan["chip_id"][count // 2]

    def trouble(asked, subject, number):
        if asked == "plan" and any(item.chip.chip_id == victim for item in subject.items):
            return Failure(kind=Kind(kind), message="Invalid geometry", status=400)
        return None

    campaign = make_campaign(tmp_path / "c", plan, max_attempts=2)
    summary = export(campaign, FakeEarth(trouble=trouble))
    assert (summary.done, summary.failed) == (count - 1, 1)
    assert summary.errors == {f"{kind}: Invalid geometry": 1}


def test_ctrl_c_drains_and_keeps_what_landed(undisturbed, tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(20), max_in_flight=2)

    def trouble(kind, subject, number):
        if kind == "pixels" and earth.calls["pixels"] == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return None

    earth = FakeEarth(trouble=trouble, delay_s=0.01)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        export(campaign, earth)
    assert signal.getsignal(signal.SIGINT) is before
    landed = read_status(open_campaign(campaign.root)).done
    assert landed == earth.calls["pixels"]
    assert 6 <= landed < 12
    second = FakeEarth()
    export(campaign, second)
    assert second.calls["pixels"] == 20 - landed
    assert content(campaign.root) == content(undisturbed[0].root)


def test_a_full_disk_is_one_clear_message_and_nothing_is_lost(undisturbed, tmp_path, monkeypatch):
    campaign = make_campaign(tmp_path / "c", make_plan(20))
    real = os.fsync
    count = threading.local()

    def full(handle):
        if "/raw/" in os.readlink(f"/proc/self/fd/{handle}") and getattr(count, "value", 0) > 1:
            raise OSError(28, "No space left on device")
        count.value = getattr(count, "value", 0) + 1
        return real(handle)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(InputError, match="No space left on device"):
            export(campaign, FakeEarth(delay_s=0.01))
    export(campaign, FakeEarth())
    assert content(campaign.root) == content(undisturbed[0].root)


def test_dry_run_sends_and_writes_nothing(tmp_path):
    campaign = make_campaign(tmp_path / "c", make_plan(40))
    before = sorted(path.name for path in campaign.root.iterdir())
    summary = run_export(campaign, session=None, dry_run=True, progress=SilentProgress())
    assert summary.facts["requests"] >= 40
    assert summary.facts["bytes down (upper bound)"] > 40 * chip_px**2 * 50
    assert sorted(path.name for path in campaign.root.iterdir()) == before


def test_check_band_rides_on_one_request_in_so_many(tmp_path):
    seen = []

    def trouble(kind, subject, number):
        if kind == "pixels":
            seen.append(subject.check)
        return None

    campaign = make_campaign(tmp_path / "c", make_plan(11), check_every=4, max_in_flight=1)
    export(campaign, FakeEarth(trouble=trouble))
    assert seen[0]
    assert sum(seen) == 3


def test_wall_to_wall_rows_keep_blocks_together(tmp_path):
    plan = make_plan(64)
    column, row = np.divmod(np.arange(64), 8)
    plan = plan.assign(
        epsg=32632,
        xmin=(3200 + column) * cell_m * 1.0,
        xmax=(3201 + column) * cell_m * 1.0,
        ymin=(33_000 + row) * cell_m * 1.0,
        ymax=(33_001 + row) * cell_m * 1.0,
        chip_id=[f"32632-0160-{3200 + c}-{33000 + r}" for c, r in zip(column, row, strict=True)],
    )
    campaign = make_campaign(tmp_path / "c", plan, strategy="grid")
    export(campaign, FakeEarth(), modalities=("month",))
    found = read_plan(campaign.plan_path).set_index("row").sort_index()
    blocks = list(zip(found["xmin"] // (8 * cell_m), found["ymin"] // (8 * cell_m), strict=True))
    changes = sum(first != second for first, second in itertools.pairwise(blocks))
    assert changes == len(set(blocks)) - 1


def test_grid_of_a_chip_is_its_lattice_cell():
    grid = ChipGrid(chip_id="x", epsg=32632, xmin=160.0, ymax=320.0, chip_px=16)
    assert grid.chip_m == 160.0
