"""A modality that is added to existing rows: its scenes are chosen around the anchors that are recorded, its shards are
sealed one by one beside those that are there, and the store names it when all of them are.

An addition has a ledger of its own (`ledger-added-1.sqlite`) with the same chips, rows and shards, so that planning,
fetching and sealing go on after an interruption as in any export. It begins when the campaign's own chips are done.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from m3etl.campaign import Campaign
from m3etl.errors import InputError, RemoteError
from m3etl.io.joining import take_over_rows
from m3etl.io.ledger import ChipState, Ledger, PlannedChip, everything, open_ledger
from m3etl.io.lots import PlanRow, waiting_with_rows
from m3etl.spec.jobs import ChipScenes
from m3etl.spec.modality import ArraySpec
from m3etl.spec.scenes import Candidate, utc_ms
from m3etl.stages.decisions import PlanChip
from m3etl.stages.feeding import Feed
from m3etl.stages.layout import Layout, check_catalogue, read_layout_of
from m3etl.stages.places import grid_of
from m3etl.stages.scheduling import offer
from m3etl.stages.tile import create_store_of

planned_at_once = 4096


def begun_addition(ledger: Ledger) -> Mapping[str, str]:
    """The arrays (with the digests of their declarations) of an addition that is not finished; empty without one.

    Raises InputError where the catalogue declares one of them otherwise now.
    """
    begun: Mapping[str, str] = ledger.read_meta("adding") or {}
    check_catalogue(begun)
    return begun


def check_addable(campaign: Campaign, ledger: Ledger, further: Sequence[ArraySpec]) -> None:
    """InputError where arrays are to be added by a run that is not about the whole campaign."""
    if further and (campaign.part is not None or ledger.chosen != everything):
        names = ", ".join(dict.fromkeys(spec.modality for spec in further))
        raise InputError(
            f"this campaign has no {names} yet, and a modality is added to all of its rows",
            hint="Add it by `m3etl export --modality NAME` without --part, --region and --only.",
        )


def begin_addition(ledger: Ledger, further: Sequence[ArraySpec]) -> None:
    """Record that these arrays are to be added."""
    ledger.write_meta("adding", {spec.name: spec.digest() for spec in further})


@contextlib.contextmanager
def open_addition(campaign: Campaign, ledger: Ledger) -> Iterator[tuple[Campaign, Ledger, Layout]]:
    """The addition that has begun, as a campaign of its own over the same rows."""
    number = int(ledger.read_meta("additions") or 0) + 1
    added = replace(campaign, addition=number)
    with contextlib.closing(open_ledger(added.ledger_path)) as own:
        if not own.read_meta("rows_taken_over"):
            adding = ledger.read_meta("adding")
            shard_chips = int(ledger.read_meta("shard_chips"))
            own.write_meta("shard_chips", shard_chips)
            own.write_meta("catalogue", adding)
            own.write_meta("arrays", list(adding))
            take_over_rows(own, ledger.file.path, shard_chips=shard_chips)
        yield added, own, read_layout_of(own)


class RowsOfBase:
    """The rows of an addition as groups to be planned, around the anchors that are recorded in `base`.

    feed: takes chips whose pixels may be fetched, first those that an earlier run has left open, and holds planning
    back while it is full. Raises RemoteError where nothing was decided about a group.
    """

    def __init__(self, base: Ledger, own: Ledger, *, stop: threading.Event, feed: Feed | None) -> None:
        self._base = base
        self._own = own
        self._stop = stop
        self._feed = feed
        self._after: int | None = None
        self._groups: deque[tuple[str, int]] = deque()

    def waiting(self) -> int | None:
        """See `Groups`."""
        return None if self._feed is None else self._feed.waiting

    def next_group(self) -> Sequence[PlanChip] | None:
        """See `Groups`."""
        if self._after is None:
            self._offer_open()
            self._after = -1
        rows = [] if self._stop.is_set() else waiting_with_rows(self._own, self._after, planned_at_once)
        if not rows:
            return None
        self._after = rows[-1][0]
        plans = [plan for _, plan in rows]
        self._groups.append((plans[0].chip_id, len(plans)))
        return [_around_anchor(plan, self._base.scenes_of(plan.chip_id)) for plan in plans]

    def settle(self) -> Sequence[PlanChip]:
        """See `Groups`."""
        first, count = self._groups.popleft()
        if self._own.states([first])[first] is ChipState.WAITING:
            raise RemoteError(f"nothing was decided about {count} chips", hint="Run the same command again.")
        return ()

    def recorded(self, chips: Sequence[PlannedChip]) -> None:
        """See `PlannedGroups`."""
        if self._feed is not None:
            self._feed.offer([item.document for item in chips if item.document is not None])

    def _offer_open(self) -> None:
        after = -1
        while self._feed is not None and not self._stop.is_set() and (records := self._own.open_rows(after)):
            offer(self._own, [record.chip_id for record in records], self._feed, self._stop)
            after = records[-1].row


def finish_addition(campaign: Campaign, ledger: Ledger, layout: Layout) -> Layout:
    """Name the added arrays in the store, then in the ledger; returns the campaign's layout with them."""
    known = read_layout_of(ledger)
    grown = Layout(specs={**known.specs, **layout.specs}, shard_chips=layout.shard_chips)
    create_store_of(replace(campaign, addition=0), grown)
    ledger.forget_unused_decisions()
    ledger.write_meta("catalogue", {spec.name: spec.digest() for spec in grown.specs.values()})
    ledger.write_meta("arrays", list(grown.specs))
    ledger.write_meta("additions", campaign.addition)
    ledger.write_meta("adding", None)
    return grown


def _around_anchor(row: PlanRow, scenes: ChipScenes | None) -> PlanChip:
    return PlanChip(
        grid=grid_of(row.chip_id),
        lon=row.lon,
        lat=row.lat,
        year=row.year,
        biome=row.biome,
        ecoregion=row.ecoregion,
        wish_ms=row.wish_ms if scenes is None else utc_ms(scenes.anchor_time),
        anchor=None if scenes is None else _anchor_of(scenes),
    )


def _anchor_of(scenes: ChipScenes) -> Candidate | None:
    """The recorded anchor as the candidate that it was, as far as that is known."""
    if scenes.anchor_id is None:
        return None
    found = (
        (name, item)
        for name, item in scenes.arrays.items()
        if name.startswith("sentinel2_l") and item.scene_ids == (scenes.anchor_id,)
    )
    name, recorded = next(found, ("", None))
    return Candidate(
        level=name.rpartition("_")[2] if name else "l2a" if "_SR_" in scenes.anchor_id else "l1c",
        scene_id=scenes.anchor_id,
        index=scenes.anchor_id.rpartition("/")[2],
        time_ms=utc_ms(scenes.anchor_time),
        rank=0,
        valid=1.0 if recorded is None or recorded.valid_fraction is None else recorded.valid_fraction,
        cloud=None if recorded is None else recorded.cloud_fraction,
        license=recorded.license if recorded else "",
        synthetic=bool(recorded and recorded.synthetic),
    )
