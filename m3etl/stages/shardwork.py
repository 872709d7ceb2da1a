"""Sealing one shard: landed chips in order of row become one shard of the store and one file of provenance. All that it
needs is told, so that any process which sees the campaign can do it; doing it twice leaves the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from m3etl.campaign import Campaign
from m3etl.errors import DamagedError
from m3etl.io.layout import StoreLayout
from m3etl.io.ledger import ChipRecord, ChipState
from m3etl.io.pixels import Array, arrays_of, final_status
from m3etl.io.provenance import PeriodRow, ProvenanceRow, write_provenance
from m3etl.io.segments import read_record
from m3etl.io.store import SealedChip, seal_shard
from m3etl.spec.jobs import ArrayScenes, ArrayStatus
from m3etl.spec.modality import ArraySpec, Shape, valid_of
from m3etl.stages.places import grid_of

Fractions = dict[tuple[str, str, str], float]  # valid fraction by chip, array and period, "" for all of the array

_undecided = ArrayScenes(status=ArrayStatus.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardWork:
    """One shard to seal. specs: arrays that the ledger knows; names: of all that get a file; store: its layout where
    that is not what its metadata says yet; records: chips to record, in order of row; old_rows: chips that were in the
    shard before and are sealed with it again; threads: that compress, 0 for as many as cores.
    """

    campaign: Campaign
    shard: int
    specs: Mapping[str, ArraySpec]
    names: tuple[str, ...]
    store: StoreLayout | None
    records: tuple[ChipRecord, ...]
    old_rows: tuple[ChipRecord, ...] = ()
    threads: int = 0


Performs = Callable[[ShardWork], tuple[int, int]]  # what `seal_work` is


def seal_work(work: ShardWork) -> tuple[int, int]:
    """Seal one shard and write its provenance; returns its number and its chips. What a killed run left of it is
    finished, not redone.

    Raises DamagedError where landed bytes are not what they were.
    """
    campaign = work.campaign
    fractions: Fractions = {}
    every = sorted([*work.records, *work.old_rows], key=lambda record: record.row)
    checksums = seal_shard(
        campaign.store_path,
        work.shard,
        _chips(work, every, fractions),
        arrays=list(work.names),
        layout=work.store,
        threads=work.threads,
    )
    rows = [row for record in work.records for row in _provenance(work, record, checksums, fractions)]
    write_provenance(campaign.provenance_path, work.shard, rows, campaign.addition)
    return work.shard, len(work.records)


def _chips(work: ShardWork, records: Sequence[ChipRecord], fractions: Fractions) -> Iterator[SealedChip]:
    for record in records:
        arrays = {} if record.state is ChipState.FAILED else _arrays(work, record)
        for name, values in arrays.items():
            spec = work.specs[name]
            fractions[record.chip_id, name, ""] = valid_fraction(spec, values)
            for place, period in enumerate(spec.periods if record.scenes.arrays[name].periods else ()):
                part = values.reshape(spec.with_periods(values.shape))[place]
                fractions[record.chip_id, name, period] = valid_fraction(spec, part)
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


def _arrays(work: ShardWork, record: ChipRecord) -> dict[str, Array]:
    specs = work.specs
    found: dict[str, Array] = {
        name: stored_vector(spec, record.scenes.arrays[name].values or ())
        for name, spec in specs.items()
        if spec.shape is Shape.VECTOR and record.scenes.arrays[name].values is not None
    }
    if record.place is None:
        return found
    chip_id, parts = read_record(work.campaign.raw_path, record.place)
    if chip_id != record.chip_id:
        raise DamagedError(
            f"the landed bytes of {record.chip_id} belong to {chip_id}",
            hint="Remove the raw directory and run `m3etl export` again.",
        )
    return {**arrays_of(parts, specs, grid_of(record.chip_id), record.statuses), **found}


def _provenance(
    work: ShardWork,
    record: ChipRecord,
    checksums: Mapping[str, Mapping[str, str]],
    fractions: Fractions,
) -> Iterator[ProvenanceRow]:
    for name, spec in work.specs.items():
        scenes = record.scenes.arrays.get(name, _undecided)
        change = ArrayStatus.FAILED if record.state is ChipState.FAILED else record.statuses.get(name)
        fraction = fractions.get((record.chip_id, name, ""), 0.0)
        yield ProvenanceRow(
            chip_id=record.chip_id,
            array=name,
            scene_ids=scenes.scene_ids,
            time=_milliseconds(scenes.time),
            gap_days=scenes.gap_days,
            valid_fraction=fraction,
            cloud_fraction=scenes.cloud_fraction,
            checksum=checksums.get(name, {}).get(record.chip_id),
            status=str(final_status(spec, scenes.status, change, fraction)),
            origin="planet" if scenes.synthetic else record.origin,
            license=scenes.license,
            periods=tuple(
                _period_row(
                    spec,
                    period,
                    item,
                    change or record.statuses.get(f"{name}/{period}"),
                    fractions.get((record.chip_id, name, period), 0.0),
                )
                for period, item in scenes.periods.items()
            )
            or None,
        )


def _period_row(
    spec: ArraySpec, period: str, scenes: ArrayScenes, change: ArrayStatus | None, fraction: float
) -> PeriodRow:
    changed = None if scenes.status is ArrayStatus.NO_SCENE and change is not ArrayStatus.FAILED else change
    return PeriodRow(
        period=period,
        status=str(final_status(spec, scenes.status, changed, fraction)),
        scene_ids=scenes.scene_ids,
        time=_milliseconds(scenes.time),
        gap_days=scenes.gap_days,
        valid_fraction=fraction,
        cloud_fraction=scenes.cloud_fraction,
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


def _milliseconds(text: str | None) -> int | None:
    return None if text is None else round(datetime.fromisoformat(text).timestamp() * 1000)
