"""What is in a campaign: chips per split and biome, and per array its bands, units, size and how much was observed."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd

from m3etl.campaign import Campaign
from m3etl.io.ledger import ChipState
from m3etl.io.plan import read_plan
from m3etl.io.provenance import read_provenance
from m3etl.io.store import ChipStore, open_store
from m3etl.learn.selection import open_data
from m3etl.spec.biomes import biome_names
from m3etl.spec.modality import ArraySpec, Shape
from m3etl.stages.ledgers import open_ledgers
from m3etl.stages.presence import find_presence, write_presence
from m3etl.stages.summary import Summary

most_bands_listed = 13
longest_band_list = 64  # characters; a wider column breaks the table on a terminal


def run_describe(campaign: Campaign, *, presence: bool = False) -> Summary:
    """The contents as tables: `arrays`, `splits`, `biomes`; a campaign without a store describes its plan.

    presence: also count which chips have which array, and write `presence.parquet`.
    """
    started = time.monotonic()
    plan = read_plan(campaign.plan_path, columns=["split", "biome", "reserve", "row"])
    spare = plan["reserve"] & (plan["row"] < 0)
    facts: dict[str, Any] = {"campaign": campaign.root.resolve().name, "chips planned": int((~spare).sum())}
    if unusable := _count_unusable(campaign):
        facts["of them unusable"] = unusable
    facts["reserve"] = int(spare.sum())
    plan = plan[~spare]
    facts["splits"] = [
        {"split": name, "chips": int(count)} for name, count in plan["split"].value_counts().sort_index().items()
    ]
    facts["biomes"] = [
        {"biome": biome_names[int(code)] if code >= 0 else "none", "chips": int(count)}
        for code, count in plan["biome"].value_counts().sort_index().items()
    ]
    sealed = 0
    if campaign.store_path.exists():
        store = open_store(campaign.store_path)
        sealed = int((store.chip_ids != "").sum())
        facts["chips stored"] = sealed
        facts["bytes on disk"] = sum(file.stat().st_size for file in campaign.store_path.rglob("*") if file.is_file())
        facts["arrays"] = _describe_arrays(campaign, store)
    if presence:
        found = find_presence(campaign)
        write_presence(campaign.presence_path, found)
        facts |= found.facts() | {"table of presence": campaign.presence_path.name}
    return Summary(stage="describe", done=sealed, seconds=time.monotonic() - started, facts=facts)


def _count_unusable(campaign: Campaign) -> int:
    """Chips that have no usable scene, less those of the reserve, one of which stands in for each if there was one."""
    if not campaign.with_ledger:
        return 0
    with open_ledgers(campaign, to_read=True) as opened:
        tallies = [ledger.tally().items() for _, ledger in opened]
    return sum(
        chips
        for tally in tallies
        for (_, from_reserve, state), chips in tally
        if state is ChipState.UNUSABLE and not from_reserve
    )


def describe_published(url: str) -> Summary:
    """What a data set at a URL holds, by its metadata and columns alone: chips, `splits` and `arrays`.

    Raises InputError where there is no data set, RemoteError where the other side fails.
    """
    started = time.monotonic()
    store = open_data(url)
    names, counts = np.unique([str(name) for name in store.split[store.sealed]], return_counts=True)
    facts: dict[str, Any] = {"data set": url, "chips stored": int(store.sealed.sum())}
    facts["splits"] = [{"split": name, "chips": int(count)} for name, count in zip(names, counts, strict=True)]
    has_periods = any(spec.periods for spec in store.specs.values())
    facts["arrays"] = [_declared(spec, store.layout.chip_m, has_periods) for spec in store.specs.values()]
    return Summary(stage="describe", done=facts["chips stored"], seconds=time.monotonic() - started, facts=facts)


def _declared(spec: ArraySpec, chip_m: float, has_periods: bool) -> dict[str, Any]:
    """What the declaration of an array says, as the columns of a table."""
    return {
        "array": spec.name,
        "bands": _band_list(spec.band_names),
        **({"periods": _band_list(spec.periods)} if has_periods else {}),
        "size": f"{spec.pixels(chip_m)} px" if spec.shape is Shape.RASTER else "vector",
        "stored as": spec.dtype if spec.scale == 1 else f"{spec.dtype} x {spec.scale:g}",
        "units": spec.units,
    }


def _describe_arrays(campaign: Campaign, store: ChipStore) -> list[dict[str, Any]]:
    provenance = read_provenance(campaign.provenance_path)
    rows = []
    has_periods = any(spec.periods for spec in store.specs.values())
    for name, spec in store.specs.items():
        mine = provenance[provenance["array"] == name]
        observed = mine[mine["status"] == "ok"]
        dated = [item["gap_days"] for dates in observed["periods"] if dates is not None for item in dates]
        gaps = pd.Series([*observed["gap_days"], *dated], dtype=float).abs().dropna()
        rows.append(
            {
                **_declared(spec, campaign.chip_m, has_periods),
                "chips": len(observed),
                "valid": round(float(np.mean(observed["valid_fraction"])), 4) if len(observed) else None,
                "median gap [d]": round(float(gaps.median()), 1) if len(gaps) else None,
                "licence": " ".join(sorted(set(observed["license"]))),
            }
        )
    return rows


def _band_list(bands: tuple[str, ...]) -> str:
    """All names, or the first and last of a long list with their number."""
    listed = " ".join(bands)
    if len(bands) <= most_bands_listed and len(listed) <= longest_band_list:
        return listed
    return f"{bands[0]} ... {bands[-1]} ({len(bands)})"
