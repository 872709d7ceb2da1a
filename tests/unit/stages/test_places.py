"""A chip's id is enough to know its pixel grid."""

from __future__ import annotations

import pytest

from m3etl.errors import InputError
from m3etl.stages.places import grid_of
from tests.unit.stages.test_export import chip_px, make_plan


def test_the_grid_is_that_of_the_plan():
    for row in make_plan(6).itertuples():
        grid = grid_of(row.chip_id)
        assert (grid.chip_id, grid.epsg, grid.xmin, grid.ymax) == (row.chip_id, row.epsg, row.xmin, row.ymax)
        assert grid.chip_px == chip_px
        assert grid.chip_m == row.xmax - row.xmin


def test_what_is_no_chip_id_is_refused():
    with pytest.raises(InputError, match="is no chip id"):
        grid_of("32632-0160-3200")
