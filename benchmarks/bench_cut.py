"""From large GeoTIFFs to sealed shards: against windows by rasterio, WarpedVRT, dask with rioxarray, and odc-geo."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import rasterio
import zarr
from rasterio._env import get_gdal_config
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from benchmarks import landscapes
from benchmarks.landscapes import chip_m, chip_px, spec
from benchmarks.rivals import rival_python, run_rival
from m3etl.compute.grids import PixelGrid, chip_grid
from m3etl.compute.positions import find_positions
from m3etl.compute.warp import Method, resample
from m3etl.io.localfiles import find_local_files
from m3etl.io.store import SealedChip, create_store, grow_store, open_store, seal_shard
from m3etl.stages.cutting import ChipPlace, cut_chips

Row = dict[str, Any]
shard_chips = 256
usual_cache = int(get_gdal_config("GDAL_CACHEMAX"))  # 5 % of memory; ours lowers it for the process, rivals keep it
whole_side = 10_980  # of a Sentinel-2 scene at 10 m
turned = "EPSG:32633"  # 4.4 degrees against the chips' zone


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One raster to cut and how. folder: for what is written; cache: bytes of blocks that GDAL may keep for rivals."""

    folder: Path
    source: Path
    side: int
    places: Sequence[ChipPlace]
    runs: int
    cache: int = usual_cache

    @property
    def megabytes(self) -> float:
        """Of the chips, uncompressed."""
        return len(self.places) * len(spec.bands) * chip_px * chip_px * 2 / 1e6


def run(*, quick: bool = True) -> list[Row]:
    """All rows of this file; `machine` and `commit` are added by the caller."""
    side, runs = (1536, 3) if quick else (2560, 3)
    folder = Path(tempfile.mkdtemp(prefix="m3etl-bench-"))
    try:
        values = landscapes.make_landscape(side)
        pixel = landscapes.write_cog(folder / "pixel.tif", values, interleave="pixel")
        band = landscapes.write_cog(folder / "band.tif", values, interleave="band")
        rows = [*_against_windows(folder, pixel, band, side, runs), _warp_error()]
        real = None if quick else landscapes.real_landscape(2048)
        if real is not None:
            scene = landscapes.write_cog(folder / "real.tif", real, interleave="pixel")
            rows.append(_windows_row("cut.vs_rasterio_windows_real_scene", _bench(folder, scene, 2048, runs), "real"))
        warped_side = 768 if quick else 1536
        part = np.ascontiguousarray(values[:, :warped_side, :warped_side])
        rows += _warped(folder, part, warped_side, runs)
        return rows + _others(_bench(folder, pixel, side, runs), folder / "off.tif", warped_side, quick=quick)
    finally:
        shutil.rmtree(folder)


def _bench(folder: Path, source: Path, side: int, runs: int, order: str = "by row") -> Bench:
    # In drawn order it matters how much of a whole scene the cache holds: this raster gets as large a share.
    cache = usual_cache if order == "by row" else int(usual_cache * (side / whole_side) ** 2)
    places = landscapes.places_of(side, order=order)
    return Bench(folder=folder, source=source, side=side, places=places, runs=runs, cache=cache)


def _against_windows(folder: Path, pixel: Path, band: Path, side: int, runs: int) -> list[Row]:
    by_row, by_band = _bench(folder, pixel, side, runs), _bench(folder, band, side, runs)
    drawn = _bench(folder, pixel, side, runs, "drawn")
    small = (
        f"pixel-interleaved, chips in the order of a drawn plan, GDAL's cache {drawn.cache >> 20} MB: as large a part "
        f"of this raster as the usual {usual_cache >> 20} MB are of a whole scene"
    )
    return [
        _windows_row("cut.vs_rasterio_windows", by_row, "pixel-interleaved"),
        _windows_row("cut.vs_rasterio_windows_whole_shards", by_row, "pixel-interleaved", shards=True),
        _windows_row("cut.vs_rasterio_windows_by_band", by_band, "band-interleaved"),
        _windows_row("cut.vs_rasterio_windows_drawn_order", drawn, small),
    ]


def _windows_row(name: str, bench: Bench, what: str, *, shards: bool = False) -> Row:
    """Windows in the order of the chips and zarr-python: chip by chip, or 256 at a time as whole shards."""
    _ours(bench)
    here, there = list[float](), list[float]()
    ours, theirs = _side_by_side(
        lambda: _counted(lambda: _ours(bench), here),
        lambda: _counted(lambda: _rasterio_windows(bench, shards=shards), there),
        bench.runs,
    )
    _check_equal(bench)
    way = "z[a:b] = 256 chips, sharded" if shards else "z[i] = chip, one file a chip"
    note = (
        f"MB/s from {bench.side} px COG to sealed shards, {what}; same codec, the rival's file kept open; processor "
        f"seconds {statistics.median(here):.3g} against {statistics.median(there):.3g}"
    )
    return _row(name, ours, f"rasterio windows, zarr-python {way}", theirs, note)


