"""Draws the plan of a campaign: cells, years, splits, and where each chip lies; writes chips.parquet."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from m3etl.campaign import Campaign, SampleConfig, SplitConfig
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.ecoregions import normalise_ecoregions
from m3etl.io.exclusions import read_exclusion
from m3etl.io.leakage import read_leakage
from m3etl.io.m3leo import normal_splits, read_m3leo_splits, with_splits
from m3etl.io.plan import PlanWriter
from m3etl.io.points import PointTable, read_points
from m3etl.spec.biomes import biome_name
from m3etl.spec.ecoregions import Ecoregions, build_ecoregions
from m3etl.spec.exclusion import Exclusion
from m3etl.spec.region import Region
from m3etl.stages.chiprows import ChipRows
from m3etl.stages.growth import joined_types, read_present
from m3etl.stages.request import check_sampling
from m3etl.stages.selection import Ground, Selection, select_cells
from m3etl.stages.splitting import plan_splits
from m3etl.stages.summary import Progress, Summary

if TYPE_CHECKING:
    import geopandas

Integers = npt.NDArray[np.int64]
Item = TypeVar("Item")
Result = TypeVar("Result")

most_threads = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for, checked and read from the user's files. config: the campaign's own or that of an addition."""

    config: SampleConfig
    region: Region
    exclusion: Exclusion | None
    points: PointTable | None


def read_request(campaign: Campaign, addition: SampleConfig | None = None) -> Request:
    """The request, with the files that it names. Raises InputError with every problem of the options, of the points
    or of the excluded places, NothingSelectedError where these cover the region.
    """
    config = addition or campaign.config.sample
    region = check_sampling(campaign, addition)
    points = _read_points(config, campaign.config.split) if config.strategy == "points" else None
    exclusion = read_exclusion(config.exclude, config.exclude_buffer_km)
    _refuse_covered(region, exclusion, config)
    return Request(config=config, region=region, exclusion=exclusion, points=points)


def run_sample(
    campaign: Campaign,
    ecoregions: geopandas.GeoDataFrame,
    progress: Progress,
    *,
    addition: SampleConfig | None = None,
    request: Request | None = None,
) -> Summary:
    """Draw the plan that the configuration asks for and write chips.parquet, in row groups.

    `ecoregions` is a table of RESOLVE's columns from a file or from Earth Engine. The same configuration gives the
    same bytes. Of a plan that is there already, chips with a fixed generation stay as they are and others are drawn
    anew. With an `addition`, every chip stays, and the chips of that request are appended. `request`: what
    `read_request` gave, where that was read before. Raises its errors; NothingSelectedError where no chip comes out.
    """
    started = time.monotonic()
    request = request or read_request(campaign, addition)
    config, region, exclusion, points = request.config, request.region, request.exclusion, request.points
    table = normalise_ecoregions(ecoregions, "the table of ecoregions")
    threads = min(most_threads, os.cpu_count() or 1)
    known = _build(table, region, threads)
    splits = plan_splits(campaign.config.split, region, campaign.chip_m, table)
    present = read_present(campaign, fixed_only=addition is None)
    ground = Ground(
        region=region,
        ecoregions=known,
        exclusion=exclusion,
        taken=present.keys if addition else np.zeros(0, dtype=np.int64),
        planned=np.asarray([present.planned.get(eco_id, 0) if addition else 0 for eco_id in known.eco_id.tolist()]),
        threads=threads,
    )
    progress.start("sample", config.chips if config.strategy == "biome" else None)
    selection = select_cells(config, ground, points, progress)
    rows = ChipRows(config, known, splits, region, present.keys)
    with PlanWriter(campaign.plan_path, joined_types(present.extra, selection.extra)) as writer:
        for kept in present.tables():
            writer.write(kept)
        tally = _write_new(writer, rows, selection, threads)
        progress.finish()
        if tally.chips == 0:
            _refuse_nothing(config, region, selection)
    return _summary(campaign, config, region, selection, tally, len(present), time.monotonic() - started)


@dataclass(slots=True)
class _Tally:
    """Counts of the new chips: by biome and whether reserve, by split, by year; ecoregions of each biome."""

    chips: int = 0
    biomes: Counter[tuple[int, bool]] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    years: Counter[int] = field(default_factory=Counter)
    ecoregions: set[tuple[int, int]] = field(default_factory=set)

    def add(self, rows: pa.Table) -> None:
        reserve = rows["reserve"].to_numpy()
        biome, ecoregion = rows["biome"].to_numpy(), rows["ecoregion"].to_numpy()
        for flag in (False, True):
            found, counts = np.unique(biome[reserve == flag], return_counts=True)
            self.biomes.update({(int(one), flag): int(count) for one, count in zip(found, counts, strict=True)})
        chosen = ~reserve & (ecoregion >= 0)
        pairs = np.unique(biome[chosen].astype(np.int64) << 32 | ecoregion[chosen])
        self.ecoregions.update((pair >> 32, pair & 0xFFFFFFFF) for pair in pairs.tolist())
        planned = rows.filter(pa.array(~reserve))
        for name, counter in (("split", self.splits), ("year", self.years)):
            for item in pc.value_counts(planned[name].combine_chunks()).to_pylist():
                counter[item["values"]] += item["counts"]
        self.chips += len(rows)


