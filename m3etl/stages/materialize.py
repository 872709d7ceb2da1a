"""The normalised copy of a store: float16 (NaN where not observed) and int16 class indexes (-1), in the same layout.

It is a store like any other, with statistics and an identity of its own.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m3etl.campaign import Campaign, write_atomically
from m3etl.compute.device import BatchNormalizer, Rows
from m3etl.compute.normalize import Normalizer
from m3etl.errors import InputError
from m3etl.io.store import ChipStore, SealedChip, create_store, dataset_id, grow_store, open_store, seal_shard
from m3etl.io.workers import usable_cores
from m3etl.spec.modality import ArraySpec, Transform, Values
from m3etl.stages.statistics import measure_store
from m3etl.stages.summary import Progress

batch_bytes = {"cuda": 256 << 20, "cpu": 32 << 20}  # stored bytes of one batch: large transfers, or little memory
largest_float16 = 65504.0
procedure = 2  # of making the copy: a copy made by another one is made again


def normalized_path(campaign: Campaign) -> Path:
    """Where the normalised copy lies."""
    return campaign.root / "chips-normalized.zarr"


def normalized_stats_path(campaign: Campaign) -> Path:
    """Statistics of the normalised values, over the same chips as those of the stored ones."""
    return campaign.root / "stats-normalized.json"


def write_normalized(
    campaign: Campaign, store: ChipStore, stats: Mapping[str, Any], *, device: str, progress: Progress
) -> str:
    """Normalise every sealed chip on the device and seal the results; returns the device used.

    The copy is remade from the start when it was made from other data, and completed when it was interrupted. Its
    statistics (with its own dataset_id) are written last.
    """
    used = choose_device(device)
    target = normalized_path(campaign)
    _clear_old(target, _origin(stats))
    specs = [normalized_spec(spec) for spec in store.specs.values()]
    create_store(target, specs, chip_m=store.chip_m, shard_chips=store.shard_chips, codec=campaign.config.store.codec)
    write_atomically(_origin_path(target), json.dumps(_origin(stats)).encode())
    batches = _Batches(store, Normalizer.from_stats(stats, list(store.specs.values())), used)
    progress.start("normalise", store.shard_count)
    for shard in range(store.shard_count):
        first = shard * store.shard_chips
        rows = first + np.flatnonzero(store.chip_ids[first : first + store.shard_chips] != "")
        if rows.size:
            seal_shard(target, shard, batches.chips(rows))
        progress.advance()
    grow_store(target, store.rows)
    progress.finish()
    _write_stats(target, normalized_stats_path(campaign), progress)
    return used


def choose_device(device: str) -> str:
    """cuda or cpu for "auto"; InputError for cuda on a machine without it."""
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InputError("device cuda was asked for, but torch finds no CUDA device", hint="Use --device cpu or auto.")
    return "cuda" if available and device != "cpu" else "cpu"


def normalized_spec(spec: ArraySpec) -> ArraySpec:
    """The declaration of the normalised values: unit scale, float16 with NaN; classes as int16 indexes with -1.

    What is not transformed and may exceed float16 is float32.
    """
    common: dict[str, Any] = {
        "scale": 1.0,
        "offset": 0.0,
        "units": "1",
        "transform": Transform.NONE,
    }
    if spec.values is Values.CLASSES:
        codes = tuple(replace(item, code=index) for index, item in enumerate(spec.classes))
        return replace(
            spec, dtype="int16", fill=-1, classes=codes, valid_min=0.0, valid_max=spec.class_count - 1.0, **common
        )
    largest = max(abs(spec.valid_min), abs(spec.valid_max))
    is_small = spec.transform is not Transform.NONE or largest <= largest_float16
    dtype = "float16" if is_small else "float32"
    return replace(spec, dtype=dtype, fill=None, valid_min=-np.inf, valid_max=np.inf, **common)


class _Batches:
    """Chips of a store, read and normalised batch by batch in memory that is kept from shard to shard."""

    def __init__(self, store: ChipStore, normalizer: Normalizer, device: str) -> None:
        self._store = store
        chips = {name: (store.chip_shape(name), spec.dtype) for name, spec in store.specs.items()}
        chip_bytes = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in chips.values())
        self._size = min(max(1, batch_bytes[device] // chip_bytes), store.shard_chips)
        self._threads = usable_cores()
        self._dtypes = {name: normalized_spec(spec).dtype for name, spec in store.specs.items()}
        self._normalizer = BatchNormalizer(normalizer, chips, batch_size=self._size, device=device)

    def chips(self, rows: Rows) -> Iterator[SealedChip]:
        """The normalised chips of `rows`, in their order."""
        parts = (rows[start : start + self._size] for start in range(0, rows.size, self._size))
        for batch, values in self._normalizer.run(parts, self._fill):
            found = {
                name: _stored_values(values[name], values[f"{name}_valid"], dtype)
                for name, dtype in self._dtypes.items()
            }
            for place, row in enumerate(batch.tolist()):
                yield self._sealed(row, {name: part[place] for name, part in found.items()})

    def _fill(self, rows: Rows, buffers: Mapping[str, Any]) -> None:
        for name, buffer in buffers.items():
            self._store.read_into(name, rows, buffer, threads=self._threads)

    def _sealed(self, row: int, arrays: Mapping[str, Any]) -> SealedChip:
        store = self._store
        return SealedChip(
            row=row,
            chip_id=str(store.chip_ids[row]),
            lon=float(store.lon[row]),
            lat=float(store.lat[row]),
            epsg=int(store.epsg[row]),
            xmin=float(store.xmin[row]),
            ymax=float(store.ymax[row]),
            split=str(store.split[row]),
            arrays=arrays,
        )


def _stored_values(values: Tensor, valid: Tensor, dtype: str) -> np.ndarray[Any, Any]:
    """New memory: the batch's own is used again while the chips are still being compressed."""
    if values.dtype != torch.int64:
        values = values.masked_fill(~valid, torch.nan)
    return values.to(getattr(torch, dtype)).cpu().numpy()


def _write_stats(target: Path, path: Path, progress: Progress) -> None:
    copy = open_store(target)
    rows = np.flatnonzero((copy.split == "train") & (copy.chip_ids != ""))
    stats = {**measure_store(copy, rows, progress), "dataset_id": dataset_id(target)}
    write_atomically(path, (json.dumps(stats, indent=1, sort_keys=True) + "\n").encode())


def _origin(stats: Mapping[str, Any]) -> dict[str, Any]:
    """What a copy was made from and how."""
    digest = hashlib.sha256(json.dumps(stats, sort_keys=True).encode()).hexdigest()
    return {"dataset_id": stats["dataset_id"], "statistics": digest, "procedure": procedure}


def _origin_path(target: Path) -> Path:
    return target / "origin.json"


def _clear_old(target: Path, origin: Mapping[str, Any]) -> None:
    try:
        found = json.loads(_origin_path(target).read_bytes())
    except (OSError, ValueError):
        found = {}
    if target.exists() and found != origin:
        shutil.rmtree(target)
