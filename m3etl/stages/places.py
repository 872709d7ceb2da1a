"""Where a chip lies, from its id alone."""

from __future__ import annotations

from m3etl.spec.chipgrid import ChipGrid, pixel_m
from m3etl.spec.lattice import parse_chip_id


def grid_of(chip_id: str) -> ChipGrid:
    """The grid of a chip: the id names EPSG code, cell size, column and row. InputError for what is no chip id."""
    cell = parse_chip_id(chip_id)
    west, _, _, north = cell.bounds_xy
    return ChipGrid(
        chip_id=chip_id,
        epsg=int(cell.epsg[0]),
        xmin=float(west[0]),
        ymax=float(north[0]),
        chip_px=round(cell.cell_m / pixel_m),
    )
