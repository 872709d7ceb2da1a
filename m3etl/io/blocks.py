"""Square blocks of neighbouring chips: planned with one anchor and fetched in one request. A block's corners are
multiples of its own side, so which block a chip belongs to follows from the chip alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from m3etl.spec.chipgrid import ChipGrid
from m3etl.spec.jobs import max_request_bands, max_request_bytes, max_request_side_px, request_bytes
from m3etl.spec.modality import ArraySpec, Shape

block_sides: tuple[int, ...] = (1, 2, 4, 8)  # in chips; wall-to-wall plans keep squares of the largest together


def block_of(chip: ChipGrid, chips: int) -> ChipGrid:
    """The block of `chips` x `chips` that a chip lies in."""
    if chips == 1:
        return chip
    side = chips * chip.chip_m
    column, row = int(chip.xmin // side), int((chip.ymax - chip.chip_m) // side)
    return ChipGrid(
        chip_id=f"block-{chip.epsg}-{round(side):04d}-{column:04d}-{row:04d}",
        epsg=chip.epsg,
        xmin=column * side,
        ymax=(row + 1) * side,
        chip_px=chip.chip_px,
        chips=chips,
    )


def place_in(block: ChipGrid, chip: ChipGrid) -> tuple[int, int]:
    """Row from the top and column from the left of a chip in its block."""
    return round((block.ymax - chip.ymax) / chip.chip_m), round((chip.xmin - block.xmin) / chip.chip_m)


def largest_block(specs: Sequence[ArraySpec], chip_px: int, *, extra_bytes: int = 0, most_bytes: int) -> int:
    """Chips a side of the largest block whose request is within the service's limits, and within `most_bytes`.

    extra_bytes: counted for every pixel besides the arrays.
    """
    rasters = [spec for spec in specs if spec.shape is Shape.RASTER]
    if sum(len(spec.bands) for spec in rasters) > max_request_bands:
        return 1
    for chips in sorted(block_sides[1:], reverse=True):
        side = chips * chip_px
        counted = request_bytes(side, side, rasters) + side * side * extra_bytes
        if side <= max_request_side_px and counted <= min(max_request_bytes, most_bytes):
            return chips
    return 1
