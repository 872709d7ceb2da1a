"""A finished small campaign without any stage having run: plan, store, provenance and statistics of made-up chips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from fakes.chips import few_specs, make_store

from m3etl.campaign import Campaign, CampaignConfig, SampleConfig, create_campaign
from m3etl.io.plan import write_plan
from m3etl.io.provenance import ProvenanceRow, write_provenance
from m3etl.io.store import SealedChip
from m3etl.spec.modality import ArraySpec
from m3etl.stages.normalize import run_normalize
from m3etl.stages.summary import SilentProgress

anchor_ms = 1_561_975_200_000  # 2019-07-01T10:00:00Z


def make_campaign(
    root: Path,
    *,
    specs: Sequence[ArraySpec] = few_specs,
    count: int = 11,
    origin: str = "earthengine",
    licenses: Mapping[str, str] | None = None,
    statistics: bool = True,
) -> Campaign:
    """`count` chips of 16 px in shards of 4; every value has this origin, and its array's licence unless stated."""
    campaign = create_campaign(root, CampaignConfig(sample=SampleConfig(chip_px=16, chips=count, region="europe")))
    chips = make_store(campaign.store_path, specs, count=count)
    write_plan(campaign.plan_path, _plan(chips))
    for shard in range(-(-count // 4)):
        rows = [
            _provenance(chip, spec, origin, (licenses or {}).get(spec.name, spec.license))
            for chip in chips
            if chip.row // 4 == shard
            for spec in specs
        ]
        write_provenance(campaign.provenance_path, shard, rows)
    if statistics:
        run_normalize(campaign, progress=SilentProgress())
    return campaign


def _plan(chips: Sequence[SealedChip]) -> pd.DataFrame:
    side = 160.0
    rows = [
        {
            "chip_id": chip.chip_id,
            "row": chip.row,
            "generation": 0,
            "epsg": chip.epsg,
            "xmin": chip.xmin,
            "ymin": chip.ymax - side,
            "xmax": chip.xmin + side,
            "ymax": chip.ymax,
            "lon": chip.lon,
            "lat": chip.lat,
            "biome": chip.row % 14,
            "ecoregion": 600 + chip.row,
            "realm": "Palearctic",
            "region": "europe",
            "year": 2017 + chip.row % 4,
            "split": chip.split,
            "reserve": False,
            "case": "coast" if chip.row == len(chips) - 1 else None,
        }
        for chip in chips
    ]
    far = {"xmin": 600_000.0, "xmax": 600_160.0}
    reserve = {**rows[0], **far, "chip_id": "32632-160-9999-9999", "row": -1, "generation": -1, "reserve": True}
    return pd.DataFrame([*rows, reserve])


def _provenance(chip: SealedChip, spec: ArraySpec, origin: str, license_id: str) -> ProvenanceRow:
    present = spec.name in chip.arrays
    return ProvenanceRow(
        chip_id=chip.chip_id,
        array=spec.name,
        scene_ids=(f"{spec.name}/scene",) if present else (),
        time=anchor_ms if present else None,
        gap_days=0.0 if present else None,
        valid_fraction=0.75 if present else None,
        cloud_fraction=None,
        checksum="0" * 64,
        status="ok" if present else "no_scene",
        origin=origin,
        license=license_id,
    )
