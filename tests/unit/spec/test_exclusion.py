"""Excluded places: no cell nearer than the buffer by brute force, over zone edges and the antimeridian."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
import shapely

from m3etl.spec.exclusion import Exclusion
from m3etl.spec.lattice import Cells, cells_of_lonlat

geod = pyproj.Geod(ellps="WGS84")


def cells_around(lon: float, lat: float, radius_m: float, count: int = 1500, cell_m: int = 1280) -> Cells:
    generator = np.random.default_rng(3)
    azimuth, distance = generator.uniform(0, 360, count), radius_m * np.sqrt(generator.random(count))
    near_lon, near_lat, _ = geod.fwd(np.full(count, lon), np.full(count, lat), azimuth, distance)
    cells, reachable = cells_of_lonlat(near_lon, near_lat, cell_m)
    return cells[reachable]


def footprint_distance_m(cells: Cells, lon: float, lat: float) -> np.ndarray:
    """From each cell's footprint to a point, by ellipsoidal distance to a dense grid of points in the cell."""
    steps = np.linspace(0.0, 1.0, 15)
    west, south, east, north = cells.bounds_xy
    found = np.full(len(cells), np.inf)
    for x in steps:
        for y in steps:
            there_lon, there_lat = _lonlat(cells, west + x * (east - west), south + y * (north - south))
            found = np.minimum(
                found, geod.inv(there_lon, there_lat, np.full(len(cells), lon), np.full(len(cells), lat))[2]
            )
    return found


def _lonlat(cells: Cells, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from m3etl.spec.lattice import lonlat_of_xy

    return lonlat_of_xy(cells.epsg, x, y)


@pytest.mark.parametrize(
    ("lon", "lat"),
    [
        (9.0, 47.0),
        (5.999, 47.0),
        (180.0, -17.0),
        (-179.999, 65.0),
        (3.0, 60.0),
        (9.0, 75.0),
        (30.0, 0.001),
        (20.0, 83.5),
    ],
)
def test_the_buffer_holds_everywhere_and_takes_little_more(lon: float, lat: float):
    exclusion = Exclusion(geometry=np.array([shapely.Point(lon, lat)], dtype=object), buffer_km=8.0)
    cells = cells_around(lon, lat, 20_000.0)
    near = exclusion.near(cells)
    distance = footprint_distance_m(cells, lon, lat)
    assert near.any()
    assert not near.all()
    assert distance[~near].min() >= 8000.0
    # Inside: the grid of points overestimates by its half step at most, the scale of UTM by 2 per mille.
    assert distance[near].max() < 8000.0 * 1.004 + 70.0


def test_without_a_buffer_touching_cells_alone_are_excluded():
    exclusion = Exclusion(geometry=np.array([shapely.Point(9.0, 47.0)], dtype=object), buffer_km=0.0)
    cells = cells_around(9.0, 47.0, 3000.0)
    near = exclusion.near(cells)
    assert len(np.unique(cells.key[near])) == 1
    lon, _ = cells[near].corners_lonlat()
    assert lon.min() < 9.0 < lon.max()


@pytest.mark.parametrize("west", [-180.0, 2.0, 177.5])
def test_lines_and_polygons_count_with_their_inside(west: float):
    polygon = shapely.box(west, 44.0, west + 2.5, 46.0).difference(shapely.box(west + 1.0, 44.5, west + 1.5, 45.5))
    line = shapely.LineString([(west + 1.2, 43.0), (west + 1.2, 43.9)])
    exclusion = Exclusion(geometry=np.array([polygon, line], dtype=object), buffer_km=1.0)
    lon = np.array([0.5, 1.25, 1.25, 1.2, 2.3]) + west
    lat = np.array([45.0, 45.0, 44.503, 43.5, 43.0])
    cells, _ = cells_of_lonlat(lon, lat, 1280)
    assert exclusion.near(cells).tolist() == [True, False, True, True, False]


def test_a_region_that_is_covered_is_known():
    region = shapely.box(0.0, 40.0, 10.0, 50.0)
    whole = Exclusion(
        geometry=np.array([shapely.box(-1, 39, 5, 51), shapely.box(5, 39, 11, 51)], object), buffer_km=0.0
    )
    part = Exclusion(geometry=np.array([shapely.box(-1, 39, 5, 51), shapely.Point(7.0, 45.0)], object), buffer_km=300.0)
    assert whole.covers(region)
    assert not part.covers(region)


def test_an_impossible_buffer_is_refused():
    with pytest.raises(ValueError, match="exclude_buffer_km"):
        Exclusion(geometry=np.array([shapely.Point(0, 0)], dtype=object), buffer_km=-1.0)
