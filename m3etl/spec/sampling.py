"""Which lattice cells become chips: balanced over biomes, wall to wall over a region, or at given points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from m3etl.errors import InputError
from m3etl.spec.biomes import biome_name
from m3etl.spec.cellstreams import CellRules, CellStreams
from m3etl.spec.ecoregions import Ecoregions
from m3etl.spec.hashing import hashed_uniform
from m3etl.spec.lattice import Cells, cells_of_lonlat
from m3etl.spec.quotas import equal_quotas, largest_remainder, quotas_by_area, raised_to

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class BiomeDraw:
    """A balanced draw: cells by biome, ecoregion and order of drawing, an ecoregion's planned ones before its reserve.

    `ecoregion`: (N,) index into the ecoregions; `reserve`: (N,) flag; `quota`: chips asked for per biome; `missing`:
    chips that no ecoregion of the biome could supply; `exhausted`: names of ecoregions that could not supply their
    own share; `outcomes`: what became of the cells that were tried, by outcome.
    """

    cells: Cells
    ecoregion: Integers
    reserve: Flags
    quota: dict[int, int]
    missing: dict[int, int]
    exhausted: tuple[str, ...]
    outcomes: dict[str, int]


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
    rules: CellRules,
    reserve_fraction: float = 0.25,
    per_ecoregion: bool = False,
    planned: Integers | None = None,
    threads: int = 1,
    advance: Callable[[int], None] = lambda count: None,
) -> BiomeDraw:
    """`chips` equal-area random cells: equal quotas over those of `biomes` that occur, by area over their ecoregions.

    With `per_ecoregion`, every ecoregion of the biomes gets the same number instead. A cell counts for an ecoregion if
    its centre lies there, is wholly inside its zone and drawn once. What an ecoregion draws depends on its own stream
    only, so other biomes never change it and a larger plan continues where a smaller one stopped. With a spacing,
    cells come from a sub-lattice (offset by the seed) whose centres are at least that far apart, also across zones.
    `planned`: (E,) chips that a plan holds already; the quotas then level old and new chips together, as far as
    `chips` new ones can. Raises InputError where no biome of the selection has any area.
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
    weight = np.ones(len(ecoregions)) if per_ecoregion else ecoregions.area_km2
    planned = np.zeros(len(ecoregions), dtype=np.int64) if planned is None else planned
    quota = _quotas(ecoregions, present, chips, rules.seed, planned, per_ecoregion=per_ecoregion)
    asked = {biome: int(quota[ecoregions.biome == biome].sum()) for biome in present}
    streams = CellStreams(ecoregions, rules, threads=threads, advance=advance)
    missing = _settle(streams, quota, weight, present, reserve_fraction)
    cells, owner, reserve = streams.selection(quota, reserve_of(quota, reserve_fraction))
    order = np.lexsort((np.arange(len(cells)), owner, ecoregions.biome[owner]))
    return BiomeDraw(
        cells=cells[order],
        ecoregion=owner[order],
        reserve=reserve[order],
        quota=asked,
        missing=missing,
        exhausted=tuple(ecoregions.name[index] for index in np.flatnonzero(streams.exhausted).tolist()),
        outcomes=streams.outcomes,
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


def _quotas(
    ecoregions: Ecoregions, biomes: Sequence[int], chips: int, seed: int, planned: Integers, *, per_ecoregion: bool
) -> Integers:
    """New chips for each ecoregion, (E,) int64 that adds up to `chips`."""
    quota = np.zeros(len(ecoregions), dtype=np.int64)
    if per_ecoregion:
        members = np.flatnonzero(np.isin(ecoregions.biome, biomes))
        total = chips + int(planned[members].sum())
        equal = quotas_by_area(total, np.ones(len(members)), ecoregions.eco_id[members], seed)
        quota[members] = raised_to(equal, planned[members], chips)
        return quota
    before = np.asarray([planned[ecoregions.biome == biome].sum() for biome in biomes], dtype=np.int64)
    level = equal_quotas(chips + int(before.sum()), biomes, seed)
    of_biome = raised_to(np.asarray([level[biome] for biome in biomes], dtype=np.int64), before, chips)
    for biome, new, old in zip(biomes, of_biome.tolist(), before.tolist(), strict=True):
        members = np.flatnonzero(ecoregions.biome == biome)
        share = quotas_by_area(new + old, ecoregions.area_km2[members], ecoregions.eco_id[members], seed)
        quota[members] = raised_to(share, planned[members], new)
    return quota


def _settle(
    streams: CellStreams, quota: Integers, weight: Floats, biomes: Sequence[int], reserve_fraction: float
) -> dict[int, int]:
    """Draw until every quota is met; what an ecoregion lacks moves to others of its biome. Changes `quota`.

    Returns the chips that no ecoregion of a biome could supply.
    """
    ecoregions = streams.ecoregions
    missing = dict.fromkeys(biomes, 0)
    while True:
        streams.extend(quota + reserve_of(quota, reserve_fraction))
        exhausted = streams.exhausted
        lack = np.where(exhausted, np.maximum(quota - streams.count, 0), 0)
        if not lack.any():
            return missing
        quota -= lack
        for biome in biomes:
            members = ecoregions.biome == biome
            moved = int(lack[members].sum())
            able = np.flatnonzero(members & ~exhausted)
            if len(able):
                quota[able] += largest_remainder(moved, weight[able])
            else:
                missing[biome] += moved
