"""Reading with the loader against the decode limit and against the readers people use, on the same chips.

Warm unless said; two threads or two workers each. Rivals run in environments of their own (see `rivals`); one that
can't be installed on a machine is left out there, and said so.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numcodecs import blosc
from torch.utils.data import DataLoader

from benchmarks.million import make_million_chips
from benchmarks.rivals import rival_python, run_rival
from benchmarks.synthetic import make_sealed, repeat_sealed, specs, write_store
from benchmarks.writing import mmearth_arrays
from m3etl.compute.normalize import Normalizer
from m3etl.io import decoding
from m3etl.io.store import ChipStore, SealedChip, open_store
from m3etl.learn.dataset import ChipDataset
from m3etl.learn.loader import ChipLoader
from m3etl.spec.modality import Shape
from m3etl.stages.statistics import measure_store
from m3etl.stages.summary import SilentProgress

Row = dict[str, Any]
Rate = Callable[[], float]
threads = 2
batch_size = 64
shard_chips = 128
script = Path(__file__).with_name("rival_reading.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A rival in another environment. group: of requirements; store: the store of ours that it is compared with."""

    bench: str
    name: str
    group: str
    title: str
    store: str = "zstd"
    note: str = ""


rivals = (
    Rival(bench="loader.vs_tensorstore", name="tensorstore", group="store", title="tensorstore, random batches"),
    Rival(
        bench="loader.vs_litdata",
        name="litdata",
        group="store",
        title="litdata, uncompressed",
        note="ours is compressed",
    ),
    Rival(bench="loader.vs_mds", name="mds", group="store", title="MDS, uncompressed", note="ours is compressed"),
    Rival(
        bench="loader.vs_webdataset",
        name="webdataset",
        group="store",
        title="webdataset, raw tar",
        note="ours is compressed; the rival has no random access, it shuffles in a buffer of 512",
    ),
    Rival(
        bench="loader.vs_h5py_blosc",
        name="h5py_blosc",
        group="store",
        title="HDF5 with blosc-lz4-bitshuffle",
        store="fast",
    ),
    Rival(
        bench="loader.vs_ffcv_raw",
        name="ffcv",
        group="ffcv",
        title="FFCV, uncompressed, from the page cache",
        store="none",
        note="ours uncompressed as well, but checks every checksum",
    ),
)


def run(*, quick: bool = True) -> list[Row]:
    """All rows of this file; `machine` and `commit` are added by the caller."""
    chips, runs = (384, 3) if quick else (1024, 3)
    directory = Path(tempfile.mkdtemp(prefix="m3etl-bench-"))
    try:
        sealed = repeat_sealed(list(make_sealed(range(64))), chips)
        stores = _write_stores(directory, sealed, ("zstd",) if quick else ("zstd", "fast", "none"))
        decoding.load_native()
        return list(_rows(directory, stores, sealed, runs, quick=quick))
    finally:
        shutil.rmtree(directory)


def _rows(
    directory: Path, stores: dict[str, Path], sealed: Sequence[SealedChip], runs: int, *, quick: bool
) -> Iterator[Row]:
    """One measurement after the other; each is told on stderr, as all of them take minutes."""
    zstd = stores["zstd"]
    measurements: list[Callable[[], Row | None]] = [
        lambda: _vs_limit(zstd, "loader.vs_decode_limit", runs),
        lambda: _vs_zarr(zstd, runs),
        lambda: _vs_dataloader(zstd, runs),
        lambda: _cold_vs_warm(zstd, runs),
        lambda: _growth(zstd, 40 if quick else 1000),
        lambda: _bf16_vs_mmearth(zstd, sealed[: 96 if quick else 256], runs),
    ]
    if not quick:
        measurements.append(lambda: _vs_limit(stores["fast"], "loader.vs_decode_limit_lz4", runs))
    some = rivals[:1] if quick else rivals
    measurements += [partial(_vs_rival, rival, stores[rival.store], runs) for rival in some]
    measurements += [lambda: _open_million(directory, runs)]
    if not quick:
        measurements.append(lambda: _open_million_torch(directory, runs))
    began = time.perf_counter()
    for measure in measurements:
        row = measure()
        if row is not None:
            print(
                f"{time.perf_counter() - began:5.0f} s  {row['bench']} {row['value']:.4g}", file=sys.stderr, flush=True
            )
            yield row


def _write_stores(directory: Path, sealed: Sequence[SealedChip], codecs: Sequence[str]) -> dict[str, Path]:
    """The same chips in a store of each codec, with statistics; the folder of each."""
    found = {}
    for codec in codecs:
        folder = found[codec] = directory / codec
        folder.mkdir()
        write_store(folder / "chips.zarr", sealed, shard_chips=shard_chips, codec=codec)
        store = open_store(folder / "chips.zarr")
        stats = measure_store(store, np.arange(64), SilentProgress())
        (folder / "stats.json").write_text(json.dumps({**stats, "dataset_id": "bench"}))
    return found


