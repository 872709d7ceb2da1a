"""Turns the configured way to split into the rule that gives each chip its split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from m3etl.campaign import SplitConfig
from m3etl.io.regions import read_region
from m3etl.spec.region import Region
from m3etl.spec.splitmodes import (
    BandSplits,
    BlockSplits,
    Splits,
    band_splits,
    ecoregion_splits,
    held_out_splits,
    split_modes,
)
from m3etl.spec.splits import SplitRule

if TYPE_CHECKING:
    import geopandas


def plan_splits(
    config: SplitConfig, region: Region, chip_m: float, ecoregions: geopandas.GeoDataFrame | None = None
) -> Splits | None:
    """The rule, or None where the user's points bring their splits along.

    `ecoregions`: the normalised table of the whole globe, for splits by ecoregion (without it, the rule is only
    checked). Raises ValueError that lists what is wrong, InputError for an unknown region to hold out.
    """
    fractions = (config.train, config.val, config.test)
    if config.by not in split_modes:
        raise ValueError(f"splits are by {', '.join(split_modes)}, not {config.by!r}")
    if config.hold_out and config.by != "region":
        raise ValueError(f"regions are held out by `by = region`, not by {config.by}")
    if config.file and config.by != "points":
        raise ValueError(f"a file of splits belongs to `by = points`, not to {config.by}")
    if config.by == "block":
        rule = SplitRule(seed=config.seed, block_km=config.block_km, fractions=fractions, buffer_km=config.buffer_km)
        rule.reach_km(chip_m)
        return BlockSplits(rule=rule)
    if config.by == "bands":
        bands = band_splits(
            region.geometry, bands=config.bands, angle=config.angle, fractions=fractions, buffer_km=config.buffer_km
        )
        _check_width(bands, chip_m)
        return bands
    if config.by == "ecoregion":
        eco_id, geometry = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=object)
        if ecoregions is not None:
            eco_id, geometry = ecoregions["eco_id"].to_numpy(), np.asarray(ecoregions.geometry.array)
        return ecoregion_splits(
            eco_id,
            geometry,
            seed=config.seed,
            fractions=fractions,
            buffer_km=config.buffer_km,
        )
    if config.by == "region":
        held_out = held_out_splits(
            [read_region(name).geometry for name in config.hold_out],
            seed=config.seed,
            block_km=config.block_km,
            fractions=fractions,
            buffer_km=config.buffer_km,
        )
        held_out.blocks.reach_km(chip_m)
        return held_out
    return None


def _check_width(bands: BandSplits, chip_m: float) -> None:
    needed = 2 * bands.buffer_km + float(np.sqrt(2.0)) * chip_m / 1000.0
    if bands.width_km() <= needed:
        raise ValueError(
            f"bands are {bands.width_km():.1f} km wide where they are narrowest; a buffer of {bands.buffer_km:g} km on "
            f"both sides of chips of {chip_m / 1000.0:g} km needs more than {needed:.1f} km: use fewer bands"
        )
