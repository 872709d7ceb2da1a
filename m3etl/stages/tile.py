"""Seals what has landed: chips of a final shard, in order of row, become one shard of the store and one file of
provenance.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from m3etl.campaign import Campaign, locked, store_locked
from m3etl.errors import NothingSelectedError
from m3etl.io.layout import StoreLayout, read_layout
from m3etl.io.ledger import ChipState, Ledger
from m3etl.io.segments import remove_segment, segment_numbers
from m3etl.io.store import create_store, grow_store
from m3etl.io.workers import open_workers
from m3etl.stages.layout import Layout, read_layout_of
from m3etl.stages.ledgers import open_ledgers
from m3etl.stages.scheduling import write_rows_to_plan
from m3etl.stages.shardwork import Performs, ShardWork, seal_work, stored_vector, valid_fraction
from m3etl.stages.summary import Progress, Summary

__all__ = ["Layout", "Sealer", "read_layout_of", "run_tile", "stored_vector", "valid_fraction"]


def run_tile(campaign: Campaign, *, scheduler: str = "", progress: Progress) -> Summary:
    """Seal every shard whose chips are all final. Doing it again changes nothing.

    scheduler: address of a Dask scheduler whose workers seal, a shard each; this process does by default.

    Raises NothingSelectedError where nothing was exported yet, DamagedError where landed bytes are not what they were.
    """
    started = time.monotonic()
    if not campaign.with_ledger:
        raise NothingSelectedError("nothing was exported yet", hint="Run `m3etl export` first.")
    with locked(campaign), open_ledgers(campaign) as opened:
        begun = [(owner, ledger) for owner, ledger in opened if ledger.read_meta("arrays") is not None]
        progress.start("tile", sum(len(ledger.ready_shards()) for _, ledger in begun))
        shards = chips = 0
        for owner, ledger in begun:
            sealer = Sealer(owner, ledger, read_layout_of(ledger))
            for count in _sealed(sealer, ledger.ready_shards(), scheduler, campaign):
                chips += count
                shards += 1
                progress.advance(1, chips=chips)
            sealer.finish()
        progress.finish()
        write_rows_to_plan(campaign, [ledger for _, ledger in begun])
        sealed = sum(ledger.shard_counts()[1] for _, ledger in begun)
        waiting = sum(ledger.counts().get(ChipState.LANDED, 0) for _, ledger in begun)
    return Summary(
        stage="tile",
        done=chips,
        skipped=waiting,
        seconds=time.monotonic() - started,
        facts={"shards sealed now": shards, "shards sealed": sealed, "chips waiting for their shard": waiting},
    )


def _sealed(sealer: Sealer, shards: Sequence[int], scheduler: str, campaign: Campaign) -> Iterator[int]:
    """Seal shards and record each in order; yields the chips of each."""
    if not scheduler:
        yield from map(sealer.seal, shards)
    elif shards:
        with open_workers(scheduler, shared=campaign.root) as workers:
            for result in workers.run(seal_work, ((sealer.work(shard, threads=1),) for shard in shards)):
                yield sealer.record(*result)


class Sealer:
    """Seals shards of one campaign, one after the other. perform: runs `seal_work`, here by default."""

    def __init__(
        self,
        campaign: Campaign,
        ledger: Ledger,
        layout: Layout,
        perform: Performs = seal_work,
    ) -> None:
        self._campaign = campaign
        self._perform = perform
        self._ledger = ledger
        self._layout = layout
        self._created = False
        self._names = list(layout.specs)
        self._store: StoreLayout | None = None
        self._earlier_segments = set(segment_numbers(campaign.raw_path))

    def seal(self, shard: int) -> int:
        """Seal one final shard and record it; returns its chips. What a killed run left of it is finished, not
        redone.
        """
        return self.record(*self._perform(self.work(shard)))

    def work(self, shard: int, *, threads: int = 0) -> ShardWork:
        """What sealing a final shard needs; `seal_work` does it, here or elsewhere, and `record` ends it."""
        self._create()
        shard_chips = self._layout.shard_chips
        # A shard that is sealed holds these too.
        old_rows = self._ledger.old_rows(shard, shard_chips=shard_chips) if self._campaign.addition else ()
        return ShardWork(
            campaign=replace(self._campaign, root=self._campaign.root.resolve()),
            shard=shard,
            specs=self._layout.specs,
            names=tuple(self._names),
            store=self._store,
            records=tuple(self._ledger.shard_records(shard, shard_chips=shard_chips)),
            old_rows=tuple(old_rows),
            threads=threads,
        )

    def record(self, shard: int, chips: int) -> int:
        """Record that a shard is sealed; returns its chips."""
        shard_chips = self._layout.shard_chips
        if chips and not self._campaign.addition:
            self._grow(self._ledger.superseded_rows(shard, shard_chips=shard_chips))
        self._ledger.record_sealed(shard, shard_chips=shard_chips)
        self._sweep(self._ledger.landing_segment)
        return chips

    def _grow(self, superseded: Sequence[int] = ()) -> None:
        path = self._campaign.store_path
        with store_locked(self._campaign):
            grow_store(path, max(self._ledger.row_end(), read_layout(path).rows), superseded)

    def finish(self) -> None:
        """Remove what is not needed of the raw segments, when no segment is written any more; grow the store where a
        copy of its metadata from another host has fewer rows.
        """
        self._sweep(sys.maxsize)
        if not self._campaign.addition and self._campaign.store_path.exists() and self._ledger.shard_counts()[1]:
            self._grow()

    def _sweep(self, recorded_below: int) -> None:
        """Remove segments whose chips are all sealed, unless they are to be kept: those of earlier runs, and those of
        this run in which every record is in the ledger.
        """
        if self._campaign.config.store.keep_raw:
            return
        found = segment_numbers(self._campaign.raw_path)
        finished = {number for number in found if number < recorded_below or number in self._earlier_segments}
        for number in finished - self._ledger.segments_in_use() if finished else ():
            remove_segment(self._campaign.raw_path, number)
            self._earlier_segments.discard(number)  # a later writer may use the number again

    def _create(self) -> None:
        """Make the store where there is none. Arrays that are added to it are named in its metadata when the last of
        their shards is sealed, see stages.additions.
        """
        if self._created:
            return
        campaign, layout = self._campaign, self._layout
        if campaign.addition:
            found = read_layout(campaign.store_path)
            self._store = replace(found, specs={**found.specs, **layout.specs})
        else:
            create_store_of(campaign, layout)
            # Imports know nothing of these chips yet; without a file the store would count as damaged.
            self._names += [name for name in read_layout(campaign.store_path).specs if name not in layout.specs]
        self._created = True


def create_store_of(campaign: Campaign, layout: Layout) -> None:
    """Make the store of a campaign, or name further arrays in its metadata."""
    with store_locked(campaign):
        create_store(
            campaign.store_path,
            tuple(layout.specs.values()),
            chip_m=campaign.chip_m,
            shard_chips=layout.shard_chips,
            codec=campaign.config.store.codec,
        )
