"""Draws the plan of a campaign: cells, years, splits, and where each chip lies; writes chips.parquet."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from m3etl.campaign import Campaign, SampleConfig
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.ecoregions import normalise_ecoregions
from m3etl.io.plan import plan_types, read_plan, write_plan
from m3etl.io.points import read_points
from m3etl.io.regions import read_region, shipped_regions
from m3etl.spec.biomes import biome_count, biome_name, no_biome, select_biomes
from m3etl.spec.ecoregions import Ecoregions, build_ecoregions
from m3etl.spec.lattice import Cells, check_cell_size
from m3etl.spec.region import Region
from m3etl.spec.sampling import cells_of_points, draw_biome_cells, years_of_cells
from m3etl.spec.splits import SplitRule, names_of_splits, split_of_lonlat
from m3etl.spec.walltowall import cells_in_region, seams_of
from m3etl.stages.summary import Progress, Summary

if TYPE_CHECKING:
    import geopandas

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

largest_plan = 20_000_000  # chips; the plan is held in memory at about 250 bytes a chip
years_of_interest = (1980, 2100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a strategy chose: cells, the reserve flag of each, the user's own columns, rejects and facts to show."""

    cells: Cells
    reserve: Flags
    columns: pd.DataFrame
    rejected: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def run_sample(campaign: Campaign, ecoregions: geopandas.GeoDataFrame, progress: Progress) -> Summary:
    """Draw the plan that the configuration asks for and write chips.parquet.

    `ecoregions` is a table of RESOLVE's columns from a file or from Earth Engine. The same configuration gives the
    same bytes. Chips whose generation is fixed stay in the plan as they are; others are drawn anew. Raises InputError
    for a wrong configuration (with every problem of it), NothingSelectedError where no chip comes out.
    """
    started = time.monotonic()
    config = campaign.config.sample
    region = read_region(config.region)
    rule = check_sampling(campaign)
    table = normalise_ecoregions(ecoregions, "the table of ecoregions")
    known = build_ecoregions(
        eco_id=table["eco_id"].tolist(),
        name=table["eco_name"].tolist(),
        biome_name=table["biome_name"].tolist(),
        realm=table["realm"].tolist(),
        geometry=np.asarray(table.geometry.array, dtype=object),
        within=None if region.is_globe else region.geometry,
    )
    progress.start("sample", config.chips if config.strategy == "biome" else None)
    selection = _select(config, region, known, progress)
    progress.finish()
    plan = plan_of_cells(selection, known, region, config, rule)
    if len(plan) == 0:
        raise NothingSelectedError(
            f"strategy {config.strategy} selects no chip in the region {region.name}"
            + "".join(f"; {count} {reason}" for reason, count in selection.rejected.items() if count),
            hint="Choose another region with --region, other biomes with --biomes, or other points.",
        )
    kept = _fixed_chips(campaign)
    plan = _joined(kept, plan)
    write_plan(campaign.plan_path, plan)
    return _summary(campaign, region, plan, selection, len(kept), time.monotonic() - started)


