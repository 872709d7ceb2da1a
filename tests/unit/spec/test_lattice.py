"""Zones, cells and ids: exceptions, half-open edges, both hemispheres, the antimeridian, no overlap between zones."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from m3etl.errors import InputError
from m3etl.spec.lattice import (
    Cells,
    cells_of_lonlat,
    check_cell_size,
    epsg_of_lonlat,
    lonlat_of_xy,
    parse_chip_id,
    xy_of_lonlat,
    zone_of_lonlat,
)

longitudes = st.floats(-180.0, 180.0, exclude_max=True)
latitudes = st.floats(-80.0, 84.0)
cell_sizes = st.sampled_from([640, 1280, 2560, 4480])


def one_cell(lon: float, lat: float, cell_m: int = 1280) -> Cells:
    return cells_of_lonlat(np.array([lon]), np.array([lat]), cell_m)[0]


@pytest.mark.parametrize(
    ("lon", "lat", "zone"),
    [
        (-180.0, 0.0, 1),
        (180.0, 0.0, 1),
        (179.999999, 0.0, 60),
        (0.0, 51.5, 31),
        (np.nextafter(6.0, 0), 10.0, 31),
        (6.0, 10.0, 32),
        (2.999, 60.0, 31),
        (3.0, 60.0, 32),
        (3.0, np.nextafter(56.0, 0), 31),
        (3.0, 56.0, 32),
        (np.nextafter(12.0, 0), 60.0, 32),
        (12.0, 60.0, 33),
        (4.0, 64.0, 31),
        (-0.001, 75.0, 30),
        (0.0, 75.0, 31),
        (np.nextafter(9.0, 0), 75.0, 31),
        (9.0, 75.0, 33),
        (20.9, 75.0, 33),
        (21.0, 75.0, 35),
        (33.0, 75.0, 37),
        (41.9, 84.0, 37),
        (42.0, 75.0, 38),
        (8.0, np.nextafter(72.0, 0), 32),
        (8.0, 72.0, 31),
        (10.0, 84.001, 0),
        (10.0, -80.001, 0),
        (10.0, -80.0, 32),
        (np.nan, 1.0, 0),
        (1.0, np.nan, 0),
    ],
)
def test_mgrs_zone(lon: float, lat: float, zone: int):
    assert zone_of_lonlat(lon, lat) == zone


def test_hemisphere_is_half_open_at_the_equator():
    assert epsg_of_lonlat([9.0, 9.0, 9.0], [0.0, -1e-12, 85.0]).tolist() == [32632, 32732, 0]


def test_projection_is_that_of_the_epsg_codes():
    lon, lat = np.array([7.3, 11.9, 9.0]), np.array([47.0, 0.5, 79.0])
    for epsg, sign in ((32632, 1), (32732, -1)):
        expected = pyproj.Transformer.from_crs("EPSG:4326", f"EPSG:{epsg}", always_xy=True).transform(lon, lat * sign)
        found = xy_of_lonlat(np.full(3, epsg), lon, lat * sign)
        assert np.abs(np.array(found) - np.array(expected)).max() < 1e-6
        assert np.abs(np.array(lonlat_of_xy(np.full(3, epsg), *found)) - np.array([lon, lat * sign])).max() < 1e-11


@given(longitudes, latitudes, cell_sizes)
def test_point_cell_and_id_agree_both_ways(lon: float, lat: float, cell_m: int):
    cell = one_cell(lon, lat, cell_m)
    assert cell.epsg[0] == epsg_of_lonlat(lon, lat)
    x, y = xy_of_lonlat(cell.epsg, np.array([lon]), np.array([lat]))
    west, south, east, north = cell.bounds_xy
    assert west <= x < east
    assert south <= y < north or lat == 0.0
    again = parse_chip_id(cell.chip_ids()[0])
    assert (again.epsg, again.column, again.row, again.cell_m) == (cell.epsg, cell.column, cell.row, cell_m)
    assert again.key == cell.key
    back = one_cell(cell.centre_lonlat[0][0], cell.centre_lonlat[1][0], cell_m)
    assert not cell.belongs()[0] or back.chip_ids() == cell.chip_ids()


@given(longitudes, latitudes, cell_sizes)
def test_wholly_inside_means_every_boundary_point_is(lon: float, lat: float, cell_m: int):
    cell = one_cell(lon, lat, cell_m)
    inside = bool(cell.wholly_inside()[0])
    west, south, east, north = (float(value[0]) for value in cell.bounds_xy)
    steps = np.linspace(1e-3, cell_m - 1e-3, 9)
    x = np.concatenate([west + steps, west + steps, np.full(9, west + 1e-3), np.full(9, east - 1e-3)])
    y = np.concatenate([np.full(9, south + 1e-3), np.full(9, north - 1e-3), south + steps, south + steps])
    edge_lon, edge_lat = lonlat_of_xy(np.full(len(x), cell.epsg[0]), x, y)
    all_in = bool(np.all(epsg_of_lonlat(edge_lon, edge_lat) == cell.epsg[0]))
    assert all_in or not inside
    if inside:
        assert cell.belongs()[0]
        corner_lon, _ = cell.corners_lonlat()
        assert corner_lon.min() >= -180.0
        assert corner_lon.max() <= 180.0


@pytest.mark.parametrize(
    ("lon", "lat"),
    [
        (6.0, 47.0),
        (3.0, 60.0),
        (12.0, 60.0),
        (3.0, 56.0),
        (9.0, 75.0),
        (21.0, 72.0),
        (42.0, 83.0),
        (180.0, -17.0),
        (36.0, 0.0),
    ],
)
def test_cells_inside_their_zones_never_overlap(lon: float, lat: float):
    """Every cell of either zone around a point of a zone's edge, as polygons on the ground."""
    span = np.linspace(-0.08, 0.08, 60)
    grid_lon, grid_lat = (part.ravel() for part in np.meshgrid(lon + span / np.cos(np.radians(lat)), lat + span))
    cells, _ = cells_of_lonlat((grid_lon + 180) % 360 - 180, grid_lat, 1280)
    cells = cells[np.unique(cells.key, return_index=True)[1]]
    cells = cells[cells.wholly_inside()]
    assert len(np.unique(cells.epsg)) > 1
    corner_lon, corner_lat = cells.corners_lonlat()
    shapes = shapely.polygons(np.stack([lon + (corner_lon - lon + 180) % 360 - 180, corner_lat], axis=2))
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    apart = cells.epsg[first] != cells.epsg[second]
    assert shapely.area(shapely.intersection(shapes[first[apart]], shapes[second[apart]])).sum() == 0.0


