"""Which split a chip belongs to: a function of the split seed and the global equal-area block of its centre.

Blocks: the sphere is cut into rows of about `block_km` and each row into as many columns as keep the blocks about
square; row borders are shifted a little so that all blocks have exactly the same area on the sphere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from m3etl.spec.hashing import hashed_uniform

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

split_names: tuple[str, ...] = ("train", "val", "test", "buffer")
train, val, test, buffer = range(4)

_mean_radius_km = 6371.0072
# Smallest radius of curvature of WGS 84: distances come out too short by up to 1 %, so the buffer is never too narrow.
smallest_radius_km = 6335.439


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """Seed; side of a block in km; fractions of blocks for train, val and test (they add up to one); buffer in km."""

    seed: int
    block_km: float
    fractions: tuple[float, float, float]
    buffer_km: float

    def __post_init__(self) -> None:
        problems = []
        if not 1.0 <= self.block_km <= 2000.0:
            problems.append(f"block_km must be within 1 and 2000, not {self.block_km:g}")
        if min(self.fractions) < 0 or abs(sum(self.fractions) - 1.0) > 1e-9:
            problems.append(
                "the fractions train, val, test must not be negative and add up to 1, not " + str(self.fractions)
            )
        if not 0.0 <= self.buffer_km <= self.block_km / 2.5:
            problems.append(f"buffer_km must be within 0 and block_km / 2.5, not {self.buffer_km:g}")
        if problems:
            raise ValueError("; ".join(problems))

    def reach_km(self, chip_m: float) -> float:
        """How near to a foreign block a chip's centre is `buffer`. ValueError where the blocks are too small."""
        reach = self.buffer_km + float(np.sqrt(0.5)) * chip_m / 1000.0
        if reach > 0.6 * self.block_km:
            raise ValueError(f"blocks of {self.block_km:g} km are too small for a buffer of {reach:.1f} km")
        return reach


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Blocks of one size: `columns`: (R,) number in each row from south to north; `edge_lat`: (R + 1,) degrees."""

    columns: Integers
    edge_lat: Floats

    def block_of(self, lon: Floats, lat: Floats) -> tuple[Integers, Integers]:
        """Row and column of the block of each point."""
        row = np.clip(np.searchsorted(self.edge_lat, lat, side="right") - 1, 0, len(self.columns) - 1)
        return row, self.column_of(row, lon)

    def column_of(self, row: Integers, lon: Floats) -> Integers:
        count = self.columns[row]
        column = np.floor((np.asarray(lon) + 180.0) % 360.0 * count / 360.0).astype(np.int64)
        return np.minimum(column, count - 1)


@lru_cache(maxsize=8)
def blocks_of(block_km: float) -> Blocks:
    """The sphere in equal-area blocks of about `block_km` a side (after Leopardi 2006, without the caps)."""
    rows = max(2, round(np.pi * _mean_radius_km / block_km))
    middle = np.radians((np.arange(rows) + 0.5) * 180.0 / rows - 90.0)
    columns = np.maximum(3, np.round(2 * np.pi * _mean_radius_km * np.cos(middle) / block_km)).astype(np.int64)
    sine = np.concatenate([[0], np.cumsum(columns)]) * (2.0 / columns.sum()) - 1.0
    return Blocks(columns=columns, edge_lat=np.degrees(np.arcsin(np.clip(sine, -1.0, 1.0))))


def split_of_lonlat(rule: SplitRule, lon: Floats, lat: Floats, chip_m: float) -> npt.NDArray[np.int8]:
    """Index into `split_names` of each chip centre, (N,) int8.

    A chip is `buffer` where a block of another split is nearer to its centre than `buffer_km` and half the chip's
    diagonal: footprints of chips of different splits are then at least `buffer_km` apart.
    """
    blocks = blocks_of(rule.block_km)
    row, column = blocks.block_of(lon, lat)
    own = _split_of_block(rule, row, column)
    if rule.buffer_km == 0.0:
        return own
    reach_km = rule.reach_km(chip_m)
    near = np.zeros(len(own), dtype=bool)
    for row_step in (-1, 0, 1):
        other_row = row + row_step
        usable = (other_row >= 0) & (other_row < len(blocks.columns))
        other_row = np.where(usable, other_row, row)
        home = blocks.column_of(other_row, lon)
        for column_step in (-1, 0, 1):
            other_column = (home + column_step) % blocks.columns[other_row]
            differs = usable & ~near & (_split_of_block(rule, other_row, other_column) != own)
            chosen = np.flatnonzero(differs)
            distance = _distance_km(blocks, other_row[chosen], other_column[chosen], lon[chosen], lat[chosen])
            near[chosen] = distance < reach_km
    return np.where(near, np.int8(buffer), own)


def names_of_splits(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.object_]:
    """train, val, test or buffer for each code."""
    return np.asarray(split_names, dtype=object)[codes]


def _split_of_block(rule: SplitRule, row: Integers, column: Integers) -> npt.NDArray[np.int8]:
    uniform = hashed_uniform(rule.seed, "split", row, column)
    first, second = rule.fractions[0], rule.fractions[0] + rule.fractions[1]
    return np.where(uniform < first, np.int8(train), np.where(uniform < second, np.int8(val), np.int8(test)))


def _distance_km(blocks: Blocks, row: Integers, column: Integers, lon: Floats, lat: Floats) -> Floats:
    """Shortest distance from each point to its block, a box of longitude and latitude; zero inside.

    Beside the box the nearest point lies on the nearer meridian edge, at the foot of the perpendicular great circle
    or at a corner.
    """
    width = 360.0 / blocks.columns[row]
    from_middle = (lon + 180.0 - (column + 0.5) * width + 180.0) % 360.0 - 180.0
    beside = np.radians(np.maximum(np.abs(from_middle) - width / 2, 0.0))
    south, north = np.radians(blocks.edge_lat[row]), np.radians(blocks.edge_lat[row + 1])
    point = np.radians(lat)
    foot = np.clip(np.arctan2(np.sin(point), np.cos(point) * np.cos(beside)), south, north)
    half = np.sin((foot - point) / 2) ** 2 + np.cos(foot) * np.cos(point) * np.sin(beside / 2) ** 2
    return np.asarray(2 * smallest_radius_km * np.arcsin(np.sqrt(np.clip(half, 0.0, 1.0))))
