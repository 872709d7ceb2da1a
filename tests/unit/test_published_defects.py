"""What the published pipelines got wrong, one test each: the published behaviour shown, and that it can't happen here.

M3LEO's list is numbered by the data-quality notes on it, MMEarth's by what was read in its code.
"""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from m3etl.compute.interferometry import mask_phase, reference_phase
from m3etl.compute.normalize import Normalizer
from m3etl.errors import InputError
from m3etl.io.gunw import parse_name
from m3etl.io.ranges import _public as public_address
from m3etl.learn.losses import squared_loss
from m3etl.learn.mpmae import MaskedAutoencoder, ModelConfig
from m3etl.spec.catalog import arrays, find_array, known_arrays, select_arrays
from m3etl.spec.catalog_m3leo import coherence_days
from m3etl.spec.modality import ArraySpec, Resampling, Values, physical_of, valid_of
from m3etl.spec.program import Comparison, Window
from m3etl.spec.scenes import climate_bands, climate_features, months_until
from m3etl.spec.splits import SplitRule, split_of_lonlat
from tests.fakes.learning import specs_of

worldcover = find_array("worldcover")
seasons = find_array("sentinel1_asc_seasons")


def stored(spec: ArraySpec, physical: float) -> int:
    """A physical value as the recipes store it: rounded, clamped into the declared range."""
    scaled = round((physical - spec.offset) / spec.scale)
    return int(min(max(scaled, math.ceil(spec.stored_min)), math.floor(spec.stored_max)))


# --- M3LEO ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level_db", "published"), [(-32.0, 239), (-33.0, 231), (1.0, 7)])
def test_m3leo_1_backscatter_outside_30_db_does_not_wrap(level_db: float, published: int) -> None:
    as_byte = int((level_db + 30) / 30 * 255) & 255
    assert abs(as_byte - published) <= 1, "dark came back bright"
    for spec in (seasons, find_array("sentinel1_desc")):
        value = np.array([stored(spec, level_db)], dtype=spec.dtype)
        assert physical_of(spec, value)[0] == pytest.approx(level_db, abs=spec.scale / 2)


def test_m3leo_2_masked_pixels_are_not_bright() -> None:
    assert int((0 + 30) / 30 * 255) == 255, "a masked 0 became the brightest value"
    assert not valid_of(seasons, np.array([seasons.fill], dtype=seasons.dtype))[0]
    assert seasons.fill < seasons.stored_min


def test_m3leo_3_means_are_taken_in_linear_power() -> None:
    for name in ("sentinel1_asc_months", "sentinel1_desc_months", "sentinel1_asc_seasons"):
        spec = find_array(name)
        assert spec.program is not None
        assert spec.program.decibel
        assert spec.resampling is Resampling.BILINEAR_LINEAR_POWER
        assert spec.scale <= 0.01, "whole decibels"


def test_m3leo_4_passes_and_modes_are_not_mixed() -> None:
    for way, orbit in (("asc", "ASCENDING"), ("desc", "DESCENDING")):
        program = find_array(f"sentinel1_{way}_seasons").program
        assert program is not None
        wanted = {(item.property, item.comparison, item.value) for item in program.filters}
        assert ("instrumentMode", Comparison.EQUALS, "IW") in wanted
        assert ("orbitProperties_pass", Comparison.EQUALS, orbit) in wanted


def test_m3leo_5_land_below_the_sea_does_not_wrap_and_slope_has_fractions() -> None:
    assert np.array([-430]).astype(np.uint16)[0] == 65106, "what the Dead Sea became"
    for name in ("srtm_elevation", "copernicus_elevation", "aster_elevation"):
        spec = find_array(name)
        assert spec.valid_min <= -430
        assert np.dtype(spec.dtype).kind in "if"
    assert find_array("copernicus_slope").dtype == "float32"
    assert find_array("aster_slope").scale == 0.01


