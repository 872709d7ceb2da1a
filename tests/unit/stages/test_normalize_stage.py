"""The normalize stage: train split and clear pixels only, the same bytes twice, and the normalised copy."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray
from fakes.chips import all_specs, chip_m, few_specs, make_chips, make_store

from m3etl.campaign import CampaignConfig, SampleConfig, create_campaign
from m3etl.compute.normalize import Normalizer
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.store import create_store, dataset_id, grow_store, open_store, read_stats, seal_shard
from m3etl.spec.catalog import arrays as catalogue
from m3etl.spec.modality import Transform
from m3etl.stages import materialize
from m3etl.stages.materialize import choose_device, normalized_path, normalized_spec, normalized_stats_path
from m3etl.stages.normalize import run_normalize, train_rows
from m3etl.stages.statistics import count_rows, measure_store, split_by_shard, summarise_store
from m3etl.stages.summary import SilentProgress

silent = SilentProgress()


@pytest.fixture
def campaign(tmp_path):
    return create_campaign(tmp_path / "c", CampaignConfig(sample=SampleConfig(chip_px=16)))


def seal(campaign, chips, specs):
    create_store(campaign.store_path, specs, chip_m=chip_m, shard_chips=4)
    for shard in range(-(-len(chips) // 4)):
        seal_shard(campaign.store_path, shard, [chip for chip in chips if chip.row // 4 == shard], threads=1)
    grow_store(campaign.store_path, len(chips))


def test_statistics_of_the_train_split_over_clear_pixels(campaign):
    chips = make_store(campaign.store_path, all_specs, count=11, missing=0.0)
    summary = run_normalize(campaign, progress=silent)
    stats = read_stats(campaign.stats_path)
    assert set(stats) == {spec.name for spec in all_specs} | {"dataset_id"}
    train = [chip for chip in chips if chip.split == "train"]
    assert summary.done == len(train) == summary.facts["train chips"]
    red, nir = [], []
    for chip in train:
        _, score, scene = chip.arrays["sentinel2_cloud"]
        clear = ((score >= 60) | (score == 255)) & ~np.isin(scene, (3, 8, 9, 10))
        for band, kept in (("B4", red), ("B8", nir)):
            values = chip.arrays["sentinel2_l2a"][few_specs[0].bands.index(band)]
            kept.append(values[clear & (values != 65535)])
    for band, kept in (("B4", red), ("B8", nir)):
        values = np.concatenate(kept) * 1e-4
        assert stats["sentinel2_l2a"][band]["count"] == values.size
        assert stats["sentinel2_l2a"][band]["mean"] == pytest.approx(values.mean())
        assert stats["sentinel2_l2a"][band]["p75"] == pytest.approx(np.percentile(values, 75))
    elevation = np.concatenate([chip.arrays["aster_elevation"].reshape(-1) for chip in train])
    assert stats["aster_elevation"]["elevation"]["count"] == (elevation != -32768).sum()
    biomes = [int(chip.arrays["biome"][0]) for chip in train]
    assert stats["biome"]["biome"]["codes"] == {str(code): biomes.count(code) for code in sorted(set(biomes))}


def test_same_store_same_bytes_for_any_number_of_threads(campaign):
    make_store(campaign.store_path, few_specs, count=11)
    run_normalize(campaign, progress=silent)
    first = campaign.stats_path.read_bytes()
    run_normalize(campaign, progress=silent)
    assert campaign.stats_path.read_bytes() == first
    store = open_store(campaign.store_path)
    rows = np.flatnonzero(store.split == "train")
    assert measure_store(store, rows, silent, threads=1) == measure_store(store, rows, silent, threads=3)


def test_dataset_id_follows_the_content(tmp_path):
    make_store(tmp_path / "a", count=6)
    make_store(tmp_path / "b", count=6)
    first = dataset_id(tmp_path / "a")
    assert first == dataset_id(tmp_path / "b")
    (tmp_path / ".a.checksums.json").unlink()
    assert dataset_id(tmp_path / "a") == first
    make_store(tmp_path / "c", count=6, seed=1)
    assert dataset_id(tmp_path / "c") != first
    seal_shard(tmp_path / "a", 2, make_chips(few_specs, 2, first_row=8))
    assert dataset_id(tmp_path / "a") == first
    grow_store(tmp_path / "a", 12)
    assert dataset_id(tmp_path / "a") != first
    make_store(tmp_path / "d", [replace(few_specs[0], title="another declaration"), *few_specs[1:]], count=6)
    assert dataset_id(tmp_path / "d") != first


def test_three_chips_and_an_array_nobody_observed(campaign):
    specs = [
        catalogue["sentinel2_l2a"],
        catalogue["aster_slope"],
        catalogue["era5_temperature"],
        catalogue["worldcover"],
    ]
    chips = [replace(chip, split="train") for chip in make_chips(specs[:1], 3, missing=0.0)]
    seal(campaign, chips, specs)
    run_normalize(campaign, materialize=True, device="cpu", progress=silent)
    stats = read_stats(campaign.stats_path)
    assert stats["aster_slope"]["slope"] == {"count": 0} | dict.fromkeys(
        ("mean", "std", "min", "max", "p01", "p25", "p50", "p75", "p99")
    )
    assert stats["worldcover"]["Map"] == {"count": 0, "codes": {}}
    assert Normalizer.from_stats(stats, specs) is not None


def test_no_train_chip_is_said(campaign):
    seal(campaign, [replace(chip, split="val") for chip in make_chips(few_specs, 3)], few_specs)
    with pytest.raises(NothingSelectedError, match="3 in val"):
        run_normalize(campaign, progress=silent)
    assert not campaign.stats_path.exists()


def test_no_store_and_unknown_device(campaign):
    with pytest.raises(InputError, match="no store"):
        run_normalize(campaign, progress=silent)
    with pytest.raises(InputError, match="tpu"):
        run_normalize(campaign, device="tpu", progress=silent)
    assert choose_device("cpu") == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_asking_for_a_device_that_is_not_there(campaign):
    make_store(campaign.store_path, few_specs, count=4)
    with pytest.raises(InputError, match="no CUDA device"):
        run_normalize(campaign, device="cuda", progress=silent)
    assert not campaign.stats_path.exists()


def test_parts_counted_apart_and_sent_around_give_the_same_statistics(campaign):
    make_store(campaign.store_path, all_specs, count=11)
    store = open_store(campaign.store_path)
    rows = train_rows(store)
    tasks = split_by_shard(rows, store.shard_chips)
    assert sorted(row for task in tasks for row in task) == rows.tolist()
    assert all(len({row // store.shard_chips for row in task}) == 1 for task in tasks)
    parts = [pickle.loads(pickle.dumps(count_rows(campaign.store_path, task))) for task in tasks]  # noqa: S301
    whole = measure_store(store, rows, silent)
    assert summarise_store(store.specs, parts) == whole
    assert summarise_store(store.specs, reversed(parts)) == whole


def test_normalised_copy(campaign):
    chips = make_store(campaign.store_path, few_specs, count=6)
    summary = run_normalize(campaign, materialize=True, device="cpu", progress=silent)
    assert summary.facts["device"] == "cpu"
    stats = read_stats(campaign.stats_path)
    copy = open_store(campaign.root / "chips-normalized.zarr")
    source = open_store(campaign.store_path)
    assert copy.chip_ids.tolist() == source.chip_ids.tolist()
    tree = xarray.open_datatree(campaign.root / "chips-normalized.zarr", engine="zarr").load()
    for chip in chips:
        values = source.read("sentinel2_l2a", [chip.row])[0]
        known = stats["sentinel2_l2a"]["B2"]
        expected = (values[1] * 1e-4 - known["p50"]) / ((known["p75"] - known["p25"]) / 1.349)
        expected = np.where(values[1] == 65535, np.nan, np.clip(expected, -10, 10))
        np.testing.assert_allclose(tree["sentinel2_l2a/data"].sel(band="B2")[chip.row], expected, rtol=1e-3, atol=1e-3)
    assert copy.read("worldcover", [0]).dtype == np.int16
    assert np.nanmax(tree["worldcover/data"]) <= 10
    before = {path: path.read_bytes() for path in copy.path.rglob("c.*") if path.is_file()}
    run_normalize(campaign, materialize=True, device="cpu", progress=silent)
    assert {path: path.read_bytes() for path in copy.path.rglob("c.*") if path.is_file()} == before


def test_the_copy_has_statistics_and_an_identity_of_its_own(campaign):
    make_store(campaign.store_path, few_specs, count=11)
    run_normalize(campaign, materialize=True, device="cpu", progress=silent)
    copy = open_store(normalized_path(campaign))
    stats = read_stats(normalized_stats_path(campaign))
    assert stats["dataset_id"] == dataset_id(normalized_path(campaign))
    assert stats["dataset_id"] != read_stats(campaign.stats_path)["dataset_id"]
    source = read_stats(campaign.stats_path)
    for band, found in stats["sentinel2_l2a"].items():
        assert found["count"] == source["sentinel2_l2a"][band]["count"]
        assert found["p50"] == pytest.approx(0.0, abs=1e-3)
        assert found["p75"] - found["p25"] == pytest.approx(1.349, rel=2e-3)
    elevation = stats["aster_elevation"]["elevation"]
    assert elevation["mean"] == pytest.approx(0.0, abs=1e-3)
    assert elevation["std"] == pytest.approx(1.0, rel=1e-3)
    assert sum(stats["worldcover"]["Map"]["codes"].values()) == source["worldcover"]["Map"]["count"]
    again = Normalizer.from_stats(stats, list(copy.specs.values()))
    values = torch.from_numpy(copy.read("sentinel2_l2a", [0]))
    assert torch.equal(again({"sentinel2_l2a": values})["sentinel2_l2a"], values.nan_to_num().float())


def test_an_interrupted_copy_is_completed(campaign, monkeypatch):
    make_store(campaign.store_path, few_specs, count=11)
    run_normalize(campaign, materialize=True, device="cpu", progress=silent)
    expected = content_of(normalized_path(campaign))
    shutil.rmtree(normalized_path(campaign))
    normalized_stats_path(campaign).unlink()

    def interrupted(path, shard, chips, **options):
        if shard == 1:
            raise KeyboardInterrupt
        return seal_shard(path, shard, chips, **options)

    with monkeypatch.context() as patch:
        patch.setattr(materialize, "seal_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_normalize(campaign, materialize=True, device="cpu", progress=silent)
    assert not normalized_stats_path(campaign).exists()
    run_normalize(campaign, materialize=True, device="cpu", progress=silent)
    assert content_of(normalized_path(campaign)) == expected


def test_small_batches_give_the_same_copy(campaign, monkeypatch):
    make_store(campaign.store_path, few_specs, count=11)
    run_normalize(campaign, materialize=True, device="cpu", progress=silent)
    expected = content_of(normalized_path(campaign))
    shutil.rmtree(normalized_path(campaign))
    monkeypatch.setattr(materialize, "batch_bytes", {"cpu": 20_000})
    run_normalize(campaign, materialize=True, device="cpu", progress=silent)
    assert content_of(normalized_path(campaign)) == expected


def content_of(path):
    """Every data file of a store."""
    return {str(item.relative_to(path)): item.read_bytes() for item in path.rglob("c.*") if item.is_file()}


def test_numbers_that_stay_as_they_are_keep_their_range():
    whole = replace(catalogue["aster_elevation"], transform=Transform.NONE, valid_max=1e5, dtype="int32", fill=-(2**31))
    assert normalized_spec(whole).dtype == "float32"
    assert normalized_spec(catalogue["aster_elevation"]).dtype == "float16"
    assert normalized_spec(catalogue["geolocation"]).dtype == "float16"


def test_normalised_copy_is_remade_for_other_data(campaign):
    make_store(campaign.store_path, few_specs, count=4)
    run_normalize(campaign, materialize=True, progress=silent, device="cpu")
    seal_shard(campaign.store_path, 1, make_chips(few_specs, 4, first_row=4))
    grow_store(campaign.store_path, 8)
    run_normalize(campaign, materialize=True, progress=silent, device="cpu")
    assert open_store(campaign.root / "chips-normalized.zarr").chip_ids[7] != ""
    origin = json.loads((campaign.root / "chips-normalized.zarr" / "origin.json").read_text())
    assert origin["dataset_id"] == read_stats(campaign.stats_path)["dataset_id"]
