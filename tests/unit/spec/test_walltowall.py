"""Wall-to-wall plans: complete, disjoint inside a zone, and honest about the seams between zones."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from m3etl.spec.ecoregions import area_km2_of
from m3etl.spec.lattice import Cells, cells_of_lonlat
from m3etl.spec.walltowall import cells_in_region, polygons_lonlat, seams_of


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
