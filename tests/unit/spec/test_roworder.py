"""The order of rows depends on each cell alone; lots cover every draw once and never cut a block."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3etl.spec.lattice import Cells
from m3etl.spec.roworder import block_side, choose_lot_chips, cut_lots, draw_end, draws_of_cells, lots_of_part


def cells(count: int, step: int = 1) -> Cells:
    number = np.arange(count, dtype=np.int64)
    return Cells(cell_m=1280, epsg=np.full(count, 32632), column=400 + step * (number // 24), row=4000 + number % 24)


@pytest.mark.parametrize("wall_to_wall", [False, True])
def test_a_draw_depends_on_its_own_cell_only(wall_to_wall):
    every = draws_of_cells(cells(480), 3, wall_to_wall=wall_to_wall)
    some = draws_of_cells(cells(480)[np.arange(0, 480, 7)], 3, wall_to_wall=wall_to_wall)
    np.testing.assert_array_equal(every[::7], some)
    assert len(np.unique(every)) == 480
    assert (every >= 0).all()
    assert (draws_of_cells(cells(480), 4, wall_to_wall=wall_to_wall) != every).all()


def test_wall_to_wall_blocks_stay_together_north_west_first():
    grid = cells(24 * 24)
    order = np.argsort(draws_of_cells(grid, 1, wall_to_wall=True))
    blocks = list(
        zip((grid.column[order] // block_side).tolist(), (grid.row[order] // block_side).tolist(), strict=True)
    )
    changes = sum(first != second for first, second in itertools.pairwise(blocks))
    assert changes == len(set(blocks)) - 1
    whole = next(block for block in set(blocks) if blocks.count(block) == block_side**2)
    inside = [index for index, block in zip(order.tolist(), blocks, strict=True) if block == whole]
    assert grid.row[inside[0]] == grid.row[inside].max()
    assert np.diff(grid.column[inside[:block_side]]).tolist() == [1] * (block_side - 1)


@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=400),
    st.integers(1, 100),
    st.booleans(),
    st.integers(1, 50),
)
def test_lots_cover_everything_once(numbers, lot_chips, wall_to_wall, batch):
    draws = np.sort(np.array(numbers, dtype=np.int64))
    lots = list(cut_lots(np.split(draws, range(batch, len(draws), batch)), lot_chips, wall_to_wall=wall_to_wall))
    assert lots[0].draw_from == 0
    assert lots[-1].draw_until == draw_end
    assert all(first.draw_until == second.draw_from for first, second in itertools.pairwise(lots))
    blocks = draws >> 6 if wall_to_wall else draws
    for lot in lots:
        inside = (draws >= lot.draw_from) & (draws < lot.draw_until)
        assert inside.sum() == lot.size
        assert lot.size <= lot_chips or len(np.unique(blocks[inside])) == 1
    owner = [next(n for n, lot in enumerate(lots) if lot.draw_from <= d < lot.draw_until) for d in draws.tolist()]
    for block in np.unique(blocks):
        assert len(set(np.array(owner)[blocks == block])) == 1


@given(st.integers(0, 1000), st.integers(1, 60))
def test_parts_take_every_lot_once_and_evenly(count, parts):
    taken = [list(lots_of_part(count, (number, parts))) for number in range(1, parts + 1)]
    assert list(itertools.chain(*taken)) == list(range(count))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1


def test_the_size_of_a_lot_follows_the_plan():
    assert choose_lot_chips(112, 16) == 2048
    assert choose_lot_chips(100_000, 256) == 6400
    assert choose_lot_chips(4_000_000, 512) == 16_384
    assert choose_lot_chips(112, 16, wanted=20) == 32
