"""`m3etl normalize`: statistics of the train split in one pass, and on request a normalised copy of the store."""

from __future__ import annotations

import json
import time

import numpy as np
import numpy.typing as npt

from m3etl.campaign import Campaign, write_atomically
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.store import ChipStore, dataset_id, open_store
from m3etl.stages.statistics import measure_on_workers, measure_store
from m3etl.stages.summary import Progress, Summary

devices = ("auto", "cpu", "cuda")


def run_normalize(
    campaign: Campaign, *, device: str = "auto", materialize: bool = False, scheduler: str = "", progress: Progress
) -> Summary:
    """Write stats.json, the same bytes for the same store, and with `materialize` the normalised copy and its own.

    device: where the normalised copy is computed; statistics are counted on the CPU. scheduler: address of a Dask
    scheduler whose workers count, shard by shard; threads of this process by default. Raises NothingSelectedError
    without chips in the train split, InputError for a device that is not there, DamagedError where the store is
    damaged.
    """
    if device not in devices:
        raise InputError(f"unknown device: {device}", hint=f"Use one of {', '.join(devices)}.")
    if device == "cuda":
        from m3etl.stages.materialize import choose_device

        choose_device(device)
    started = time.monotonic()
    store = open_store(campaign.store_path)
    rows = train_rows(store)
    stats = measure_on_workers(store, rows, scheduler, progress) if scheduler else measure_store(store, rows, progress)
    stats["dataset_id"] = dataset_id(campaign.store_path)
    write_atomically(campaign.stats_path, (json.dumps(stats, indent=1, sort_keys=True) + "\n").encode())
    facts = {
        "chips": int((store.chip_ids != "").sum()),
        "train chips": int(rows.size),
        "arrays": len(store.specs),
        "statistics": str(campaign.stats_path),
        "dataset_id": stats["dataset_id"],
    }
    if materialize:
        from m3etl.stages.materialize import normalized_path, normalized_stats_path, write_normalized

        facts["device"] = write_normalized(campaign, store, stats, device=device, progress=progress)
        facts["normalised store"] = str(normalized_path(campaign))
        facts["its statistics"] = str(normalized_stats_path(campaign))
    return Summary(stage="normalize", done=int(rows.size), seconds=time.monotonic() - started, facts=facts)


def train_rows(store: ChipStore) -> npt.NDArray[np.int64]:
    """Rows of the sealed chips of the train split, ascending; NothingSelectedError without any."""
    names, counts = np.unique(store.split[store.chip_ids != ""], return_counts=True)
    if "train" not in names:
        found = ", ".join(f"{count} in {name}" for name, count in zip(names, counts, strict=True)) or "none at all"
        raise NothingSelectedError(
            f"statistics are taken over the train split, which holds no sealed chip; chips found: {found}",
            hint="Export more chips, or give the train split a larger share in [split] of campaign.toml.",
        )
    return np.flatnonzero((store.split == "train") & (store.chip_ids != ""))
