"""How many requests and export tasks a selection of chips makes, counted on their cells before scenes are known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from m3etl.spec.exporttasks import cells_a_side
from m3etl.spec.modality import ArraySpec, Shape, Temporal

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipCells:
    """Places of chips in their lattices: EPSG code, column and row (from the equator or 10,000 km south), (N,) each."""

    epsg: Integers
    column: Integers
    row: Integers

    def __len__(self) -> int:
        return len(self.epsg)

    def squares(self, side: int) -> Integers:
        """A number for each chip's square of `side` x `side` cells; equal numbers are the same square."""
        return (self.epsg << 44) + ((self.column // side + (1 << 21)) << 22) + self.row // side + (1 << 21)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskGroup:
    """Export tasks that bring arrays of one data type, size and way of choosing images.

    least, most: tasks, one a region tile where all its chips are made of the same images, one a chip or block where
    none are; pixels, nbytes: of all files together before compression, one task a tile.
    """

    arrays: tuple[str, ...]
    dtype: str
    side: int
    least: int
    most: int
    pixels: int
    nbytes: int

    def share(self, fraction: float) -> TaskGroup:
        """The same of a part of the chips."""
        counts = {name: math.ceil(getattr(self, name) * fraction) for name in ("least", "most", "pixels", "nbytes")}
        return replace(self, **counts)


def count_squares(cells: ChipCells, side: int) -> int:
    """Squares of `side` x `side` cells that hold a chip."""
    return len(np.unique(cells.squares(side)))


def count_block_requests(cells: ChipCells, side: int) -> int:
    """Requests when a block of one anchor goes in one request where half of it is wanted, else its quarters do."""
    requests, left = 0, cells
    while side > 1 and len(left):
        _, place, counts = np.unique(left.squares(side), return_inverse=True, return_counts=True)
        full = 2 * counts >= side * side
        requests += int(full.sum())
        thin = ~full[place]
        left = ChipCells(epsg=left.epsg[thin], column=left.column[thin], row=left.row[thin])
        side //= 2
    return requests + len(left)


def count_tasks(
    cells: ChipCells, specs: Sequence[ArraySpec], *, chip_px: int, chip_m: float, tile_px: int, block_chips: int
) -> list[TaskGroup]:
    """The export tasks of these chips. Nothing is known of their scenes yet, so their number has two bounds."""
    rasters = [spec for spec in specs if spec.shape is Shape.RASTER]
    if not rasters or not len(cells):
        return []
    tile = cells_a_side(rasters, chip_px=chip_px, tile_px=tile_px)
    tiles, covered = _tiles(cells, tile)
    anchors = count_squares(cells, block_chips)
    groups: dict[tuple[int, str, bool], list[ArraySpec]] = {}
    for spec in rasters:
        groups.setdefault((spec.pixels(chip_m), spec.dtype, spec.temporal is Temporal.STATIC), []).append(spec)
    return [
        _group(members, side, dtype, tiles, tiles if is_static else max(tiles, anchors), covered)
        for (side, dtype, is_static), members in groups.items()
    ]


def _group(specs: Sequence[ArraySpec], side: int, dtype: str, least: int, most: int, covered: int) -> TaskGroup:
    pixels = covered * side * side
    bands = sum(len(spec.bands) for spec in specs)
    return TaskGroup(
        arrays=tuple(spec.name for spec in specs),
        dtype=dtype,
        side=side,
        least=least,
        most=most,
        pixels=pixels,
        nbytes=pixels * bands * np.dtype(dtype).itemsize,
    )


def _tiles(cells: ChipCells, side: int) -> tuple[int, int]:
    """Region tiles that hold a chip, and the cells of the smallest rectangles around their chips."""
    squares = cells.squares(side)
    order = np.argsort(squares, kind="stable")
    first = np.flatnonzero(np.append(True, np.diff(squares[order]) != 0))
    wide, high = (span for span in _spans(cells, order, first))
    return len(first), int((wide * high).sum())


def _spans(cells: ChipCells, order: Integers, first: Integers) -> Iterator[Integers]:
    for values in (cells.column[order], cells.row[order]):
        yield np.maximum.reduceat(values, first) - np.minimum.reduceat(values, first) + 1
