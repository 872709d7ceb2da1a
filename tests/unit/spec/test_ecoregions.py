"""Lookup, areas, clipping and equal-area drawing over made-up ecoregions with known shapes."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
import shapely
from fakes.ecoregion_table import world_columns, world_shapes

from m3etl.errors import InputError
from m3etl.spec.ecoregions import Ecoregions, build_ecoregions


@pytest.fixture(scope="module")
def world() -> Ecoregions:
    return build_ecoregions(**world_columns())


def box_area_km2(west: float, south: float, east: float, north: float) -> float:
    """By geodesics, with parallels in short steps."""
    ring = shapely.segmentize(shapely.box(west, south, east, north), 0.02)
    return abs(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(ring)[0]) / 1e6


def columns_of(*rows: tuple[int, str, object]) -> dict[str, object]:
    return {
        "eco_id": [row[0] for row in rows],
        "name": [f"E{row[0]}" for row in rows],
        "biome_name": [row[1] for row in rows],
        "realm": ["R"] * len(rows),
        "geometry": np.array([row[2] for row in rows], dtype=object),
    }


def test_rock_and_ice_is_left_out_and_areas_are_exact(world: Ecoregions):
    assert world.eco_id.tolist() == [*range(100, 114), 200, 201, 202, 203]
    assert world.lookup(np.array([0.0]), np.array([-80.0])).tolist() == [-1]
    areas = dict(zip(world.eco_id.tolist(), world.area_km2.tolist(), strict=True))
    assert areas[100] == pytest.approx(box_area_km2(-170, -40, -165, -35), rel=1e-6)
    assert areas[200] == pytest.approx(box_area_km2(10, -60, 14, -56) - box_area_km2(11, -59, 13, -57), rel=1e-6)


def test_lookup_agrees_with_the_polygons(world: Ecoregions):
    generator = np.random.default_rng(1)
    lon, lat = generator.uniform(-180, 180, 20_000), generator.uniform(-62, 60, 20_000)
    lon[:4000] = generator.uniform(38, 54, 4000)
    lat[:4000] = generator.uniform(-52, -36, 4000)
    expected = np.full(len(lon), -1)
    for eco_id, (biome, shape) in sorted(world_shapes().items(), reverse=True):
        if biome != "N/A":
            expected[shapely.contains_xy(shape, lon, lat)] = eco_id
    found = world.lookup(lon, lat)
    assert np.array_equal(np.where(found < 0, -1, world.eco_id[found]), expected)
    assert len(np.unique(expected)) >= 16


def test_where_polygons_overlap_the_lowest_id_owns_the_point():
    overlapping = build_ecoregions(
        **columns_of((9, "Tundra", shapely.box(0, 0, 2, 2)), (3, "Mangroves", shapely.box(1, 0, 3, 2)))
    )
    assert overlapping.eco_id.tolist() == [3, 9]
    assert overlapping.eco_id[overlapping.lookup(np.array([0.5, 1.5, 2.5]), np.ones(3))].tolist() == [9, 3, 3]


def test_drawn_points_are_uniform_over_the_area(world: Ecoregions):
    index = np.full(40_000, int(np.flatnonzero(world.eco_id == 200)[0]))
    lon, lat, hit = world.draw(index, np.random.default_rng(2).random((len(index), 3)))
    assert hit.mean() > 0.7
    lon, lat = lon[hit], lat[hit]
    assert shapely.contains_xy(world_shapes()[200][1], lon, lat).all()
    # Equal-area bands of latitude of the ring's solid rim, west of 11E.
    rim = lat[lon < 11.0]
    edges = np.degrees(np.arcsin(np.linspace(np.sin(np.radians(-60)), np.sin(np.radians(-56)), 9)))
    counts = np.histogram(rim, bins=edges)[0]
    assert np.abs(counts - len(rim) / 8).max() < 5 * np.sqrt(len(rim) / 8)
    share = len(rim) / len(lat)
    assert share == pytest.approx(box_area_km2(10, -60, 11, -56) / world.area_km2[index[0]], abs=0.015)


def test_slender_polygons_are_hit_often_enough(world: Ecoregions):
    index = np.full(5000, int(np.flatnonzero(world.eco_id == 201)[0]))
    hit = world.draw(index, np.random.default_rng(3).random((5000, 3)))[2]
    assert hit.mean() > 0.25  # the whole box would be hit in 1 of 60 draws


def test_clipping_leaves_only_what_is_inside():
    part = build_ecoregions(**world_columns(), within=shapely.box(-169.0, -39.0, -110.0, -20.0))
    assert part.eco_id.tolist() == [100, 101, 102]
    assert part.area_km2[0] == pytest.approx(box_area_km2(-169, -39, -165, -35), rel=1e-6)
    assert part.lookup(np.array([-169.5, -168.5]), np.array([-37.0, -37.0])).tolist() == [-1, 0]


def test_rows_of_one_id_are_joined_and_broken_shapes_mended():
    bow_tie = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    joined = build_ecoregions(
        **columns_of((5, "Tundra", shapely.box(10, 0, 11, 1)), (5, "Tundra", bow_tie), (6, "Mangroves", None))
    )
    assert joined.eco_id.tolist() == [5]
    assert joined.area_km2[0] == pytest.approx(box_area_km2(10, 0, 11, 1) * 3, rel=0.01)


def test_unknown_biomes_are_named():
    with pytest.raises(InputError, match="'Cloud Forest'") as caught:
        build_ecoregions(**columns_of((5, "Cloud Forest", shapely.box(0, 0, 1, 1))))
    assert "Mangroves" in caught.value.hint
