"""Wall-to-wall plans: every cell whose centre lies in a region and in the cell's own zone; what happens at seams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from m3etl.spec.ecoregions import area_km2_of, earth_radius_km
from m3etl.spec.lattice import (
    Cells,
    false_northing_m,
    lonlat_of_xy,
    north_limit_lat,
    south_limit_lat,
    xy_of_lonlat,
)

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_block_cells = 32  # cells are tested against the region in blocks first
_batch_blocks = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Seams:
    """Cells that cross a zone's edge, and the ground covered twice or not at all where two lattices meet."""

    cells: int
    overlap_km2: float
    gap_km2: float


def cells_in_region(region: BaseGeometry, cell_m: int) -> Iterator[Cells]:
    """Cells by centre in batches, by zone and blocks of neighbours, none twice; memory is bounded."""
    shapely.prepare(region)
    for south, base in ((0.0, 32600), (south_limit_lat, 32700)):
        for zone in range(1, 61):
            part = shapely.intersection(region, _zone_box(zone, south))
            if not part.is_empty:
                yield from _cells_of_zone(region, part, base + zone, cell_m)


class SeamCells:
    """Collects the cells near the seams of a wall-to-wall plan, batch by batch, and measures the seams at the end.

    Its memory grows with the length of the seams, not with the plan.
    """

    def __init__(self, cell_m: int) -> None:
        self._cell_m = cell_m
        self._near: list[Cells] = []

    def add(self, cells: Cells) -> None:
        """Take what of these cells lies at most two cells from the edge of its zone."""
        near = cells[~cells.wholly_inside(margin_m=2.0 * cells.cell_m)]
        if len(near):
            self._near.append(near)

    def figures(self) -> Seams:
        """Gaps are the narrow holes that remain between cells along the seams, and the strip along the equator."""
        none = np.zeros(0, dtype=np.int64)
        near = Cells(
            cell_m=self._cell_m,
            epsg=np.concatenate([none, *(part.epsg for part in self._near)]),
            column=np.concatenate([none, *(part.column for part in self._near)]),
            row=np.concatenate([none, *(part.row for part in self._near)]),
        )
        crossing = int(np.sum(~near.wholly_inside()))
        overlap, gap = _equator_km2(near)
        group = _seam_of(near)
        for number in np.unique(group).tolist():
            found = _overlap_and_gap_km2(near[group == number])
            overlap, gap = overlap + found[0], gap + found[1]
        return Seams(cells=crossing, overlap_km2=overlap, gap_km2=gap)


def seams_of(cells: Cells) -> Seams:
    """Seam figures of a wall-to-wall plan that is held in memory."""
    seams = SeamCells(cells.cell_m)
    seams.add(cells)
    return seams.figures()


def _seam_of(cells: Cells) -> Integers:
    """A number for the seam that each cell is nearest to: the meridian between two zones, by hemisphere.

    Where Norway and Svalbard bend the seams, they make one.
    """
    if len(cells) == 0:
        return np.zeros(0, dtype=np.int64)
    lon, lat = cells.centre_lonlat
    meridian = np.round((lon + 180.0) / 6.0).astype(np.int64) % 60
    bent = (lat >= 50.0) & (lon > -3.0) & (lon < 45.0)
    return np.where(cells.epsg >= 32700, 100 + meridian, np.where(bent, 200, meridian))


def _overlap_and_gap_km2(near: Cells) -> tuple[float, float]:
    if len(np.unique(near.epsg)) < 2:
        return 0.0, 0.0
    shapes = polygons_lonlat(near)
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    once = (near.epsg[first] < near.epsg[second]).nonzero()[0]
    overlap = area_km2_of(shapely.intersection(shapes[first[once]], shapes[second[once]])).sum()
    return float(overlap), float(area_km2_of(_narrow_holes(shapes, near.cell_m)).sum())


