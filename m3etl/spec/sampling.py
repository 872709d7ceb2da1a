"""Which lattice cells become chips: balanced over biomes, wall to wall over a region, or at given points."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from m3etl.errors import InputError
from m3etl.spec.biomes import biome_name
from m3etl.spec.ecoregions import Ecoregions
from m3etl.spec.hashing import hashed_uniform, stream
from m3etl.spec.lattice import Cells, cells_of_lonlat
from m3etl.spec.quotas import equal_quotas, largest_remainder, quotas_by_area

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

largest_scale = (
    1.002  # largest scale factor of UTM inside its zones (32V at 3E), over which grid metres exceed ground metres
)
_key_bits = 48  # of Cells.key
_attempts_base = 1000
_attempts_per_chip = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class BiomeDraw:
    """A balanced draw: cells by biome, ecoregion and order of drawing, an ecoregion's planned ones before its reserve.

    `ecoregion`: (N,) index into the ecoregions; `reserve`: (N,) flag; `quota`: chips asked for per biome; `missing`:
    chips that no ecoregion of the biome could supply; `exhausted`: names of ecoregions that could not supply their
    own share.
    """

    cells: Cells
    ecoregion: Integers
    reserve: Flags
    quota: dict[int, int]
    missing: dict[int, int]
    exhausted: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PointCells:
    """Cells of a list of points: `source` is the position of the point that stands for each cell (the first one in it).

    Rejected points are counted by reason: unreachable (outside 80S-84N), zone_edge (the cell crosses a zone),
    duplicate (same cell).
    """

    cells: Cells
    source: Integers
    unreachable: int
    zone_edge: int
    duplicate: int


def draw_biome_cells(
    ecoregions: Ecoregions,
    *,
    biomes: Sequence[int],
    chips: int,
    cell_m: int,
    seed: int,
    reserve_fraction: float = 0.25,
    spacing_m: float = 0.0,
    advance: Callable[[int], None] = lambda count: None,
) -> BiomeDraw:
    """Equal quotas over those of `biomes` that occur, by area over their ecoregions, equal-area random cells inside.

    A cell counts for an ecoregion if its centre lies there, is wholly inside its zone and drawn once. What an
    ecoregion draws depends on its own stream only, so other biomes never change it and a larger plan continues where
    a smaller one stopped. With `spacing_m`, cells come from a sub-lattice (offset by the seed) whose centres are at
    least that far apart, also across zones. Raises InputError where no biome of the selection has any area.
    """
    present = [biome for biome in biomes if np.any(ecoregions.biome == biome)]
    if not present:
        found = ", ".join(biome_name(biome) for biome in np.unique(ecoregions.biome).tolist())
        raise InputError(
            "none of the selected biomes (" + ", ".join(map(biome_name, biomes)) + ") occurs in the region",
            hint=f"Biomes in it: {found}."
            if found
            else "There is no land with an ecoregion in it: choose another region.",
        )
    biome_quota = equal_quotas(chips, present, seed)
    quota = np.zeros(len(ecoregions), dtype=np.int64)
    for biome in present:
        members = np.flatnonzero(ecoregions.biome == biome)
        quota[members] = quotas_by_area(
            biome_quota[biome], ecoregions.area_km2[members], ecoregions.eco_id[members], seed
        )
    streams = _CellStreams(ecoregions, cell_m=cell_m, seed=seed, spacing_m=spacing_m, advance=advance)
    missing = _settle(streams, quota, present, reserve_fraction)
    chosen, reserve = streams.selection(quota, reserve_of(quota, reserve_fraction))
    order = np.lexsort((np.arange(len(chosen)), streams.owner[chosen], ecoregions.biome[streams.owner[chosen]]))
    chosen, reserve = chosen[order], reserve[order]
    exhausted = tuple(ecoregions.name[index] for index in np.flatnonzero(streams.exhausted).tolist())
    return BiomeDraw(
        cells=streams.cells(chosen),
        ecoregion=streams.owner[chosen],
        reserve=reserve,
        quota=biome_quota,
        missing=missing,
        exhausted=exhausted,
    )


def reserve_of(quota: Integers, fraction: float) -> Integers:
    """Chips kept in reserve for each ecoregion: the fraction of its quota, rounded up."""
    return np.ceil(np.round(quota * fraction, 9)).astype(np.int64)


def cells_of_points(lon: Floats, lat: Floats, cell_m: int) -> PointCells:
    """The cell of each point's own zone; one chip per cell, in the order of the points."""
    cells, reachable = cells_of_lonlat(lon, lat, cell_m)
    inside = cells.wholly_inside() & reachable
    kept = np.flatnonzero(inside)
    _, first = np.unique(cells.key[kept], return_index=True)
    source = kept[np.sort(first)]
    return PointCells(
        cells=cells[source],
        source=source,
        unreachable=int(np.sum(~reachable)),
        zone_edge=int(np.sum(reachable & ~inside)),
        duplicate=len(kept) - len(source),
    )


def years_of_cells(cells: Cells, first_year: int, last_year: int, seed: int) -> Integers:
    """The preferred year of each cell, uniform over [first_year, last_year]; depends on seed and cell alone."""
    uniform = hashed_uniform(seed, "year", np.full(len(cells), cells.cell_m), cells.key)
    return first_year + np.floor(uniform * (last_year - first_year + 1)).astype(np.int64)


