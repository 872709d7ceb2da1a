"""The catalogue: MMEarth's twelve modalities, each of its published traps impossible here."""

from __future__ import annotations

import numpy as np
import pytest

from m3etl.errors import InputError
from m3etl.spec.biomes import biome_names
from m3etl.spec.catalog import (
    arrays,
    catalogue_digest,
    find_array,
    licenses,
    modality_names,
    select_arrays,
    worldcover_classes,
)
from m3etl.spec.jobs import field_name
from m3etl.spec.modality import Resampling, Shape, Temporal, Transform, Values

rasters = [spec for spec in arrays.values() if spec.shape is Shape.RASTER]


def test_the_twelve_modalities_are_there():
    assert set(modality_names) == {
        "sentinel2",
        "sentinel1",
        "aster",
        "canopy_height",
        "dynamic_world",
        "worldcover",
        "biome",
        "ecoregion",
        "era5_temperature",
        "era5_precipitation",
        "geolocation",
        "month",
    }


@pytest.mark.parametrize("name", list(arrays))
def test_a_fill_value_exists_in_its_type_and_is_no_value(name):
    spec = arrays[name]
    stored = np.full(2, spec.fill_value(), dtype=spec.dtype)
    assert np.array_equal(stored[:1], np.array([spec.fill_value()]), equal_nan=True)
    if spec.fill is not None:
        assert not spec.stored_min <= spec.fill <= spec.stored_max
        assert spec.fill not in {item.code for item in spec.classes}
        assert int(stored[0]) == spec.fill


@pytest.mark.parametrize("name", list(arrays))
def test_every_valid_value_fits_the_stored_type(name):
    spec = arrays[name]
    dtype = np.dtype(spec.dtype)
    if dtype.kind in "iu":
        assert np.iinfo(dtype).min <= spec.stored_min <= spec.stored_max <= np.iinfo(dtype).max + 1e-6


@pytest.mark.parametrize("name", list(arrays))
def test_every_license_is_known(name):
    assert arrays[name].license in licenses
    assert licenses[arrays[name].license].kind != "unknown"


def test_bands_are_named_and_b8_stands_before_b8a():
    for level in ("l1c", "l2a"):
        bands = arrays[f"sentinel2_{level}"].bands
        assert bands.index("B8A") == bands.index("B8") + 1
    assert "B10" in arrays["sentinel2_l1c"].bands
    assert "B10" not in arrays["sentinel2_l2a"].bands


def test_field_names_are_unique_over_all_arrays():
    names = [field_name(spec.name, band) for spec in arrays.values() for band in spec.bands]
    assert len(set(names)) == len(names)
    assert all(name.replace("_", "").isalnum() for name in names)


def test_tree_cover_keeps_its_code_and_its_place():
    codes = [item.code for item in worldcover_classes]
    assert codes == [10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100]
    assert worldcover_classes[0].name == "tree_cover"
    assert arrays["worldcover"].class_count == 11
    assert arrays["worldcover"].valid_min == 10


def test_dynamic_world_water_is_zero_and_not_missing():
    spec = arrays["dynamic_world"]
    assert [(item.code, item.name) for item in spec.classes[:2]] == [(0, "water"), (1, "trees")]
    assert len(spec.classes) == 9
    assert spec.fill == 255
    assert spec.temporal is Temporal.YEAR


def test_backscatter_is_resampled_in_linear_power_and_the_gap_is_limited():
    for orbit_pass in ("asc", "desc"):
        spec = arrays[f"sentinel1_{orbit_pass}"]
        assert spec.bands == ("VV", "VH", "HH", "HV")
        assert spec.resampling is Resampling.BILINEAR_LINEAR_POWER
        assert spec.max_gap_days == 30
        assert (spec.dtype, spec.scale, spec.units) == ("int16", 0.01, "dB")


def test_classes_and_codes_are_never_interpolated():
    for spec in rasters:
        if spec.values is Values.CLASSES or "SCL" in spec.bands:
            assert spec.resampling is Resampling.NEAREST, spec.name


def test_slope_keeps_hundredths_of_a_degree():
    spec = arrays["aster_slope"]
    assert spec.scale == 0.01
    assert spec.stored_max == pytest.approx(9000)


def test_elevation_below_the_sea_level_is_a_value():
    spec = arrays["aster_elevation"]
    assert spec.valid_min < -430  # the Dead Sea
    assert spec.fill < spec.stored_min


def test_canopy_height_does_not_saturate_into_its_fill():
    spec = arrays["canopy_height"]
    assert spec.dtype == "uint8"
    assert spec.stored_max < spec.fill == 255


def test_labels_are_codes_and_no_one_hot_vectors():
    for name, count in (("biome", 14), ("ecoregion", 850)):
        spec = arrays[name]
        assert spec.bands == (name,)
        assert np.dtype(spec.dtype).kind == "u"
        assert spec.class_count == count
    assert tuple(item.name for item in arrays["biome"].classes) == biome_names


def test_climate_windows_are_named_and_hold_whole_sets():
    temperature, precipitation = arrays["era5_temperature"], arrays["era5_precipitation"]
    assert len(temperature.bands) == 9
    assert precipitation.bands == (
        "total_precipitation_sum_previous_month",
        "total_precipitation_sum_month",
        "total_precipitation_sum_year",
    )
    assert temperature.temporal is Temporal.MONTHS
    assert (temperature.units, precipitation.units) == ("K", "m")
    assert precipitation.transform is Transform.LOG_ZSCORE


def test_cyclic_arrays_are_pairs_of_sine_and_cosine():
    assert arrays["geolocation"].bands == ("sin_lat", "cos_lat", "sin_lon", "cos_lon")
    assert arrays["month"].bands == ("sin_month", "cos_month")
    assert {arrays[name].values for name in ("geolocation", "month")} == {Values.CYCLIC}


def test_the_cloud_mask_is_no_pretext_target():
    assert [spec.name for spec in arrays.values() if not spec.target] == ["sentinel2_cloud"]


def test_labels_that_say_the_same_share_a_family():
    assert arrays["dynamic_world"].label_family == arrays["worldcover"].label_family == "land_cover"
    assert arrays["biome"].label_family == arrays["ecoregion"].label_family == "biome"


def test_selection_keeps_the_catalogue_order_and_names_what_is_unknown():
    assert [spec.name for spec in select_arrays(["aster", "sentinel1"])] == [
        "sentinel1_asc",
        "sentinel1_desc",
        "aster_elevation",
        "aster_slope",
    ]
    assert len(select_arrays()) == len(arrays)
    with pytest.raises(InputError, match="unknown modality: lidar, radar") as caught:
        select_arrays(["lidar", "aster", "radar"])
    assert "sentinel2" in caught.value.hint


def test_an_unknown_array_is_refused_with_the_known_ones():
    assert find_array("aster_slope").units == "degree"
    with pytest.raises(InputError, match="unknown array: slope") as caught:
        find_array("slope")
    assert "aster_slope" in caught.value.hint


def test_the_digest_of_a_catalogue_does_not_depend_on_order():
    specs = list(arrays.values())
    assert catalogue_digest(specs) == catalogue_digest(reversed(specs))
    assert catalogue_digest(specs) != catalogue_digest(specs[1:])