def test_m3leo_6_no_data_is_not_tree_cover() -> None:
    assert worldcover.fill not in {item.code for item in worldcover.classes}
    codes = torch.tensor([[[[10, worldcover.fill]]]], dtype=torch.uint8)
    found = Normalizer.from_stats({}, [worldcover])({"worldcover": codes})
    assert found["worldcover"].ravel().tolist() == [0, -1]
    assert found["worldcover_valid"].ravel().tolist() == [True, False]


def test_m3leo_7_bright_reflectance_is_kept_and_a_missing_month_is_not_black() -> None:
    spec = find_array("sentinel2_months")
    assert spec.valid_max > 1.2, "0.3 would saturate snow, deserts and clouds"
    assert spec.fill != 0
    assert valid_of(spec, np.zeros(1, spec.dtype))[0], "zero reflectance is an observation"


def test_m3leo_8_short_pairs_are_there_and_one_missing_layer_drops_nothing() -> None:
    assert {6, 18} <= set(coherence_days)
    spec = find_array("coherence")
    assert spec.periods == ("DJF", "MAM", "JJA", "SON")
    assert {"vv_COH06", "vv_COH18"} <= set(spec.band_names)
    assert find_array("coherence_hh").bands[0] == "DJF_hh_COH06", "ice sheets are not left out"


def test_m3leo_9_incidence_angles_of_orbits_are_apart() -> None:
    bands = find_array("coherence_geometry").bands
    assert {"inc_1", "orbit_1", "inc_2", "orbit_2"} <= set(bands)


def test_m3leo_11_days_do_not_wrap_and_phase_is_referenced() -> None:
    assert np.array([360]).astype(np.uint8)[0] == 104
    name = "S1-GUNW-A-R-064-tops-20201230_20200105-015040-34441N_32227N-PP-0abc-v2_0_2.nc"
    assert parse_name(name).days == 360
    component = np.array([[1.0, 1, 2, 2, 0]])
    phase = np.array([[5.0, 5.1, -20.0, -20.1, 3.0]])
    coherence = np.full(phase.shape, 0.9)
    found = reference_phase(mask_phase(phase, component, coherence), component, coherence)
    np.testing.assert_allclose(found, [[-0.05, 0.05, 0.05, -0.05, np.nan]], atol=1e-9)


def test_m3leo_12_an_array_has_one_name() -> None:
    names = list(known_arrays())
    assert len(names) == len({name.replace("-", "_") for name in names})
    with pytest.raises(InputError, match="unknown modality: strmdem"):
        select_arrays(["strmdem"])


def test_m3leo_seasons_and_years_lose_no_last_day() -> None:
    program = seasons.program
    assert program is not None
    assert program.window is Window.SEASONS
    # Half-open windows from the first of a month to the first of a month hold every day, leap days too.
    start, end = datetime(2019, 12, 1, tzinfo=UTC), datetime(2020, 12, 1, tzinfo=UTC)
    assert (end - start).days == 366
    assert start <= datetime(2020, 2, 29, 23, 59, tzinfo=UTC) < end


# --- MMEarth ----------------------------------------------------------------------------------------------------------


def test_mmearth_1_tree_cover_is_a_target() -> None:
    codes = np.array([10, 20, 50, 80, 0])
    remapped = np.array([0, 1, 4, 7, -1])
    published = np.where(remapped == 0, -1, remapped)  # no data is 0, masked again after the remap
    assert published.tolist() == [-1, 1, 4, 7, -1]
    fill = worldcover.fill
    assert fill is not None
    ours = torch.tensor(np.where(codes == 0, fill, codes).astype(np.uint8)).reshape(1, 1, 1, 5)
    assert Normalizer.from_stats({}, [worldcover])({"worldcover": ours})["worldcover"].ravel().tolist() == [
        0,
        1,
        4,
        7,
        -1,
    ]


