"""Wall-to-wall plans: complete, disjoint inside a zone, and honest about the seams between zones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely

from m3etl.io.regions import read_region
from m3etl.spec.ecoregions import area_km2_of
from m3etl.spec.lattice import Cells, cells_of_lonlat
from m3etl.spec.walltowall import SeamCells, cells_in_region, polygons_lonlat, seams_of


def grid(region: shapely.Geometry, cell_m: int) -> Cells:
    batches = list(cells_in_region(region, cell_m))
    return Cells(
        cell_m=cell_m,
        epsg=np.concatenate([batch.epsg for batch in batches]),
        column=np.concatenate([batch.column for batch in batches]),
        row=np.concatenate([batch.row for batch in batches]),
    )


@pytest.mark.parametrize(
    "box",
    [
        (5.4, 46.8, 6.6, 47.5),
        (11.0, 63.5, 13.0, 64.5),
        (2.0, 55.6, 4.0, 56.4),
        (8.0, 71.7, 10.0, 72.3),
        (179.2, -17.5, 180.0, -16.8),
        (-180.0, -17.5, -179.2, -16.8),
        (35.5, -0.5, 36.5, 0.5),
        (20.0, 83.5, 22.0, 84.0),
    ],
)
def test_every_cell_with_its_centre_inside_is_there_once(box: tuple[float, float, float, float]):
    found = grid(shapely.box(*box), 4480)
    assert len(np.unique(found.key, return_index=True)[0]) == len(found)
    assert found.belongs().all()
    lon, lat = found.centre_lonlat
    assert ((lon > box[0]) & (lon < box[2]) & (lat > box[1]) & (lat < box[3])).all()
    # Independently: the cells of a dense cloud of points, and of their neighbours in the next zone, by centre.
    dense_lon, dense_lat = (
        part.ravel() for part in np.meshgrid(np.linspace(box[0], box[2], 250), np.linspace(box[1], box[3], 250))
    )
    cloud, _ = cells_of_lonlat(dense_lon, dense_lat, 4480)
    cloud = cloud[cloud.belongs()]
    lon, lat = cloud.centre_lonlat
    inside = (lon > box[0]) & (lon < box[2]) & (lat > box[1]) & (lat < box[3])
    assert set(cloud.key[inside].tolist()) <= set(found.key.tolist())
    missing = set(found.key.tolist()) - set(cloud.key.tolist())
    assert len(missing) == 0


def test_polygon_with_a_hole_keeps_it_open():
    region = shapely.box(8.0, 46.0, 9.0, 47.0).difference(shapely.box(8.3, 46.3, 8.7, 46.7))
    found = grid(region, 1280)
    lon, lat = found.centre_lonlat
    assert shapely.contains_xy(region, lon, lat).all()
    assert len(found) * 1.6384 == pytest.approx(area_km2_of(np.array([region], dtype=object))[0], rel=0.01)
    assert seams_of(found).cells == 0


def test_seams_add_up_to_the_area_of_the_region():
    box = shapely.box(5.0, 44.0, 7.0, 49.0)
    found = grid(box, 4480)
    seams = seams_of(found)
    assert seams.cells > 40
    shapes = polygons_lonlat(found)
    union = area_km2_of(np.array([shapely.union_all(shapes)], dtype=object))[0]
    assert seams.overlap_km2 == pytest.approx(area_km2_of(shapes).sum() - union, rel=1e-3)
    middle = shapely.box(5.9, 44.1, 6.1, 48.9)
    open_area = area_km2_of(np.array([middle.difference(shapely.union_all(shapes))], dtype=object))[0]
    assert seams.gap_km2 == pytest.approx(open_area, rel=0.15)
    for epsg in np.unique(found.epsg):
        part = shapes[found.epsg == epsg]
        joined = shapely.union_all(shapely.set_precision(part, 1e-9))
        assert joined.geom_type == "Polygon"
        assert len(joined.interiors) == 0


@pytest.mark.parametrize("name", ["china", "conus", "europe", "middleeast", "pakin", "southamerica"])
def test_over_each_region_no_two_chips_of_a_zone_overlap_and_none_is_missing(name: str):
    """448 px chips over the whole region. Cells of one lattice overlap only if they are the same."""
    region = read_region(name).geometry
    found = grid(region, 4480)
    keys = np.sort(found.key)
    assert (np.diff(keys) > 0).all()
    assert found.belongs().all()
    # Each of the eight neighbours is in the plan too, or its centre is in another zone or outside the region.
    for column, row in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1)):
        around = Cells(cell_m=4480, epsg=found.epsg, column=found.column + column, row=found.row + row)
        absent = around[~np.isin(around.key, keys)]
        absent = absent[(absent.row >= 0) & (absent.column >= 0)]
        assert not (absent.belongs() & shapely.contains_xy(region, *absent.centre_lonlat)).any()
    area = area_km2_of(np.array([shapely.segmentize(region, 0.5)], dtype=object))[0]
    assert len(found) * 4.48**2 == pytest.approx(area, rel=1e-3)
    seams = seams_of(found)
    assert max(seams.overlap_km2, seams.gap_km2) < 2e-3 * area
    # The table of docs/sampling.md.
    told = f"| {len(found):,} | {seams.cells:,} | {seams.overlap_km2:,.0f} km2 | {seams.gap_km2:,.0f} km2 |"
    page = Path(__file__).parents[3] / "docs" / "sampling.md"
    assert f"| {name} {told}" in page.read_text(encoding="utf-8").splitlines()


def test_seams_of_a_region_are_the_same_in_batches_and_nearly_cancel():
    found = grid(read_region("southamerica").geometry, 4480)
    seams = SeamCells(4480)
    for start in range(0, len(found), 10_000):
        seams.add(found[start : start + 10_000])
    figures = seams.figures()
    whole = seams_of(found)
    assert figures.cells == whole.cells > 500
    assert (figures.overlap_km2, figures.gap_km2) == pytest.approx((whole.overlap_km2, whole.gap_km2))
    # Cells are taken by their centres, so as much is covered twice as is left out, but for the rim of the region.
    assert figures.overlap_km2 == pytest.approx(figures.gap_km2, rel=0.25)
    assert figures.overlap_km2 < 2e-3 * len(found) * 4.48**2


@pytest.mark.parametrize(("cell_m", "gap_m", "overlap_m"), [(4480, 640, 0), (320, 0, 0), (10_240, 0, 4480)])
def test_the_strip_along_the_equator_is_counted(cell_m: int, gap_m: int, overlap_m: int):
    """The southern false northing, 10,000 km, is a multiple of few cells: the two lattices do not meet there."""
    found = grid(shapely.box(36.5, -0.3, 38.5, 0.3), cell_m)
    south = found[found.epsg >= 32700]
    assert (south.row.max() + 1) * cell_m - 10_000_000 == overlap_m - gap_m
    columns = len(np.intersect1d(south.column[south.row == south.row.max()], found.column[found.row == 0]))
    figures = seams_of(found)
    assert figures.gap_km2 == pytest.approx(columns * cell_m * gap_m / 1e6)
    assert figures.overlap_km2 == pytest.approx(columns * cell_m * overlap_m / 1e6)
