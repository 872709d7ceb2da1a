"""Arrays with periods in the store: an axis and a coordinate of their own for every reader, the same bytes inside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from fakes.chips import chip_m, make_store, stored_or_fill

from m3etl.errors import InputError
from m3etl.io.layout import declaration_of, shard_path, spec_of
from m3etl.io.store import open_store
from m3etl.spec.catalog import find_array
from m3etl.spec.modality import ArraySpec, physical_of

seasons = find_array("sentinel1_asc_seasons")
months = find_array("sentinel2_months")
coherence = find_array("coherence")
plain = find_array("aster_elevation")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("periods") / "chips.zarr"
    return path, make_store(path, (seasons, months, coherence, plain))


@pytest.mark.parametrize("spec", [seasons, months, coherence], ids=lambda spec: spec.name)
def test_xarray_selects_period_and_band_by_name(store, spec: ArraySpec):
    path, chips = store
    data = xarray.open_zarr(path, group=spec.name)["data"].load()
    assert data.dims == ("chip", "period", "band", "y", "x")
    assert tuple(map(str, data["period"].values)) == spec.periods
    assert tuple(map(str, data["band"].values)) == spec.band_names
    tree = xarray.open_datatree(path, engine="zarr")[spec.name].to_dataset()["data"]
    assert tree.dims == data.dims
    for chip in chips:
        expected = physical_of(spec, stored_or_fill(chip, spec))
        for position, name in enumerate(spec.bands):
            period, _, band = name.partition("_")
            found = data.sel(period=period, band=band)[chip.row]
            np.testing.assert_allclose(found, expected[position], rtol=1e-5, atol=1e-6)


def test_zarr_python_and_our_reader_see_the_same_bytes(store):
    path, chips = store
    reader = open_store(path)
    for spec in (seasons, months, coherence):
        array = zarr.open_group(path, mode="r")[f"{spec.name}/data"]
        side = spec.pixels(chip_m)
        assert array.shape == (reader.rows, len(spec.periods), len(spec.band_names), side, side)
        assert array.chunks == (1, *array.shape[1:])
        rows = np.arange(len(chips))
        np.testing.assert_array_equal(np.asarray(array[: len(chips)]).reshape(len(chips), -1, side, side),
                                      reader.read(spec.name, rows))  # fmt: skip
        assert shard_path(path, reader.layout, spec.name, 0).name == "c.0.0.0.0.0"


def test_the_same_bytes_as_without_periods(tmp_path: Path):
    flat = replace(seasons, periods=())
    make_store(tmp_path / "flat.zarr", (flat,), missing=0.0)
    make_store(tmp_path / "own.zarr", (seasons,), missing=0.0)
    stores = [open_store(tmp_path / name) for name in ("flat.zarr", "own.zarr")]
    one, other = (item.shard_path(seasons.name, 0).read_bytes() for item in stores)
    assert one == other
    assert flat.digest() != seasons.digest(), "another shape is another declaration"


def test_the_declaration_comes_back(store):
    path, _ = store
    specs = open_store(path).specs
    assert specs[seasons.name] == seasons
    assert spec_of(declaration_of(months)) == months
    assert "periods" not in declaration_of(plain)


def test_a_declaration_that_contradicts_its_periods_is_refused():
    with pytest.raises(InputError, match="bands must be PERIOD_BAND"):
        replace(seasons, periods=("DJF", "MAM", "SON", "JJA"))
    with pytest.raises(InputError, match="periods must be unique"):
        replace(seasons, periods=("DJF", "DJF"))
    with pytest.raises(InputError, match="a vector has no periods"):
        replace(find_array("month"), periods=("sin", "cos"))


def test_parts_of_a_declaration_keep_what_makes_them():
    part = seasons.selected(["VH_mean", "VV_std"], ["SON", "DJF"])
    assert part.bands == ("SON_VH_mean", "SON_VV_std", "DJF_VH_mean", "DJF_VV_std")
    assert (part.periods, part.band_names) == (("SON", "DJF"), ("VH_mean", "VV_std"))
    assert part.program is not None
    assert [output.period for output in part.program.outputs] == ["SON", "SON", "DJF", "DJF"]
    assert part.with_periods((7, *part.chip_shape(chip_m))) == (7, 2, 2, 16, 16)
    assert plain.with_periods(plain.chip_shape(chip_m)) == plain.chip_shape(chip_m)
