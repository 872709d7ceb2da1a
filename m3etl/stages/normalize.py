"""`m3etl normalize`: statistics of the train split in one pass, and on request a normalised copy of the store."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from m3etl.campaign import Campaign, write_atomically
from m3etl.compute.quality import clear_of, find_cloud_array, fitted
from m3etl.compute.stats import Counts, merge_counts, start_counts, summarise
from m3etl.errors import InputError, NothingSelectedError
from m3etl.io.store import ChipStore, dataset_id, open_store
from m3etl.spec.modality import ArraySpec, Shape
from m3etl.stages.summary import Progress, Summary

devices = ("auto", "cpu", "cuda")


def run_normalize(
    campaign: Campaign, *, device: str = "auto", materialize: bool = False, progress: Progress
) -> Summary:
    """Write stats.json (atomically; the same bytes for the same store) and, with `materialize`, chips-normalized.zarr.

    device: where the normalised copy is computed; statistics are counted on the CPU. Raises NothingSelectedError
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
    rows = _train_rows(store)
    stats = measure_store(store, rows, progress)
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
        from m3etl.stages.materialize import normalized_path, write_normalized

        facts["device"] = write_normalized(campaign, store, stats, device=device, progress=progress)
        facts["normalised store"] = str(normalized_path(campaign))
    return Summary(stage="normalize", done=int(rows.size), seconds=time.monotonic() - started, facts=facts)


def measure_store(
    store: ChipStore, rows: npt.NDArray[np.int64], progress: Progress, *, threads: int = 0
) -> dict[str, Any]:
    """Statistics by array and band over `rows`, one pass, by threads that take one shard at a time.

    The result does not depend on their number: counts are integers. Arrays that ask for clear pixels leave out cloud.
    """
    groups = [
        list(part) for _, part in itertools.groupby(sorted(rows.tolist()), key=lambda row: row // store.shard_chips)
    ]
    progress.start("statistics", len(groups))
    pending = iter(groups)

    def work(_: int) -> dict[str, Counts]:
        counts = {name: start_counts(spec) for name, spec in store.specs.items()}
        for group in pending:
            _count_chips(store, group, counts)
            progress.advance()
        return counts

    count = max(1, min(threads or len(os.sched_getaffinity(0)), len(groups)))
    with ThreadPoolExecutor(count) as pool:
        parts = list(pool.map(work, range(count)))
    progress.finish()
    total = parts[0]
    for part in parts[1:]:
        total = {name: merge_counts(total[name], part[name]) for name in total}
    return {name: summarise(spec, total[name]) for name, spec in store.specs.items()}


def _count_chips(store: ChipStore, rows: Sequence[int], counts: dict[str, Counts]) -> None:
    cloud = find_cloud_array(store.specs.values())
    scratch = {name: np.empty(store.chip_shape(name), dtype=spec.dtype) for name, spec in store.specs.items()}
    for row in rows:
        clear = None
        if cloud is not None:
            store.read_chip_into(cloud.name, row, scratch[cloud.name])
            clear = clear_of(cloud, scratch[cloud.name])
        for name, spec in store.specs.items():
            if spec is not cloud:
                store.read_chip_into(name, row, scratch[name])
            counts[name].add(scratch[name], _usable(spec, scratch[name], clear))


def _usable(
    spec: ArraySpec, stored: npt.NDArray[Any], clear: npt.NDArray[np.bool_] | None
) -> npt.NDArray[np.bool_] | None:
    if clear is None or spec.statistics != "clear" or spec.shape is not Shape.RASTER:
        return None
    return fitted(clear, (stored.shape[-2], stored.shape[-1]))


def _train_rows(store: ChipStore) -> npt.NDArray[np.int64]:
    names, counts = np.unique(store.split[store.chip_ids != ""], return_counts=True)
    if "train" not in names:
        found = ", ".join(f"{count} in {name}" for name, count in zip(names, counts, strict=True)) or "none at all"
        raise NothingSelectedError(
            f"statistics are taken over the train split, which holds no sealed chip; chips found: {found}",
            hint="Export more chips, or give the train split a larger share in [split] of campaign.toml.",
        )
    return np.flatnonzero((store.split == "train") & (store.chip_ids != ""))
