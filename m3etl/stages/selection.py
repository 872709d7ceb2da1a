"""What each strategy of `sample` chooses: cells balanced over biomes, wall to wall over a region, or at points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from m3etl.campaign import SampleConfig
from m3etl.errors import InputError
from m3etl.io.plan import plan_types
from m3etl.io.points import read_points
from m3etl.spec.biomes import biome_count, biome_name, no_biome
from m3etl.spec.ecoregions import Ecoregions
from m3etl.spec.lattice import Cells
from m3etl.spec.region import Region
from m3etl.spec.sampling import cells_of_points, draw_biome_cells
from m3etl.spec.walltowall import cells_in_region, seams_of
from m3etl.stages.summary import Progress

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

largest_plan = 20_000_000  # chips; the plan is held in memory at about 250 bytes a chip


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a strategy chose.

    `ecoregion`: (N,) index of the ecoregion of each cell's centre or -1; `reserve`: (N,) flag; `columns`: the user's
    own, N rows; `rejected`: counts by reason; `facts`: for the summary.
    """

    cells: Cells
    ecoregion: Integers
    reserve: Flags
    columns: pd.DataFrame
    rejected: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def select_cells(config: SampleConfig, region: Region, ecoregions: Ecoregions, progress: Progress) -> Selection:
    """The cells of the configured strategy. Raises InputError where it cannot work on the region or its file."""
    if config.strategy == "grid":
        return _select_grid(config, region, ecoregions, progress)
    if config.strategy == "points":
        return _select_points(config, region, ecoregions)
    return _select_biomes(config, region, ecoregions, progress)


def _select_biomes(config: SampleConfig, region: Region, ecoregions: Ecoregions, progress: Progress) -> Selection:
    left = config.chips

    def advance(count: int) -> None:
        # More cells are drawn than are asked for, as reserve and in advance.
        nonlocal left
        progress.advance(min(count, left))
        left -= min(count, left)

    drawn = draw_biome_cells(
        ecoregions,
        biomes=config.biomes,
        chips=config.chips,
        cell_m=config.chip_px * 10,
        seed=config.seed,
        reserve_fraction=config.reserve_fraction,
        spacing_m=config.spacing_m,
        advance=advance,
    )
    absent = [biome for biome in config.biomes if biome not in drawn.quota]
    facts: dict[str, Any] = {"asked": config.chips}
    if absent:
        facts["biomes not in the region"] = ", ".join(map(biome_name, absent))
        progress.say(f"not in {region.name}: {facts['biomes not in the region']}; the others share their chips")
    missing = sum(drawn.missing.values())
    if missing:
        facts["missing"] = missing
        short = ", ".join(f"{biome_name(biome)} {count}" for biome, count in drawn.missing.items() if count)
        progress.say(f"there is no room for {missing} chips: {short}")
    if drawn.exhausted:
        facts["ecoregions without room for their share"] = len(drawn.exhausted)
    return Selection(
        cells=drawn.cells,
        ecoregion=drawn.ecoregion,
        reserve=drawn.reserve,
        columns=pd.DataFrame(index=range(len(drawn.cells))),
        rejected={"chips without room": missing},
        facts=facts,
    )


def _select_grid(config: SampleConfig, region: Region, ecoregions: Ecoregions, progress: Progress) -> Selection:
    cell_m = config.chip_px * 10
    expected = region.area_km2 / (cell_m / 1000.0) ** 2
    if expected > largest_plan:
        raise InputError(
            f"a grid of {config.chip_px} px chips over {region.name} would have about {expected:,.0f} chips; "
            f"at most {largest_plan:,} make a plan",
            hint="Choose a smaller region or a larger --chip-px.",
        )
    batches = []
    for batch in cells_in_region(region.geometry, cell_m):
        batches.append(batch)
        progress.advance(len(batch))
    cells = Cells(
        cell_m=cell_m,
        epsg=np.concatenate([np.zeros(0, dtype=np.int64), *(batch.epsg for batch in batches)]),
        column=np.concatenate([np.zeros(0, dtype=np.int64), *(batch.column for batch in batches)]),
        row=np.concatenate([np.zeros(0, dtype=np.int64), *(batch.row for batch in batches)]),
    )
    wanted, ecoregion, outside = _in_biomes(cells, ecoregions, config.biomes)
    cells = cells[wanted]
    seams = seams_of(cells)
    facts = {
        "area km2": round(len(cells) * (cell_m / 1000.0) ** 2),
        "cells on zone seams": seams.cells,
        "covered twice km2": round(seams.overlap_km2, 1),
        "gaps km2": round(seams.gap_km2, 1),
    }
    return Selection(
        cells=cells,
        ecoregion=ecoregion,
        reserve=np.zeros(len(cells), dtype=bool),
        columns=pd.DataFrame(index=range(len(cells))),
        rejected={"cells outside the selected biomes": outside},
        facts=facts,
    )


def _select_points(config: SampleConfig, region: Region, ecoregions: Ecoregions) -> Selection:
    points = read_points(Path(config.points))
    inside = np.flatnonzero(region.contains_lonlat(points.lon, points.lat))
    found = cells_of_points(points.lon[inside], points.lat[inside], config.chip_px * 10)
    wanted, ecoregion, outside = _in_biomes(found.cells, ecoregions, config.biomes)
    columns = points.columns.iloc[inside[found.source[wanted]]].reset_index(drop=True)
    taken = {*plan_types, "geometry"} - {"year"}
    renamed = {name: f"point_{name}" for name in columns.columns if name in taken}
    return Selection(
        cells=found.cells[wanted],
        ecoregion=ecoregion,
        reserve=np.zeros(len(ecoregion), dtype=bool),
        columns=columns.rename(columns=renamed),
        rejected={
            f"points outside {region.name}": len(points.lon) - len(inside),
            "points outside 80S-84N": found.unreachable,
            "points whose cell crosses a zone edge": found.zone_edge,
            "points in the cell of another point": found.duplicate,
            "points outside the selected biomes": outside,
        },
        facts={"points": len(points.lon)},
    )


def _in_biomes(cells: Cells, ecoregions: Ecoregions, biomes: tuple[int, ...]) -> tuple[Flags, Integers, int]:
    """Which cells have their centre in the selected biomes, the ecoregions of those, and how many have not.

    Where no biome is left out, cells outside every biome (sea, ice) stay.
    """
    found = ecoregions.lookup(*cells.centre_lonlat)
    wanted = np.isin(np.append(ecoregions.biome, no_biome)[found], biomes)
    if len(set(biomes)) == biome_count:
        wanted = np.ones(len(cells), dtype=bool)
    return wanted, found[wanted], int(np.sum(~wanted))
