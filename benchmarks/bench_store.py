"""Store and loader against the decode limit, zarr-python and the stock DataLoader."""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import blosc
from torch.utils.data import DataLoader

from benchmarks.synthetic import make_sealed, write_store
from benchmarks.writing import run_writing
from m3etl.io.store import ChipStore, open_store
from m3etl.learn.dataset import ChipDataset
from m3etl.learn.loader import ChipLoader
from m3etl.spec.modality import Shape
from m3etl.stages.statistics import measure_store
from m3etl.stages.summary import SilentProgress

Row = dict[str, Any]
threads = 2
batch_size = 64


def run(*, quick: bool = True) -> list[Row]:
    """All rows of this file; `machine` and `commit` are added by the caller."""
    chips, runs = (256, 3) if quick else (2048, 5)
    directory = Path(tempfile.mkdtemp(prefix="m3etl-bench-"))
    try:
        sealed = list(make_sealed(range(chips)))
        write_store(directory / "chips.zarr", sealed, shard_chips=128)
        store = open_store(directory / "chips.zarr")
        stats = measure_store(store, np.arange(store.rows), SilentProgress())
        (directory / "stats.json").write_text(json.dumps({**stats, "dataset_id": "bench"}))
        return [
            _loader_vs_limit(directory, store, runs),
            _loader_vs_zarr(directory, store, runs),
            _loader_vs_dataloader(directory, runs),
            _loader_growth(directory),
            *run_writing(directory, quick=quick),
        ]
    finally:
        shutil.rmtree(directory)


def _row(
    bench: str, unit: str, ours: list[float], rival: str, theirs: list[float], *, ratios: list[float], note: str
) -> Row:
    return {
        "bench": bench,
        "value": statistics.median(ratios),
        "unit": unit,
        "rival": rival,
        "rival_value": statistics.median(theirs) if theirs else None,
        "runs": len(ratios),
        "spread": [min(ratios), max(ratios)],
        "note": f"{note}; ours {statistics.median(ours):.4g}",
    }


def _side_by_side(ours: Callable[[], float], theirs: Callable[[], float], runs: int) -> tuple[list[float], list[float]]:
    """Both measured in turn, after one unmeasured round."""
    ours(), theirs()
    pairs = [(ours(), theirs()) for _ in range(runs)]
    return [one for one, _ in pairs], [other for _, other in pairs]


def _per_second(count: int, action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return count / (time.perf_counter() - started)


def _loader_pass(directory: Path) -> Callable[[], float]:
    loader = ChipLoader(directory, batch_size=batch_size, shuffle="full", threads=threads)
    chips = int(loader.order.rows.size)
    return lambda: _per_second(chips, lambda: [None for _ in loader])


def _loader_vs_limit(directory: Path, store: ChipStore, runs: int) -> Row:
    """Random batches of all arrays against decompressing the same chunks from memory into reused buffers."""
    chunks, order = [], np.random.default_rng(0).permutation(store.rows)
    for row in order.tolist():
        for name, spec in store.specs.items():
            if spec.shape is Shape.RASTER:
                file = store._shard_file(name, row // store.shard_chips)
                chunk = None if file is None else file.read(row % store.shard_chips)
                if chunk is not None:
                    chunks.append((chunk[:-4], int(np.prod(store.chip_shape(name))) * np.dtype(spec.dtype).itemsize))

    def decode(part: int) -> None:
        target = np.empty(12 * 128 * 128 * 2, np.uint8)
        for chunk, size in chunks[part::threads]:
            blosc.decompress(chunk, target[:size])

    def limit() -> float:
        with ThreadPoolExecutor(threads) as pool:
            return _per_second(store.rows, lambda: list(pool.map(decode, range(threads))))

    ours, theirs = _side_by_side(_loader_pass(directory), limit, runs)
    ratios = [there / here for here, there in zip(ours, theirs, strict=True)]
    note = f"chips/s, full shuffle, {threads} threads, warm; lower is better"
    return _row(
        "loader.vs_decode_limit", "ratio", ours, "blosc alone, chunks in memory", theirs, ratios=ratios, note=note
    )


def _loader_vs_zarr(directory: Path, store: ChipStore, runs: int) -> Row:
    arrays = [zarr.open_array(directory / "chips.zarr" / name / "data", mode="r") for name in store.specs]
    rows = np.random.default_rng(0).permutation(store.rows)[:32].tolist()

    def theirs() -> float:
        return _per_second(len(rows), lambda: [array[row] for row in rows for array in arrays])

    ours, rival = _side_by_side(_loader_pass(directory), theirs, runs)
    ratios = [here / there for here, there in zip(ours, rival, strict=True)]
    return _row(
        "loader.vs_zarr_python", "ratio", ours, "zarr-python array[row]", rival, ratios=ratios, note="chips/s, warm"
    )


def _loader_vs_dataloader(directory: Path, runs: int) -> Row:
    dataset = ChipDataset(directory, values="stored")
    stock = DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=threads)

    def theirs() -> float:
        return _per_second(len(dataset), lambda: [None for _ in stock])

    ours, rival = _side_by_side(_loader_pass(directory), theirs, runs)
    ratios = [here / there for here, there in zip(ours, rival, strict=True)]
    note = f"chips/s with the start of an epoch, {threads} workers against {threads} threads"
    return _row(
        "loader.vs_stock_dataloader", "ratio", ours, "ChipDataset in DataLoader", rival, ratios=ratios, note=note
    )


def _loader_growth(directory: Path) -> Row:
    loader = ChipLoader(directory, batch_size=batch_size, threads=threads)
    batch_bytes = sum(buffer.nbytes for buffer in loader._ring.take().buffers.values())
    loader._ring._slots.clear()
    for _ in loader:
        pass
    before, count = _anonymous_bytes(), 0
    while count < 60:
        for _ in loader:
            count += 1
    growth = (_anonymous_bytes() - before) / batch_bytes
    note = f"anonymous memory over {count} batches of {batch_bytes / 1e6:.0f} MB, after the first epoch"
    return _row("loader.memory_growth_batches", "batches", [growth], "none", [], ratios=[growth], note=note)


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


if __name__ == "__main__":
    for row in run():
        rival = "" if row["rival_value"] is None else f"{row['rival']} {row['rival_value']:.4g}"
        print(f"{row['bench']:32} {row['value']:8.3g} {row['unit']:8} {rival} ({row['note']})")