def check_sampling(campaign: Campaign) -> SplitRule:
    """The split rule of a campaign whose sampling options are sound. Raises InputError that lists every problem."""
    config, split = campaign.config.sample, campaign.config.split
    problems = []
    if config.strategy not in {"biome", "grid", "points"}:
        problems.append(f"strategy must be biome, grid or points, not {config.strategy!r}")
    if config.chips <= 0:
        problems.append(f"chips must be at least 1, not {config.chips}")
    elif config.chips > largest_plan:
        problems.append(f"chips must be at most {largest_plan:,}, not {config.chips:,}")
    first, last = config.years
    if first > last:
        problems.append(f"years {first}:{last} are reversed")
    elif first < years_of_interest[0] or last > years_of_interest[1]:
        problems.append(f"years {first}:{last} are not within {years_of_interest[0]} and {years_of_interest[1]}")
    if config.seed < 0:
        problems.append(f"seed must not be negative, but is {config.seed}")
    if not 0.0 <= config.reserve_fraction <= 2.0:
        problems.append(f"reserve_fraction must be within 0 and 2, not {config.reserve_fraction:g}")
    if not 0.0 <= config.spacing_m <= 100_000.0:
        problems.append(f"spacing_m must be within 0 and 100000, not {config.spacing_m:g}")
    elif config.spacing_m and config.strategy != "biome":
        problems.append(f"spacing_m belongs to strategy biome, not to {config.strategy}")
    if config.points and config.strategy != "points":
        problems.append(f"a file of points belongs to strategy points, not to {config.strategy}")
    if config.strategy == "points" and not config.points:
        problems.append("strategy points needs --points FILE")
    rule = None
    try:
        select_biomes(config.biomes)
    except InputError as error:
        problems.append(error.message)
    try:
        check_cell_size(round(campaign.chip_m))
        fractions = (split.train, split.val, split.test)
        rule = SplitRule(seed=split.seed, block_km=split.block_km, fractions=fractions, buffer_km=split.buffer_km)
        rule.reach_km(campaign.chip_m)
    except ValueError as error:
        problems.append(str(error))
    if problems or rule is None:
        raise InputError("cannot sample: " + "; ".join(problems), hint="Correct these options or campaign.toml.")
    return rule


def plan_of_cells(
    selection: Selection, ecoregions: Ecoregions, region: Region, config: SampleConfig, rule: SplitRule
) -> pd.DataFrame:
    """The rows of the plan, in the order of the cells: every column of `plan_types`, then the user's own."""
    cells = selection.cells
    lon, lat = cells.centre_lonlat
    found = ecoregions.lookup(lon, lat)
    # One more entry at the end, for the index -1 of chips that lie in no ecoregion.
    biome = np.append(ecoregions.biome, no_biome)[found]
    eco_id = np.append(ecoregions.eco_id, -1)[found]
    realm = np.asarray([*ecoregions.realm, ""], dtype=object)[found]
    west, south, east, north = cells.bounds_xy
    plan = pd.DataFrame(
        {
            "chip_id": cells.chip_ids(),
            "row": np.full(len(cells), -1, dtype=np.int64),
            "generation": np.full(len(cells), -1, dtype=np.int32),
            "epsg": cells.epsg.astype(np.int32),
            "xmin": west,
            "ymin": south,
            "xmax": east,
            "ymax": north,
            "lon": lon,
            "lat": lat,
            "biome": biome.astype(np.int16),
            "ecoregion": eco_id.astype(np.int32),
            "realm": realm,
            "region": _region_names(region, lon, lat),
            "year": _years(selection, config).astype(np.int16),
            "split": names_of_splits(split_of_lonlat(rule, lon, lat, float(cells.cell_m))),
            "reserve": selection.reserve,
        }
    )
    return pd.concat([plan, selection.columns.drop(columns="year", errors="ignore")], axis=1)


def _select(config: SampleConfig, region: Region, ecoregions: Ecoregions, progress: Progress) -> Selection:
    if config.strategy == "grid":
        return _select_grid(config, region, ecoregions, progress)
    if config.strategy == "points":
        return _select_points(config, region, ecoregions)
    return _select_biomes(config, region, ecoregions, progress)


def _select_biomes(config: SampleConfig, region: Region, ecoregions: Ecoregions, progress: Progress) -> Selection:
    drawn = draw_biome_cells(
        ecoregions,
        biomes=config.biomes,
        chips=config.chips,
        cell_m=config.chip_px * 10,
        seed=config.seed,
        reserve_fraction=config.reserve_fraction,
        spacing_m=config.spacing_m,
        advance=progress.advance,
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
    wanted, outside = _in_biomes(cells, ecoregions, config.biomes)
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
        reserve=np.zeros(len(cells), dtype=bool),
        columns=pd.DataFrame(index=range(len(cells))),
        rejected={"cells outside the selected biomes": outside},
        facts=facts,
    )


