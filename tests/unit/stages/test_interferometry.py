"""Interferograms stored beside chips that are sealed: the phase is right, and what is missing is recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from m3etl.campaign import Campaign, CampaignConfig, SampleConfig, create_campaign
from m3etl.compute.grids import chip_grid
from m3etl.compute.warp import transformer
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.provenance import ProvenanceRow, read_provenance, write_provenance
from m3etl.io.store import ChipStore, SealedChip, create_store, grow_store, open_store, seal_shard
from m3etl.spec.catalog import arrays
from m3etl.spec.catalog_insar import insar_arrays
from m3etl.spec.lattice import cells_of_lonlat
from m3etl.spec.modality import physical_of, valid_of
from m3etl.stages import importing
from m3etl.stages.interferometry import run_interferometry
from m3etl.stages.summary import SilentProgress
from tests.fakes.gunw import Made, product_name, ramp, write_product

chip_m = 4480.0
shard_chips = 2
names = [spec.name for spec in insar_arrays()]
places = ((12.10, 47.90), (12.10, 47.71), (14.0, 47.9))  # in one frame, on two frames, outside of all
elevation_m = 1500.0


def make_campaign(root: Path) -> Campaign:
    """Three sealed chips of 448 pixels with an elevation each, in two shards."""
    campaign = create_campaign(root, CampaignConfig(sample=SampleConfig(chip_px=448, region="europe")))
    specs = [arrays["aster_elevation"]]
    create_store(campaign.store_path, specs, chip_m=chip_m, shard_chips=shard_chips)
    cells, _ = cells_of_lonlat(*np.array(places).T, 4480)
    west, _, _, north = cells.bounds_xy
    lon, lat = cells.centre_lonlat
    ids = cells.chip_ids()
    chips = [
        SealedChip(
            row=row, chip_id=str(ids[row]), lon=lon[row], lat=lat[row], epsg=int(cells.epsg[row]),
            xmin=west[row], ymax=north[row], split="train",
            arrays={"aster_elevation": np.full(specs[0].chip_shape(chip_m), elevation_m, np.int16)},
        )
        for row in range(len(places))
    ]  # fmt: skip
    for shard in range(2):
        part = chips[shard * shard_chips : (shard + 1) * shard_chips]
        sums = seal_shard(campaign.store_path, shard, part)
        write_provenance(campaign.provenance_path, shard, [_record(chip, sums["aster_elevation"]) for chip in part])
    grow_store(campaign.store_path, len(chips))
    return campaign


def _record(chip: SealedChip, sums: dict[str, str]) -> ProvenanceRow:
    return ProvenanceRow(
        chip_id=chip.chip_id, array="aster_elevation", scene_ids=("asset",), time=None, gap_days=None,
        valid_fraction=1.0, cloud_fraction=None, checksum=sums[chip.chip_id], status="ok", origin="planet",
        license="nasa-open",
    )  # fmt: skip


def centres(store: ChipStore, row: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes and latitudes of the pixels of a chip."""
    grid = chip_grid(
        epsg=int(store.epsg[row]), xmin=float(store.xmin[row]), ymax=float(store.ymax[row]), chip_m=chip_m, pixels=side
    )
    steps = np.arange(side) + 0.5
    return transformer(grid.crs, "EPSG:4326").transform(*grid.xy_of(*np.meshgrid(steps, steps)))


def read(store: ChipStore, name: str, row: int) -> np.ndarray:
    """Physical values of one chip, NaN where nothing was observed."""
    return physical_of(store.specs[name], store.read(name, [row])[0])


def two_frames(folder: Path, days: int = 30, **name: object) -> None:
    """One pair of two frames, 24 pixels of latitude in common; the chip at 47.71 lies across both."""
    upper = Made(north=47.97, side=314, gap=120)
    lower = Made(north=47.73, side=240, gap=120)
    write_product(folder, upper, name=product_name(days, **name))
    write_product(folder, lower, name=product_name(days, tag="77aa", **name))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "products"
    path.mkdir()
    return path


