"""Every row of the catalogue from `sample` to a tensor and a picture: one small campaign, looked at row by row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from m3etl.io.provenance import read_provenance
from m3etl.io.store import open_store
from m3etl.learn.dataset import ChipDataset
from m3etl.spec.catalog import known_arrays
from m3etl.spec.modality import Shape, Values, physical_of, valid_of
from tests.fakes.gunw import Made, product_name, write_product
from tests.integration.pipeline import m3etl, write_points

rows = tuple(known_arrays())
modalities = ("mmearth", "m3leo", "sentinel1_angle", "dynamic_world_probabilities", "worldcover_2021",
              "sentinel2_dates", "sentinel1_dates")  # fmt: skip
side = 48
# Lowland with fields in Europe, mountains, a coast, ice: places where every layer has something.
places = ((2.21, 48.75, "2019-07-10"), (8.52, 46.61, "2019-08-05"), (-1.62, 46.92, "2017-06-20"),
          (-45.2, 64.18, "2018-07-15"))  # fmt: skip


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rows")
    points = write_points(root / "places.geojson", places)
    m3etl(root, "sample", "--strategy", "points", "--points", str(points), "--chip-px", str(side))
    m3etl(root, "export", *(part for name in modalities for part in ("--modality", name)))
    for days in (30, 102, 178):
        write_product(root, Made(west=2.11, north=48.85), name=product_name(days))
    m3etl(root, "tile", "--gunw", str(root))
    m3etl(root, "normalize")
    m3etl(root, "preview")
    return root


@pytest.mark.parametrize("name", rows)
def test_row(campaign: Path, name: str) -> None:
    store = open_store(campaign / "chips.zarr")
    spec = store.specs[name]
    assert spec == known_arrays()[name]
    stored = store.read(name, np.flatnonzero(store.chip_ids != ""))
    assert stored.shape == (4, *spec.chip_shape(side * 10.0))
    valid = valid_of(spec, stored)
    assert valid.any(), "nothing was observed at any of the places"
    known = physical_of(spec, stored)[valid]
    slack = 0.5 * spec.scale
    assert known.min() >= spec.valid_min - slack
    assert known.max() <= spec.valid_max + slack
    records = read_provenance(campaign / "provenance", [0])
    mine = records[records["array"] == name]
    assert len(mine) == 4
    assert ((mine["status"] == "ok") == (mine["valid_fraction"] > 0)).all()
    assert (campaign / "previews" / f"{name}.png").stat().st_size > 1000
    dataset = ChipDataset(campaign, arrays=[name], split=None)
    item = dataset[0]
    assert item[name].shape == item[f"{name}_valid"].shape == spec.with_periods(spec.chip_shape(side * 10.0))
    if spec.values is Values.CONTINUOUS:
        stats = json.loads((campaign / "stats.json").read_text())[name]
        assert set(stats) == set(spec.bands)


def test_angle_and_backscatter_are_of_one_scene(campaign: Path) -> None:
    store = open_store(campaign / "chips.zarr")
    rows = np.flatnonzero(store.chip_ids != "")
    records = read_provenance(campaign / "provenance", [0])
    for way in ("asc", "desc"):
        scenes = {
            name: records[records["array"] == name].set_index("chip_id")["scene_ids"].map(tuple).to_dict()
            for name in (f"sentinel1_{way}", f"sentinel1_{way}_angle")
        }
        assert scenes[f"sentinel1_{way}"] == scenes[f"sentinel1_{way}_angle"]
        backscatter, angle = (store.read(name, rows) for name in scenes)
        observed = valid_of(store.specs[f"sentinel1_{way}"], backscatter).any(axis=1)
        np.testing.assert_array_equal(observed, valid_of(store.specs[f"sentinel1_{way}_angle"], angle)[:, 0])
        known = angle[:, 0][observed] * 0.01
        assert ((known > 29) & (known < 46.1)).all(), "the swath of the interferometric wide mode"


def test_ice_has_the_polarisations_it_was_acquired_in(campaign: Path) -> None:
    """HH and HV over Greenland, VV and VH elsewhere, each under its own name and nothing under the others."""
    store = open_store(campaign / "chips.zarr")
    seen = {}
    for row in np.flatnonzero(store.chip_ids != ""):
        for way in ("asc", "desc"):
            spec = store.specs[f"sentinel1_{way}"]
            valid = valid_of(spec, store.read(spec.name, [row])[0]).any(axis=(1, 2))
            seen[round(float(store.lat[row])), way] = {
                band for band, there in zip(spec.bands, valid, strict=True) if there
            }
    assert {frozenset(bands) for (lat, _), bands in seen.items() if lat == 64 and bands} == {frozenset({"HH", "HV"})}
    assert {frozenset(bands) for (lat, _), bands in seen.items() if lat < 60 and bands} == {frozenset({"VV", "VH"})}


def test_probabilities_sum_to_one_and_the_likeliest_is_mostly_the_label(campaign: Path) -> None:
    store = open_store(campaign / "chips.zarr")
    rows = np.flatnonzero(store.chip_ids != "")
    spec = store.specs["dynamic_world_probabilities"]
    assert spec.bands == tuple(item.name for item in store.specs["dynamic_world"].classes)
    shares = physical_of(spec, store.read(spec.name, rows))
    label = store.read("dynamic_world", rows)[:, 0]
    known = np.isfinite(shares).all(axis=1) & (label != 255)
    assert known.mean() > 0.5
    total = np.moveaxis(shares, 1, -1)[known].sum(axis=-1)
    np.testing.assert_allclose(total, 1.0, atol=9 * spec.scale / 2 + 1e-6)
    assert (np.moveaxis(shares, 1, -1)[known].argmax(axis=-1) == label[known]).mean() > 0.8


def test_both_years_of_worldcover_are_kept_apart(campaign: Path) -> None:
    records = read_provenance(campaign / "provenance", [0])
    for name, asset, year in (("worldcover", "v100/2020", 2020), ("worldcover_2021", "v200/2021", 2021)):
        mine = records[(records["array"] == name) & (records["status"] == "ok")]
        assert {item for ids in mine["scene_ids"] for item in ids} == {f"ESA/WorldCover/{asset}"}
        assert set(mine["time"].dt.year) == {year}


def test_coarse_rows_keep_their_own_pixels(campaign: Path) -> None:
    store = open_store(campaign / "chips.zarr")
    sides = {name: spec.pixels(side * 10.0) for name, spec in store.specs.items() if spec.shape is Shape.RASTER}
    assert (sides["biomass"], sides["coherence"], sides["modis_vegetation"], sides["srtm_slope"]) == (5, 5, 2, 16)


def test_the_places_are_stored_as_m3leo_has_them(campaign: Path) -> None:
    """100 m layers of a 4480 m chip are 45 x 45, never blown up."""
    sides = {name: known_arrays()[name].pixels(4480.0) for name in ("biomass", "built_surface", "modis_vegetation")}
    assert sides == {"biomass": 45, "built_surface": 45, "modis_vegetation": 19}
