"""The order of rows: a number drawn for each cell from seed and cell alone, so that the order of some chips is the same
whichever others a campaign has; and the cutting of that order into lots.

A lot is what is planned, replaced and fixed together: it becomes one generation. Lots are cut by the plan alone, so
that hosts which each take some of them agree on every row without asking one another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from m3etl.spec.hashing import hashed_uniform
from m3etl.spec.lattice import Cells

block_side = 8  # wall-to-wall plans: chips a side of the blocks whose order is drawn
_block_bits = 6  # position inside a block
draw_end = 2**63 - 1
least_lot_chips, most_lot_chips, usual_lots = 2048, 16_384, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LotCut:
    """One lot: its chips are those with draw_from <= draw < draw_until. size: how many of them are no reserve."""

    size: int
    draw_from: int
    draw_until: int


def draws_of_cells(cells: Cells, seed: int, *, wall_to_wall: bool) -> npt.NDArray[np.int64]:
    """(N,) numbers in [0, 2**59) whose order is the order of rows: chip by chip, or wall to wall by blocks of
    neighbours, north to south and west to east inside a block.
    """
    if not wall_to_wall:
        return _drawn(hashed_uniform(seed, "rows", cells.epsg, cells.column, cells.row))
    block = hashed_uniform(seed, "row blocks", cells.epsg, cells.column // block_side, cells.row // block_side)
    inside = (block_side - 1 - cells.row % block_side) * block_side + cells.column % block_side
    return (_drawn(block) << _block_bits) | inside


def choose_lot_chips(planned_chips: int, shard_chips: int, wanted: int = 0) -> int:
    """Chips of a lot, a multiple of `shard_chips`: what is wanted, else a sixteenth of the plan within [2048, 16384].

    Large enough that reserves of the same ecoregion or biome are found within the lot.
    """
    chips = wanted or min(max(planned_chips // usual_lots, least_lot_chips), most_lot_chips)
    return -(-chips // shard_chips) * shard_chips


def cut_lots(draws: Iterable[npt.NDArray[np.int64]], lot_chips: int, *, wall_to_wall: bool) -> Iterator[LotCut]:
    """Lots of at most `lot_chips` chips (but for one block that is larger) from ascending draws, given in batches.

    Together they cover every number from 0 on, so each reserve belongs to one. Blocks are never cut.
    """
    size, start = 0, 0
    for first, count in _runs(draws, _block_bits if wall_to_wall else 0):
        if size and size + count > lot_chips:
            yield LotCut(size=size, draw_from=start, draw_until=first)
            size, start = 0, first
        size += count
    if size:
        yield LotCut(size=size, draw_from=start, draw_until=draw_end)


def lots_of_part(count: int, part: tuple[int, int]) -> range:
    """Which of `count` lots the part (i of n, from 1) has: runs of lots, as even as they go."""
    number, parts = part
    return range(count * (number - 1) // parts, count * number // parts)


def _runs(draws: Iterable[npt.NDArray[np.int64]], bits: int) -> Iterator[tuple[int, int]]:
    """(first number, chips) of each block."""
    open_block, chips = -1, 0
    for batch in draws:
        blocks, counts = np.unique(batch >> bits, return_counts=True)
        for block, count in zip(blocks.tolist(), counts.tolist(), strict=True):
            if block == open_block:
                chips += count
                continue
            if chips:
                yield open_block << bits, chips
            open_block, chips = block, count
    if chips:
        yield open_block << bits, chips


def _drawn(uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return np.asarray(uniform * 2.0**53).astype(np.int64)
