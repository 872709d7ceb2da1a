"""Small made-up chips and stores: values that tell band and chip apart, missing arrays, clouds and padding rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from m3etl.io.store import SealedChip, create_store, grow_store, seal_shard
from m3etl.spec.catalog import arrays as catalogue
from m3etl.spec.modality import ArraySpec, Shape, Values

chip_m = 160.0  # 16 pixels of 10 m
all_specs: tuple[ArraySpec, ...] = tuple(catalogue.values())
few_specs: tuple[ArraySpec, ...] = tuple(
    catalogue[name]
    for name in ("sentinel2_l2a", "sentinel2_cloud", "aster_elevation", "worldcover", "era5_precipitation", "biome")
)


def make_values(spec: ArraySpec, rng: np.random.Generator, *, side_m: float = chip_m) -> np.ndarray[Any, Any]:
    """One chip of plausible stored values, a few missing: a corner of rasters, now and then a number of a vector."""
    shape = spec.chip_shape(side_m)
    dtype = np.dtype(spec.dtype)
    if spec.values is Values.CLASSES:
        codes = [item.code for item in spec.classes] or list(range(spec.class_limit))
        values = rng.choice(np.array(codes), shape).astype(dtype)
    else:
        low = max(spec.stored_min, -3000.0 if dtype.kind == "i" else -1.0) if np.isfinite(spec.stored_min) else 0.0
        high = min(spec.stored_max, low + 4000.0) if np.isfinite(spec.stored_max) else low + 100.0
        band = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)) / shape[0]
        values = low + (high - low) * (0.25 * band + 0.75 * rng.random(shape))
        values = (np.rint(values) if dtype.kind in "iu" else values).astype(dtype)
    if spec.shape is Shape.RASTER and rng.random() < 0.5:
        values[:, : max(1, shape[1] // 4), : max(1, shape[2] // 4)] = spec.fill_value()
    if spec.shape is Shape.VECTOR and dtype.kind == "f" and rng.random() < 0.2:
        values[0] = np.nan
    return values


def make_chips(
    specs: Sequence[ArraySpec],
    count: int,
    *,
    seed: int = 0,
    missing: float = 0.2,
    first_row: int = 0,
    side_m: float = chip_m,
    splits: Sequence[str] = ("train", "train", "val", "test"),
) -> list[SealedChip]:
    """`count` chips in consecutive rows; each array is missing altogether with probability `missing`."""
    chips = []
    for row in range(first_row, first_row + count):
        rng = np.random.default_rng([seed, row])
        present: Mapping[str, Any] = {
            spec.name: make_values(spec, rng, side_m=side_m) for spec in specs if rng.random() >= missing
        }
        chips.append(
            SealedChip(
                row=row,
                chip_id=f"32632-{side_m:.0f}-{row:04d}-4956",
                lon=9.0 + row / 100,
                lat=45.0 - row / 100,
                epsg=32632,
                xmin=500_000.0 + row * side_m,
                ymax=5_000_000.0,
                split=splits[row % len(splits)],
                arrays=present,
            )
        )
    return chips


def make_store(
    path: Path,
    specs: Sequence[ArraySpec] = few_specs,
    *,
    count: int = 11,
    shard_chips: int = 4,
    codec: str = "zstd",
    side_m: float = chip_m,
    **options: Any,
) -> list[SealedChip]:
    """A sealed store of `count` made-up chips; the last shard may be partly filled."""
    chips = make_chips(specs, count, side_m=side_m, **options)
    create_store(path, specs, chip_m=side_m, shard_chips=shard_chips, codec=codec)
    for shard in range(-(-count // shard_chips)):
        seal_shard(path, shard, [chip for chip in chips if chip.row // shard_chips == shard], threads=1)
    grow_store(path, -(-count // shard_chips) * shard_chips)
    return chips


def stored_or_fill(chip: SealedChip, spec: ArraySpec, *, side_m: float = chip_m) -> np.ndarray[Any, Any]:
    """What the store must hold for this chip."""
    if spec.name in chip.arrays:
        return chip.arrays[spec.name]
    return np.full(spec.chip_shape(side_m), spec.fill_value(), dtype=spec.dtype)
