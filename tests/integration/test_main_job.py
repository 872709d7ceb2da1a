"""The four commands of the mission, as typed, in an empty directory; what they leave behind opens with xarray alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray

from m3etl.io.plan import read_plan
from m3etl.io.store import open_store
from m3etl.spec.catalog import arrays
from m3etl.spec.modality import Shape
from tests.integration.pipeline import StoredChips, m3etl


@pytest.fixture(scope="module")
def europe(tmp_path_factory):
    """A campaign after `sample --biomes 14` and `export --region europe`."""
    folder = tmp_path_factory.mktemp("mission") / "campaign"
    folder.mkdir()
    sampled = m3etl(folder, "sample", "--biomes", "14")
    exported = m3etl(folder, "export", "--region", "europe")
    return folder, sampled, exported


def test_sample_draws_every_biome_alike(europe):
    folder, _, _ = europe
    plan = read_plan(folder / "chips.parquet")
    planned = plan[~plan["reserve"]]
    assert len(planned) == 112
    assert planned["biome"].value_counts().to_dict() == dict.fromkeys(range(14), 8)
    assert plan["chip_id"].is_unique


def test_export_takes_chips_of_the_region_only(europe):
    chips = StoredChips(europe[0])
    assert 3 <= len(chips.ids) < 60
    stored = chips.plan.loc[chips.ids]
    assert stored["lon"].between(-25, 45).all()
    assert stored["lat"].between(34, 72).all()


def test_every_array_opens_with_xarray_alone(tmp_path):
    folder = tmp_path / "c"
    m3etl(folder, "sample", "--chips", "5", "--biomes", "1,3,7,9,11")
    m3etl(folder, "export", "--s2", "both")
    tree = xarray.open_datatree(folder / "chips.zarr", engine="zarr")
    used = tree["/"]["chip_id"].values != ""
    assert set(tree.children) == set(arrays)
    for name, spec in arrays.items():
        data = tree[name]["data"]
        axis = "band" if spec.shape is Shape.RASTER else "feature"
        assert tuple(tree[name][axis].values) == spec.bands
        values = data.values[used]
        assert np.issubdtype(values.dtype, np.floating), f"{name} has no place for what was not observed"
        finite = values[np.isfinite(values)]
        assert finite.size, f"{name} holds nothing"
        assert finite.min() >= spec.valid_min - 1e-6
        assert finite.max() <= spec.valid_max + 1e-6
        assert np.isnan(data.values[~used]).all(), f"{name}: a padding row holds data"
    alone = xarray.open_zarr(folder / "chips.zarr", group="sentinel1_asc")
    assert alone["data"].sel(band="VV").dims == ("chip", "y", "x")


def test_absent_level_is_empty_and_never_zero(europe):
    chips = StoredChips(europe[0])
    for chip_id in chips.ids:
        present = [np.isfinite(chips.physical(name, chip_id)).any() for name in ("sentinel2_l2a", "sentinel2_l1c")]
        assert sum(present) == 1, "auto takes L2A where it exists, else L1C"
        assert np.isnan(chips.physical("sentinel1_asc", chip_id)[2:]).all() or chips.plan.loc[chip_id]["lat"] > 60


def test_exporting_again_changes_nothing(europe):
    folder = europe[0]
    before = {path: path.read_bytes() for path in (folder / "chips.zarr").rglob("*") if path.is_file()}
    m3etl(folder, "export", "--region", "europe")
    after = {path: path.read_bytes() for path in (folder / "chips.zarr").rglob("*") if path.is_file()}
    assert before == after


def test_pretrain_and_upload_run_what_is_missing(europe):
    folder = europe[0]
    trained = m3etl(folder, "pretrain", "trainer.max_steps=12")
    assert "normalize" in trained.stderr
    assert (folder / "stats.json").is_file()
    published = m3etl(folder, "upload-hf", "--repo", "a/b", "--synthetic", "--dry-run")
    assert "synthetic" in published.stdout
    refused = m3etl(folder, "upload-hf", "--repo", "a/b", "--dry-run", check=False)
    assert refused.returncode == 2
    assert "--synthetic" in refused.stderr


def test_audit_finds_nothing_and_then_a_flipped_byte(europe):
    folder = europe[0]
    clean = m3etl(folder, "--json", "validate")
    assert json.loads(clean.stdout)["failed"] == 0
    shard = open_store(folder / "chips.zarr").shard_path("sentinel2_l2a", 0)
    content = bytearray(shard.read_bytes())
    content[1000] ^= 0xFF
    shard.write_bytes(content)
    damaged = m3etl(folder, "validate", check=False)
    content[1000] ^= 0xFF
    shard.write_bytes(content)
    assert damaged.returncode == 3
    assert "sentinel2_l2a" in damaged.stdout + damaged.stderr