def _ours(bench: Bench) -> float:
    """MB/s; with checksums, index, per-chip columns and flushing to the disk."""
    target = bench.folder / "ours.zarr"
    shutil.rmtree(target, ignore_errors=True)
    started = time.perf_counter()
    source = find_local_files(spec, [str(bench.source)], values="stored")
    create_store(target, [spec], chip_m=chip_m, shard_chips=shard_chips)
    cut = cut_chips(source, bench.places, chip_m=chip_m)
    for first in range(0, len(bench.places), shard_chips):
        seal_shard(target, first // shard_chips, _sealed(cut, min(shard_chips, len(bench.places) - first)))
    grow_store(target, -(-len(bench.places) // shard_chips) * shard_chips)
    return bench.megabytes / (time.perf_counter() - started)


def _counted(action: Callable[[], float], seconds: list[float]) -> float:
    """What the action returns; the processor time it took in all threads is added to `seconds`."""
    started = time.process_time()
    found = action()
    seconds.append(time.process_time() - started)
    return found


def _sealed(cut: Iterator[Any], count: int) -> Iterator[SealedChip]:
    for _ in range(count):
        chip = next(cut)
        place = {name: getattr(chip.place, name) for name in ("row", "chip_id", "lon", "lat", "epsg", "xmin", "ymax")}
        arrays = {} if chip.values is None else {spec.name: chip.values}
        yield SealedChip(**place, split="train", arrays=arrays)


def _rasterio_windows(bench: Bench, *, shards: bool) -> float:
    target = bench.folder / "theirs.zarr"
    shutil.rmtree(target, ignore_errors=True)
    started = time.perf_counter()
    array = _zarr_array(target, len(bench.places), shards=shards)
    with rasterio.Env(GDAL_CACHEMAX=bench.cache), rasterio.open(bench.source) as file:
        held: list[np.ndarray] = []
        for place in bench.places:
            column, row = round((place.xmin - landscapes.west) / 10), round((landscapes.north - place.ymax) / 10)
            held.append(file.read(window=Window(column, row, chip_px, chip_px)))
            if not shards or len(held) == shard_chips or place is bench.places[-1]:
                array[place.row + 1 - len(held) : place.row + 1] = np.stack(held)
                held.clear()
    return bench.megabytes / (time.perf_counter() - started)


def _zarr_array(target: Path, count: int, *, shards: bool) -> Any:
    shape = (len(spec.bands), chip_px, chip_px)
    return zarr.create_array(
        target,
        shape=(count, *shape),
        chunks=(1, *shape),
        shards=(shard_chips, *shape) if shards else None,
        dtype="uint16",
        compressors=[zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")],
    )


def _check_equal(bench: Bench) -> None:
    store, theirs = open_store(bench.folder / "ours.zarr"), zarr.open_array(bench.folder / "theirs.zarr", mode="r")
    for row in (0, len(bench.places) // 2, len(bench.places) - 1):
        if not np.array_equal(store.read(spec.name, [row])[0], theirs[row]):
            raise AssertionError(f"row {row} differs from what rasterio read")


# --- off the lattice --------------------------------------------------------------------------------------------------


def _warped(folder: Path, values: np.ndarray, side: int, runs: int) -> list[Row]:
    """The same area in the next zone: each chip warped, without sealing."""
    places = landscapes.places_of(side)
    to_turned = pyproj.Transformer.from_crs(f"EPSG:{landscapes.epsg}", turned, always_xy=True)
    x, y = to_turned.transform(landscapes.west, landscapes.north)
    affine = (10.0, 0.0, x, 0.0, -10.0, y)
    path = landscapes.write_cog(folder / "off.tif", values, interleave="pixel", affine=affine)
    with rasterio.open(path, "r+") as file:
        file.crs = turned
    bench = Bench(folder=folder, source=path, side=side, places=places, runs=runs)

    def ours() -> float:
        started = time.perf_counter()
        source = find_local_files(spec, [str(path)], values="stored")
        for _ in cut_chips(source, places, chip_m=chip_m):
            pass
        return bench.megabytes / (time.perf_counter() - started)

    def theirs() -> float:
        started = time.perf_counter()
        options = {"crs": f"EPSG:{landscapes.epsg}", "resampling": rasterio.enums.Resampling.bilinear}
        grid = rasterio.transform.from_origin(landscapes.west, landscapes.north, 10.0, 10.0)
        # Like for like: without these GDAL smooths (and takes twice as long).
        exact = {"XSCALE": 1, "YSCALE": 1}
        with (
            rasterio.Env(GDAL_CACHEMAX=usual_cache),
            rasterio.open(path) as file,
            WarpedVRT(file, transform=grid, width=side, height=side, **options, **exact) as vrt,
        ):
            for place in places:
                column, row = round((place.xmin - landscapes.west) / 10), round((landscapes.north - place.ymax) / 10)
                vrt.read(window=Window(column, row, chip_px, chip_px))
        return bench.megabytes / (time.perf_counter() - started)

    here, there = _side_by_side(ours, theirs, runs)
    note = f"MB/s of chips, bilinear, UTM 33 onto UTM 32, {len(places)} chips, reading included, nothing sealed"
    return [_row("cut.warp_vs_warpedvrt", here, "one WarpedVRT, a window per chip", there, note)]


def _warp_error() -> Row:
    """Largest distance between where a pixel was taken from and where it lies, by resampling ramps."""
    target = chip_grid(epsg=landscapes.epsg, xmin=landscapes.west, ymax=landscapes.north, chip_m=4480.0, pixels=448)
    middle = target.xy_of(224, 224)
    errors = []
    for crs, size in ((turned, 10.0), ("EPSG:4326", 1e-4), ("EPSG:3035", 10.0), ("EPSG:32732", 10.0)):
        transform = pyproj.Transformer.from_crs(target.crs, crs, always_xy=True)
        x, y = transform.transform(*map(float, middle))
        source = PixelGrid(
            crs=crs, affine=(size, 0.0, x - 400 * size, 0.0, -size, y + 400 * size), width=800, height=800
        )
        ramps = np.stack(np.meshgrid(np.arange(800) + 0.5, np.arange(800) + 0.5)).astype(np.float32)
        found = resample(ramps, find_positions(source, target), source.window, Method.BILINEAR, fill=np.nan)
        column, row = np.meshgrid(np.arange(448) + 0.5, np.arange(448) + 0.5)
        exact = source.pixel_of(*transform.transform(*target.xy_of(column, row)))
        errors.append(float(np.hypot(found[0] - exact[0], found[1] - exact[1]).max()))
    return {
        "bench": "warp.max_error_px",
        "value": max(errors),
        "unit": "source pixels",
        "rival": "the limit",
        "rival_value": 0.05,
        "runs": len(errors),
        "spread": [min(errors), max(errors)],
        "note": "every pixel of a 448 px chip against PROJ on its own; from the next zone, degrees, equal area, south",
    }


# --- rivals in an environment of their own ----------------------------------------------------------------------------


def _others(bench: Bench, off_lattice: Path, warped_side: int, *, quick: bool) -> list[Row]:
    python = None if quick else rival_python("cut")
    if python is None:
        return []
    script = Path(__file__).parent / "rival_cutting.py"
    rows = []
    for name, way, source, side, what in (
        ("cut.vs_dask_rioxarray", "rioxarray", bench.source, bench.side, "COG to Zarr shards"),
        ("cut.warp_vs_odc_geo", "odc-geo", off_lattice, warped_side, "warped in memory, nothing sealed"),
    ):
        mine = Bench(folder=bench.folder, source=source, side=side, places=landscapes.places_of(side), runs=bench.runs)
        try:
            theirs = [
                float(run_rival(python, script, way, str(source), str(bench.folder / "rival.zarr"), str(side)))
                for _ in range(bench.runs)
            ]
        except (subprocess.SubprocessError, json.JSONDecodeError, OSError) as error:
            print(f"{way} is left out: {error}", file=sys.stderr, flush=True)
            continue
        ours = [_ours(mine) if way == "rioxarray" else _cut_only(mine) for _ in range(bench.runs)]
        megabytes = [mine.megabytes / seconds for seconds in theirs]
        rows.append(_row(name, ours, f"dask + {way}", megabytes, f"MB/s, {what}, two threads each"))
    return rows


def _cut_only(bench: Bench) -> float:
    started = time.perf_counter()
    source = find_local_files(spec, [str(bench.source)], values="stored")
    for _ in cut_chips(source, bench.places, chip_m=chip_m):
        pass
    return bench.megabytes / (time.perf_counter() - started)


def _side_by_side(ours: Callable[[], float], theirs: Callable[[], float], runs: int) -> tuple[list[float], list[float]]:
    pairs = [(ours(), theirs()) for _ in range(runs)]
    return [one for one, _ in pairs], [other for _, other in pairs]


def _row(name: str, ours: list[float], rival: str, theirs: list[float], note: str) -> Row:
    ratios = [here / there for here, there in zip(ours, theirs, strict=True)]
    print(f"{name} {statistics.median(ratios):.3g}", file=sys.stderr, flush=True)
    return {
        "bench": name,
        "value": statistics.median(ratios),
        "unit": "ratio",
        "rival": rival,
        "rival_value": statistics.median(theirs),
        "runs": len(ratios),
        "spread": [min(ratios), max(ratios)],
        "note": f"{note}; ours {statistics.median(ours):.4g}",
    }


if __name__ == "__main__":
    for row in run():
        print(json.dumps(row))