def _select_points(config: SampleConfig, region: Region, ecoregions: Ecoregions) -> Selection:
    points = read_points(Path(config.points))
    inside = np.flatnonzero(region.contains_lonlat(points.lon, points.lat))
    found = cells_of_points(points.lon[inside], points.lat[inside], config.chip_px * 10)
    wanted, outside = _in_biomes(found.cells, ecoregions, config.biomes)
    columns = points.columns.iloc[inside[found.source[wanted]]].reset_index(drop=True)
    taken = {*plan_types, "geometry"} - {"year"}
    renamed = {name: f"point_{name}" for name in columns.columns if name in taken}
    return Selection(
        cells=found.cells[wanted],
        reserve=np.zeros(int(np.sum(wanted)), dtype=bool),
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


def _in_biomes(cells: Cells, ecoregions: Ecoregions, biomes: tuple[int, ...]) -> tuple[Flags, int]:
    """Which cells have their centre in the selected biomes (all where no biome is left out); how many have not."""
    if len(set(biomes)) == biome_count:
        return np.ones(len(cells), dtype=bool), 0
    found = ecoregions.lookup(*cells.centre_lonlat)
    wanted = np.isin(np.append(ecoregions.biome, no_biome)[found], biomes)
    return wanted, int(np.sum(~wanted))


def _years(selection: Selection, config: SampleConfig) -> Integers:
    """The year of the chip's date, else the user's own year, else one drawn from the configured years."""
    years = years_of_cells(selection.cells, *config.years, config.seed)
    for name in ("year", "date"):
        if name in selection.columns:
            given = selection.columns[name]
            numbers = pd.to_numeric(given.astype(str).str.slice(0, 4) if name == "date" else given, errors="coerce")
            years = np.where(numbers.notna(), numbers.fillna(0), years).astype(np.int64)
    return years


def _region_names(
    region: Region, lon: npt.NDArray[np.float64], lat: npt.NDArray[np.float64]
) -> npt.NDArray[np.object_]:
    """The region of the request; for the globe the shipped region that each chip lies in, if any."""
    names = np.full(len(lon), region.name, dtype=object)
    if region.is_globe:
        for known in shipped_regions():
            names[known.contains_lonlat(lon, lat)] = known.name
    return names


def _fixed_chips(campaign: Campaign) -> pd.DataFrame:
    """Chips of the present plan whose generation is fixed: they have their rows for ever."""
    if not campaign.plan_path.exists():
        return pd.DataFrame(columns=list(plan_types))
    plan = pd.DataFrame(read_plan(campaign.plan_path)).drop(columns="geometry")
    return plan[plan["generation"] >= 0]


def _joined(kept: pd.DataFrame, plan: pd.DataFrame) -> pd.DataFrame:
    if not len(kept):
        return plan
    new = plan[~plan["chip_id"].isin(set(kept["chip_id"]))]
    return pd.concat([kept, new], ignore_index=True) if len(new) else kept


def _summary(
    campaign: Campaign, region: Region, plan: pd.DataFrame, selection: Selection, kept: int, seconds: float
) -> Summary:
    reserve = plan["reserve"].to_numpy(dtype=bool)
    planned = plan[~reserve]
    rejected = {reason: count for reason, count in selection.rejected.items() if count}
    facts: dict[str, Any] = {
        "strategy": campaign.config.sample.strategy,
        "region": region.name,
        "chips": len(planned),
        "reserve": int(reserve.sum()),
        **selection.facts,
    }
    if kept:
        facts["kept from fixed generations"] = kept
    by_biome, spare = Counter(planned["biome"].tolist()), Counter(plan["biome"][reserve].tolist())
    facts["biomes"] = [
        {
            "biome": biome_name(int(biome)),
            "chips": count,
            "reserve": spare[biome],
            "ecoregions": int(
                planned["ecoregion"][(planned["biome"] == biome) & (planned["ecoregion"] >= 0)].nunique()
            ),
        }
        for biome, count in sorted(by_biome.items())
    ]
    facts["splits"] = [
        {"split": name, "chips": count} for name, count in sorted(Counter(planned["split"].tolist()).items())
    ]
    facts["years"] = [
        {"year": year, "chips": count} for year, count in sorted(Counter(planned["year"].tolist()).items())
    ]
    return Summary(
        stage="sample",
        done=len(planned),
        rejected=sum(rejected.values()),
        seconds=seconds,
        errors=rejected,
        facts=facts,
    )
