"""Draws the plan of a campaign: cells, years, splits, and where each chip lies; writes chips.parquet."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from m3etl.campaign import Campaign, SampleConfig
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.ecoregions import normalise_ecoregions
from m3etl.io.plan import plan_types, read_plan, write_plan
from m3etl.io.regions import read_region, shipped_regions
from m3etl.spec.biomes import biome_name, no_biome, select_biomes
from m3etl.spec.ecoregions import Ecoregions, build_ecoregions
from m3etl.spec.lattice import check_cell_size
from m3etl.spec.region import Region
from m3etl.spec.sampling import years_of_cells
from m3etl.spec.splits import SplitRule, names_of_splits, split_of_lonlat
from m3etl.stages.selection import Selection, largest_plan, select_cells
from m3etl.stages.summary import Progress, Summary

if TYPE_CHECKING:
    import geopandas

Integers = npt.NDArray[np.int64]

years_of_interest = (1980, 2100)


def run_sample(campaign: Campaign, ecoregions: geopandas.GeoDataFrame, progress: Progress) -> Summary:
    """Draw the plan that the configuration asks for and write chips.parquet.

    `ecoregions` is a table of RESOLVE's columns from a file or from Earth Engine. The same configuration gives the
    same bytes. Chips whose generation is fixed stay in the plan as they are; others are drawn anew. Raises InputError
    for a wrong configuration (with every problem of it), NothingSelectedError where no chip comes out.
    """
    started = time.monotonic()
    config = campaign.config.sample
    region, rule = check_sampling(campaign)
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
    selection = select_cells(config, region, known, progress)
    progress.finish()
    plan = plan_of_cells(selection, known, region, config, rule)
    if len(plan) == 0:
        raise NothingSelectedError(
            f"strategy {config.strategy} selects no chip in the region {region.name}"
            + "".join(f"; {count} {reason}" for reason, count in selection.rejected.items() if count),
            hint="Choose another region with --region, other biomes with --biomes, or other points.",
        )
    kept = _fixed_chips(campaign)
    _refuse_other_size(kept, campaign)
    plan = _joined(kept, plan)
    write_plan(campaign.plan_path, plan)
    return _summary(campaign, region, plan, selection, len(kept), time.monotonic() - started)


def check_sampling(campaign: Campaign) -> tuple[Region, SplitRule]:
    """The region and the split rule of a campaign whose options are sound. Raises InputError with every problem."""
    config, split = campaign.config.sample, campaign.config.split
    problems: list[str] = []
    hints: list[str] = []
    region, rule = None, None
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
    try:
        select_biomes(config.biomes)
    except InputError as error:
        problems.append(error.message)
        hints.append(error.hint)
    try:
        region = read_region(config.region)
    except InputError as error:
        problems.append(error.message)
        hints.append(error.hint)
    try:
        check_cell_size(round(campaign.chip_m))
        fractions = (split.train, split.val, split.test)
        rule = SplitRule(seed=split.seed, block_km=split.block_km, fractions=fractions, buffer_km=split.buffer_km)
        rule.reach_km(campaign.chip_m)
    except ValueError as error:
        problems.append(str(error))
    if problems or rule is None or region is None:
        hint = "\n".join(hints) or "Correct these options or campaign.toml."
        raise InputError("cannot sample: " + "; ".join(problems), hint=hint)
    return region, rule


def plan_of_cells(
    selection: Selection, ecoregions: Ecoregions, region: Region, config: SampleConfig, rule: SplitRule
) -> pd.DataFrame:
    """The rows of the plan, in the order of the cells: every column of `plan_types`, then the user's own."""
    cells = selection.cells
    lon, lat = cells.centre_lonlat
    found = selection.ecoregion
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


def _refuse_other_size(kept: pd.DataFrame, campaign: Campaign) -> None:
    sizes = set((kept["xmax"] - kept["xmin"]).tolist()) - {campaign.chip_m}
    if sizes:
        raise InputError(
            f"the campaign holds chips of {sizes.pop():g} m, and {campaign.chip_m:g} m are asked for",
            hint="A data set has chips of one size: use another directory with `m3etl -C DIR`.",
        )


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
    facts["biomes"] = [
        {
            "biome": biome_name(biome),
            "chips": int(np.sum(planned["biome"] == biome)),
            "reserve": int(np.sum(plan["biome"][reserve] == biome)),
            "ecoregions": planned["ecoregion"][(planned["biome"] == biome) & (planned["ecoregion"] >= 0)].nunique(),
        }
        for biome in sorted(planned["biome"].unique().tolist())
    ]
    for name in ("split", "year"):
        counts = planned[name].value_counts().sort_index()
        facts[f"{name}s"] = [{name: value, "chips": int(count)} for value, count in counts.items()]
    return Summary(
        stage="sample",
        done=len(planned),
        rejected=sum(rejected.values()),
        seconds=seconds,
        errors=rejected,
        facts=facts,
    )
