"""Made-up chips shaped like real ones: 1/f fields, mixed spectra, noise, speckle, no-data wedges, missing passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from m3etl.io.store import SealedChip, create_store, grow_store, seal_shard
from m3etl.spec.catalog import arrays as catalogue
from m3etl.spec.modality import ArraySpec, Shape, Values

chip_m = 1280.0
specs: tuple[ArraySpec, ...] = tuple(
    spec for name, spec in catalogue.items() if name not in ("sentinel2_l1c", "sentinel2_cloud")
)


def smooth_field(rng: np.random.Generator, side: int, slope: float = 1.6) -> np.ndarray:
    """A field (side, side) of unit variance whose amplitude falls with frequency ** slope, as landscapes do."""
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = np.inf
    noise = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
    field = np.fft.irfft2(noise / frequency**slope, s=(side, side))
    return (field - field.mean()) / field.std()


def make_chip(row: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Stored values of one chip by array name; some passes are missing."""
    rng = np.random.default_rng([seed, row])
    cover = np.stack([smooth_field(rng, 128) for _ in range(4)])
    share = np.exp(2 * cover) / np.exp(2 * cover).sum(0)
    found = {}
    for spec in specs:
        if spec.name.startswith("sentinel1") and rng.random() < 0.1:
            continue
        found[spec.name] = _vector(spec, rng) if spec.shape is Shape.VECTOR else _raster(spec, rng, share)
    return found


def make_sealed(rows: Sequence[int], seed: int = 0) -> Iterator[SealedChip]:
    """Chips ready for `seal_shard`."""
    for row in rows:
        place = {"lon": 10.0, "lat": 45.0, "epsg": 32632, "xmin": row * chip_m, "ymax": 5e6, "split": "train"}
        yield SealedChip(row=row, chip_id=f"32632-1280-{row:04d}-3906", arrays=make_chip(row, seed), **place)


def repeat_sealed(chips: Sequence[SealedChip], count: int) -> list[SealedChip]:
    """`count` chips made of few: each is compressed apart, so that to storing and reading they are as good as new."""
    return [replace(chips[row % len(chips)], row=row, chip_id=f"32632-1280-{row:04d}-3906") for row in range(count)]


def write_store(path: Path, chips: Sequence[SealedChip], *, shard_chips: int, codec: str = "zstd") -> None:
    """Seal all chips (rows from 0 on) as a store."""
    create_store(path, specs, chip_m=chip_m, shard_chips=shard_chips, codec=codec)
    for first in range(0, len(chips), shard_chips):
        seal_shard(path, first // shard_chips, chips[first : first + shard_chips])
    grow_store(path, -(-len(chips) // shard_chips) * shard_chips)


def _raster(spec: ArraySpec, rng: np.random.Generator, share: np.ndarray) -> np.ndarray:
    bands, side, _ = spec.chip_shape(chip_m)
    if spec.values is Values.CLASSES:
        codes = np.array([item.code for item in spec.classes])[rng.permutation(len(spec.classes))[:4]]
        return codes[share.argmax(0)][None].astype(spec.dtype)
    if spec.name == "sentinel2_l2a":
        spectra = rng.uniform(200, 4500, (4, bands))
        values = (
            np.einsum("kyx,kb->byx", share, spectra)
            + 200 * smooth_field(rng, side)
            + rng.normal(0, 11, (bands, side, side))
        )
    elif spec.name.startswith("sentinel1"):
        level = np.einsum("kyx,kb->byx", share, rng.uniform(-2200, -700, (4, bands)))
        values = level + 1000 * np.log10(rng.gamma(4.4, 1 / 4.4, (bands, side, side)))
    else:
        base, spread = {"m": (400, 120), "degree": (900, 400)}.get(spec.units, (20, 8))
        values = base + spread * np.stack([smooth_field(rng, side, 1.9) for _ in range(bands)])
        if spec.name == "canopy_height":
            values = np.maximum(values - 15, 0)
    stored = np.clip(np.rint(values), spec.stored_min, spec.stored_max).astype(spec.dtype)
    if spec.name.startswith("sentinel1"):
        stored[2:] = spec.fill
    if rng.random() < 0.05:
        y, x = np.mgrid[:side, :side]
        stored[:, y + x * rng.uniform(0.2, 2) < side * rng.uniform(0.1, 0.8)] = spec.fill
    return stored


def _vector(spec: ArraySpec, rng: np.random.Generator) -> np.ndarray:
    if spec.values is Values.CLASSES:
        return np.array([rng.integers(0, spec.class_count)], spec.dtype)
    return rng.uniform(max(spec.valid_min, -1), min(spec.valid_max, 300), len(spec.bands)).astype(spec.dtype)
