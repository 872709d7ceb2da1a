"""The planet's ecoregions: the real biome names, valid polygons, on land."""

import numpy as np
import pytest
import shapely
from shapely.geometry import Point

from m3etl.emulator.planet.ecoregions import BIOMES, TABLE_ID, ecoregion_table
from m3etl.emulator.planet.source import Planet

BIOME_NAMES = {
    "Tundra", "Tropical & Subtropical Moist Broadleaf Forests", "Mediterranean Forests, Woodlands & Scrub",
    "Deserts & Xeric Shrublands", "Temperate Grasslands, Savannas & Shrublands", "Boreal Forests/Taiga",
    "Temperate Conifer Forests", "Temperate Broadleaf & Mixed Forests", "Montane Grasslands & Shrublands", "Mangroves",
    "Flooded Grasslands & Savannas", "Tropical & Subtropical Grasslands, Savannas & Shrublands",
    "Tropical & Subtropical Dry Broadleaf Forests", "Tropical & Subtropical Coniferous Forests",
}  # fmt: skip


def area_km2(geometry):
    """Area on the sphere from an equal-area projection."""

    def project(xy):
        return np.column_stack([np.radians(xy[:, 0]), np.sin(np.radians(xy[:, 1]))]) * 6371.0

    return shapely.transform(geometry, project).area


def test_every_biome_is_there_with_enough_land_and_ecoregions():
    table = ecoregion_table()
    assert {name for _, name, _ in BIOMES} == BIOME_NAMES
    areas, counts = {}, {}
    for feature in table.features:
        name = feature.properties["BIOME_NAME"]
        areas[name] = areas.get(name, 0.0) + area_km2(feature.geometry)
        counts[name] = counts.get(name, 0) + 1
    assert set(areas) == BIOME_NAMES | {"N/A"}
    assert min(areas.values()) > 100_000
    assert min(counts[name] for name in BIOME_NAMES) >= 4
    assert 1.2e8 < sum(areas.values()) < 1.7e8  # the land of the Earth has 1.49e8
    assert len(table.features) > 40


def test_rock_and_ice_is_as_odd_as_in_the_real_table():
    rock = [feature for feature in ecoregion_table().features if feature.properties["ECO_NAME"] == "Rock and Ice"]
    assert len(rock) == 1
    assert rock[0].properties["BIOME_NUM"] == 11
    assert rock[0].properties["BIOME_NAME"] == "N/A"


def test_columns_are_those_of_the_real_table():
    features = ecoregion_table().features
    for feature in features:
        assert set(feature.properties) >= {
            "OBJECTID", "ECO_ID", "ECO_NAME", "BIOME_NUM", "BIOME_NAME", "REALM", "ECO_BIOME_", "NNH", "SHAPE_AREA",
            "SHAPE_LENG", "LICENSE",
        }  # fmt: skip
    assert len({feature.properties["ECO_NAME"] for feature in features}) == len(features)
    assert len({feature.properties["ECO_ID"] for feature in features}) == len(features)


def test_polygons_are_valid_and_do_not_overlap():
    geometries = np.array([feature.geometry for feature in ecoregion_table().features])
    assert shapely.is_valid(geometries).all()
    bounds = shapely.total_bounds(geometries)
    assert bounds[0] >= -180
    assert bounds[2] <= 180
    assert shapely.union_all(geometries).area == pytest.approx(shapely.area(geometries).sum())


def test_biomes_are_where_one_expects_them():
    table = ecoregion_table()
    expected = {
        (-62, -5): "Tropical & Subtropical Moist Broadleaf Forests",
        (10, 24): "Deserts & Xeric Shrublands",
        (100, 62): "Boreal Forests/Taiga",
        (20, 52): "Temperate Broadleaf & Mixed Forests",
        (88, 33): "Montane Grasslands & Shrublands",
        (90, 73): "Tundra",
        (-57, -18): "Flooded Grasslands & Savannas",
        (-3, 39): "Mediterranean Forests, Woodlands & Scrub",
        (-40, 72): "N/A",
    }
    for (lon, lat), biome in expected.items():
        found = [f.properties["BIOME_NAME"] for f in table.features if f.geometry.contains(Point(lon, lat))]
        assert found == [biome], (lon, lat)


def test_the_six_regions_have_several_biomes():
    table = ecoregion_table()
    for west, south, east, north in (
        (-124, 30, -75, 48),
        (-5, 40, 25, 56),
        (30, 25, 62, 41),
        (68, 22, 95, 34),
        (80, 25, 110, 42),
        (-75, -35, -62, 5),
    ):
        region = shapely.box(west, south, east, north)
        biomes = {f.properties["BIOME_NUM"] for f in table.features if f.geometry.intersects(region)}
        assert len(biomes) >= 4


def test_the_table_is_made_once():
    assert ecoregion_table() is Planet().table(TABLE_ID)
