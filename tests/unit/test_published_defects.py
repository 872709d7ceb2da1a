"""What the published pipelines got wrong, one test each: pixels made in the published way show the defect, the same
pixels through our own recipes and readers do not.

M3LEO's list is numbered by the data-quality notes on it, MMEarth's by what was read in its code.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.ecoregion_table import world_table

from m3etl.campaign import CampaignConfig, SampleConfig, create_campaign
from m3etl.compute.audit import find_overlaps
from m3etl.compute.grids import PixelGrid
from m3etl.compute.interferometry import correct_phase, mask_phase, reference_phase
from m3etl.compute.normalize import Normalizer
from m3etl.compute.stitching import Interferogram, warp_interferogram
from m3etl.emulator.assets import open_assets
from m3etl.emulator.evaluate import Evaluator
from m3etl.errors import InputError
from m3etl.io.gunw import parse_name
from m3etl.io.outcomes import Kind, RequestFailed
from m3etl.io.plan import read_plan
from m3etl.io.programs import filtered
from m3etl.io.ranges import _public as public_address
from m3etl.io.recipes import array_image, stored_image
from m3etl.learn.losses import squared_loss
from m3etl.learn.mpmae import MaskedAutoencoder, ModelConfig
from m3etl.spec.catalog import find_array, known_arrays, select_arrays
from m3etl.spec.chipgrid import ChipGrid
from m3etl.spec.jobs import field_name
from m3etl.spec.modality import Values, physical_of, valid_of
from m3etl.spec.scenes import (
    AnchorRule,
    Candidate,
    PassImage,
    choose_anchor,
    choose_pass,
    climate_bands,
    climate_features,
    day_ms,
    months_until,
)
from m3etl.spec.splits import SplitRule, split_of_lonlat
from m3etl.stages.sample import run_sample
from m3etl.stages.summary import SilentProgress
from tests.fakes import ee_in_process, published
from tests.fakes.ee_in_process import ee
from tests.fakes.learning import specs_of
from tests.fakes.published import by_column, flat, gssic, ms, served, stored_by_us
from tests.fakes.scenery import Scene, left, session_over, top

worldcover = find_array("worldcover")
seasons = find_array("sentinel1_asc_seasons")
both_asc_seasons = ("sentinel1_asc_seasons", "sentinel1_asc_months")
s1 = "COPERNICUS/S1_GRD"
ascending = {"instrumentMode": "IW", "orbitProperties_pass": "ASCENDING"}


@pytest.fixture
def transport() -> Iterator[ee_in_process.Transport]:
    with ee_in_process.client() as made:
        yield made


def radar(name: str, day: str, vv: object, vh: object, **properties: object) -> Scene:
    bands = {"VV": ("float64", vv), "VH": ("float64", vh), "angle": ("float32", flat(38.25))}
    return Scene(f"{s1}/{name}", bands, time_ms=ms(day), properties={**ascending, **properties}, shift_m=0)


# --- M3LEO ------------------------------------------------------------------------------------------------------------


def test_m3leo_1_backscatter_outside_30_db_does_not_wrap(transport) -> None:
    levels = np.array([-33.0, -32.0, -15.0, 1.0])
    assert published.backscatter_as_byte(levels).tolist() == [231, 239, 127, 7], "dark came back bright, bright as dark"
    scene = radar("water", "2020-07-10T05:43:00", by_column(*levels), flat(-20))
    with served([scene], transport) as evaluator:
        season = physical_of(seasons, stored_by_us(evaluator, seasons, [scene.id])["JJA_VV_median"])
        single = find_array("sentinel1_asc")
        date = physical_of(single, stored_by_us(evaluator, single, [scene.id])["VV"])
    for found in (season, date):
        np.testing.assert_allclose(found[3, :4], levels, atol=0.005)


def test_m3leo_2_masked_pixels_are_not_bright(transport) -> None:
    levels = np.array([-12.0, math.nan])
    assert published.backscatter_as_byte(levels).tolist() == [153, 255], "what was masked became the brightest value"
    scene = radar("edge", "2020-07-10T05:43:00", by_column(*levels), flat(-20))
    with served([scene], transport) as evaluator:
        for name, band in (("sentinel1_asc_seasons", "JJA_VV_mean"), ("sentinel1_asc", "VV")):
            spec = find_array(name)
            stored = stored_by_us(evaluator, spec, [scene.id])[band]
            assert (stored[:, 1::2] == spec.fill).all()
            assert valid_of(spec, stored)[:, ::2].all()
            assert not valid_of(spec, stored)[:, 1::2].any()
            assert np.isnan(physical_of(spec, stored)[:, 1::2]).all()


@pytest.mark.parametrize("name", both_asc_seasons)
def test_m3leo_3_means_are_taken_in_linear_power(transport, name: str) -> None:
    levels = np.array([-10.0, -20.5])
    assert published.backscatter_as_short(levels) == -15, "a mean of decibels, cut to whole ones"
    theory = 10 * math.log10((10**-1.0 + 10**-2.05) / 2)
    scenes = [radar(f"i{n}", f"2020-07-1{n}T05:43:00", flat(level), flat(-35.25)) for n, level in enumerate(levels)]
    spec = find_array(name)
    period = "JJA" if "seasons" in name else "07"
    with served(scenes, transport) as evaluator:
        found = stored_by_us(evaluator, spec, [scene.id for scene in scenes])
    np.testing.assert_allclose(physical_of(spec, found[f"{period}_VV_mean"]), theory, atol=0.006)
    assert abs(theory + 15) > 2.3
    np.testing.assert_allclose(physical_of(spec, found[f"{period}_VH_mean"]), -35.25, atol=0.006)


def test_m3leo_4_passes_and_modes_are_not_mixed_and_the_angle_is_there(transport) -> None:
    scenes = [
        radar("asc", "2020-07-10T05:43:00", flat(-10), flat(-18)),
        radar("desc", "2020-07-11T17:43:00", flat(-4), flat(-12), orbitProperties_pass="DESCENDING"),
        radar("wide", "2020-07-12T05:43:00", flat(-25), flat(-30), instrumentMode="EW"),
    ]
    with served(scenes, transport) as evaluator:
        for way, level in (("asc", -10.0), ("desc", -4.0)):
            spec = find_array(f"sentinel1_{way}_seasons")
            assert spec.program is not None
            kept = filtered(ee, ee.ImageCollection(s1), spec.program.filters)
            ids = [f"{s1}/{index}" for index in kept.aggregate_array("system:index").getInfo()]
            found = physical_of(spec, stored_by_us(evaluator, spec, ids)["JJA_VV_mean"])
            np.testing.assert_allclose(found, level, atol=0.006)
        mixed = published.backscatter_as_short(np.array([-10.0, -4.0, -25.0]))
        assert mixed == -13, "the mean of every image of the season is that of none"
        angle = find_array("sentinel1_asc_angle")
        (stored,) = stored_by_us(evaluator, angle, [scenes[0].id]).values()
        np.testing.assert_allclose(physical_of(angle, stored), 38.25, atol=0.01)


def test_m3leo_5_land_below_the_sea_does_not_wrap_and_slope_has_fractions(transport) -> None:
    rise = 0.5 / 10  # metres a metre
    truth = math.degrees(math.atan(rise))
    assert published.wrapped([-430.0, truth], "uint16").tolist() == [65106, 2], "the Dead Sea, and a slope of 2.86"
    plane = lambda x, y: -430 + rise * (x - left)  # noqa: E731
    scene = Scene("USGS/SRTMGL1_003", {"elevation": ("float64", plane)}, shift_m=0)
    with served([scene], transport) as evaluator:
        height = stored_by_us(evaluator, find_array("srtm_elevation"), [scene.id])["elevation"]
        slope = stored_by_us(evaluator, find_array("srtm_slope"), [scene.id])["slope"]
    np.testing.assert_allclose(height[0], -430 + rise * (np.arange(8) * 10 + 5), atol=0.01)
    np.testing.assert_allclose(slope, truth, atol=0.01)


def test_m3leo_5_northern_europe_has_an_elevation(transport) -> None:
    transport.evaluator = planet = Evaluator(open_assets(None))
    place = ee.Geometry.Point([25.5, 65.5]).buffer(500)
    tiles = ee.ImageCollection("COPERNICUS/DEM/GLO30_2024_1").filterBounds(place).aggregate_array("system:index")
    grid = ee_in_process.grid("EPSG:32635", (30.0, 0.0, 430_000.0, 0.0, -30.0, 7_265_000.0), 4, 4)
    ours = find_array("copernicus_elevation")
    ids = [f"COPERNICUS/DEM/GLO30_2024_1/{index}" for index in tiles.getInfo()]
    assert np.isfinite(_only(ee_in_process.pixels(planet, stored_image(ours, ids), grid))).all()
    beyond = stored_image(find_array("srtm_elevation"), ["USGS/SRTMGL1_003"])
    assert np.isnan(_only(ee_in_process.pixels(planet, beyond, grid))).all(), "SRTM ends at 60 degrees north"


def _only(raster: object) -> np.ndarray:
    (values,) = raster.bands.values()  # type: ignore[attr-defined]
    return np.asarray(values)


def test_m3leo_6_no_data_is_not_tree_cover(transport) -> None:
    codes = np.array([10, 80, 0])
    assert published.land_cover_indices(codes).tolist() == [0, 7, 0], "no data became the first class, tree cover"
    scene = Scene("ESA/WorldCover/v100/a", {"Map": ("uint8", by_column(10, 80, math.nan, 0))}, shift_m=0)
    with served([scene], transport) as evaluator:
        stored = stored_by_us(evaluator, worldcover, [scene.id])["Map"]
    assert worldcover.fill not in {item.code for item in worldcover.classes}
    assert stored[0, :4].tolist() == [10, 80, worldcover.fill, worldcover.fill]
    found = Normalizer.from_stats({}, [worldcover])({"worldcover": torch.from_numpy(stored[None, None])})
    assert found["worldcover"][0, 0, 0, :4].tolist() == [0, 7, -1, -1]
    assert found["worldcover_valid"][0, 0, 0, :4].tolist() == [True, True, False, False]


def test_m3leo_7_bright_reflectance_is_kept_and_a_missing_month_is_not_black(transport) -> None:
    snow = np.array([0.25, 0.6, 0.95, 0.0])
    assert published.reflectance_as_byte(snow).tolist() == [212, 255, 255, 0], "snow and cloud are one value"
    assert published.reflectance_as_byte(np.array([math.nan])) == 0, "a missing month is black"
    spec = find_array("sentinel2_months")
    bands = {"B4": ("uint16", by_column(*(snow * 1e4))), "SCL": ("uint8", flat(11))}
    scene = Scene("COPERNICUS/S2_SR_HARMONIZED/snow", bands, time_ms=ms("2020-03-10T10:00:00"), shift_m=0)
    with served([scene], transport) as evaluator:
        found = stored_by_us(evaluator, spec, [scene.id])
    np.testing.assert_allclose(physical_of(spec, found["03_B4_median"])[2, :4], snow, atol=1e-4)
    assert valid_of(spec, found["03_B4_median"]).all(), "zero reflectance is an observation"
    assert not valid_of(spec, found["04_B4_median"]).any()
    assert np.isnan(physical_of(spec, found["04_B4_median"])).all()


def test_m3leo_8_short_pairs_are_there_and_one_missing_layer_drops_nothing(transport) -> None:
    sources = [f"{season}_vv_COH{days:02d}" for season in ("winter", "spring", "summer", "fall")
               for days in (6, 12, 18, 24, 36, 48)]  # fmt: skip
    layers = {name: np.full((8, 8), 100 - int(name[-2:])) for name in sources if name != "fall_vv_COH36"}
    assert published.coherence_chip({**layers, "fall_vv_COH36": layers["fall_vv_COH12"]}) is not None
    assert published.coherence_chip(layers) is None, "one layer of 24 is missing, and the chip is gone"
    bands = {name: ("float64", flat(values[0, 0] / 100)) for name, values in layers.items()}
    tile = Scene(f"{gssic}/COHERENCE/N48E009", bands, shift_m=0)
    ice = Scene(f"{gssic}/COHERENCE/N70W040", {"winter_hh_COH06": ("float64", flat(0.55))}, shift_m=0)
    vv, hh = find_array("coherence"), find_array("coherence_hh")
    with served([tile, ice], transport) as evaluator:
        found = stored_by_us(evaluator, vv, [tile.id], pixel_m=92.7)
        polar = stored_by_us(evaluator, hh, [ice.id], pixel_m=92.7)
    for season in ("DJF", "MAM", "JJA", "SON"):
        for days in (6, 12, 18, 24, 36, 48):
            stored = found[f"{season}_vv_COH{days:02d}"]
            missing = (season, days) == ("SON", 36)
            np.testing.assert_allclose(physical_of(vv, stored), math.nan if missing else 1 - days / 100, atol=1e-6)
    np.testing.assert_allclose(physical_of(hh, polar["DJF_hh_COH06"]), 0.55, atol=1e-6)


def test_m3leo_9_incidence_angles_of_orbits_are_apart(transport) -> None:
    nan = math.nan
    angles = {15: (31.0, 31.0, nan, nan), 88: (44.0, 44.0, 44.0, 44.0)}
    merged = published.first_come([np.array(values) for values in angles.values()])
    assert merged.tolist() == [31.0, 31.0, 44.0, 44.0], "a patchwork of two tracks"
    spec = find_array("coherence_geometry")
    scenes = [
        Scene(
            f"{gssic}/INCIDENCE_LAYOVER_SHADOW/N48E009_{orbit:03d}A",
            {
                "inc": ("uint8", by_column(*values)),
                "lsmap": ("uint8", by_column(*(nan if math.isnan(angle) else 1 for angle in values))),
            },
            properties={"relative_orbit_number": orbit},
            shift_m=0,
        )
        for orbit, values in angles.items()
    ]
    with served(scenes, transport) as evaluator:
        found = stored_by_us(evaluator, spec, [scene.id for scene in scenes])
    for slot, (orbit, values) in enumerate(angles.items(), 1):
        np.testing.assert_array_equal(physical_of(spec, found[f"inc_{slot}"])[4, :4], values)
        seen = valid_of(spec, found[f"inc_{slot}"])
        assert set(found[f"orbit_{slot}"][seen].tolist()) == {orbit}
    assert not valid_of(spec, found["inc_3"]).any()


def test_m3leo_10_coarse_pixels_lie_where_the_chip_says(transport) -> None:
    pixel = 640 / 6
    wrong = published.chip_transform(left, top, pixel)
    assert abs(wrong.c - left) > 1e6, "scaled before moved: the corner is another place altogether"
    chip = ChipGrid(chip_id="32632-0640-0781-8281", epsg=32632, xmin=left, ymax=top, chip_px=64)
    spec = find_array("biomass")
    bands = {
        "agb": ("float64", lambda x, y: x - left + 2000), "agb_sd": ("float64", lambda x, y: top - y + 2000)
    }  # fmt: skip
    scene = Scene(spec.source[0], bands, shift_m=0)
    with served([scene], transport) as evaluator:
        grid = ee_in_process.grid("EPSG:32632", (10.0, 0.0, left, 0.0, -10.0, top), 6, 6)
        raster = ee_in_process.pixels(evaluator, array_image(chip, spec, [scene.id]), grid)
    steps = (np.arange(6) + 0.5) * pixel + 2000
    east, south = (np.asarray(raster.bands[field_name(spec.name, band)], float) for band in spec.bands)
    np.testing.assert_allclose(east, np.broadcast_to(steps, (6, 6)), atol=0.51)
    np.testing.assert_allclose(south, np.broadcast_to(steps[:, None], (6, 6)), atol=0.51)


def test_m3leo_11_days_between_images_do_not_wrap() -> None:
    assert published.wrapped(360, "uint8") == 104
    name = "S1-GUNW-A-R-064-tops-20201230_20200105-015040-34441N_32227N-PP-0abc-v2_0_2.nc"
    assert parse_name(name).days == 360
    pairs = find_array("gunw_pairs")
    column = np.array([360.0], dtype=pairs.dtype)
    assert column[0] == 360


def test_m3leo_11_each_pair_lies_at_its_own_place() -> None:
    truth = lambda place: 0.01 * place  # noqa: E731 - radians along x
    places = np.arange(40) * 90.0 + 45.0
    second = places + 60.0
    stacked = published.stacked_patches([(places, truth(places)), (second, truth(second))])
    assert abs(stacked[1][1] - truth(stacked[1][0])).max() > 0.5, "two thirds of a pixel off"
    target = PixelGrid(crs="EPSG:32632", affine=(100.0, 0, 600.0, 0, -100.0, 2000.0), width=12, height=6)
    for place in (places, second):
        source = PixelGrid(crs="EPSG:32632", affine=(90.0, 0, place[0] - 45.0, 0, -90.0, 2700.0), width=40, height=40)
        phase = np.broadcast_to(truth(place), (40, 40))
        pair = Interferogram(
            phase=phase,
            coherence=np.full_like(phase, 0.9),
            amplitude=np.ones_like(phase),
            component=np.ones_like(phase),
        )
        found = warp_interferogram(pair, source, target).phase
        np.testing.assert_allclose(found, np.broadcast_to(truth(650.0 + 100 * np.arange(12)), (6, 12)), atol=1e-3)


def test_m3leo_11_phase_is_corrected_masked_and_referenced() -> None:
    component = np.array([[1.0, 1, 2, 2, 0]])
    ionosphere = np.array([[0.0, 0.1, 0.2, 0.3, 0.4]])
    truth = np.array([[-0.05, 0.05, 0.05, -0.05, 7.0]])
    phase = truth + np.array([[5.0, 5, -20, -20, 0]]) + ionosphere
    assert np.ptp(phase[0, 1:3]) > 20, "as published: components of their own constant, side by side"
    coherence = np.full(phase.shape, 0.9)
    masked = mask_phase(correct_phase(phase, {"ionosphere": ionosphere}), component, coherence)
    found = reference_phase(masked, component, coherence)
    np.testing.assert_allclose(found, [[-0.05, 0.05, 0.05, -0.05, np.nan]], atol=1e-9)


def test_m3leo_12_an_array_has_one_name() -> None:
    folders = {"europe": {"strmdem", "gunw_2020-01-01_2020-03-31"}, "loader": {"srtmdem", "gunw-2020-01"}}
    assert not folders["europe"] & folders["loader"]
    names = list(known_arrays())
    assert len(names) == len({name.replace("-", "_") for name in names})
    with pytest.raises(InputError, match="unknown modality: strmdem"):
        select_arrays(["strmdem"])


@pytest.mark.parametrize(
    ("name", "period", "last", "first_lost"),
    [
        ("sentinel1_asc_seasons", "JJA", "2020-08-31T05:43:00", "2020-09-01T05:43:00"),
        ("sentinel1_asc_seasons", "DJF", "2020-02-29T05:43:00", "2020-03-01T05:43:00"),
        ("sentinel1_asc_months", "02", "2020-02-29T23:59:00", "2020-03-01T00:01:00"),
    ],
)
def test_m3leo_seasons_and_months_lose_no_last_day(transport, name, period, last, first_lost) -> None:
    ends = {"JJA": "2020-08-31", "DJF": "2020-02-28", "02": "2020-02-29"}  # an end date is not included
    assert ms(last) >= ms(ends[period]), "the published window ends before this image"
    spec = find_array(name)
    scenes = [radar("last", last, flat(-10), flat(-20)), radar("next", first_lost, flat(-5), flat(-15))]
    with served(scenes, transport) as evaluator:
        found = stored_by_us(evaluator, spec, [scene.id for scene in scenes])
    np.testing.assert_allclose(physical_of(spec, found[f"{period}_VV_mean"]), -10.0, atol=0.006)


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
    shared = [torch.nn.Linear(2, 2)]
    decoders = [torch.nn.Sequential(*shared) for _ in range(3)]
    assert len({id(weight) for decoder in decoders for weight in decoder.parameters()}) == 2, "one decoder, not three"
    specs = specs_of("sentinel2_l2a", "sentinel1_asc", "worldcover")
    model = MaskedAutoencoder(specs, specs, ModelConfig())
    heads = [parameter for head in model.heads.values() for parameter in head.parameters()]
    assert len({id(parameter) for parameter in heads}) == len(heads)
    assert set(model.heads) == {spec.name for spec in specs}


def test_mmearth_4_what_has_no_data_is_told_apart(transport) -> None:
    height = np.array([12, 255])
    assert height.astype(np.int8).tolist() == [12, -1], "255 does not fit int8, so nothing ever equals it"
    assert not (height.astype(np.int8) == 255).any()
    assert math.isinf(-math.inf), "and no whole number is minus infinity, the mark of a missing slope"
    with pytest.raises(InputError, match="fill 255 does not fit int8"):
        dataclasses.replace(find_array("canopy_height"), dtype="int8", valid_max=100.0)
    spec = find_array("canopy_height")
    scenes = [Scene(asset, {"b1": ("uint8", by_column(12, 255))}, shift_m=0) for asset in spec.source]
    rise = Scene(
        "projects/sat-io/open-datasets/ASTER/GDEM", {"b1": ("float64", lambda x, y: 0.05 * (x - left))}, shift_m=0
    )
    slope = find_array("aster_slope")
    with served([*scenes, rise], transport) as evaluator:
        stored = stored_by_us(evaluator, spec, list(spec.source))[spec.bands[0]]
        (steep,) = stored_by_us(evaluator, slope, [rise.id]).values()
    assert valid_of(spec, stored)[:, ::2].all()
    assert not valid_of(spec, stored)[:, 1::2].any()
    np.testing.assert_allclose(physical_of(slope, steep), math.degrees(math.atan(0.05)), atol=0.01)


def test_mmearth_5_one_declaration_says_what_no_data_is() -> None:
    codes = np.array([0, 10, 255])
    assert (codes != 255).tolist() != (codes != 0).tolist(), "statistics and training left out different pixels"
    for spec in known_arrays().values():
        sample = np.array([spec.fill_value()], dtype=spec.dtype)
        assert not valid_of(spec, sample)[0]
        assert np.isnan(physical_of(spec, sample)[0])
    stored = torch.tensor([[[[10, worldcover.fill]]]], dtype=torch.uint8)
    observed = Normalizer.from_stats({}, [worldcover])({"worldcover": stored})["worldcover_valid"]
    assert observed.ravel().tolist() == valid_of(worldcover, stored.numpy()).ravel().tolist() == [True, False]


@pytest.mark.parametrize(("status", "kind"), [(404, Kind.DETERMINISTIC), (429, Kind.RATE), (500, Kind.TRANSIENT)])
def test_mmearth_6_an_error_answer_is_a_failure_and_no_chip(tmp_path: Path, status: int, kind: Kind) -> None:
    """The published downloader logged it and entered the tile as done."""
    faults = {"rules": [{"path": "value:compute", "status": status, "calls": {"first": 1}}]}
    with session_over([radar("x", "2020-07-10T05:43:00", flat(-10), flat(-20))], tmp_path, faults=faults) as session:
        with pytest.raises(RequestFailed) as caught:
            session.compute_value(session.api.Number(1).add(1))
        assert (caught.value.failure.kind, caught.value.failure.status) == (kind, status)


def test_mmearth_6_certificates_are_checked() -> None:
    package = Path(published.__file__).parents[2] / "m3etl"
    switched_off = re.compile(r"verify\s*=\s*False|CERT_NONE|disable_ssl|_create_unverified|InsecureRequest")
    assert switched_off.search("requests.get(url, verify=False)")
    assert [path.name for path in package.rglob("*.py") if switched_off.search(path.read_text(encoding="utf-8"))] == []


def test_mmearth_7_a_year_has_twelve_months() -> None:
    thirteen = [(2018, month) for month in range(6, 13)] + [(2019, month) for month in range(1, 7)]
    assert len(thirteen) == 13
    window = months_until(2019, 6)
    assert len(window) == len(set(window)) == 12
    assert (window[0], window[-1]) == ((2018, 7), (2019, 6))
    months = {item: tuple(1.0 for _ in climate_bands) for item in thirteen}
    assert sum(values[-1] for values in months.values()) == 13.0, "thirteen months of rain in a year"
    months[2018, 6] = tuple(1000.0 for _ in climate_bands)
    assert climate_features(months, 2019, 6)["total_precipitation_sum_year"] == pytest.approx(12.0)


def test_mmearth_8_a_pass_with_two_polarisations_of_four_is_read(transport) -> None:
    """The published function stopped at a name that was never set."""
    spec = find_array("sentinel1_asc")
    scene = radar("dual", "2020-07-10T05:43:00", flat(-10.5), flat(-17.25))
    with served([scene], transport) as evaluator:
        found = stored_by_us(evaluator, spec, [scene.id])
    np.testing.assert_allclose(physical_of(spec, found["VV"]), -10.5, atol=0.006)
    np.testing.assert_allclose(physical_of(spec, found["VH"]), -17.25, atol=0.006)
    assert not valid_of(spec, np.stack([found["HH"], found["HV"]])).any()


def test_mmearth_9_the_default_sampling_runs_repeats_and_overlaps_nowhere(tmp_path: Path) -> None:
    """The published default read a misspelt setting, shuffled without a seed and kept tiles that overlap."""
    world = world_table()
    plans = []
    for name in ("a", "b"):
        campaign = create_campaign(tmp_path / name, CampaignConfig(sample=SampleConfig(chips=140)))
        run_sample(campaign, world, SilentProgress())
        plans.append(campaign.plan_path.read_bytes())
    assert plans[0] == plans[1]
    plan = read_plan(tmp_path / "a" / "chips.parquet")
    assert find_overlaps({name: plan[name].to_numpy() for name in ("chip_id", "epsg", "xmin", "xmax", "ymin")}) == []


def test_mmearth_10_splits_are_blocks_and_repeat() -> None:
    lon, lat = np.linspace(5, 5.02, 5), np.full(5, 50.0)
    drawn = [np.random.default_rng(seed).permutation(["train"] * 4 + ["test"]).tolist() for seed in range(4)]
    assert len({tuple(one) for one in drawn}) > 1, "without a seed every run is another split, and neighbours part"
    rule = SplitRule(seed=3, block_km=100.0, buffer_km=5.0, fractions=(0.8, 0.1, 0.1))
    first, again = (split_of_lonlat(rule, lon, lat, 1280.0) for _ in range(2))
    assert (first == again).all()
    assert len(set(first.tolist())) == 1, "neighbours are in one split"


def test_mmearth_11_cloud_is_that_of_the_chip_and_not_of_the_granule() -> None:
    def scene(name: str, rank: int, cloud: float) -> Candidate:
        return Candidate(level="l2a", scene_id=name, index=name, time_ms=0, rank=rank, valid=1.0, cloud=cloud)

    granules = [scene("clear granule, cloud on the chip", 0, 0.9), scene("cloudy granule, clear chip", 1, 0.01)]
    assert min(granules, key=lambda item: item.rank).cloud == 0.9, "the granule's percentage takes this one"
    chosen = choose_anchor(granules, AnchorRule(rule="best", max_cloud=0.1, min_valid=0.9, seed=0), "chip")
    assert chosen is not None
    assert chosen.cloud == 0.01


def test_mmearth_11_sentinel_1_has_a_largest_gap() -> None:
    spec = find_array("sentinel1_asc")
    assert spec.max_gap_days <= 30
    late = PassImage(scene_id="late", time_ms=round(200 * day_ms), orbit=15, polarisations=("VV",), coverage=1.0)
    assert min([late], key=lambda item: abs(item.time_ms)) is late, "the nearest date, 200 days away, was taken"
    assert choose_pass([late], 0, max_gap_days=spec.max_gap_days, min_coverage=0.5) == ()
    near = dataclasses.replace(late, scene_id="near", time_ms=-29 * day_ms)
    assert choose_pass([late, near], 0, max_gap_days=spec.max_gap_days, min_coverage=0.5) == (near,)


def test_mmearth_11_a_map_says_which_year_it_is_of() -> None:
    assert "2020" in worldcover.title
    assert "2021" in find_array("worldcover_2021").title


def test_mmearth_12_monthly_backscatter_is_of_one_mode_in_power_and_whole_months(transport) -> None:
    """M3LEO's monthly layer once more: its mean, its mode and its last day in one month."""
    spec = find_array("sentinel1_desc_months")
    assert spec.program is not None
    way = {"orbitProperties_pass": "DESCENDING"}
    scenes = [
        radar("first", "2020-01-05T05:43:00", flat(-8), flat(-15), **way),
        radar("last", "2020-01-31T05:43:00", flat(-18), flat(-25), **way),
        radar("wide", "2020-01-20T05:43:00", flat(5), flat(0), instrumentMode="EW", **way),
    ]
    lost_last_day = np.array([-8.0, 5.0])
    assert published.backscatter_as_short(lost_last_day) == -1
    theory = 10 * math.log10((10**-0.8 + 10**-1.8) / 2)
    with served(scenes, transport) as evaluator:
        kept = filtered(ee, ee.ImageCollection(s1), spec.program.filters)
        ids = [f"{s1}/{index}" for index in kept.aggregate_array("system:index").getInfo()]
        found = stored_by_us(evaluator, spec, ids)
    np.testing.assert_allclose(physical_of(spec, found["01_VV_mean"]), theory, atol=0.006)