def test_a_known_ramp_is_stored_referenced_by_component(tmp_path: Path, folder: Path) -> None:
    campaign = make_campaign(tmp_path / "c")
    two_frames(folder)
    two_frames(folder, 100, version="3_0_1")
    write_product(folder, Made(west=12.0, north=48.0), name=product_name(300))
    summary = run_interferometry(campaign, str(folder), progress=SilentProgress())
    assert summary.done == 3
    assert summary.facts["chips with interferograms"] == 2
    assert summary.facts["chips outside every product"] == 1
    assert summary.facts["chips on two frames"] == 1
    assert summary.facts["pairs by window"] == {"days_0_60": 2, "days_72_132": 2, "days_140_216": 0}
    store = open_store(campaign.store_path)
    assert store.read("gunw_phase", [0]).shape == (1, 3, 48, 48)
    for row in (0, 1):
        lon, lat = centres(store, row, 48)
        truth = ramp[0] * lon + ramp[1] * lat
        phase, component = read(store, "gunw_phase", row), read(store, "gunw_component", row)
        for band in (0, 1):
            assert set(np.unique(component[band][np.isfinite(component[band])])) == {1.0, 2.0}
            assert np.isfinite(phase[band]).mean() > 0.9
            for label in (1, 2):
                members = component[band] == label
                difference = phase[band][members] - truth[members]
                assert np.ptp(difference) < 0.01, (row, band, label)
                assert abs(np.median(phase[band][members])) < 0.05
        gap = (lon > 12.1 + 0.002) & (lon < 12.1 + 0.003)
        assert np.isnan(phase[0][gap]).any()
        np.testing.assert_array_equal(np.isnan(phase), np.isnan(component))
        assert np.isnan(phase[2]).all(), "no pair of 140 to 216 days"
    assert not valid_of(store.specs["gunw_phase"], store.read("gunw_phase", [2])).any()


def test_coherence_and_the_numbers_of_the_pair(tmp_path: Path, folder: Path) -> None:
    campaign = make_campaign(tmp_path / "c")
    two_frames(folder)
    two_frames(folder, 216)
    run_interferometry(campaign, str(folder), progress=SilentProgress())
    store = open_store(campaign.store_path)
    coherence = read(store, "gunw_coherence", 0)[0]
    assert 0.6 <= np.nanmin(coherence) < np.nanmax(coherence) <= 0.99
    features = store.specs["gunw_pairs"].bands
    pairs = dict(zip(features, read(store, "gunw_pairs", 0).tolist(), strict=True))
    assert (pairs["days_0_60_interval_days"], pairs["days_140_216_interval_days"]) == (30.0, 216.0)
    assert np.isnan(pairs["days_72_132_interval_days"])
    assert pairs["days_0_60_baseline_m"] == pytest.approx(50 + 0.01 * elevation_m, abs=0.01), "at the chip's height"
    assert pairs["days_0_60_incidence_deg"] == pytest.approx(38 + 2 * (store.lon[0] - 12), abs=0.01)
    assert np.isnan(pairs["days_0_60_azimuth_deg"]), "the product does not say"


def test_where_it_came_from_is_recorded(tmp_path: Path, folder: Path) -> None:
    campaign = make_campaign(tmp_path / "c")
    two_frames(folder)
    write_product(folder, Made(north=47.97, side=314, gap=120), name=product_name(30, version="2_0_4", tag="aaaa"))
    run_interferometry(campaign, str(folder), progress=SilentProgress())
    records = read_provenance(campaign.provenance_path)
    assert len(records) == 3 * (1 + len(names))
    mine = records[records["array"] == "gunw_phase"].set_index("chip_id")
    store = open_store(campaign.store_path)
    inside, across, outside = (mine.loc[str(name)] for name in store.chip_ids)
    assert (inside["status"], outside["status"]) == ("ok", "no_scene")
    assert [len(item["scene_ids"]) for item in (inside, across, outside)] == [1, 2, 0]
    assert inside["scene_ids"][0].endswith("v2_0_6"), "processed twice, used once"
    assert (inside["origin"], inside["license"]) == ("import", "copernicus-sentinel")
    assert inside["time"] == pd.Timestamp("2020-01-12T01:50:40Z")
    audit = [store.verify_shard(shard) for shard in range(2)]
    assert all(item.damaged == () for item in audit)
    sums = {
        (name, chip): value for item in audit for name, chips in item.checksums.items() for chip, value in chips.items()
    }
    assert all(sums[row["array"], row["chip_id"]] == row["checksum"] for _, row in records.iterrows())


