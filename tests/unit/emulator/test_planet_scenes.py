"""Orbits, tiles and scenes: revisit times, names, footprints and gaps as on Earth."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import Point, box

from m3etl.emulator.model import CollectionQuery
from m3etl.emulator.planet import slices, utm
from m3etl.emulator.planet.coverage import ORBIT
from m3etl.emulator.planet.imagery import chance
from m3etl.emulator.planet.source import Planet
from m3etl.emulator.planet.sun import sun_angles
from m3etl.emulator.planet.tiles import split_antimeridian, tile_named, tiles_near, zone_tiles
from tests.unit.emulator.planet_places import DAY_MS, JANUARY, JULY, found

L1C, L2A = "COPERNICUS/S2_HARMONIZED", "COPERNICUS/S2_SR_HARMONIZED"
S1 = "COPERNICUS/S1_GRD"


@pytest.fixture(scope="module")
def planet():
    return Planet()


@given(
    lon=st.floats(-180, 180), lat=st.floats(-80, 80), track=st.integers(0, 142), ascending=st.booleans(),
    across=st.floats(-600, 600), angle=st.floats(-1.4, 1.4),
)  # fmt: skip
def test_locate_undoes_place(lon, lat, track, ascending, across, angle):
    argument = angle if ascending else math.pi - angle
    node = np.array([ORBIT.nodes()[track]])
    x, y = ORBIT.place(node, np.array([argument]), np.array([across]))
    found_angle, found_across = ORBIT.locate(node, x, y, ascending=ascending)
    assert found_across[0] == pytest.approx(across, abs=2.0)
    assert found_angle[0] == pytest.approx(argument, abs=0.002)


@pytest.mark.parametrize(
    ("name", "epsg", "left", "top"),
    [("32TPS", "EPSG:32632", 600_000, 5_200_020), ("19HBC", "EPSG:32719", 199_980, 6_300_000),
     ("60HWB", "EPSG:32760", 499_980, 5_700_000), ("31TCJ", "EPSG:32631", 300_000, 4_900_020)],
)  # fmt: skip
def test_tiles_have_their_real_names_and_corners(name, epsg, left, top):
    tile = tile_named(name)
    assert (tile.crs, tile.left, tile.top) == (epsg, left, top)


def test_unknown_tiles_are_none():
    for name in ("", "32", "99ABC", "31NAA", "32TP1"):
        assert tile_named(name) is None


def test_tiles_near_a_region_contain_every_tile_that_meets_it():
    rng = np.random.default_rng(8)
    for _ in range(20):
        lon, lat = rng.uniform(-180, 180), rng.uniform(-70, 75)
        near = {tile.name for tile in tiles_near(Point(lon, lat))}
        for zone in (math.floor((lon + 180) / 6) % 60 + 1, (math.floor((lon + 180) / 6) + 1) % 60 + 1):
            for tile in zone_tiles(zone).values():
                x, y = utm.to_utm(tile.zone, tile.south, np.array([lon]), np.array([lat]))
                if 0 <= x[0] - tile.left <= 109_800 and 0 <= tile.top - y[0] <= 109_800:
                    assert tile.name in near


def test_polygons_across_the_antimeridian_are_cut():
    cut = split_antimeridian(np.array([179.5, 180.5, 180.5, 179.5]), np.array([10.0, 10.0, 11.0, 11.0]))
    assert len(cut.geoms) == 2
    assert cut.area == pytest.approx(1.0)
    assert cut.bounds[0] == -180.0
    assert cut.bounds[2] == 180.0


def test_sentinel2_comes_every_five_days_at_half_past_ten(planet):
    images = found(planet, L1C, 10.5, 50.2, JULY, 60)
    by_orbit = {}
    for image in images:
        properties = image.info.properties
        by_orbit.setdefault((properties["SENSING_ORBIT_NUMBER"], properties["MGRS_TILE"]), []).append(
            properties["system:time_start"]
        )
        hours = (properties["system:time_start"] / 3.6e6 + 10.5 / 15) % 24
        assert 9.5 < hours < 12.0
    gaps = np.concatenate([np.diff(times) for times in by_orbit.values()]) / DAY_MS
    assert np.median(gaps) == pytest.approx(5.0, abs=0.01)
    assert np.all(np.abs(gaps % 5.0 - np.round(gaps % 5.0 / 5.0) * 5.0) < 0.01)


def test_one_satellite_came_every_ten_days(planet):
    start = 1_488_326_400_000  # March 2017
    orbit = {}
    for image in found(planet, L1C, 10.5, 50.2, start, 90):
        assert image.info.properties["SPACECRAFT_NAME"] == "Sentinel-2A"
        key = image.info.properties["SENSING_ORBIT_NUMBER"], image.info.properties["MGRS_TILE"]
        orbit.setdefault(key, []).append(image.info.properties["system:time_start"])
    gaps = np.concatenate([np.diff(times) for times in orbit.values()]) / DAY_MS
    assert gaps.min() == pytest.approx(10.0, abs=0.01)


def test_level_2a_begins_in_europe_and_then_everywhere(planet):
    europe, america = (10.5, 50.2), (-100.0, 40.0)
    early, middle, late = 1_483_228_800_000, 1_519_862_400_000, 1_551_398_400_000
    assert not found(planet, L2A, *europe, early, 60)
    assert found(planet, L2A, *europe, middle, 40)
    assert not found(planet, L2A, *america, middle, 40)
    assert found(planet, L1C, *america, middle, 40)
    assert found(planet, L2A, *america, late, 40)


def test_both_levels_and_the_cloud_score_share_indices(planet):
    indices = [
        [image.info.properties["system:index"] for image in found(planet, name, 10.5, 50.2)]
        for name in (L1C, L2A, "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED")
    ]
    assert indices[0] == indices[1] == indices[2]
    assert re.fullmatch(r"\d{8}T\d{6}_\d{8}T\d{6}_T\d{2}[C-X][A-Z]{2}", indices[0][0])
    mapped = [image.info.properties["system:index"] for image in found(planet, "GOOGLE/DYNAMICWORLD/V1", 10.5, 50.2)]
    assert set(mapped) < set(indices[0])


def test_there_are_no_images_in_the_polar_night(planet):
    assert not found(planet, L1C, 25.0, 69.0, JANUARY, 10)
    assert found(planet, L1C, 25.0, 69.0, JULY, 10)
    for image in found(planet, L1C, 10.5, 59.0, JANUARY, 30):
        assert image.info.properties["MEAN_SOLAR_ZENITH_ANGLE"] <= 80.0


def test_bands_and_types_are_those_of_the_service(planet):
    info = found(planet, L2A, 10.5, 50.2)[0].info
    bands = {band.id: band for band in info.bands}
    assert [band.id for band in info.bands][:12] == [
        "B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12",
    ]  # fmt: skip
    assert "B10" not in bands
    assert {name: bands[name].dimensions[0] for name in ("B1", "B2", "B5", "SCL", "QA60")} == {
        "B1": 1830, "B2": 10980, "B5": 5490, "SCL": 5490, "QA60": 1830,
    }  # fmt: skip
    assert bands["B2"].pixel_type.dtype == np.uint16
    assert bands["SCL"].pixel_type.dtype == np.uint8
    top = found(planet, L1C, 10.5, 50.2)[0].info
    assert [band.id for band in top.bands][:13] == [
        "B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12",
    ]  # fmt: skip


def test_qa60_is_missing_for_two_years_and_some_images_lack_the_cloud_probability(planet):
    def bands(start_ms):
        return [{band.id for band in image.info.bands} for image in found(planet, L2A, 10.5, 50.2, start_ms, 60)]

    assert all("QA60" in names for names in bands(JULY))
    assert all("QA60" not in names for names in bands(1_654_041_600_000))
    assert all("QA60" in names for names in bands(1_712_000_000_000))
    year = [names for start in range(6) for names in bands(JULY + start * 60 * DAY_MS)]
    without = sum("MSK_CLDPRB" not in names for names in year)
    assert 0 < without < 0.25 * len(year)


def test_some_images_are_cut_by_the_edge_of_the_swath(planet):
    """The footprint and the pixels agree on where the wedge without data is."""
    images = [image for lon in (9.0, 12.0, 15.0) for image in found(planet, L2A, lon, 50.2, JULY, 20)]
    cut = [image for image in images if image.info.properties["NODATA_PIXEL_PERCENTAGE"] > 5]
    whole = [image for image in images if image.info.properties["NODATA_PIXEL_PERCENTAGE"] == 0]
    assert cut
    assert whole
    image = cut[0]
    band = next(band for band in image.info.bands if band.id == "B4")
    column, row = np.meshgrid(np.arange(100, 10980, 540), np.arange(100, 10980, 540))
    _, valid = image.sample(["B4"], column, row)["B4"]
    zone = utm.zone_of(band.projection.crs)
    _, _, left, _, _, top = band.projection.transform
    lon, lat = utm.from_utm(*zone, left + 10.0 * (column + 0.5).ravel(), top - 10.0 * (row + 0.5).ravel())
    inside = [image.info.footprint.contains(Point(x, y)) for x, y in zip(lon, lat, strict=True)]
    assert np.mean(valid.ravel() == inside) > 0.99
    share = image.info.properties["NODATA_PIXEL_PERCENTAGE"] / 100
    assert 1 - valid.mean() == pytest.approx(share, abs=0.06)


def test_sentinel1_passes_have_their_times_and_polarisations(planet):
    images = found(planet, S1, 10.5, 50.2, JULY, 36)
    passes = {}
    for image in images:
        properties = image.info.properties
        passes.setdefault(properties["orbitProperties_pass"], []).append(properties)
        assert properties["instrumentMode"] == "IW"
        assert properties["transmitterReceiverPolarisation"] == ["VV", "VH"]
        assert [band.id for band in image.info.bands] == ["VV", "VH", "angle"]
        hours = (properties["system:time_start"] / 3.6e6 + 10.5 / 15) % 24
        expected = 18.0 if properties["orbitProperties_pass"] == "ASCENDING" else 6.0
        assert abs(hours - expected) < 1.5
    assert set(passes) <= {"ASCENDING", "DESCENDING"}
    for members in passes.values():
        by_track = {}
        for properties in members:
            key = properties["relativeOrbitNumber_start"], properties["sliceNumber"]
            by_track.setdefault(key, []).append(properties["system:time_start"])
        gaps = np.concatenate([np.diff(times) for times in by_track.values()]) / DAY_MS
        assert np.all(np.abs(gaps / 6.0 - np.round(gaps / 6.0)) < 0.01)


def test_polar_land_is_seen_in_hh_and_hv(planet):
    images = found(planet, S1, -45.0, 68.0, JULY, 36) or found(planet, S1, -40.0, 72.0, JULY, 36)
    assert images
    assert all([band.id for band in image.info.bands][:2] == ["HH", "HV"] for image in images)


def test_some_regions_lack_one_pass(planet):
    rng = np.random.default_rng(9)
    seen = set()
    for _ in range(60):
        lon, lat = rng.uniform(-120, 140), rng.uniform(-30, 60)
        passes = {image.info.properties["orbitProperties_pass"] for image in found(planet, S1, lon, lat, JULY, 12)}
        if passes:
            seen.add(frozenset(passes))
    assert frozenset({"ASCENDING", "DESCENDING"}) in seen
    assert frozenset({"ASCENDING"}) in seen or frozenset({"DESCENDING"}) in seen


def test_both_scales_of_sentinel1_are_the_same_images(planet):
    decibel = found(planet, S1, 10.5, 50.2, JULY, 13)
    linear = found(planet, "COPERNICUS/S1_GRD_FLOAT", 10.5, 50.2, JULY, 13)
    assert [image.info.properties for image in decibel] == [image.info.properties for image in linear]
    column, row = np.meshgrid(np.arange(9000, 9020), np.arange(9000, 9020))
    first, valid = decibel[0].sample(["VV"], column, row)["VV"]
    second, _ = linear[0].sample(["VV"], column, row)["VV"]
    assert valid.all()
    assert first.dtype == np.float64
    assert second.dtype == np.float32
    np.testing.assert_allclose(first, 10 * np.log10(second.astype(np.float64)), rtol=1e-6)


def test_the_angle_band_has_its_own_sheared_grid(planet):
    image = found(planet, S1, 10.5, 50.2, JULY, 13)[0]
    band = next(band for band in image.info.bands if band.id == "angle")
    assert band.dimensions == (21, 10)
    assert band.projection.transform[1] != 0.0
    column, row = np.meshgrid(np.arange(-1, 22), np.arange(10))
    values, valid = image.sample(["angle"], column, row)["angle"]
    assert valid[:, 1:-1].all()
    assert not valid[:, 0].any()
    assert values[:, 1].min() == pytest.approx(29.3)
    assert values[:, 21].max() == pytest.approx(45.9)


def test_neighbouring_slices_leave_no_gap():
    track = 20
    numbers = np.nonzero(slices._table()[2][track])[0]
    number = int(next(n for n in numbers if n + 1 in numbers))
    first, second = (slices._swath(track, n).footprint for n in (number, number + 1))
    shared = first.intersection(second)
    assert 0 < shared.area < 0.2 * first.area
    assert (first.union(second)).geom_type == "Polygon"


def test_the_sun_is_high_at_noon_in_summer():
    noon = JULY / 1000 + 12 * 3600
    zenith, azimuth = sun_angles(0.0, 50.0, noon)
    assert zenith == pytest.approx(50.0 - 23.2, abs=1.0)
    assert azimuth == pytest.approx(180.0, abs=3.0)
    morning, east = sun_angles(0.0, 50.0, noon - 5 * 3600)
    assert morning > zenith
    assert 60 < east < 120
    assert sun_angles(0.0, 50.0, noon - 12 * 3600)[0] > 90


def test_chances_are_uniform_and_reproducible():
    values = [chance("x", number) for number in range(4000)]
    assert chance("x", 7) == values[7]
    assert np.histogram(values, 10, (0, 1))[0].min() > 320


def test_dem_tiles_get_coarser_towards_the_poles_and_skip_the_sea(planet):
    collection = planet.collection("COPERNICUS/DEM/GLO30_2024_1")
    tiles = {
        image.info.properties["system:index"]: image.info
        for image in collection.find(CollectionQuery(region=box(10.2, 61.2, 11.8, 61.8)))
    }
    assert sorted(tiles) == [f"Copernicus_DSM_COG_10_N61_00_E0{lon}_00_DEM" for lon in (10, 11)]
    band = next(iter(tiles.values())).bands[0]
    assert band.dimensions == (1800, 3600)
    assert band.projection.transform[0] == pytest.approx(2 / 3600)
    assert band.pixel_type.dtype == np.float32
    assert not list(collection.find(CollectionQuery(region=box(-35, 30, -34, 31))))
