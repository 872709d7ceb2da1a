"""From the plan to generations: the plan is read into the ledger once, cut into lots, and lot by lot scenes are fixed,
reserves put in place of chips without a usable anchor, and rows given.

A chip that is no reserve gets a row as soon as it has scenes, whatever the others do, so its pixels may be fetched
before the lot is settled; a reserve's not before.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from m3etl.campaign import Campaign
from m3etl.errors import InputError, NothingSelectedError, RemoteError
from m3etl.io.ledger import ChipState, Chosen, Ledger, PlannedChip, everything
from m3etl.io.lots import Lot, LotChip, PlanRow, chips_of_lot, fix_lot, form_lots, load_plan, open_lots
from m3etl.io.plan import iterate_plan
from m3etl.io.planrows import write_plan_rows
from m3etl.io.regions import read_region
from m3etl.spec.jobs import ChipScenes
from m3etl.spec.lattice import Cells
from m3etl.spec.replacement import ReserveRow, chosen_chips, next_to_plan
from m3etl.spec.roworder import draws_of_cells
from m3etl.spec.scenes import utc_ms
from m3etl.spec.tilecounts import ChipCells
from m3etl.stages import feeding
from m3etl.stages.decisions import PlanChip
from m3etl.stages.feeding import Feed
from m3etl.stages.layout import Layout
from m3etl.stages.places import grid_of
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


@dataclass(slots=True)
class _OpenLot:
    """A lot whose chips are being decided. chips: by id, in order of their rows; usable: what is known of them; asked:
    what is asked about just now.
    """

    lot: Lot
    chips: dict[str, LotChip]
    rows: list[ReserveRow]
    usable: dict[str, bool]
    asked: list[str]


class OpenLots:
    """The open lots of a ledger as groups to be planned; each is made a generation when it is decided.

    feed: takes chips whose pixels may be fetched, and holds planning back while it is full; on_settled: called when a
    lot has become a generation. Raises RemoteError where nothing was decided about chips that were asked about.
    """

    def __init__(
        self,
        ledger: Ledger,
        layout: Layout,
        *,
        stop: threading.Event,
        feed: Feed | None,
        on_settled: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._layout = layout
        self._stop = stop
        self._feed = feed
        self._on_settled = on_settled
        self._lots = deque(open_lots(ledger))
        self._open: deque[_OpenLot] = deque()
        self._recorded: deque[str] = deque()  # before, or given a row since: offered as the feed has room
        self._reserves: set[str] = set()  # that are asked about: their pixels are fetched when they have a row

    def waiting(self) -> int | None:
        """See `Groups`. Nothing here waits for room, for answers are taken in by the same thread."""
        if self._feed is None:
            return None
        while self._recorded and self._feed.waiting < feeding.chips_ahead:
            self._offer_next(self._feed)
        return self._feed.waiting

    def next_group(self) -> Sequence[PlanChip] | None:
        """See `Groups`."""
        if not self._lots or self._stop.is_set():
            return None
        lot = self._lots.popleft()
        chips = {item.plan.chip_id: item for item in chips_of_lot(self._ledger, lot)}
        open_chips = [name for name, item in chips.items() if item.state is ChipState.PLANNED]
        self._recorded.extend(name for name in open_chips if not chips[name].plan.reserve)
        rows = [_reserve_row(item.plan) for item in chips.values()]
        usable = {name: item.usable for name, item in chips.items() if item.usable is not None}
        self._open.append(_OpenLot(lot, chips, rows, usable, []))
        return self._next_of(self._open[-1])

    def settle(self) -> Sequence[PlanChip]:
        """See `Groups`."""
        first = self._open[0]
        first.usable |= self._ledger.usable(first.asked)
        if first.asked and not first.usable.keys() & set(first.asked):
            raise RemoteError(f"nothing was decided about {len(first.asked)} chips", hint="Run the same command again.")
        further = self._next_of(first)
        if not further:
            self._fix(first)
            self._open.popleft()
        return further

    def finish(self) -> None:
        """When all is planned: offer the rest as it is fetched."""
        while self.waiting() is not None and self._recorded and not self._stop.is_set():
            self._stop.wait(wait_s)

    def recorded(self, chips: Sequence[PlannedChip]) -> None:
        """See `PlannedGroups`."""
        if self._feed is not None:
            self._feed.offer(
                [item.document for item in chips if item.document is not None and item.chip_id not in self._reserves]
            )

    def _next_of(self, lot: _OpenLot) -> list[PlanChip]:
        lot.asked = next_to_plan(lot.rows, lot.usable)
        plans = [lot.chips[name].plan for name in lot.asked]
        self._reserves.update(plan.chip_id for plan in plans if plan.reserve)
        return [_plan_chip(plan) for plan in plans]

    def _fix(self, lot: _OpenLot) -> None:
        chips, usable = lot.chips, lot.usable
        with_rows = chosen_chips(lot.rows, usable)
        chosen = set(with_rows)
        settled = [
            item.number
            for name, item in chips.items()
            if name not in chosen and not (item.plan.reserve and usable.get(name, True))
        ]
        numbers = [chips[name].number for name in with_rows]
        fix_lot(self._ledger, lot.lot, numbers, settled, shard_chips=self._layout.shard_chips)
        self._reserves -= chips.keys()
        self._recorded.extend(name for name in with_rows if chips[name].plan.reserve)
        self._on_settled()

    def _offer_next(self, feed: Feed) -> None:
        names = [self._recorded.popleft() for _ in range(min(read_chips, len(self._recorded)))]
        feed.offer(_open_scenes(self._ledger, names))


def _open_scenes(ledger: Ledger, names: Sequence[str]) -> list[ChipScenes]:
    """The scenes of these chips as far as their pixels are not there, in the same order."""
    found = {record.chip_id: record.scenes for record in ledger.open_chips(names)}
    return [found[name] for name in names if name in found]


def offer(ledger: Ledger, names: Sequence[str], feed: Feed | None, stop: threading.Event) -> None:
    """Chips whose scenes are recorded, as far as their pixels are not, at the pace at which they are fetched."""
    for start in range(0, len(names), read_chips):
        while feed is not None and feed.waiting >= feeding.chips_ahead and not stop.is_set():
            stop.wait(wait_s)
        if feed is None or stop.is_set():
            return
        feed.offer(_open_scenes(ledger, names[start : start + read_chips]))


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
