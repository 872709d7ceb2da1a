"""Checks a request to sample before anything is read from afar: every problem of the options at once."""

from __future__ import annotations

import numpy as np
import shapely

from m3etl.campaign import Campaign, SampleConfig
from m3etl.errors import InputError
from m3etl.io.regions import read_region
from m3etl.spec.biomes import select_biomes
from m3etl.spec.lattice import check_cell_size, north_limit_lat, south_limit_lat
from m3etl.spec.region import Region
from m3etl.stages.growth import check_addition
from m3etl.stages.selection import largest_plan
from m3etl.stages.splitting import plan_splits

years_of_interest = (1980, 2100)
_km_per_degree = 111.3


def check_sampling(campaign: Campaign, addition: SampleConfig | None = None) -> Region:
    """The region of a request whose options are sound. Raises InputError with every problem.

    The request is the campaign's own or the `addition` to its plan.
    """
    config = addition or campaign.config.sample
    if addition is not None:
        check_addition(campaign.config.sample, addition, campaign.config.split.by)
    problems = _number_problems(config) + _strategy_problems(config, campaign.config.split.by)
    hints: list[str] = []
    try:
        select_biomes(config.biomes)
    except InputError as error:
        problems.append(error.message)
        hints.append(error.hint)
    region = None
    try:
        region = read_region(config.region)
        problems += _place_problems(config, region)
        plan_splits(campaign.config.split, region, campaign.chip_m)
    except InputError as error:
        problems.append(error.message)
        hints.append(error.hint)
    except ValueError as error:
        problems.append(str(error))
    try:
        check_cell_size(round(campaign.chip_m))
    except ValueError as error:
        problems.append(str(error))
    if problems or region is None:
        hint = "\n".join(hints) or "Correct these options or campaign.toml."
        raise InputError("cannot sample: " + "; ".join(problems), hint=hint)
    return region


def _number_problems(config: SampleConfig) -> list[str]:
    problems = []
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
    return problems


def _strategy_problems(config: SampleConfig, split_by: str) -> list[str]:
    problems = []
    if config.strategy not in {"biome", "grid", "points"}:
        problems.append(f"strategy must be biome, grid or points, not {config.strategy!r}")
    for given, what in ((config.spacing_m > 0, "spacing_m"), (config.per_ecoregion, "per_ecoregion")):
        if given and config.strategy != "biome":
            problems.append(f"{what} belongs to strategy biome, not to {config.strategy}")
    if config.strategy == "points" and not config.points:
        problems.append("strategy points needs --points FILE")
    if config.strategy != "points":
        if config.points:
            problems.append(f"a file of points belongs to strategy points, not to {config.strategy}")
        if split_by == "points":
            problems.append(f"splits by points belong to strategy points, not to {config.strategy}")
    return problems


def _place_problems(config: SampleConfig, region: Region) -> list[str]:
    west, south, east, north = region.geometry.bounds
    reachable = shapely.box(-180.0, south_limit_lat, 180.0, north_limit_lat)
    if not shapely.intersects(region.geometry, reachable):
        return [f"the region {region.name} (latitude {south:g} to {north:g}) lies outside 80S-84N, where the grid ends"]
    nearest = 0.0 if south <= 0.0 <= north else min(abs(south), abs(north))
    width_km, height_km = (east - west) * np.cos(np.radians(nearest)) * _km_per_degree, (north - south) * _km_per_degree
    across_km = float(np.hypot(width_km, height_km))
    if config.spacing_m / 1000.0 > across_km:
        return [f"a spacing of {config.spacing_m:g} m is larger than {region.name}, {across_km:.1f} km across"]
    return []
