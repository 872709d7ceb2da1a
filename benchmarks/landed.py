"""Chips that have landed and wait for sealing, as a run of `export` leaves them, from made-up pixels."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.synthetic import chip_m, make_chip, specs
from m3etl.campaign import Campaign, CampaignConfig, SampleConfig, StoreConfig
from m3etl.io.ledger import ChipRecord, ChipState
from m3etl.io.segments import Part, SegmentWriter
from m3etl.io.store import create_store
from m3etl.spec.jobs import ArrayScenes, ArrayStatus, ChipScenes, field_name
from m3etl.spec.modality import ArraySpec, Shape
from m3etl.stages.shardwork import ShardWork


def make_landed(root: Path, chips: int, *, shard_chips: int, different: int = 64) -> list[ShardWork]:
    """The work of sealing `chips` chips; `different` of them are made up, the others repeat their pixels."""
    root.mkdir(parents=True)
    campaign = Campaign(root, CampaignConfig(sample=SampleConfig(chip_px=128), store=StoreConfig()))
    made = [make_chip(number) for number in range(min(chips, different))]
    parts = [list(_parts(arrays)) for arrays in made]
    writer = SegmentWriter(campaign.raw_path)
    records = []
    for row in range(chips):
        chip_id = f"32632-1280-{row:04d}-3906"
        place = writer.append(chip_id, parts[row % len(parts)])
        records.append(_record(chip_id, row, made[row % len(made)], place))
    writer.flush()
    writer.close()
    return [
        ShardWork(
            campaign=campaign,
            shard=first // shard_chips,
            specs={spec.name: spec for spec in specs},
            names=tuple(spec.name for spec in specs),
            store=None,
            records=tuple(records[first : first + shard_chips]),
            threads=1,
        )
        for first in range(0, chips, shard_chips)
    ]


def make_empty_store(campaign: Campaign, shard_chips: int) -> None:
    """The store that sealing fills."""
    create_store(campaign.store_path, specs, chip_m=chip_m, shard_chips=shard_chips)


def _parts(arrays: dict[str, np.ndarray]) -> Iterator[Part]:
    """One answer for each grid, as the pixel lane keeps it."""
    by_side: dict[int, list[ArraySpec]] = {}
    for spec in specs:
        if spec.shape is Shape.RASTER and spec.name in arrays:
            by_side.setdefault(spec.pixels(chip_m), []).append(spec)
    for side, found in by_side.items():
        kinds = [(field_name(spec.name, band), spec.dtype) for spec in found for band in spec.bands]
        fields = np.empty((side, side), kinds)
        for spec in found:
            for number, band in enumerate(spec.bands):
                fields[field_name(spec.name, band)] = arrays[spec.name][number]
        body = io.BytesIO()
        np.save(body, fields)
        asked = {"arrays": [spec.name for spec in found], "width": side, "top": 0, "bottom": side, "check": False}
        yield Part(asked=asked, body=body.getvalue())


def _record(chip_id: str, row: int, arrays: dict[str, np.ndarray], place: object) -> ChipRecord:
    scenes = {
        spec.name: ArrayScenes(
            status=ArrayStatus.OK if spec.name in arrays else ArrayStatus.NO_SCENE,
            values=tuple(arrays[spec.name].tolist()) if spec.shape is Shape.VECTOR else None,
            time="2019-07-01T10:00:00+00:00",
            scene_ids=("made-up",),
            license="synthetic",
        )
        for spec in specs
    }
    return ChipRecord(
        chip_id=chip_id,
        state=ChipState.LANDED,
        row=row,
        generation=0,
        lon=10.0,
        lat=45.0,
        split="train",
        scenes=ChipScenes(
            chip_id=chip_id, year=2019, anchor_id=None, anchor_time="2019-07-01T10:00:00Z", arrays=scenes
        ),
        origin="planet",
        kind="",
        reason="",
        statuses={},
        place=place,
    )