def _equator_km2(near: Cells) -> tuple[float, float]:
    """Overlap and gap along the equator, where the lattices of a zone meet: its northing is no multiple of a cell."""
    north = near[(near.epsg < 32700) & (near.row == 0)]
    # The northernmost row of the south whose centre lies below the equator.
    top = -(-(2 * int(false_northing_m) - near.cell_m) // (2 * near.cell_m)) - 1
    south = near[(near.epsg >= 32700) & (near.row == top)]
    pairs = len(np.intersect1d(north.epsg * 100_000 + north.column, (south.epsg - 100) * 100_000 + south.column))
    excess_km2 = ((top + 1) * near.cell_m - false_northing_m) / 1000.0 * near.cell_m / 1000.0 * pairs
    return max(excess_km2, 0.0), max(-excess_km2, 0.0)


def polygons_lonlat(cells: Cells) -> npt.NDArray[np.object_]:
    """Footprints in degrees, (N,) polygons; those on the antimeridian may pass +-180."""
    if len(cells) == 0:
        return np.zeros(0, dtype=object)
    lon, lat = cells.corners_lonlat()
    return np.asarray(shapely.polygons(np.stack([lon, lat], axis=2)), dtype=object)


def _narrow_holes(shapes: npt.NDArray[np.object_], cell_m: int) -> npt.NDArray[np.object_]:
    """Holes between the footprints that are narrower than a cell; wider ones are the region's own."""
    # Corners of neighbours agree only to the last digit; without snapping they would leave hair-thin holes.
    joined = shapely.get_parts(shapely.union_all(shapely.set_precision(shapes, 1e-9)))
    rings, polygon = shapely.get_rings(joined, return_index=True)
    is_hole = np.concatenate([[False], polygon[1:] == polygon[:-1]])
    holes = np.asarray(shapely.polygons(rings[is_hole]), dtype=object)
    west, south, east, north = shapely.bounds(holes).reshape(-1, 4).T
    degree_km = np.radians(earth_radius_km)
    length_km = np.maximum((east - west) * np.cos(np.radians((south + north) / 2)), north - south) * degree_km
    narrow: npt.NDArray[np.object_] = holes[area_km2_of(holes) < length_km * cell_m / 1000.0]
    return narrow


def _zone_box(zone: int, south: float) -> BaseGeometry:
    """A box that holds the zone of one hemisphere; wider in the far north for Norway and Svalbard."""
    west = 6.0 * zone - 186.0
    if south < 0:
        return shapely.box(west, south, west + 6.0, 0.0)
    wide = shapely.box(max(west - 3.0, -180.0), 56.0, min(west + 9.0, 180.0), north_limit_lat)
    return shapely.union(shapely.box(west, 0.0, west + 6.0, north_limit_lat), wide)


def _cells_of_zone(region: BaseGeometry, part: BaseGeometry, epsg: int, cell_m: int) -> Iterator[Cells]:
    corner = shapely.get_coordinates(shapely.segmentize(part, 0.25))
    x, y = xy_of_lonlat(np.full(len(corner), epsg), corner[:, 0], corner[:, 1])
    block_m = cell_m * _block_cells
    columns = np.arange(np.floor(x.min() / block_m) - 1, np.floor(x.max() / block_m) + 2, dtype=np.int64)
    rows = np.arange(max(np.floor(y.min() / block_m) - 1, 0), np.floor(y.max() / block_m) + 2, dtype=np.int64)
    for start in range(0, len(columns) * len(rows), 4096):
        number = np.arange(start, min(start + 4096, len(columns) * len(rows)))
        column, row = columns[number // len(rows)], rows[number % len(rows)]
        touching = _blocks_touching(region, epsg, column, row, block_m)
        for batch in range(0, len(touching), _batch_blocks):
            chosen = touching[batch : batch + _batch_blocks]
            cells = _centres_inside(region, _cells_of_blocks(epsg, column[chosen], row[chosen], cell_m))
            if len(cells):
                yield cells


def _blocks_touching(region: BaseGeometry, epsg: int, column: Integers, row: Integers, block_m: int) -> Integers:
    """Positions of the blocks whose longitude and latitude box meets the region."""
    steps = np.array([0.0, 0.5, 1.0])
    x = (column[:, None, None] + steps[None, :, None] + np.zeros((1, 1, 3))) * block_m
    y = (row[:, None, None] + steps[None, None, :] + np.zeros((1, 3, 1))) * block_m
    lon, lat = lonlat_of_xy(np.full(x.size, epsg), x.ravel(), y.ravel())
    centre = 6.0 * (epsg % 100) - 183.0
    lon = centre + ((lon - centre + 180.0) % 360.0 - 180.0).reshape(-1, 9)
    lat = lat.reshape(-1, 9)
    # Edges bend between the nine points; a twentieth of the block is far more than they can.
    pad_lon, pad_lat = np.ptp(lon, axis=1) / 20, np.ptp(lat, axis=1) / 20
    boxes = shapely.box(
        lon.min(axis=1) - pad_lon, lat.min(axis=1) - pad_lat, lon.max(axis=1) + pad_lon, lat.max(axis=1) + pad_lat
    )
    return np.flatnonzero(shapely.intersects(region, boxes))


def _cells_of_blocks(epsg: int, column: Integers, row: Integers, cell_m: int) -> Cells:
    inner = np.arange(_block_cells)
    shape = (len(column), _block_cells, _block_cells)
    columns = np.broadcast_to((column[:, None] * _block_cells + inner)[:, :, None], shape).ravel()
    rows = np.broadcast_to((row[:, None] * _block_cells + inner)[:, None, :], shape).ravel()
    return Cells(cell_m=cell_m, epsg=np.full(len(columns), epsg), column=columns, row=rows)


def _centres_inside(region: BaseGeometry, cells: Cells) -> Cells:
    cells = cells[cells.belongs()]
    return cells[np.asarray(shapely.contains_xy(region, *cells.centre_lonlat), dtype=bool)]