def _dump(folder: Path) -> None:
    """The chips as plain arrays, from which rivals make their own format."""
    store = open_store(folder / "chips.zarr")
    for name in store.specs:
        if (folder / f"{name}.npy").exists():
            return
        np.save(folder / f"{name}.npy", store.read(name, np.arange(store.rows), threads=threads))


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


def _side_by_side(ours: Rate, theirs: Rate, runs: int) -> tuple[list[float], list[float]]:
    """Both measured in turn, after one round that does not count."""
    ours(), theirs()
    pairs = [(ours(), theirs()) for _ in range(runs)]
    return [one for one, _ in pairs], [other for _, other in pairs]


def _per_second(count: int, action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return count / (time.perf_counter() - started)


def _loader_pass(folder: Path) -> Rate:
    loader = ChipLoader(folder, batch_size=batch_size, shuffle="full", threads=threads)
    chips = int(loader.order.rows.size)
    return lambda: _per_second(chips, lambda: [None for _ in loader])


def _vs_limit(folder: Path, bench: str, runs: int) -> Row:
    """Random batches of all arrays against decompressing the same chunks from memory into reused buffers."""
    store = open_store(folder / "chips.zarr")
    chunks = []
    for row in np.random.default_rng(0).permutation(store.rows).tolist():
        for name, spec in store.specs.items():
            if spec.shape is Shape.RASTER and (chunk := _chunk(store, name, row)) is not None:
                chunks.append((chunk[:-4], store.chip_bytes(name)))

    def decode(part: int) -> None:
        target = np.empty(12 * 128 * 128 * 2, np.uint8)
        for chunk, size in chunks[part::threads]:
            blosc.decompress(chunk, target[:size])

    def limit() -> float:
        with ThreadPoolExecutor(threads) as pool:
            return _per_second(store.rows, lambda: list(pool.map(decode, range(threads))))

    ours, theirs = _side_by_side(_loader_pass(folder), limit, runs)
    ratios = [there / here for here, there in zip(ours, theirs, strict=True)]
    note = f"chips/s, codec {store.layout.codec}, full shuffle, {threads} threads; 1 is the limit, lower is better"
    return _row(bench, "ratio", ours, "blosc alone, chunks in memory", theirs, ratios=ratios, note=note)


def _chunk(store: ChipStore, array: str, row: int) -> bytes | None:
    key = store.shard_path(array, row // store.shard_chips).relative_to(store.path).as_posix()
    return store.source.open_shard(key, store.shard_chips, None).read(row % store.shard_chips)


def _vs_zarr(folder: Path, runs: int) -> Row:
    arrays = [zarr.open_array(folder / "chips.zarr" / spec.name / "data", mode="r") for spec in specs]
    rows = np.random.default_rng(0).permutation(arrays[0].shape[0])[:32].tolist()

    def theirs() -> float:
        return _per_second(len(rows), lambda: [array[row] for row in rows for array in arrays])

    ours, rival = _side_by_side(_loader_pass(folder), theirs, runs)
    ratios = [here / there for here, there in zip(ours, rival, strict=True)]
    return _row("loader.vs_zarr_python", "ratio", ours, "zarr-python array[row]", rival, ratios=ratios, note="chips/s")


def _vs_dataloader(folder: Path, runs: int) -> Row:
    dataset = ChipDataset(folder, values="stored")
    stock = DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=threads, persistent_workers=True)

    def theirs() -> float:
        return _per_second(len(dataset), lambda: [None for _ in stock])

    ours, rival = _side_by_side(_loader_pass(folder), theirs, runs)
    ratios = [here / there for here, there in zip(ours, rival, strict=True)]
    note = f"chips/s, {threads} threads against {threads} workers that live on"
    return _row(
        "loader.vs_stock_dataloader", "ratio", ours, "our ChipDataset in DataLoader", rival, ratios=ratios, note=note
    )


def _cold_vs_warm(folder: Path, runs: int) -> Row:
    """A pass whose files were dropped from the page cache before, against one from it."""
    ours = _loader_pass(folder)
    ours()
    warm, cold = [], []
    for _ in range(runs):
        warm.append(ours())
        for file in (folder / "chips.zarr").rglob("c.*"):
            _drop_from_cache(file)
        cold.append(ours())
    ratios = [one / other for one, other in zip(cold, warm, strict=True)]
    note = "chips/s, random; the machine below may still cache"
    return _row("loader.cold_vs_warm", "ratio", cold, "the same, warm", warm, ratios=ratios, note=note)


def _drop_from_cache(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def _growth(folder: Path, batches: int) -> Row:
    loader = ChipLoader(folder, batch_size=batch_size, threads=threads)
    batch_bytes = batch_size * sum(loader.store.chip_bytes(name) for name in loader.specs)
    for _ in range(2):
        for _ in loader:
            pass
    before, count = _anonymous_bytes(), 0
    while count < batches:
        for _ in loader:
            count += 1
    growth = (_anonymous_bytes() - before) / batch_bytes
    note = f"anonymous memory over {count} batches of {batch_bytes / 1e6:.0f} MB, after two epochs"
    return _row("loader.memory_growth_batches", "batches", [growth], "none", [], ratios=[growth], note=note)


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


def _vs_rival(rival: Rival, folder: Path, runs: int) -> Row | None:
    note = f"chips/s, stored types, {threads} threads or workers each" + (f"; {rival.note}" if rival.note else "")
    return _before_and_after(rival.bench, _loader_pass(folder), rival, folder, runs, note)


def _before_and_after(bench: str, ours: Rate, rival: Rival, folder: Path, runs: int, note: str) -> Row | None:
    """Ours, the rival in its process, and ours again; None where the rival can't run, which is said."""
    python = rival_python(rival.group)
    if python is None:
        return None
    if rival.name != "mmearth":
        _dump(folder)
    ours()
    here = [ours() for _ in range(runs)]
    try:
        theirs = run_rival(python, script, rival.name, str(folder), str(runs))
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.strip().splitlines()[-1:])
        print(f"{rival.name} is left out: {reason}", file=sys.stderr, flush=True)
        return None
    here += [ours() for _ in range(runs)]
    middle = statistics.median(here)
    return _row(bench, "ratio", here, rival.title, theirs, ratios=[middle / there for there in theirs], note=note)


def _bf16_vs_mmearth(folder: Path, sealed: Sequence[SealedChip], runs: int) -> Row | None:
    """Every array of a batch normalised, numbers to bf16, against the published reader's normalised float32."""
    (folder / "mmearth").mkdir()
    for name, values in mmearth_arrays(sealed).items():
        np.save(folder / "mmearth" / f"{name}.npy", values)
    loader = ChipLoader(folder, batch_size=batch_size, shuffle="full", threads=threads, drop_last=True)
    normalizer = Normalizer.from_stats(json.loads((folder / "stats.json").read_text()), specs)
    out: dict[str, Any] = {}

    def read() -> None:
        nonlocal out
        for batch in loader:
            out = normalizer(batch, torch.bfloat16, out)

    chips = len(loader) * batch_size
    rival = Rival(bench="", name="mmearth", group="store", title="MMEarth's HDF5 reader in a DataLoader")
    note = f"chips/s, all arrays normalised, {threads} threads or workers each; the rival gives float32"
    return _before_and_after("loader.bf16_vs_mmearth", lambda: _per_second(chips, read), rival, folder, runs, note)


def _open_million(directory: Path, runs: int) -> Row:
    """From the first import to the first batch of a store of a million chips, in fresh processes."""
    make_million_chips(directory / "million", specs)
    batches = _first_batch("m3etl.learn.batches", "BatchStream", directory / "million")
    _seconds_of(batches)
    ours = [_seconds_of(batches) for _ in range(runs)]
    note = f"{since_import}; batches of NumPy arrays"
    return _row("store.open_seconds_1m", "seconds", ours, "", [], ratios=ours, note=note)


def _open_million_torch(directory: Path, runs: int) -> Row:
    """The same store and tensors, beside what torch alone takes; after `_open_million`."""
    tensors = _first_batch("m3etl.learn.loader", "ChipLoader", directory / "million")
    both, alone = zip(*[(_seconds_of(tensors), _seconds_of(import_torch)) for _ in range(runs)], strict=True)
    note, rival = f"{since_import}; tensors", "importing torch alone"
    return _row("store.open_seconds_1m_torch", "seconds", [*both], rival, [*alone], ratios=[*both], note=note)


since_import = "from the first import to the first batch, warm"
import_torch = "import time; started = time.perf_counter(); import torch; print(time.perf_counter() - started)"


def _first_batch(module: str, loader: str, folder: Path) -> str:
    return (
        f"import time; started = time.perf_counter()\nfrom {module} import {loader}\n"
        f"batches = iter({loader}({str(folder)!r}, batch_size={batch_size}))\n"
        "first = next(batches)\nprint(time.perf_counter() - started)"
    )


def _seconds_of(program: str) -> float:
    environment = {**os.environ, "PYTHONPATH": str(script.parent.parent)}
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    for row in run(quick="--full" not in sys.argv):
        rival = "" if row["rival_value"] is None else f"{row['rival']} {row['rival_value']:.4g}"
        print(f"{row['bench']:32} {row['value']:8.3g} {row['unit']:8} {rival} ({row['note']})")