def test_mmearth_13_the_vegetation_map_is_the_one_that_is_kept_up(transport) -> None:
    spec = find_array("modis_vegetation")
    assert spec.source[0].startswith("MODIS/061/")
    codes = (40, 200, 253, 0)  # water and no data were percentages as well
    scene = Scene(spec.source[0], {band: ("uint8", by_column(*codes)) for band in spec.bands}, shift_m=0)
    with served([scene], transport) as evaluator:
        found = physical_of(spec, stored_by_us(evaluator, spec, [scene.id])["Percent_Tree_Cover"])
    np.testing.assert_array_equal(found[0, :4], [40, math.nan, math.nan, 0])


def test_mmearth_14_no_secret_is_in_a_message() -> None:
    assert public_address("https://user:pw@host/a.nc?Signature=s3cret") == "https://host/a.nc"


def test_mmearth_15_fill_is_found_before_values_are_normalised() -> None:
    spec = find_array("aster_elevation")
    stats = {spec.name: {"elevation": dict.fromkeys(("mean", "p50"), 200.0) | {"std": 50.0, "count": 9, "min": 0.0,
             "max": 400.0, "p01": 0.0, "p25": 150.0, "p75": 250.0, "p99": 400.0}}}  # fmt: skip
    values = torch.tensor([[[[200, spec.fill]]]], dtype=torch.int16)
    assert ((values.double() - 200.0) / 50.0)[..., 1] != spec.fill, "normalised first, no value equals the fill"
    found = Normalizer.from_stats(stats, [spec])({spec.name: values})
    assert found[f"{spec.name}_valid"].ravel().tolist() == [True, False]
    assert found[spec.name].ravel().tolist() == [0.0, 0.0]
    assert spec.values is Values.CONTINUOUS