def test_cell_on_the_equator_belongs_to_the_north_only():
    # 10,000 km is 7812.5 cells of 1280 m: the row 7812 of the south has its centre exactly on the equator.
    south = Cells(cell_m=1280, epsg=np.array([32732, 32732]), column=np.array([400, 400]), row=np.array([7812, 7811]))
    assert south.belongs().tolist() == [False, True]
    assert south.wholly_inside().tolist() == [False, True]
    north = Cells(cell_m=1280, epsg=np.array([32632]), column=np.array([400]), row=np.array([0]))
    assert north.belongs().all()
    assert north.wholly_inside().all()


def test_margin_keeps_cells_away_from_the_zone_edge():
    lon = np.linspace(6.0, 6.5, 400)
    cells, _ = cells_of_lonlat(lon, np.full(400, 47.0), 1280)
    far = cells[cells.wholly_inside(margin_m=5000.0)]
    geod = pyproj.Geod(ellps="WGS84")
    west_lon, west_lat = lonlat_of_xy(far.epsg, far.bounds_xy[0], far.centre_xy[1])
    distance = geod.inv(west_lon, west_lat, np.full(len(far), 6.0), west_lat)[2]
    assert 0 < len(far) < len(cells)
    assert distance.min() > 5000.0 * 0.999
    assert distance.min() < 5000.0 + 2 * 1280


def test_unreachable_points_are_flagged_and_not_projected():
    cells, reachable = cells_of_lonlat(np.array([0.0, 0.0, np.nan, np.inf]), np.array([85.0, 10.0, 1.0, 1.0]), 1280)
    assert reachable.tolist() == [False, True, False, False]
    assert len(cells) == 4


def test_corners_go_round_and_stay_near_the_centre_at_the_antimeridian():
    cells = Cells(cell_m=1280, epsg=np.array([32601]), column=np.array([130]), row=np.array([10]))
    assert 179 < abs(cells.centre_lonlat[0][0]) <= 180
    lon, lat = cells.corners_lonlat()
    assert lon.max() - lon.min() < 0.02
    assert lon[0, 1] > lon[0, 0]
    assert lat[0, 3] > lat[0, 0]


def test_neighbours_share_their_corners_to_the_last_bit():
    column, row = (part.ravel() for part in np.meshgrid(np.arange(130, 150), np.arange(7000, 7020)))
    cells = Cells(cell_m=1280, epsg=np.full(400, 32601), column=column, row=row)
    lon, lat = (corner.reshape(20, 20, 4) for corner in cells.corners_lonlat())
    assert np.array_equal(lon[:, 1:, 0] % 360, lon[:, :-1, 1] % 360)
    assert np.array_equal(lon[1:, :, 0] % 360, lon[:-1, :, 3] % 360)
    assert np.array_equal(lat[1:, 1:, 0], lat[:-1, :-1, 2])


def test_affine_is_anchored_at_the_upper_left_corner():
    cell = parse_chip_id("32632-1280-0429-4956")
    assert cell.affine(0, 10.0) == (10.0, 0.0, 549120.0, 0.0, -10.0, 4957 * 1280.0)
    assert cell.bounds_xy[3][0] == 4957 * 1280.0


@pytest.mark.parametrize(
    "text", ["", "x", "32661-1280-0429-4956", "32632-1285-0429-4956", "32632-1280-00429-4956", "32632-1280-429-4956"]
)
def test_wrong_ids_are_refused_with_the_reason(text: str):
    with pytest.raises(InputError, match="is no chip id"):
        parse_chip_id(text)


def test_cell_size_must_fit_the_pixels():
    for wrong in (0, -10, 1285, 60_000):
        with pytest.raises(ValueError, match="multiple of 10 m"):
            check_cell_size(wrong)
