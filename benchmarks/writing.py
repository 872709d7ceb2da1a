"""Writing the same chips with m3etl and with rivals: zarr-python and tensorstore in whole shards, MMEarth's HDF5."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tensorstore
import zarr

from benchmarks.synthetic import chip_m, make_sealed, specs
from m3etl.io.shards import ChunkCodec
from m3etl.io.store import SealedChip, create_store, grow_store, seal_shard
from m3etl.spec.modality import Shape

Row = dict[str, Any]
different_chips = 32  # made one by one; each chip is compressed apart, so that repeating them changes nothing
shard_chips = 128


def run_writing(directory: Path, *, quick: bool) -> list[Row]:
    """Rows of writing: chips a second, m3etl against each rival in turn, on the same chips."""
    chips, runs = (256, 3) if quick else (1024, 5)
    made = list(make_sealed(range(different_chips)))
    sealed = [replace(made[row % different_chips], row=row, chip_id=f"chip-{row}") for row in range(chips)]
    stacked = {spec.name: _stacked(spec, sealed) for spec in specs}
    few = {name: values[:40] for name, values in mmearth_arrays(made).items()}
    actions: dict[str, tuple[int, Callable[[Path], None], str]] = {
        "ours": (chips, lambda path: _seal(path, sealed), "zstd"),
        "fast": (chips, lambda path: _seal(path, sealed), "fast"),
        "zarr": (chips, lambda path: _assign_zarr(path, stacked), "zstd"),
        "tensorstore": (chips, lambda path: _assign_tensorstore(path, stacked), "zstd"),
        "mmearth": (len(few["sentinel2"]), lambda path: _write_mmearth(path, few), ""),
        "limit": (chips, lambda _: _compress(sealed), ""),
    }
    timed: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(runs + 1):  # the first round is not counted
        for name, (count, write, codec) in actions.items():
            path = _fresh(directory / name, chips, codec)
            started = time.perf_counter()
            write(path)
            if number:
                timed[name].append(count / (time.perf_counter() - started))
        print(f"writing: round {number} of {runs} done", file=sys.stderr, flush=True)
    sizes = {name: _stored_bytes(directory / name) for name in ("ours", "zarr")}
    note = (
        f"chips/s, {chips} chips of all arrays in {chips // shard_chips} shards, same codec (blosc zstd 3, shuffle, "
        "crc32c); ours with sha256 of every chip, flushing to the disk and renaming, the rival without; our files are "
        f"{sizes['ours'] / sizes['zarr']:.3f} of the rival's size, as byte planes are compressed apart"
    )
    tiles = (
        "chips/s; h5py, gzip 4, one tile a chunk, tile by tile, arrays and types as MMEarth stores them (Sentinel-1 as "
        "float32, elevation at 10 m): 1.5 times our bytes a chip; not flushed"
    )
    alone = (
        "chips/s; the same chunks compressed from memory by as many threads, without checksums of values, files and "
        f"flushing; this limit is {statistics.median(timed['limit']) / statistics.median(timed['mmearth']):.3g} times "
        "MMEarth's HDF5 layout"
    )
    lz4 = f"with the codec profile fast (lz4); {tiles}"
    return [
        _row("store.write_vs_zarr_python", timed["ours"], timed["zarr"], "zarr-python, whole shards", note),
        _row("store.write_vs_tensorstore", timed["ours"], timed["tensorstore"], "tensorstore, whole shards", note),
        _row("store.write_vs_mmearth_h5", timed["ours"], timed["mmearth"], "MMEarth's HDF5 layout", tiles),
        _row("store.write_fast_vs_mmearth_h5", timed["fast"], timed["mmearth"], "MMEarth's HDF5 layout", lz4),
        _row("store.write_vs_codec_limit", timed["ours"], timed["limit"], "compression alone", alone),
    ]


def mmearth_arrays(chips: Sequence[SealedChip]) -> dict[str, np.ndarray]:
    """The chips as MMEarth's HDF5 holds them: (tile, band, y, x) at 10 m, Sentinel-1 in one float32 array."""
    by_name = {spec.name: _stacked(spec, chips) for spec in specs}
    passes = np.concatenate([by_name["sentinel1_asc"], by_name["sentinel1_desc"]], axis=1)
    pixel = (2 * np.arange(128) + 1) * by_name["aster_elevation"].shape[-1] // 256
    aster = np.concatenate([by_name["aster_elevation"], by_name["aster_slope"] // 100], axis=1)
    found = {
        "sentinel2": by_name["sentinel2_l2a"],
        "sentinel1": np.where(passes == -32768, -np.inf, passes * np.float32(0.01)).astype(np.float32),
        "aster": aster[:, :, pixel][..., pixel],
        "canopy_height_eth": by_name["canopy_height"].astype(np.int8),
        "dynamic_world": by_name["dynamic_world"],
        "esa_worldcover": by_name["worldcover"],
    }
    vectors = {spec.name: by_name[spec.name] for spec in specs if spec.shape is Shape.VECTOR}
    return {name: np.ascontiguousarray(values) for name, values in {**found, **vectors}.items()}


def _stacked(spec: Any, chips: Sequence[SealedChip]) -> np.ndarray:
    fill = np.full(spec.chip_shape(chip_m), spec.fill_value())
    return np.stack([chip.arrays.get(spec.name, fill) for chip in chips])


def _fresh(path: Path, rows: int, codec: str) -> Path:
    """An empty directory, or with `codec` a store that has its metadata: creating these is nobody's writing speed."""
    shutil.rmtree(path, ignore_errors=True)
    if codec:
        create_store(path, specs, chip_m=chip_m, shard_chips=shard_chips, codec=codec)
        grow_store(path, rows)
    else:
        path.mkdir()
    return path


def _seal(path: Path, sealed: Sequence[SealedChip]) -> None:
    for first in range(0, len(sealed), shard_chips):
        seal_shard(path, first // shard_chips, sealed[first : first + shard_chips])


def _compress(sealed: Sequence[SealedChip]) -> None:
    codecs = {spec.name: ChunkCodec(profile="zstd", dtype=np.dtype(spec.dtype)) for spec in specs}

    def compress(chip: SealedChip) -> int:
        return sum(len(codecs[name].encode(values)) for name, values in chip.arrays.items())

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(compress, sealed))


def _assign_zarr(path: Path, stacked: dict[str, np.ndarray]) -> None:
    for name, values in stacked.items():
        array = zarr.open_array(path / name / "data", mode="r+")
        for first in range(0, len(values), shard_chips):
            array[first : first + shard_chips] = values[first : first + shard_chips]


def _assign_tensorstore(path: Path, stacked: dict[str, np.ndarray]) -> None:
    for name, values in stacked.items():
        place = {"driver": "file", "path": str(path / name / "data")}
        array = tensorstore.open({"driver": "zarr3", "kvstore": place}, open=True).result()
        for first in range(0, len(values), shard_chips):
            array[first : first + shard_chips].write(values[first : first + shard_chips]).result()


def _write_mmearth(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with h5py.File(path / "tiles.h5", "w") as file:
        for name, values in arrays.items():
            shape = values.shape
            file.create_dataset(
                name, shape, values.dtype, chunks=(1, *shape[1:]), compression="gzip", compression_opts=4
            )
        for tile in range(len(arrays["sentinel2"])):
            for name, values in arrays.items():
                file[name][tile] = values[tile]


def _stored_bytes(path: Path) -> int:
    return sum(item.stat().st_size for item in path.rglob("c.*") if item.is_file())


def _row(bench: str, ours: list[float], theirs: list[float], rival: str, note: str) -> Row:
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return {
        "bench": bench,
        "value": statistics.median(ratios),
        "unit": "ratio",
        "rival": rival,
        "rival_value": statistics.median(theirs),
        "runs": len(ratios),
        "spread": [min(ratios), max(ratios)],
        "note": f"{note}; ours {statistics.median(ours):.4g}",
    }
