"""Yearly maps and the seasonal Sentinel-1 data set of the planet: grids, codes, and how they follow the same ground."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
from shapely.geometry import box

from m3etl.emulator.model import CollectionQuery, crs_aliases
from m3etl.emulator.planet import coherence
from m3etl.emulator.planet.frames import to_lonlat
from m3etl.emulator.planet.source import Planet

planet = Planet()
root = coherence.ROOT


def at(name: str, lon: float, lat: float, **properties: object):
    region = box(lon - 0.01, lat - 0.01, lon + 0.01, lat + 0.01)
    found = planet.collection(name).find(CollectionQuery(region=region, start_ms=None, end_ms=None))
    return [image for image in found if all(image.info.properties[key] == value for key, value in properties.items())]


def pixels(image, lon: float, lat: float, side: int = 40, bands: tuple[str, ...] | None = None):
    """(values, valid) by band of a square window around a place."""
    names = bands or tuple(band.id for band in image.info.bands)
    grid = image.info.bands[0].projection
    to_grid = pyproj.Transformer.from_crs("EPSG:4326", crs_aliases.get(grid.crs, grid.crs), always_xy=True)
    x, y = to_grid.transform(lon, lat)
    a, _, c, _, e, f = grid.transform
    column, row = np.meshgrid(
        int((x - c) / a) - side // 2 + np.arange(side), int((y - f) / e) - side // 2 + np.arange(side)
    )
    return image.sample(names, column, row)


@pytest.mark.parametrize("crs", ["ESRI:54009", "SR-ORG:6974"])
def test_world_grids_lie_where_proj_says(crs: str) -> None:
    lon, lat = np.array([-120.5, 0.25, 33.0, 170.0]), np.array([48.0, -3.0, 61.5, -44.0])
    forward = pyproj.Transformer.from_crs("EPSG:4326", crs_aliases.get(crs, crs), always_xy=True)
    found = to_lonlat(crs, *forward.transform(lon, lat))
    np.testing.assert_allclose(found, (lon, lat), atol=1e-7)
    corner = to_lonlat(crs, np.array([-18_000_000.0]), np.array([8_900_000.0]))
    assert np.isfinite(corner).all(), "outside the Earth is still a place"


def test_maps_have_one_image_a_year_with_its_time() -> None:
    collection = planet.collection("ESA/CCI/Above_Ground_Biomass/V6_0")
    everything = CollectionQuery(region=None, start_ms=None, end_ms=None)
    years = [image.info.properties["system:index"] for image in collection.find(everything)]
    assert years == ["2007", "2010", *(str(year) for year in range(2015, 2023))]
    assert collection.image("2011") is None
    march = planet.collection("MODIS/061/MOD44B").image("2019_03_05")
    assert march.info.properties["system:time_start"] == 1_551_744_000_000
    assert march.info.id == "MODIS/061/MOD44B/2019_03_05"


def test_biomass_follows_the_canopy() -> None:
    lon, lat = 8.5, 47.3
    (biomass,) = at("ESA/CCI/Above_Ground_Biomass/V6_0", lon, lat, **{"system:index": "2020"})
    bands = pixels(biomass, lon, lat)
    values, valid = bands["agb"]
    assert values.dtype == np.uint16
    assert valid.mean() > 0.5
    assert 20 < values[valid].mean() < 400
    deviation = bands["agb_sd"][0]
    assert (deviation[valid & (values > 0)] > 0).all()
    (earlier,) = at("ESA/CCI/Above_Ground_Biomass/V6_0", lon, lat, **{"system:index": "2010"})
    assert pixels(earlier, lon, lat)["agb"][0][valid].sum() < values[valid].sum()


def test_vegetation_percentages_sum_and_water_has_its_code() -> None:
    collection = planet.collection("MODIS/061/MOD44B")
    bands = pixels(collection.image("2020_03_05"), -1.6, 46.9, side=300)
    trees, valid = bands["Percent_Tree_Cover"]
    assert valid.all(), "no data and water are codes, not masks"
    land = trees <= 100
    total = trees.astype(int) + bands["Percent_NonTree_Vegetation"][0] + bands["Percent_NonVegetated"][0]
    assert (total[land] == 100).all()
    assert set(np.unique(trees[~land])) <= {200, 253}
    assert (trees == 200).any()


def test_tile_names_are_upper_left_corners() -> None:
    assert coherence.Tile(48, -90).name == "N48W090"
    assert coherence.Tile(-1, 12).name == "S01E012"
    (image,) = at(f"{root}/COHERENCE", 2.2, 48.75)
    assert image.info.properties["tile_id"] == "N49E002"
    assert image.info.bands[0].projection.transform == (1 / 1200, 0.0, 2, 0.0, -1 / 1200, 49)


def test_short_pairs_exist_where_both_satellites_went() -> None:
    (europe,) = at(f"{root}/COHERENCE", 2.2, 48.75)
    names = [band.id for band in europe.info.bands]
    assert "winter_vv_COH06" in names
    assert "winter_vv_COH18" in names
    elsewhere = [coherence.Tile(lat, lon) for lat in (0, 10, 20) for lon in range(15, 35)]
    assert 0 < sum(not tile.has_short_pairs for tile in elsewhere) < 60
    assert any(tile.lacks(season) for tile in elsewhere for season in coherence.SEASONS)
    polar = coherence.COLLECTIONS[0].bands(coherence.Tile(76, -40))
    assert polar
    assert all("_hh_" in name for name in polar)


def test_raw_numbers_are_the_physical_values() -> None:
    lon, lat = 2.2, 48.75
    for name, scale, band in (("COHERENCE", 100.0, "fall_vv_COH12"), ("DECAY_MODEL_PARAMETERS", 1000.0, "fall_vv_rho")):
        (physical,), (raw,) = at(f"{root}/{name}", lon, lat), at(f"{root}/{name}_RAW", lon, lat)
        values, numbers = (pixels(image, lon, lat, bands=(band,))[band][0] for image in (physical, raw))
        np.testing.assert_allclose(values * scale, numbers, atol=1e-6)
    (power,), (raw,) = at(f"{root}/BACKSCATTER", lon, lat), at(f"{root}/BACKSCATTER_RAW", lon, lat)
    level, numbers = (pixels(image, lon, lat, bands=("fall_vv_AMP",))["fall_vv_AMP"][0] for image in (power, raw))
    known = numbers > 0
    np.testing.assert_allclose(level[known], 20 * np.log10(numbers[known].astype(np.float64)) - 83, atol=1e-6)


def test_coherence_decays_with_the_days_between_images() -> None:
    (image,) = at(f"{root}/COHERENCE", 2.2, 48.75)
    means = [
        pixels(image, 2.2, 48.75, bands=(f"fall_vv_COH{days:02d}",))[f"fall_vv_COH{days:02d}"][0].mean()
        for days in coherence.DAYS
    ]
    assert means == sorted(means, reverse=True)


def test_geometry_is_kept_by_orbit() -> None:
    images = at(f"{root}/INCIDENCE_LAYOVER_SHADOW", 8.5, 47.3)
    orbits = {
        (image.info.properties["relative_orbit_number"], image.info.properties["flight_direction"]) for image in images
    }
    assert len(orbits) == len(images) >= 2
    first, second = (pixels(image, 8.5, 47.3)["inc"][0] for image in images[:2])
    assert (first != second).any()
    for image in images:
        index = image.info.properties["system:index"]
        again = planet.image(f"{root}/INCIDENCE_LAYOVER_SHADOW/{index}")
        assert again is not None
        assert again.info == image.info
