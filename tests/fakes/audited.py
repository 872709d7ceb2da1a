"""A sealed campaign with nothing wrong in it, to plant one defect at a time: fields seen by every sensor in its own
way, dated scenes, two groups of chips far apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyproj import Transformer
from scipy.ndimage import shift as moved

from m3etl.campaign import Campaign, CampaignConfig, SampleConfig, create_campaign
from m3etl.io.plan import write_plan
from m3etl.io.provenance import ProvenanceRow, write_provenance
from m3etl.io.store import SealedChip, create_store, grow_store, seal_shard
from m3etl.spec.catalog import find_array
from m3etl.spec.modality import ArraySpec, valid_of

chip_px = 64
side = chip_px * 10
chips = 60
names = ("sentinel2_l2a", "sentinel1_asc", "aster_slope", "worldcover")
anchor = pd.Timestamp("2020-06-01T10:35:42Z")
s2 = "COPERNICUS/S2_SR_HARMONIZED/20200601T103031_20200601T103025_T32UNA"
s1 = "COPERNICUS/S1_GRD/S1A_IW_GRDH_1SDV_20200604T054321_20200604T054346_031523_03A1B2_0F0F"
scenes = {
    "sentinel2_l2a": (s2, anchor),
    "sentinel1_asc": (s1, pd.Timestamp("2020-06-04T05:43:21Z")),
}


@dataclass
class Made:
    """One chip before it is sealed: stored values and record of each array, its line of the plan."""

    plan: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]
    records: dict[str, dict[str, Any]] = field(default_factory=dict)


Plant = Callable[[Sequence[Made]], None]


def audited_campaign(root: Path, plant: Plant | None = None) -> Campaign:
    """60 chips of 64 px, sealed with true checksums and records; `plant` may change any of them before."""
    campaign = create_campaign(root, CampaignConfig(sample=SampleConfig(chip_px=chip_px, region="europe")))
    rng = np.random.default_rng(11)
    specs = [find_array(name) for name in names]
    made = [_made(index, specs, rng) for index in range(chips)]
    if plant is not None:
        plant(made)
    create_store(campaign.store_path, specs, chip_m=campaign.chip_m, shard_chips=64, codec="zstd")
    grow_store(campaign.store_path, 64)
    write_plan(campaign.plan_path, pd.DataFrame([chip.plan for chip in made]))
    place = ("row", "chip_id", "lon", "lat", "epsg", "xmin", "ymax", "split")
    sealed = [SealedChip(**{name: chip.plan[name] for name in place}, arrays=chip.arrays) for chip in made]
    sums = seal_shard(campaign.store_path, 0, sealed)
    rows = [_record(chip, spec, sums[spec.name][chip.plan["chip_id"]]) for chip in made for spec in specs]
    write_provenance(campaign.provenance_path, 0, rows)
    return campaign


def shifted(array: str, by_px: float) -> Plant:
    """Plants a shift to the right of the first two bands of one array in every chip."""

    def plant(made: Sequence[Made]) -> None:
        for chip in made:
            values = chip.arrays[array][:2].astype(np.float64)
            values[:, 0] = values[:, 1]  # what is missing there is no number to interpolate
            shape = (0.0,) * (values.ndim - 1) + (by_px,)
            chip.arrays[array][:2] = np.rint(moved(values, shape, order=1, mode="nearest"))

    return plant


def _made(index: int, specs: Sequence[ArraySpec], rng: np.random.Generator) -> Made:
    points = rng.uniform(0, chip_px, (40, 2))
    ys, xs = np.indices((chip_px, chip_px))
    fields = np.argmin([(ys - y) ** 2 + (xs - x) ** 2 for y, x in points], axis=0)
    optics, radar = rng.uniform(300, 4000, 40)[fields], rng.uniform(-2000, -500, 40)[fields]
    layers = {
        "sentinel2_l2a": optics + rng.normal(0, 20, (12, chip_px, chip_px)),
        "sentinel1_asc": radar + 1000 * np.log10(rng.gamma(4.4, 1 / 4.4, (4, chip_px, chip_px))),
        "aster_slope": rng.uniform(0, 3000, find_array("aster_slope").chip_shape(float(side))),
        "worldcover": rng.choice([10, 30, 40, 50, 80], 40)[fields][None],
    }
    arrays = {}
    for spec in specs:
        values = np.rint(np.broadcast_to(layers[spec.name], spec.chip_shape(float(side))))
        arrays[spec.name] = values.astype(spec.dtype)
        arrays[spec.name][:, 0, :2] = spec.fill_value()
    arrays["sentinel1_asc"][2:] = find_array("sentinel1_asc").fill_value()  # HH and HV are not acquired over land
    return Made(plan=_line(index), arrays=arrays, records={spec.name: _observed(spec) for spec in specs})


def _line(index: int) -> dict[str, Any]:
    """Ten chips a row; the second half lies 50 km to the east and is for testing."""
    group, place = divmod(index, chips // 2)
    column, row = 782 + 80 * group + place % 10, 8656 + place // 10
    xmin, ymin = float(column * side), float(row * side)
    lon, lat = Transformer.from_crs(32632, 4326, always_xy=True).transform(xmin + side / 2, ymin + side / 2)
    return {
        "chip_id": f"32632-{side:04d}-{column:04d}-{row:04d}", "row": index, "generation": 0, "epsg": 32632,
        "xmin": xmin, "ymin": ymin, "xmax": xmin + side, "ymax": ymin + side, "lon": lon, "lat": lat, "biome": 3,
        "ecoregion": 10, "realm": "Palearctic", "region": "europe", "year": 2020,
        "split": ("train", "test")[group], "reserve": False,
    }  # fmt: skip


def _observed(spec: ArraySpec) -> dict[str, Any]:
    scene, time = scenes.get(spec.name, (f"{spec.source[0]}/map", None))
    return {
        "scene_ids": (scene,),
        "time": None if time is None else round(time.timestamp() * 1000),
        "gap_days": None if time is None else round((time - anchor).total_seconds() / 86400, 6),
        "status": "ok",
    }


def _record(chip: Made, spec: ArraySpec, checksum: str) -> ProvenanceRow:
    fraction = float(valid_of(spec, chip.arrays[spec.name]).mean())
    row = ProvenanceRow(
        chip_id=chip.plan["chip_id"], array=spec.name, scene_ids=(), time=None, gap_days=None, valid_fraction=fraction,
        cloud_fraction=None, checksum=checksum, status="ok", origin="planet", license="synthetic",
    )  # fmt: skip
    return replace(row, **chip.records[spec.name])