def test_doing_it_again_changes_nothing(tmp_path: Path, folder: Path) -> None:
    campaign = make_campaign(tmp_path / "c")
    two_frames(folder)
    run_interferometry(campaign, str(folder), progress=SilentProgress())
    before = {path: path.read_bytes() for path in campaign.root.rglob("*") if path.is_file()}
    two_frames(folder, 100)
    summary = run_interferometry(campaign, str(folder), progress=SilentProgress())
    assert (summary.done, summary.facts["shards sealed before"]) == (0, 2)
    assert {path: path.read_bytes() for path in campaign.root.rglob("*") if path.is_file()} == before


def test_a_run_that_breaks_off_is_finished_by_the_next(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_frames(folder)
    whole = make_campaign(tmp_path / "whole")
    run_interferometry(whole, str(folder), progress=SilentProgress())
    broken = make_campaign(tmp_path / "broken")
    written: list[int] = []

    def break_off(directory: Path, shard: int, *rest: object) -> None:
        if shard == 1:
            raise RuntimeError("killed")
        written.append(shard)
        write_provenance(directory, shard, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(importing, "write_provenance", break_off)
        with pytest.raises(RuntimeError, match="killed"):
            run_interferometry(broken, str(folder), progress=SilentProgress())
    assert written == [0]
    assert "gunw_phase" not in open_store(broken.store_path).specs, "readers do not see half of it"
    summary = run_interferometry(broken, str(folder), progress=SilentProgress())
    assert summary.facts["shards sealed before"] == 1
    first, second = open_store(whole.store_path), open_store(broken.store_path)
    for name in names:
        np.testing.assert_array_equal(first.read(name, [0, 1, 2]), second.read(name, [0, 1, 2]))


def test_chips_sealed_later_get_theirs_later(tmp_path: Path, folder: Path) -> None:
    campaign = make_campaign(tmp_path / "c")
    two_frames(folder)
    run_interferometry(campaign, str(folder), progress=SilentProgress())
    store = open_store(campaign.store_path)
    further = SealedChip(
        row=4, chip_id="32633-4480-9999-9999", lon=12.1, lat=47.9, epsg=32633, xmin=float(store.xmin[0]),
        ymax=float(store.ymax[0]), split="train", arrays={},
    )  # fmt: skip
    sums = seal_shard(campaign.store_path, 2, [further])
    write_provenance(campaign.provenance_path, 2, [_record(further, sums["aster_elevation"])])
    grow_store(campaign.store_path, 5)
    summary = run_interferometry(campaign, str(folder), progress=SilentProgress())
    assert (summary.done, summary.facts["shards sealed before"]) == (1, 2)
    store = open_store(campaign.store_path)
    np.testing.assert_array_equal(store.read("gunw_phase", [4]), store.read("gunw_phase", [0]))


def test_what_cannot_be_is_said(tmp_path: Path, folder: Path) -> None:
    empty = create_campaign(tmp_path / "e", CampaignConfig())
    with pytest.raises(NothingSelectedError, match="no chips to give"):
        run_interferometry(empty, str(folder), progress=SilentProgress())
    campaign = make_campaign(tmp_path / "c")
    with pytest.raises(NothingSelectedError, match="no S1-GUNW product"):
        run_interferometry(campaign, str(folder), progress=SilentProgress())
    (folder / product_name(30)).write_bytes(b"no netCDF")
    with pytest.raises(InputError, match="could not be read"):
        run_interferometry(campaign, str(folder), progress=SilentProgress())
    assert "gunw_phase" not in open_store(campaign.store_path).specs
