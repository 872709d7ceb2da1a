"""Statistics of a store by shards: a pure function counts the chips of one shard; its results merge in any order."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from m3etl.compute.quality import clear_of, find_cloud_array, find_cloud_of_periods, fitted, without_cloud
from m3etl.compute.stats import Counts, merge_counts, start_counts, summarise
from m3etl.io.store import ChipStore, open_store
from m3etl.io.workers import Workers, open_workers, usable_cores
from m3etl.spec.modality import ArraySpec, Shape
from m3etl.stages.summary import Progress

StoreCounts = Mapping[str, Counts]  # array -> its counts; small when pickled, so that it can travel


def measure_store(
    store: ChipStore, rows: npt.NDArray[np.int64], progress: Progress, *, threads: int = 0
) -> dict[str, Any]:
    """Statistics by array and band over `rows`, one pass, by threads that take one shard at a time.

    The result does not depend on their number: parts merge exactly. Arrays that ask for clear pixels leave out cloud.
    """
    groups = split_by_shard(rows, store.shard_chips)
    progress.start("statistics", len(groups))
    pending = iter(groups)

    def work(_: int) -> StoreCounts:
        counts = start_store_counts(store.specs)
        for group in pending:
            _count_chips(store, group, counts)
            progress.advance()
        return counts

    count = max(1, min(threads or usable_cores(), len(groups)))
    with ThreadPoolExecutor(count) as pool:
        parts = list(pool.map(work, range(count)))
    progress.finish()
    return summarise_store(store.specs, parts)


def measure_on_workers(
    store: ChipStore, rows: npt.NDArray[np.int64], scheduler: str, progress: Progress
) -> dict[str, Any]:
    """The same, counted by the workers of a Dask scheduler: one task per shard."""
    groups = split_by_shard(rows, store.shard_chips)
    path = store.path.resolve()
    progress.start("statistics", len(groups))

    def parts(workers: Workers) -> Iterator[StoreCounts]:
        for counts in workers.run(count_rows, ((path, group) for group in groups)):
            yield counts
            progress.advance()

    with open_workers(scheduler, shared=path) as workers:
        found = summarise_store(store.specs, parts(workers))
    progress.finish()
    return found


def split_by_shard(rows: npt.NDArray[np.int64], shard_chips: int) -> list[list[int]]:
    """The rows of each shard that has any, ascending: what one task counts."""
    return [list(part) for _, part in itertools.groupby(sorted(rows.tolist()), key=lambda row: row // shard_chips)]


def count_rows(path: Path, rows: Sequence[int]) -> StoreCounts:
    """Count chips of the store at `path`: the task for one shard, wherever it runs. DamagedError for damaged chips."""
    store = open_store(path)
    counts = start_store_counts(store.specs)
    _count_chips(store, rows, counts)
    return counts


def start_store_counts(specs: Mapping[str, ArraySpec]) -> StoreCounts:
    """Empty counts of every array."""
    return {name: start_counts(spec) for name, spec in specs.items()}


def merge_store_counts(one: StoreCounts, other: StoreCounts) -> StoreCounts:
    """Both counted together; they must be of the same store."""
    return {name: merge_counts(counts, other[name]) for name, counts in one.items()}


def summarise_store(specs: Mapping[str, ArraySpec], parts: Iterable[StoreCounts]) -> dict[str, Any]:
    """What stats.json says about each array and band, from the counts of all parts."""
    total = reduce(merge_store_counts, parts, start_store_counts(specs))
    return {name: summarise(spec, total[name]) for name, spec in specs.items()}


def _count_chips(store: ChipStore, rows: Iterable[int], counts: StoreCounts) -> None:
    cloud = find_cloud_array(store.specs.values())
    scratch = {name: np.empty(store.chip_shape(name), dtype=spec.dtype) for name, spec in store.specs.items()}
    specs = store.specs
    dated = {
        name: found
        for name, spec in specs.items()
        if spec.statistics == "clear" and (found := find_cloud_of_periods(spec, specs.values())) is not None
    }
    for row in rows:
        clear = None
        if cloud is not None:
            store.read_chip_into(cloud.name, row, scratch[cloud.name])
            clear = clear_of(cloud, scratch[cloud.name])
        for name, spec in store.specs.items():
            if spec is not cloud:
                store.read_chip_into(name, row, scratch[name])
            if name in dated:
                store.read_chip_into(dated[name].name, row, scratch[dated[name].name])
                without_cloud(spec, scratch[name], dated[name], scratch[dated[name].name])
            counts[name].add(scratch[name], _usable(spec, scratch[name], clear))


def _usable(
    spec: ArraySpec, stored: npt.NDArray[Any], clear: npt.NDArray[np.bool_] | None
) -> npt.NDArray[np.bool_] | None:
    if clear is None or spec.statistics != "clear" or spec.shape is not Shape.RASTER or spec.periods:
        return None
    return fitted(clear, (stored.shape[-2], stored.shape[-1]))
