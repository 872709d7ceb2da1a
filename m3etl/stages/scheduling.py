"""From the plan to generations: the plan is read into the ledger once, cut into lots, and lot by lot scenes are fixed,
reserves put in place of chips without a usable anchor, and rows given.

A chip that is no reserve gets a row as soon as it has scenes, whatever the others do, so its pixels may be fetched
before the lot is settled; a reserve's not before.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from m3etl.campaign import Campaign
from m3etl.errors import InputError, NothingSelectedError, RemoteError
from m3etl.io.ledger import ChipState, Chosen, Ledger, everything
from m3etl.io.lots import Lot, PlanRow, chips_of_lot, fix_lot, form_lots, load_plan
from m3etl.io.plan import iterate_plan
from m3etl.io.planrows import write_plan_rows
from m3etl.io.regions import read_region
from m3etl.spec.lattice import Cells
from m3etl.spec.replacement import ReserveRow, chosen_chips, next_to_plan
from m3etl.spec.roworder import draws_of_cells
from m3etl.spec.scenes import utc_ms
from m3etl.spec.tilecounts import ChipCells
from m3etl.stages.decisions import PlanChip
from m3etl.stages.feeding import Feed
from m3etl.stages.layout import Layout
from m3etl.stages.places import grid_of
from m3etl.stages.planningprocess import Planner
from m3etl.stages.summary import Progress

read_chips = 256  # decided by an earlier run, read at a time
wait_s = 0.05


def choose(campaign: Campaign, region: str | None, only: str) -> Chosen:
    """The chips of a run. NothingSelectedError where no planned chip lies in the region."""
    if region is None:
        return Chosen(only=only)
    inside = read_region(region).contains_lonlat
    chosen = Chosen(inside=inside, only=only)
    if not any(part for part in _planned_parts(campaign, chosen)):
        raise NothingSelectedError(
            f"none of the {count_planned(campaign)} planned chips lies in the region {region!r}",
            hint=f"Draw chips there with `m3etl sample --region {region}` in another campaign, or wall to wall with "
            f"`m3etl sample --region {region} --strategy grid`.",
        )
    return chosen


def count_planned(campaign: Campaign, chosen: Chosen = everything) -> int:
    """Chips of the plan that are no reserve (and lie where the chosen ones do)."""
    return sum(_planned_parts(campaign, chosen))


def chosen_cells(campaign: Campaign, chosen: Chosen = everything) -> ChipCells:
    """The cells of these chips: 24 bytes each."""
    found: list[np.ndarray[Any, np.dtype[np.int64]]] = []
    for batch in iterate_plan(campaign.plan_path, ["epsg", "xmin", "ymin", "lon", "lat", "reserve"]):
        wanted = _wanted(batch, chosen)
        columns = (batch["epsg"], *(np.round(batch[name] / campaign.chip_m) for name in ("xmin", "ymin")))
        found.append(np.stack([np.asarray(values)[wanted].astype(np.int64) for values in columns]))
    epsg, column, row = np.concatenate(found, axis=1) if found else np.zeros((3, 0), np.int64)
    return ChipCells(epsg=epsg, column=column, row=row)


def _planned_parts(campaign: Campaign, chosen: Chosen) -> Iterator[int]:
    for batch in iterate_plan(campaign.plan_path, ["lon", "lat", "reserve"]):
        yield int(_wanted(batch, chosen).sum())


def _wanted(batch: pd.DataFrame, chosen: Chosen) -> np.ndarray[Any, np.dtype[np.bool_]]:
    wanted: np.ndarray[Any, np.dtype[np.bool_]] = ~batch["reserve"].to_numpy(dtype=bool)
    if chosen.inside is not None:
        wanted &= chosen.inside(batch["lon"].to_numpy(), batch["lat"].to_numpy())
    return wanted


def read_plan_into(ledger: Ledger, campaign: Campaign, progress: Progress) -> None:
    """Bring the ledger in line with chips.parquet; nothing is read where that has not changed since."""
    identity = plan_identity(campaign)
    if ledger.read_meta("plan") == identity:
        return
    if ledger.read_meta("plan") is not None:
        progress.say("the plan has changed: reading it again")
    load_plan(ledger, _plan_rows(campaign), identity)


def plan_identity(campaign: Campaign) -> list[int]:
    """What tells this chips.parquet from another one."""
    status = campaign.plan_path.stat()
    return [status.st_size, status.st_mtime_ns]


def write_rows_to_plan(campaign: Campaign, ledgers: Sequence[Ledger]) -> None:
    """Write row and generation of every chip into chips.parquet, unless they are there."""
    state = [[str(ledger.file.path.name), ledger.generation_count(), ledger.old_row_count()] for ledger in ledgers]
    known = [ledger.read_meta("plan_rows") for ledger in ledgers]
    if all(item == [state, plan_identity(campaign)] for item in known):
        return
    before = plan_identity(campaign)
    write_plan_rows(campaign.plan_path, lambda chip_ids: _rows_of(ledgers, chip_ids))
    after = plan_identity(campaign)
    for ledger in ledgers:
        if ledger.read_meta("plan") == before:
            ledger.write_meta("plan", after)
        ledger.write_meta("plan_rows", [state, after])


def form_open_lots(ledger: Ledger, campaign: Campaign, layout: Layout) -> int:
    """Cut what has no row yet into lots; returns their number."""
    return form_lots(
        ledger,
        lot_chips=int(ledger.read_meta("lot_chips")),
        shard_chips=layout.shard_chips,
        wall_to_wall=campaign.config.sample.strategy == "grid",
    )


def settle_lot(
    ledger: Ledger, lot: Lot, planner: Planner, layout: Layout, stop: threading.Event, feed: Feed | None = None
) -> None:
    """Decide about the chips of a lot and make it a generation; leaves it open when `stop` is set. feed: takes chips
    whose pixels may be fetched.

    Raises RemoteError where the service could not be asked about some chips; the others' decisions stay.
    """
    chips = {item.plan.chip_id: item for item in chips_of_lot(ledger, lot)}
    open_chips = [name for name, item in chips.items() if item.state is ChipState.PLANNED]
    offer(ledger, [name for name in open_chips if not chips[name].plan.reserve], feed, stop)
    rows = [_reserve_row(item.plan) for item in chips.values()]
    usable = {name: item.usable for name, item in chips.items() if item.usable is not None}
    while asked := next_to_plan(rows, usable):
        is_certain = not chips[asked[0]].plan.reserve  # reserves are asked about alone, see next_to_plan
        planner.plan([_plan_chip(chips[name].plan) for name in asked], feed if is_certain else None)
        if stop.is_set():
            return
        usable |= ledger.usable(asked)
        if not usable.keys() & set(asked):
            raise RemoteError(f"nothing was decided about {len(asked)} chips", hint="Run the same command again.")
    with_rows = chosen_chips(rows, usable)
    chosen = set(with_rows)
    settled = [
        item.number
        for name, item in chips.items()
        if name not in chosen and not (item.plan.reserve and usable.get(name, True))
    ]
    fix_lot(ledger, lot, [chips[name].number for name in with_rows], settled, shard_chips=layout.shard_chips)
    offer(ledger, [name for name in with_rows if chips[name].plan.reserve], feed, stop)


def offer(ledger: Ledger, names: Sequence[str], feed: Feed | None, stop: threading.Event) -> None:
    """Chips whose scenes are recorded, as far as their pixels are not, at the pace at which they are fetched."""
    for start in range(0, len(names), read_chips):
        while feed is not None and not feed.has_room() and not stop.is_set():
            stop.wait(wait_s)
        if feed is None or stop.is_set():
            return
        part = names[start : start + read_chips]
        found = {record.chip_id: record.scenes for record in ledger.open_chips(part)}
        feed.offer([found[name] for name in part if name in found])


def _reserve_row(plan: PlanRow) -> ReserveRow:
    return ReserveRow(chip_id=plan.chip_id, biome=plan.biome, ecoregion=plan.ecoregion, reserve=plan.reserve)


def _plan_chip(plan: PlanRow) -> PlanChip:
    return PlanChip(
        grid=grid_of(plan.chip_id),
        lon=plan.lon,
        lat=plan.lat,
        year=plan.year,
        biome=plan.biome,
        ecoregion=plan.ecoregion,
        wish_ms=plan.wish_ms,
    )


def _rows_of(ledgers: Sequence[Ledger], chip_ids: Sequence[str]) -> list[tuple[int, int]]:
    """(row, generation) from whichever ledger has given the chip a row."""
    found = [ledger.rows_of(chip_ids) for ledger in ledgers]
    return [max(places) for places in zip(*found, strict=True)]


def _plan_rows(campaign: Campaign) -> Iterator[list[PlanRow]]:
    sample = campaign.config.sample
    for batch in iterate_plan(campaign.plan_path):
        size = round(float(batch["xmax"].iloc[0] - batch["xmin"].iloc[0]))
        column, row = (np.round(batch[name].to_numpy() / size).astype(np.int64) for name in ("xmin", "ymin"))
        cells = Cells(cell_m=size, epsg=batch["epsg"].to_numpy(dtype=np.int64), column=column, row=row)
        draws = draws_of_cells(cells, sample.seed, wall_to_wall=sample.strategy == "grid")
        columns = [batch[name].tolist() for name in ("reserve", "lon", "lat", "split", "year", "biome", "ecoregion")]
        ids = batch["chip_id"].tolist()
        yield list(map(PlanRow._make, zip(ids, draws.tolist(), *columns, _wishes(batch), strict=True)))


def _wishes(batch: pd.DataFrame) -> list[int | None]:
    if "date" not in batch:
        return [None] * len(batch)
    return [
        None if value is None or pd.isna(value) or value == "" else _wish(value, str(chip_id))
        for chip_id, value in zip(batch["chip_id"], batch["date"], strict=True)
    ]


def _wish(value: Any, chip_id: str) -> int:
    text = value.isoformat() if hasattr(value, "isoformat") else str(value).strip()
    try:
        return utc_ms(text)
    except ValueError as error:
        raise InputError(
            f"chip {chip_id} has the date {text!r}, which cannot be read",
            hint="Use ISO 8601: 2020-04-08 or with a time.",
        ) from error
