"""What each strategy of `sample` chooses: cells balanced over biomes, wall to wall over a region, or at points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import shapely

from m3etl.campaign import SampleConfig
from m3etl.errors import InputError
from m3etl.io.plan import batch_rows, extra_columns, plan_types
from m3etl.io.points import PointTable
from m3etl.spec.biomes import biome_count, biome_name, no_biome
from m3etl.spec.catalog import known_arrays
from m3etl.spec.cellstreams import CellRules, is_in
from m3etl.spec.ecoregions import Ecoregions, area_km2_of
from m3etl.spec.exclusion import Exclusion
from m3etl.spec.lattice import Cells, north_limit_lat, south_limit_lat
from m3etl.spec.region import Region
from m3etl.spec.sampling import cells_of_points, draw_biome_cells
from m3etl.spec.walltowall import SeamCells, cells_in_region
from m3etl.stages.summary import Progress

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

largest_plan = 20_000_000  # chips; a plan of a million has about 100 MB on disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Consecutive chips of a plan: (N,) each, N is at most the plan's row group.

    `ecoregion`: index of the ecoregion of each cell's centre or -1; `year`: the year that the user's own columns give
    a chip, 0 for none; `columns`: the user's own, by name.
    """

    cells: Cells
    ecoregion: Integers
    reserve: Flags
    year: Integers
    columns: dict[str, pa.Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a strategy chose, part by part. `rejected` (counts by reason) and `facts` are complete after the last part.

    `extra`: types of the user's own columns.
    """

    parts: Iterator[Part]
    extra: dict[str, pa.DataType] = field(default_factory=dict)
    rejected: Counter[str] = field(default_factory=Counter)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where chips may lie. `taken`: sorted keys of the cells of the present plan; `planned`: chips per ecoregion."""

    region: Region
    ecoregions: Ecoregions
    exclusion: Exclusion | None
    taken: Integers
    planned: Integers
    threads: int


def select_cells(config: SampleConfig, ground: Ground, points: PointTable | None, progress: Progress) -> Selection:
    """The cells of the configured strategy. Raises InputError where it cannot work on the region."""
    if config.strategy == "grid":
        return _select_grid(config, ground, progress)
    if points is not None:
        return _select_points(config, ground, points, progress)
    return _select_biomes(config, ground, progress)


def _select_biomes(config: SampleConfig, ground: Ground, progress: Progress) -> Selection:
    left = config.chips

    def advance(count: int) -> None:
        # More cells are drawn than are asked for, as reserve and in advance.
        nonlocal left
        progress.advance(min(count, left))
        left -= min(count, left)

    drawn = draw_biome_cells(
        ground.ecoregions,
        biomes=config.biomes,
        chips=config.chips,
        rules=CellRules(
            cell_m=config.chip_px * 10,
            seed=config.seed,
            spacing_m=config.spacing_m,
            taken=ground.taken,
            is_excluded=None if ground.exclusion is None else ground.exclusion.near,
        ),
        reserve_fraction=config.reserve_fraction,
        per_ecoregion=config.per_ecoregion,
        planned=ground.planned,
        threads=ground.threads,
        advance=advance,
    )
    absent = [biome for biome in config.biomes if biome not in drawn.quota]
    facts: dict[str, Any] = {"asked": config.chips}
    if absent:
        facts["biomes not in the region"] = ", ".join(map(biome_name, absent))
        progress.say(f"not in {ground.region.name}: {facts['biomes not in the region']}; the others share their chips")
    missing = sum(drawn.missing.values())
    if missing:
        facts["missing"] = missing
        short = ", ".join(f"{biome_name(biome)} {count}" for biome, count in drawn.missing.items() if count)
        progress.say(f"there is no room for {missing} chips: {short}")
    if drawn.exhausted:
        facts["ecoregions without room for their share"] = len(drawn.exhausted)
    outcomes = {**drawn.outcomes, "accepted and needed (chips and reserve)": len(drawn.cells)}
    facts["tried"] = [{"outcome": name, "count": count} for name, count in outcomes.items() if count]
    nothing = np.zeros(len(drawn.cells), dtype=np.int64)
    return Selection(
        parts=_sliced(drawn.cells, drawn.ecoregion, drawn.reserve, nothing, {}),
        rejected=Counter({"chips without room": missing}),
        facts=facts,
    )


def _select_grid(config: SampleConfig, ground: Ground, progress: Progress) -> Selection:
    cell_m = config.chip_px * 10
    reachable = shapely.intersection(ground.region.geometry, shapely.box(-180, south_limit_lat, 180, north_limit_lat))
    area_km2, reachable_km2 = (_area_km2(shape) for shape in (ground.region.geometry, reachable))
    expected = reachable_km2 / (cell_m / 1000.0) ** 2
    if expected > largest_plan:
        raise InputError(
            f"a grid of {config.chip_px} px chips over {ground.region.name} would have about {expected:,.0f} chips; "
            f"at most {largest_plan:,} make a plan",
            hint="Choose a smaller region or a larger --chip-px.",
        )
    rejected: Counter[str] = Counter()
    facts: dict[str, Any] = {}
    if area_km2 - reachable_km2 > 0.5:
        facts["outside 80S-84N km2"] = round(area_km2 - reachable_km2)

    def parts() -> Iterator[Part]:
        seams = SeamCells(cell_m)
        chips = unowned = 0
        for cells in _gathered(cells_in_region(reachable, cell_m), cell_m):
            wanted, ecoregion = _wanted(cells, config, ground, rejected, "cells")
            kept = cells[wanted]
            seams.add(kept)
            chips += len(kept)
            unowned += int(np.sum(ecoregion < 0))
            progress.advance(len(kept))
            nothing = np.zeros(len(kept), dtype=np.int64)
            yield Part(cells=kept, ecoregion=ecoregion, reserve=nothing.astype(bool), year=nothing)
        found = seams.figures()
        facts["area km2"] = round(chips * (cell_m / 1000.0) ** 2)
        facts["cells in no ecoregion (sea, ice)"] = unowned
        facts["cells on zone seams"] = found.cells
        facts["covered twice km2"] = round(found.overlap_km2, 1)
        facts["gaps km2"] = round(found.gap_km2, 1)

    return Selection(parts=parts(), rejected=rejected, facts=facts)


def _select_points(config: SampleConfig, ground: Ground, points: PointTable, progress: Progress) -> Selection:
    inside = np.flatnonzero(ground.region.contains_lonlat(points.lon, points.lat))
    found = cells_of_points(points.lon[inside], points.lat[inside], config.chip_px * 10)
    rejected = Counter(
        {
            f"points outside {ground.region.name}": len(points.lon) - len(inside),
            "points outside 80S-84N": found.unreachable,
            "points whose cell crosses a zone edge": found.zone_edge,
            "points in the cell of another point": found.duplicate,
        }
    )
    wanted, ecoregion = _wanted(found.cells, config, ground, rejected, "points")
    frame = _under_free_names(points.columns, progress).iloc[inside[found.source[wanted]]].reset_index(drop=True)
    columns = extra_columns(frame.drop(columns="year", errors="ignore"))
    cells = found.cells[wanted]
    progress.advance(len(cells))
    return Selection(
        parts=_sliced(cells, ecoregion, np.zeros(len(cells), dtype=bool), _years_of(frame), columns),
        extra={name: values.type for name, values in columns.items()},
        rejected=rejected,
        facts={"points": len(points.lon), "points in no ecoregion (sea, ice)": int(np.sum(ecoregion < 0))},
    )


def _under_free_names(columns: pd.DataFrame, progress: Progress) -> pd.DataFrame:
    """The user's columns, those named like a column of the plan or like an array as `point_NAME`, which is said: what
    `evaluate --label` and `--modality` name must be one thing. Raises InputError where that name is taken as well.
    """
    taken = ({*plan_types, "geometry"} - {"year"}) | set(known_arrays())
    renamed = {name: f"point_{name}" for name in columns.columns if name in taken}
    if twice := sorted(set(renamed.values()) & set(columns.columns)):
        raise InputError(
            f"the points have columns {', '.join(twice)}, and the same without point_, which would be kept as these",
            hint="Give one of each pair another name.",
        )
    if renamed:
        kept = ", ".join(f"{name} as {other}" for name, other in renamed.items())
        progress.say(f"columns named like one of the plan or like an array are kept under other names: {kept}")
    return columns.rename(columns=renamed)


def _wanted(
    cells: Cells, config: SampleConfig, ground: Ground, rejected: Counter[str], what: str
) -> tuple[Flags, Integers]:
    """Which cells are new, away from excluded places and have their centre in the selected biomes; their ecoregions.

    Where no biome is left out, cells outside every biome (sea, ice) stay. The others are counted in `rejected`.
    """
    wanted = ~is_in(cells.key, ground.taken)
    rejected[f"{what} of the plan as it was"] += int(np.sum(~wanted))
    if ground.exclusion is not None:
        left = np.flatnonzero(wanted)
        near = left[ground.exclusion.near(cells[left])]
        wanted[near] = False
        rejected[f"{what} near excluded places"] += len(near)
    left = np.flatnonzero(wanted)
    found = ground.ecoregions.lookup(*cells[left].centre_lonlat)
    if len(set(config.biomes)) < biome_count:
        selected = np.isin(np.append(ground.ecoregions.biome, no_biome)[found], config.biomes)
        wanted[left[~selected]] = False
        rejected[f"{what} outside the selected biomes"] += int(np.sum(~selected))
        found = found[selected]
    return wanted, found


def _sliced(
    cells: Cells, ecoregion: Integers, reserve: Flags, year: Integers, columns: dict[str, pa.Array]
) -> Iterator[Part]:
    for start in range(0, len(cells), batch_rows):
        part = slice(start, start + batch_rows)
        yield Part(
            cells=cells[part],
            ecoregion=ecoregion[part],
            reserve=reserve[part],
            year=year[part],
            columns={name: values.slice(start, batch_rows) for name, values in columns.items()},
        )


def _gathered(batches: Iterator[Cells], cell_m: int) -> Iterator[Cells]:
    """The same cells in the same order, in batches of the plan's row groups."""
    waiting: list[Cells] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        while count >= batch_rows:
            joined = _joined(waiting, cell_m)
            yield joined[:batch_rows]
            waiting, count = [joined[batch_rows:]], count - batch_rows
    if count:
        yield _joined(waiting, cell_m)


def _joined(parts: list[Cells], cell_m: int) -> Cells:
    epsg, column, row = (np.concatenate([getattr(part, name) for part in parts]) for name in ("epsg", "column", "row"))
    return Cells(cell_m=cell_m, epsg=epsg, column=column, row=row)


def _years_of(columns: pd.DataFrame) -> Integers:
    """The year of the chip's date, else the user's own year, else 0."""
    years = np.zeros(len(columns), dtype=np.int64)
    for name in ("year", "date"):
        if name in columns:
            given = columns[name]
            numbers = pd.to_numeric(given.astype(str).str.slice(0, 4) if name == "date" else given, errors="coerce")
            years = np.where(numbers.notna(), numbers.fillna(0), years).astype(np.int64)
    return years


def _area_km2(shape: Any) -> float:
    return float(area_km2_of(np.asarray([shapely.segmentize(shape, 0.5)], dtype=object))[0])
