"""Seals what has landed: chips of a final shard, in order of row, become one shard of the store and one file of
provenance.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np

from m3etl.campaign import Campaign, locked, store_locked
from m3etl.errors import DamagedError, NothingSelectedError
from m3etl.io.layout import StoreLayout, read_layout
from m3etl.io.ledger import ChipRecord, ChipState, Ledger
from m3etl.io.pixels import Array, arrays_of, final_status
from m3etl.io.provenance import ProvenanceRow, write_provenance
from m3etl.io.segments import read_record, remove_segment, segment_numbers
from m3etl.io.store import SealedChip, create_store, grow_store, seal_shard
from m3etl.spec.catalog_insar import gunw_recipe
from m3etl.spec.jobs import ArrayScenes, ArrayStatus
from m3etl.spec.modality import ArraySpec, Shape, valid_of
from m3etl.stages.layout import Layout, read_layout_of
from m3etl.stages.ledgers import open_ledgers
from m3etl.stages.places import grid_of
from m3etl.stages.scheduling import write_rows_to_plan
from m3etl.stages.summary import Progress, Summary

__all__ = ["Layout", "Sealer", "read_layout_of", "run_tile", "stored_vector", "valid_fraction"]


def run_tile(campaign: Campaign, *, progress: Progress) -> Summary:
    """Seal every shard whose chips are all final. Doing it again changes nothing.

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
            for shard in ledger.ready_shards():
                chips += sealer.seal(shard)
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


_undecided = ArrayScenes(status=ArrayStatus.FAILED)


class Sealer:
    """Seals shards of one campaign, one after the other."""

    def __init__(self, campaign: Campaign, ledger: Ledger, layout: Layout) -> None:
        self._campaign = campaign
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
        campaign, layout = self._campaign, self._layout
        records = self._ledger.shard_records(shard, shard_chips=layout.shard_chips)
        every = records
        if campaign.addition:  # a shard that is sealed holds these too
            every = sorted([*records, *self._ledger.old_rows(shard, shard_chips=layout.shard_chips)], key=_row_of)
        self._create()
        rows: list[ProvenanceRow] = []
        fractions: dict[tuple[str, str], float] = {}
        chips = self._chips(every, fractions)
        checksums = seal_shard(campaign.store_path, shard, chips, arrays=self._names, layout=self._store)
        for record in records:
            rows += self._provenance(record, checksums, fractions)
        write_provenance(campaign.provenance_path, shard, rows, campaign.addition)
        if records and not campaign.addition:
            self._grow(self._ledger.superseded_rows(shard, shard_chips=layout.shard_chips))
        self._ledger.record_sealed(shard, shard_chips=layout.shard_chips)
        self._sweep(self._ledger.landing_segment)
        return len(records)

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
            known = read_layout(campaign.store_path).specs
            self._names += [name for name, spec in known.items() if spec.recipe == gunw_recipe]
        self._created = True

    def _chips(self, records: Sequence[ChipRecord], fractions: dict[tuple[str, str], float]) -> Iterator[SealedChip]:
        for record in records:
            arrays = {} if record.state is ChipState.FAILED else self._arrays(record)
            for name, values in arrays.items():
                fractions[record.chip_id, name] = valid_fraction(self._layout.specs[name], values)
            grid = grid_of(record.chip_id)
            yield SealedChip(
                row=record.row,
                chip_id=record.chip_id,
                lon=record.lon,
                lat=record.lat,
                epsg=grid.epsg,
                xmin=grid.xmin,
                ymax=grid.ymax,
                split=record.split,
                arrays=arrays,
            )

    def _arrays(self, record: ChipRecord) -> dict[str, Array]:
        specs = self._layout.specs
        found: dict[str, Array] = {
            name: stored_vector(spec, record.scenes.arrays[name].values or ())
            for name, spec in specs.items()
            if spec.shape is Shape.VECTOR and record.scenes.arrays[name].values is not None
        }
        if record.place is None:
            return found
        chip_id, parts = read_record(self._campaign.raw_path, record.place)
        if chip_id != record.chip_id:
            raise DamagedError(
                f"the landed bytes of {record.chip_id} belong to {chip_id}",
                hint="Remove the raw directory and run `m3etl export` again.",
            )
        return {**arrays_of(parts, specs, grid_of(record.chip_id), record.statuses), **found}

    def _provenance(
        self,
        record: ChipRecord,
        checksums: Mapping[str, Mapping[str, str]],
        fractions: Mapping[tuple[str, str], float],
    ) -> Iterator[ProvenanceRow]:
        for name, spec in self._layout.specs.items():
            scenes = record.scenes.arrays.get(name, _undecided)
            fraction = fractions.get((record.chip_id, name), 0.0)
            status = final_status(spec, scenes.status, record.statuses.get(name), fraction)
            if record.state is ChipState.FAILED:
                status = ArrayStatus.FAILED
            yield ProvenanceRow(
                chip_id=record.chip_id,
                array=name,
                scene_ids=scenes.scene_ids,
                time=None if scenes.time is None else _milliseconds(scenes.time),
                gap_days=scenes.gap_days,
                valid_fraction=fraction,
                cloud_fraction=scenes.cloud_fraction,
                checksum=checksums.get(name, {}).get(record.chip_id),
                status=str(status),
                origin="planet" if scenes.synthetic else record.origin,
                license=scenes.license,
            )


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


def stored_vector(spec: ArraySpec, values: Sequence[float | None]) -> Array:
    """Physical numbers of a vector array as stored; fill where a number is absent."""
    stored = np.full(len(spec.bands), spec.fill_value(), dtype=spec.dtype)
    for index, value in enumerate(values):
        if value is None:
            continue
        scaled = (value - spec.offset) / spec.scale
        if not spec.stored_min - 1e-6 <= scaled <= spec.stored_max + 1e-6:
            continue
        stored[index] = round(scaled) if stored.dtype.kind in "iu" else scaled
    return stored


def valid_fraction(spec: ArraySpec, values: Array) -> float:
    """Share of pixels with a value in any band (of features with a value, for a vector)."""
    valid = valid_of(spec, values)
    return round(float((valid.any(axis=0) if spec.shape is Shape.RASTER else valid).mean()), 6)


def _row_of(record: ChipRecord) -> int:
    return record.row


def _milliseconds(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)
