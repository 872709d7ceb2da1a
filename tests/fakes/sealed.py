"""A small sealed campaign with made-up values, for stages that read what export left behind."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from m3etl.campaign import Campaign, CampaignConfig, SampleConfig, create_campaign
from m3etl.io.plan import write_plan
from m3etl.io.provenance import ProvenanceRow, write_provenance
from m3etl.io.store import SealedChip, create_store, grow_store, seal_shard
from m3etl.spec.catalog import arrays
from m3etl.spec.modality import ArraySpec, Values, valid_of

chip_px = 32
names = ("sentinel2_l2a", "sentinel1_asc", "aster_elevation", "worldcover", "era5_temperature", "biome", "month")


def made_up_chip(spec: ArraySpec, rng: np.random.Generator) -> np.ndarray:
    """One chip of values inside the declared range, a few of them missing."""
    shape = spec.chip_shape(chip_px * 10.0)
    if spec.values is Values.CLASSES:
        return rng.choice([item.code for item in spec.classes], shape).astype(spec.dtype)
    low, high = max(spec.stored_min, -2000), min(spec.stored_max, 3000)
    values = rng.uniform(low, high, shape).astype(spec.dtype)
    if len(shape) == 3:
        values[:, 0, :2] = spec.fill_value()
    return values


def sealed_campaign(root: Path, *, chips: int = 6, shard_chips: int = 4) -> Campaign:
    """`chips` chips side by side in one zone, sealed; the second has no Sentinel-1 scene."""
    campaign = create_campaign(root, CampaignConfig(sample=SampleConfig(chip_px=chip_px, region="europe")))
    rng = np.random.default_rng(7)
    specs = [arrays[name] for name in names]
    create_store(campaign.store_path, specs, chip_m=campaign.chip_m, shard_chips=shard_chips, codec="zstd")
    grow_store(campaign.store_path, -(-chips // shard_chips) * shard_chips)
    plan = _plan(chips)
    write_plan(campaign.plan_path, plan)
    for shard in range(-(-chips // shard_chips)):
        part = plan.iloc[shard * shard_chips : (shard + 1) * shard_chips]
        sealed = [_sealed(chip, specs, rng) for chip in part.to_dict("records")]
        sums = seal_shard(campaign.store_path, shard, sealed)
        rows = [_record(chip, spec, sums[spec.name][chip.chip_id]) for chip in sealed for spec in specs]
        write_provenance(campaign.provenance_path, shard, rows)
    return campaign


def _plan(chips: int) -> pd.DataFrame:
    column = np.arange(chips)
    xmin = 500_160.0 + column * 320.0
    return pd.DataFrame(
        {
            "chip_id": [f"32632-0320-{1563 + index:04d}-17312" for index in column],
            "row": column,
            "generation": 0,
            "epsg": 32632,
            "xmin": xmin,
            "ymin": 5_539_840.0,
            "xmax": xmin + 320.0,
            "ymax": 5_540_160.0,
            "lon": 9.0 + column * 0.0045,
            "lat": 50.01,
            "biome": column % 3,
            "ecoregion": 10 + column,
            "realm": "Palearctic",
            "region": "europe",
            "year": 2019,
            "split": "train",
            "reserve": False,
        }
    )


def _sealed(chip: dict, specs: list[ArraySpec], rng: np.random.Generator) -> SealedChip:
    values = {spec.name: made_up_chip(spec, rng) for spec in specs}
    if chip["row"] == 1:
        del values["sentinel1_asc"]
    place = {name: chip[name] for name in ("row", "chip_id", "lon", "lat", "epsg", "xmin", "ymax", "split")}
    return SealedChip(**place, arrays=values)


def _record(chip: SealedChip, spec: ArraySpec, checksum: str) -> ProvenanceRow:
    values = chip.arrays.get(spec.name)
    return ProvenanceRow(
        chip_id=chip.chip_id,
        array=spec.name,
        scene_ids=(f"{spec.name}/scene",),
        time=1_560_000_000_000,
        gap_days=1.5,
        valid_fraction=float(valid_of(spec, values).mean()) if values is not None else 0.0,
        cloud_fraction=None,
        checksum=checksum,
        status="no_scene" if values is None else "ok",
        origin="planet",
        license="synthetic",
    )


def checksum_of(values: np.ndarray) -> str:
    """sha256 of stored values, little-endian and in C order."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