def _settle(streams: _CellStreams, quota: Integers, biomes: Sequence[int], reserve_fraction: float) -> dict[int, int]:
    """Draw until every quota is met; what an ecoregion lacks moves to others of its biome. Changes `quota`.

    Returns the chips that no ecoregion of a biome could supply.
    """
    ecoregions = streams.ecoregions
    missing = dict.fromkeys(biomes, 0)
    while True:
        streams.extend(quota + reserve_of(quota, reserve_fraction))
        lack = np.where(streams.exhausted, np.maximum(quota - streams.count, 0), 0)
        if not lack.any():
            return missing
        quota -= lack
        for biome in biomes:
            members = ecoregions.biome == biome
            moved = int(lack[members].sum())
            able = np.flatnonzero(members & ~streams.exhausted)
            if len(able):
                quota[able] += largest_remainder(moved, ecoregions.area_km2[able])
            else:
                missing[biome] += moved


class _CellStreams:
    """Accepted cells of each ecoregion in the order of its own random stream, extended as far as asked for."""

    def __init__(
        self, ecoregions: Ecoregions, *, cell_m: int, seed: int, spacing_m: float, advance: Callable[[int], None]
    ) -> None:
        self.ecoregions = ecoregions
        self.exhausted = np.zeros(len(ecoregions), dtype=bool)
        self.count = np.zeros(len(ecoregions), dtype=np.int64)
        self.owner = np.zeros(0, dtype=np.int64)
        self._cell_m = cell_m
        self._spacing_m = spacing_m
        self._period = max(1, math.ceil(spacing_m * largest_scale / cell_m))
        self._offset = [int(hashed_uniform(seed, "spacing", axis) * self._period) for axis in (0, 1)]
        self._seed = seed
        self._generators: dict[int, np.random.Generator] = {}
        self._attempts = np.zeros(len(ecoregions), dtype=np.int64)
        self._keys = np.zeros(0, dtype=np.int64)
        self._cells = Cells(cell_m=cell_m, epsg=self._keys, column=self._keys, row=self._keys)
        self._advance = advance

    def cells(self, selection: Integers) -> Cells:
        return self._cells[selection]

    def selection(self, quota: Integers, reserve: Integers) -> tuple[Integers, Flags]:
        """Positions of the first `quota` + `reserve` accepted cells of each ecoregion, and which are the reserve."""
        order = np.argsort(self.owner, kind="stable")
        owner = self.owner[order]
        rank = np.arange(len(owner)) - np.searchsorted(owner, owner, side="left")
        chosen = rank < (quota + reserve)[owner]
        return order[chosen], (rank >= quota[owner])[chosen]

    def extend(self, target: Integers) -> None:
        """Draw until every ecoregion has `target` cells or has used up its attempts, which makes it exhausted."""
        limit = _attempts_base + _attempts_per_chip * target
        while True:
            need = np.where(self.exhausted, 0, target - self.count)
            self.exhausted |= (need > 0) & (self._attempts >= limit)
            need[self.exhausted] = 0
            active = np.flatnonzero(need > 0)
            if not len(active):
                return
            rate = np.maximum((self.count[active] + 1) / (self._attempts[active] + 3), 0.05)
            tries = np.minimum((need[active] / rate * 1.1).astype(np.int64) + 8, (limit - self._attempts)[active])
            self._draw(active, tries)

    def _draw(self, active: Integers, tries: Integers) -> None:
        """Try `tries` more points in each ecoregion of `active`; accept the cells that are new and belong to it."""
        uniforms = np.concatenate(
            [
                self._generator(index).random((count, 3))
                for index, count in zip(active.tolist(), tries.tolist(), strict=True)
            ]
        )
        owner = np.repeat(active, tries)
        self._attempts[active] += tries
        lon, lat, hit = self.ecoregions.draw(owner, uniforms)
        cells, owner = self._snapped(lon[hit], lat[hit], owner[hit])
        _, first = np.unique(owner << _key_bits | cells.key, return_index=True)
        first = np.sort(first)
        first = first[~_is_in(cells.key[first], self._keys)]
        # The lookup is the costliest test, so it comes last.
        first = first[self.ecoregions.lookup(*cells[first].centre_lonlat) == owner[first]]
        self._accept(cells[first], owner[first])

    def _snapped(self, lon: Floats, lat: Floats, owner: Integers) -> tuple[Cells, Integers]:
        cells, reachable = cells_of_lonlat(lon, lat, self._cell_m)
        period, (column, row) = self._period, self._offset
        cells = Cells(
            cell_m=self._cell_m,
            epsg=cells.epsg,
            column=cells.column // period * period + column,
            row=cells.row // period * period + row,
        )
        usable = reachable & cells.wholly_inside(margin_m=self._spacing_m / 2)
        return cells[usable], owner[usable]

    def _accept(self, cells: Cells, owner: Integers) -> None:
        self._cells = Cells(
            cell_m=self._cell_m,
            epsg=np.concatenate([self._cells.epsg, cells.epsg]),
            column=np.concatenate([self._cells.column, cells.column]),
            row=np.concatenate([self._cells.row, cells.row]),
        )
        self.owner = np.concatenate([self.owner, owner])
        self._keys = np.sort(self._cells.key)
        self.count = np.bincount(self.owner, minlength=len(self.ecoregions)).astype(np.int64)
        self._advance(len(cells))

    def _generator(self, index: int) -> np.random.Generator:
        if index not in self._generators:
            self._generators[index] = stream(self._seed, "cells", int(self.ecoregions.eco_id[index]))
        return self._generators[index]


def _is_in(values: Integers, sorted_values: Integers) -> Flags:
    """np.isin by bisection; numpy's hash table degenerates on these regular keys (40x slower, numpy 2.4)."""
    if not len(sorted_values):
        return np.zeros(len(values), dtype=bool)
    place = np.minimum(np.searchsorted(sorted_values, values), len(sorted_values) - 1)
    return np.asarray(sorted_values[place] == values)
