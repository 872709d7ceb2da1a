"""The normalised copy of a store: float16 (NaN where not observed) and int16 class indexes (-1), in the same layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m3etl.campaign import Campaign, write_atomically
from m3etl.compute.normalize import Normalizer
from m3etl.errors import InputError
from m3etl.io.store import ChipStore, SealedChip, create_store, grow_store, seal_shard
from m3etl.spec.modality import ArraySpec, Transform, Values
from m3etl.stages.summary import Progress

batch_bytes = 256 << 20  # stored bytes of one batch: large transfers, little memory


def normalized_path(campaign: Campaign) -> Path:
    """Where the normalised copy lies."""
    return campaign.root / "chips-normalized.zarr"


def write_normalized(
    campaign: Campaign, store: ChipStore, stats: Mapping[str, Any], *, device: str, progress: Progress
) -> str:
    """Normalise every sealed chip on the device and seal the results; returns the device used.

    The copy is remade from the start when it was made from other data, and completed when it was interrupted.
    """
    used = choose_device(device)
    target = normalized_path(campaign)
    _clear_old(target, stats["dataset_id"])
    specs = [normalized_spec(spec) for spec in store.specs.values()]
    create_store(target, specs, chip_m=store.chip_m, shard_chips=store.shard_chips, codec=campaign.config.store.codec)
    write_atomically(_origin_path(target), json.dumps({"dataset_id": stats["dataset_id"]}).encode())
    normalizer = Normalizer.from_stats(stats, list(store.specs.values())).to(used)
    progress.start("normalise", store.shard_count)
    for shard in range(store.shard_count):
        first = shard * store.shard_chips
        rows = first + np.flatnonzero(store.chip_ids[first : first + store.shard_chips] != "")
        if rows.size:
            seal_shard(target, shard, _normalized_chips(store, rows, normalizer, used))
        progress.advance()
    grow_store(target, store.rows)
    progress.finish()
    return used


def choose_device(device: str) -> str:
    """cuda or cpu for "auto"; InputError for cuda on a machine without it."""
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InputError("device cuda was asked for, but torch finds no CUDA device", hint="Use --device cpu or auto.")
    return "cuda" if available and device != "cpu" else "cpu"


def normalized_spec(spec: ArraySpec) -> ArraySpec:
    """The declaration of the normalised values: unit scale, float16 with NaN; classes as int16 indexes with -1."""
    common: dict[str, Any] = {
        "scale": 1.0,
        "offset": 0.0,
        "units": "1",
        "transform": Transform.NONE,
        "statistics": "valid",
    }
    if spec.values is Values.CLASSES:
        codes = tuple(replace(item, code=index) for index, item in enumerate(spec.classes))
        return replace(
            spec, dtype="int16", fill=-1, classes=codes, valid_min=0.0, valid_max=spec.class_count - 1.0, **common
        )
    return replace(spec, dtype="float16", fill=None, valid_min=-np.inf, valid_max=np.inf, **common)


def _normalized_chips(store: ChipStore, rows: Any, normalizer: Normalizer, device: str) -> Any:
    chip_bytes = sum(
        int(np.prod(store.chip_shape(name))) * np.dtype(spec.dtype).itemsize for name, spec in store.specs.items()
    )
    step = max(1, batch_bytes // chip_bytes)
    for batch in (rows[start : start + step] for start in range(0, rows.size, step)):
        stored = {name: torch.from_numpy(store.read(name, batch, threads=2)).to(device) for name in store.specs}
        values = normalizer(stored, dtype=torch.float32)
        found = {name: _stored_values(values[name], values[f"{name}_valid"]) for name in store.specs}
        for place, row in enumerate(batch.tolist()):
            yield SealedChip(
                row=row,
                chip_id=str(store.chip_ids[row]),
                lon=float(store.lon[row]),
                lat=float(store.lat[row]),
                epsg=int(store.epsg[row]),
                xmin=float(store.xmin[row]),
                ymax=float(store.ymax[row]),
                split=str(store.split[row]),
                arrays={name: part[place] for name, part in found.items()},
            )


def _stored_values(values: Tensor, valid: Tensor) -> np.ndarray[Any, Any]:
    if values.dtype == torch.int64:
        return values.to(torch.int16).cpu().numpy()
    return torch.where(valid, values, torch.nan).to(torch.float16).cpu().numpy()


def _origin_path(target: Path) -> Path:
    return target / "origin.json"


def _clear_old(target: Path, dataset_id: str) -> None:
    try:
        origin = json.loads(_origin_path(target).read_bytes())
    except (OSError, ValueError):
        origin = {}
    if target.exists() and origin.get("dataset_id") != dataset_id:
        shutil.rmtree(target)
