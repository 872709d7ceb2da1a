"""Rasters of the user's own as arrays of a campaign: cut, sealed, recorded; and what is refused before anything is
written.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from fakes.geotiffs import numbered, write_geotiff
from fakes.sealed import sealed_campaign

from m3etl.campaign import SourceConfig, open_campaign, save_config
from m3etl.cli.main import cli
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.provenance import read_provenance
from m3etl.io.store import open_store
from m3etl.stages import importing
from m3etl.stages.localarrays import run_local_arrays, with_sources
from m3etl.stages.normalize import run_normalize
from m3etl.stages.summary import SilentProgress
from m3etl.stages.validate import run_validate

silent = SilentProgress()
west, top = 500_160.0, 5_540_160.0  # of the first chip; chips of 32 pixels follow eastwards
bands = ("height", "std")


@pytest.fixture
def campaign(tmp_path):
    return sealed_campaign(tmp_path / "c", chips=6)


@pytest.fixture
def heights(tmp_path):
    """A map of heights over the first four chips and half of the fifth."""
    values = (numbered(2, 40, 144) % 250).astype(np.uint8)
    values[0, :5, :5] = 255
    path = tmp_path / "heights.tif"
    affine = (10.0, 0, west, 0, -10.0, top + 40)
    write_geotiff(path, values, affine=affine, nodata=255, names=bands)
    return path, values[:, 4:36]


def bytes_of(root):
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file() and path.name != ".lock"}


def test_a_map_becomes_an_array_of_sealed_chips(campaign, heights):
    path, values = heights
    campaign = with_sources(campaign, {"canopy_height": (str(path),)})
    summary = run_local_arrays(open_campaign(campaign.root), progress=silent)
    store = open_store(campaign.store_path)
    for row in range(5):
        wanted = values[:, :, 32 * row : 32 * (row + 1)]
        np.testing.assert_array_equal(store.read("canopy_height", [row])[0][:, :, : wanted.shape[2]], wanted)
    assert (store.read("canopy_height", [4])[0][:, :, 16:] == 255).all()
    assert (store.read("canopy_height", [5])[0] == 255).all()
    assert summary.facts["from your files"]["canopy_height"] == {"files": 1, "chips": 6, "ok": 5, "no_scene": 1}
    records = read_provenance(campaign.provenance_path)
    mine = records[records["array"] == "canopy_height"].set_index("chip_id")
    assert mine["scene_ids"].map(list).tolist() == [["heights.tif"]] * 5 + [[]]
    assert set(mine["origin"]) == {"import"}
    assert set(mine["license"][:5]) == {"unknown"}
    assert mine["valid_fraction"].tolist()[:5] == pytest.approx([1023 / 1024, 1.0, 1.0, 1.0, 0.5], abs=0.01)
    assert run_validate(campaign, progress=silent).errors.keys() & {"checksum canopy_height", "no record"} == set()
    run_normalize(campaign, progress=silent)


def test_doing_it_again_changes_nothing(campaign, heights):
    campaign = with_sources(campaign, {"canopy_height": (str(heights[0]),)})
    run_local_arrays(campaign, progress=silent)
    before = bytes_of(campaign.root)
    again = run_local_arrays(open_campaign(campaign.root), progress=silent)
    assert bytes_of(campaign.root) == before
    assert again.done == 0


def test_killed_between_shards_it_goes_on(campaign, heights, monkeypatch):
    campaign = with_sources(campaign, {"canopy_height": (str(heights[0]),)})
    seal = importing._Shard.seal
    monkeypatch.setattr(importing._Shard, "seal", lambda self: seal(self) if self._shard == 0 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_local_arrays(campaign, progress=silent)
    assert "canopy_height" not in open_store(campaign.store_path).specs, "readers never see half of an array"
    monkeypatch.undo()
    assert run_local_arrays(campaign, progress=silent).done == 2
    assert open_store(campaign.store_path).read("canopy_height", [4]).shape == (1, 2, 32, 32)


@pytest.mark.parametrize(
    ("made", "config", "error", "message"),
    [
        ({"nodata": None}, {}, InputError, "declares no nodata value"),
        ({"crs": None}, {}, InputError, "no coordinate system"),
        ({"names": ()}, {}, InputError, "needs the bands height, std"),
        ({"affine": (10.0, 0, west + 1e6, 0, -10.0, top)}, {}, NothingSelectedError, "none of the 1 files .* meets"),
        ({}, {"resampling": "wrong"}, InputError, "unknown resampling"),
        ({}, {"files": ()}, InputError, "names no files"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(campaign, tmp_path, made, config, error, message):
    options = {"affine": (10.0, 0, west, 0, -10.0, top), "nodata": 255, "names": bands, **made}
    write_geotiff(tmp_path / "a.tif", (numbered(2, 40, 40) % 250).astype(np.uint8), **options)
    source = replace(SourceConfig(files=(str(tmp_path / "a.tif"),)), **config)
    campaign = campaign.with_config(sources={"canopy_height": source})
    before = bytes_of(campaign.store_path)
    with pytest.raises(error, match=message):
        run_local_arrays(campaign, progress=silent)
    assert bytes_of(campaign.store_path) == before


def test_an_array_that_was_exported_is_not_replaced(campaign, tmp_path):
    codes = np.full((1, 40, 40), 10, np.uint8)
    path = write_geotiff(tmp_path / "a.tif", codes, affine=(10.0, 0, west, 0, -10.0, top), nodata=0)
    campaign = with_sources(campaign, {"worldcover": (str(path),)})
    with pytest.raises(InputError, match="worldcover of this campaign comes from planet already"):
        run_local_arrays(campaign, progress=silent)


def test_sources_live_in_the_configuration(campaign, heights):
    source = SourceConfig(files=("../heights.tif",), nodata="254", license="CC-BY-4.0")
    campaign = campaign.with_config(sources={"canopy_height": source})
    save_config(campaign)
    assert open_campaign(campaign.root).config.sources == {"canopy_height": source}
    run_local_arrays(open_campaign(campaign.root), progress=silent)  # paths start from the campaign
    records = read_provenance(campaign.provenance_path)
    assert "CC-BY-4.0" in set(records.loc[records["array"] == "canopy_height", "license"])
    text = campaign.config_path.read_text()
    campaign.config_path.write_text(text.replace("nodata =", "no_data ="))
    with pytest.raises(InputError, match=r"unknown key sources\.canopy_height\.no_data"):
        open_campaign(campaign.root)


def test_an_unknown_array_and_a_campaign_without_chips(campaign, tmp_path):
    with pytest.raises(InputError, match="unknown array: trees"):
        with_sources(campaign, {"trees": ("a.tif",)})
    (tmp_path / "c" / "chips.zarr").rename(tmp_path / "gone")
    with pytest.raises(NothingSelectedError, match="no chips to cut"):
        run_local_arrays(campaign, progress=silent)


def test_options_of_the_command(tmp_path):
    result = CliRunner().invoke(cli, ["-C", str(tmp_path), "tile", "--from", "worldcover"])
    assert result.exit_code == 2
    assert "'worldcover' is not ARRAY=PATH" in result.output
