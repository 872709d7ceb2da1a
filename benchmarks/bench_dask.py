"""Two Dask workers on a core each against one process on one core: sealing landed chips, and statistics."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.landed import make_empty_store, make_landed
from m3etl.io.store import grow_store, open_store
from m3etl.io.workers import open_workers
from m3etl.stages.shardwork import ShardWork, seal_work
from m3etl.stages.statistics import measure_on_workers, measure_store
from m3etl.stages.summary import SilentProgress
from tests.fakes.dask_cluster import dask_cluster

Row = dict[str, Any]
stages = ("tile", "normalize")
most_busy = 0.15  # share of the two cores that others may use


def run(*, quick: bool = True) -> list[Row]:
    """`dask.two_workers_speedup` over both stages, and each of them."""
    chips, runs = (512, 3) if quick else (2048, 3)
    cores = tuple(sorted(os.sched_getaffinity(0)))[:2]
    busy = 0.0 if len(cores) < 2 else _used_by_others(cores)
    if len(cores) < 2 or busy > most_busy:
        reason = f"others use {busy:.0%} of the two cores" if len(cores) > 1 else "it needs two cores"
        print(f"dask.two_workers_speedup is left out: {reason}", file=sys.stderr, flush=True)
        return []
    with tempfile.TemporaryDirectory(prefix="m3etl-bench-") as name:
        folder = Path(name)
        works = make_landed(folder / "c", chips, shard_chips=shard_chips_of(chips))
        with dask_cluster(folder / "dask", workers=2, cores=cores) as cluster:
            together(works, cluster.address)  # workers import and compile
            pairs = []
            for number in range(runs):
                pairs.append((_alone(chips, folder / "alone", cores[:1]), together(works, cluster.address)))
                seconds = [f"{sum(side.values()):.3g} s" for side in pairs[-1]]
                print(f"dask run {number + 1}: alone and together {seconds}", file=sys.stderr, flush=True)
    note = (
        f"{chips} chips, all modalities; one process on one core against two workers on a core each, all warm; others "
        f"used {busy:.0%} of the two cores before"
    )
    rows = [_row("dask.two_workers_speedup", [(sum(a.values()), sum(b.values())) for a, b in pairs], note)]
    return rows + [
        _row(f"dask.two_workers_speedup_{stage}", [(a[stage], b[stage]) for a, b in pairs], note) for stage in stages
    ]


def _used_by_others(cores: tuple[int, ...]) -> float:
    """Share of the cores that is not idle while this process waits: a speed-up needs both to itself."""
    used = psutil.cpu_percent(interval=2.0, percpu=True)
    return statistics.mean(used[core] for core in cores) / 100


def shard_chips_of(chips: int) -> int:
    """256 as in any large campaign; fewer where there would be no shard for each worker."""
    return min(256, chips // 4)


def together(works: list[ShardWork], address: str) -> dict[str, float]:
    """Seconds of each stage on the workers."""
    campaign = works[0].campaign
    _fresh(works)
    started = time.perf_counter()
    with open_workers(address, shared=campaign.root) as workers:
        for _ in workers.run(seal_work, ((work,) for work in works)):
            pass
    sealed = time.perf_counter()
    store = _grown(works)
    measure_on_workers(store, np.arange(store.rows), address, SilentProgress())
    return {"tile": sealed - started, "normalize": time.perf_counter() - sealed}


def alone(works: list[ShardWork]) -> dict[str, float]:
    """Seconds of each stage in this process, after one shard that is not measured."""
    for _ in range(2):
        _fresh(works)
        part = works[:1]
        for work in part:
            seal_work(work)
        store = _grown(part)
        measure_store(store, np.arange(8), SilentProgress(), threads=1)
    _fresh(works)
    started = time.perf_counter()
    for work in works:
        seal_work(work)
    sealed = time.perf_counter()
    store = _grown(works)
    measure_store(store, np.arange(store.rows), SilentProgress(), threads=1)
    return {"tile": sealed - started, "normalize": time.perf_counter() - sealed}


def _fresh(works: list[ShardWork]) -> None:
    campaign = works[0].campaign
    for path in (campaign.store_path, campaign.provenance_path):
        shutil.rmtree(path, ignore_errors=True)
    make_empty_store(campaign, len(works[0].records))


def _grown(works: list[ShardWork]) -> Any:
    campaign = works[0].campaign
    grow_store(campaign.store_path, works[-1].records[-1].row + 1)
    return open_store(campaign.store_path)


def _alone(chips: int, folder: Path, cores: tuple[int, ...]) -> dict[str, float]:
    """The same in a process of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.bench_dask", str(folder), str(chips), *map(str, cores)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _row(name: str, seconds: list[tuple[float, float]], note: str) -> Row:
    ratios = [one / two for one, two in seconds]
    return {
        "bench": name,
        "value": statistics.median(ratios),
        "unit": "ratio",
        "rival": "one process, seconds",
        "rival_value": statistics.median(one for one, _ in seconds),
        "runs": len(ratios),
        "spread": [min(ratios), max(ratios)],
        "note": f"{note}; two workers {statistics.median(two for _, two in seconds):.3g} s",
    }


if __name__ == "__main__":
    if len(sys.argv) > 3:
        chips = int(sys.argv[2])
        os.sched_setaffinity(0, map(int, sys.argv[3:]))
        print(json.dumps(alone(make_landed(Path(sys.argv[1]), chips, shard_chips=shard_chips_of(chips)))))
    else:
        for found in run():
            print(json.dumps(found))