def _read_points(config: SampleConfig, split: SplitConfig) -> PointTable:
    """The points of the request; where they bring their splits along, these are in the column split."""
    points = read_points(Path(config.points))
    if split.by != "points":
        return points
    if split.file:
        return with_splits(points, read_m3leo_splits(Path(split.file)))
    problems = (
        []
        if "split" in points.columns
        else [f"it has no column split (columns: {', '.join(map(str, points.columns))})"]
    )
    if not problems:
        columns = points.columns.assign(split=normal_splits(points.columns["split"], problems))
        points = PointTable(lon=points.lon, lat=points.lat, columns=columns)
    if problems:
        raise InputError(
            f"{config.points} gives no splits: " + "; ".join(problems),
            hint="Give every point train, val, test or buffer in a column split, or name a CSV of splits.",
        )
    return points


def _build(table: geopandas.GeoDataFrame, region: Region, threads: int) -> Ecoregions:
    return build_ecoregions(
        eco_id=table["eco_id"].tolist(),
        name=table["eco_name"].tolist(),
        biome_name=table["biome_name"].tolist(),
        realm=table["realm"].tolist(),
        geometry=np.asarray(table.geometry.array, dtype=object),
        within=None if region.is_globe else region.geometry,
        threads=threads,
    )


def _write_new(writer: PlanWriter, rows: ChipRows, selection: Selection, threads: int) -> _Tally:
    """Append the selection part by part; other threads prepare the next ones meanwhile."""
    tally = _Tally()
    for made in _ahead(lambda part: writer.prepared(rows(part)), selection.parts, threads):
        tally.add(made)
        writer.append(made)
    return tally


def _ahead(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Results in order, with `threads` more items in the making at any time."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _refuse_covered(region: Region, exclusion: Exclusion | None, config: SampleConfig) -> None:
    if exclusion is not None and exclusion.covers(region.geometry):
        raise NothingSelectedError(
            f"the excluded places ({', '.join(config.exclude)}) cover the whole region {region.name}",
            hint="Choose another region with --region, or other places with --exclude.",
        )


def _refuse_nothing(config: SampleConfig, region: Region, selection: Selection) -> None:
    reasons = "".join(f"; {count:,} {reason}" for reason, count in selection.rejected.items() if count)
    tried = {row["outcome"]: row["count"] for row in selection.facts.get("tried", ())}
    near = "cells near excluded places"
    if tried.get(near):
        reasons += f"; {tried[near]:,} {near}"
    raise NothingSelectedError(
        f"strategy {config.strategy} selects no new chip in the region {region.name}{reasons}",
        hint="Choose another region with --region, other biomes with --biomes, other points, or exclude less.",
    )


def _summary(
    campaign: Campaign,
    config: SampleConfig,
    region: Region,
    selection: Selection,
    tally: _Tally,
    kept: int,
    seconds: float,
) -> Summary:
    rejected = {reason: count for reason, count in selection.rejected.items() if count}
    reserve = sum(count for (_, flag), count in tally.biomes.items() if flag)
    chips = tally.chips - reserve
    facts: dict[str, Any] = {
        "strategy": config.strategy,
        "region": region.name,
        "chips": chips,
        "reserve": reserve,
        **selection.facts,
    }
    if kept:
        facts["kept as they were"] = kept
    facts["biomes"] = [
        {
            "biome": biome_name(biome),
            "chips": tally.biomes[biome, False],
            "reserve": tally.biomes[biome, True],
            "ecoregions": sum(one == biome for one, _ in tally.ecoregions),
        }
        for biome in sorted({biome for biome, _ in tally.biomes})
    ]
    facts["splits"] = [{"split": name, "chips": tally.splits[name]} for name in sorted(tally.splits)]
    facts["years"] = [{"year": year, "chips": tally.years[year]} for year in sorted(tally.years)]
    facts.update(_leakage(campaign))
    return Summary(
        stage="sample", done=chips, rejected=sum(rejected.values()), seconds=seconds, errors=rejected, facts=facts
    )


def _leakage(campaign: Campaign) -> dict[str, Any]:
    """Pairs of chips of different splits closer than the buffer, and the closest pair of all."""
    found, names = read_leakage(campaign.plan_path, campaign.config.split.buffer_km)
    facts: dict[str, Any] = {
        "leakage": [
            {"splits": f"{first} and {second}", f"pairs within {found.distance_km:g} km": count}
            for (first, second), count in found.pairs.items()
        ]
    }
    if names[0]:
        facts["closest chips of different splits"] = f"{names[0]} and {names[1]}, {found.closest_km:.2f} km"
    return facts