def test_mmearth_2_what_was_not_observed_has_no_gradient() -> None:
    observed = torch.tensor([[True, False]])
    target = torch.tensor([[1.0, 0.0]])  # the second was NaN and became "the mean"
    published = torch.tensor([[0.5, 0.5]], requires_grad=True)
    ((published - target) ** 2).mean().backward()
    assert published.grad is not None
    assert published.grad[0, 1] != 0
    ours = torch.tensor([[0.5, 0.5]], requires_grad=True)
    squared_loss(ours, target, observed).mean.backward()
    assert ours.grad is not None
    assert ours.grad[0, 0] != 0
    assert ours.grad[0, 1] == 0


def test_mmearth_3_every_modality_has_a_head_of_its_own() -> None:
    specs = specs_of("sentinel2_l2a", "sentinel1_asc", "worldcover")
    model = MaskedAutoencoder(specs, specs, ModelConfig())
    heads = [parameter for head in model.heads.values() for parameter in head.parameters()]
    assert len({id(parameter) for parameter in heads}) == len(heads)
    assert set(model.heads) == {spec.name for spec in specs}


def test_mmearth_4_a_fill_that_cannot_occur_is_refused() -> None:
    with pytest.raises(InputError, match="fill 255 does not fit int8"):
        dataclasses.replace(find_array("canopy_height"), dtype="int8", valid_max=100.0)


def test_mmearth_5_one_declaration_says_what_no_data_is() -> None:
    for spec in arrays.values():
        sample = np.array([spec.fill_value()], dtype=spec.dtype)
        assert not valid_of(spec, sample)[0]
        assert np.isnan(physical_of(spec, sample)[0])


def test_mmearth_7_a_year_has_twelve_months() -> None:
    window = months_until(2019, 6)
    assert len(window) == len(set(window)) == 12
    assert (window[0], window[-1]) == ((2018, 7), (2019, 6))
    months = {item: tuple(1.0 for _ in climate_bands) for item in months_until(2019, 6)}
    months[2018, 6] = tuple(1000.0 for _ in climate_bands)  # the thirteenth of the published year
    assert climate_features(months, 2019, 6)["total_precipitation_sum_year"] == pytest.approx(12.0)


def test_mmearth_10_splits_are_blocks_and_repeat() -> None:
    rule = SplitRule(seed=3, block_km=100.0, buffer_km=5.0, fractions=(0.8, 0.1, 0.1))
    lon, lat = np.linspace(5, 5.02, 5), np.full(5, 50.0)
    first, again = (split_of_lonlat(rule, lon, lat, 1280.0) for _ in range(2))
    assert (first == again).all()
    assert len(set(first.tolist())) == 1, "neighbours are in one split"


def test_mmearth_11_sentinel_1_has_a_largest_gap() -> None:
    assert find_array("sentinel1_asc").max_gap_days <= 30
    assert "2020" in find_array("worldcover").title, "a map says which year it is of"


def test_mmearth_13_the_vegetation_map_is_the_one_that_is_kept_up() -> None:
    assert find_array("modis_vegetation").source[0].startswith("MODIS/061/")


def test_mmearth_14_no_secret_is_in_a_message() -> None:
    assert public_address("https://user:pw@host/a.nc?Signature=s3cret") == "https://host/a.nc"


def test_mmearth_15_fill_is_found_before_values_are_normalised() -> None:
    spec = find_array("aster_elevation")
    stats = {spec.name: {"elevation": dict.fromkeys(("mean", "p50"), 200.0) | {"std": 50.0, "count": 9, "min": 0.0,
             "max": 400.0, "p01": 0.0, "p25": 150.0, "p75": 250.0, "p99": 400.0}}}  # fmt: skip
    values = torch.tensor([[[[200, spec.fill]]]], dtype=torch.int16)
    found = Normalizer.from_stats(stats, [spec])({spec.name: values})
    assert found[f"{spec.name}_valid"].ravel().tolist() == [True, False]
    assert found[spec.name].ravel().tolist() == [0.0, 0.0]
    assert spec.values is Values.CONTINUOUS
