"""Requests of blocks and export tasks, counted on the cells of a plan."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3etl.spec.catalog import select_arrays
from m3etl.spec.tilecounts import ChipCells, count_block_requests, count_squares, count_tasks


def cells_of(places) -> ChipCells:
    columns = np.array(places, dtype=np.int64).reshape(-1, 3)
    return ChipCells(epsg=columns[:, 0], column=columns[:, 1], row=columns[:, 2])


def tasks_of(cells, modalities, tile_px=64, block_chips=1):
    specs = select_arrays(modalities)
    return count_tasks(cells, specs, chip_px=16, chip_m=160.0, tile_px=tile_px, block_chips=block_chips)


@given(
    st.sets(st.tuples(st.sampled_from([32601, 32660, 32760]), st.integers(-40, 40), st.integers(0, 40)), min_size=1),
    st.sampled_from([1, 2, 4, 8]),
)
def test_squares_and_requests_are_those_counted_one_by_one(places, side):
    cells = cells_of(sorted(places))

    def squares(members, of):
        found = {}
        for epsg, column, row in members:
            found.setdefault((epsg, column // of, row // of), []).append((epsg, column, row))
        return found

    def requests(members, of):
        if of == 1:
            return len(members)
        return sum(1 if 2 * len(part) >= of * of else requests(part, of // 2) for part in squares(members, of).values())

    assert count_squares(cells, side) == len(squares(places, side))
    assert count_block_requests(cells, side) == requests(places, side)


def test_scattered_chips_have_a_tile_each_and_neighbours_share_one():
    scattered = cells_of([(32632, 100 * number, 33_000) for number in range(7)])
    (group,) = tasks_of(scattered, ["worldcover"])
    assert (group.least, group.most, group.pixels, group.nbytes) == (7, 7, 7 * 256, 7 * 256)
    corners = cells_of([(32632, 0, 0), (32632, 3, 3)])
    (group,) = tasks_of(corners, ["worldcover"])
    assert (group.least, group.pixels) == (1, 64 * 64), "the rectangle that holds both"


def test_scenes_may_differ_from_chip_to_chip_and_maps_do_not():
    cells = cells_of([(32632, column, row) for column in range(4) for row in range(4)])
    groups = {name: group for group in tasks_of(cells, ["sentinel2", "worldcover"]) for name in group.arrays}
    assert (groups["worldcover"].least, groups["worldcover"].most) == (1, 1)
    assert (groups["sentinel2_l2a"].least, groups["sentinel2_l2a"].most) == (1, 16)
    blocks = {name: group for group in tasks_of(cells, ["sentinel2"], block_chips=2) for name in group.arrays}
    assert blocks["sentinel2_l2a"].most == 4


@pytest.mark.parametrize("places", [[], [(32632, 1, 1)]])
def test_nothing_and_vectors_need_no_task(places):
    assert tasks_of(cells_of(places), ["era5_temperature"]) == []
    assert bool(tasks_of(cells_of(places), ["worldcover"])) is bool(places)


def test_a_share_of_a_group():
    (group,) = tasks_of(cells_of([(32632, 100 * number, 33_000) for number in range(7)]), ["worldcover"])
    assert (group.share(0.5).least, group.share(0.0).least, group.share(1.0)) == (4, 0, group)
