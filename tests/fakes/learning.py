"""Small made-up learning data: normalised batches, and campaigns with a few chips in a real store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from m3etl.campaign import Campaign, CampaignConfig, SampleConfig, create_campaign
from m3etl.io.store import SealedChip, create_store, grow_store, seal_shard
from m3etl.spec.catalog import arrays, known_arrays
from m3etl.spec.modality import ArraySpec, Shape, Values
from m3etl.stages.normalize import run_normalize
from m3etl.stages.summary import SilentProgress


def specs_of(*names: str) -> tuple[ArraySpec, ...]:
    """Declarations of the catalogue by name; MMEarth's without a name."""
    return tuple(known_arrays()[name] for name in names or arrays)


def normalised_batch(
    specs: Sequence[ArraySpec], *, batch: int = 3, px: int = 32, seed: int = 0, observed: float = 0.8
) -> dict[str, Tensor]:
    """What a Normalizer returns: floats with 0 or class numbers with -1 where unobserved, and `{array}_valid`."""
    generator = torch.Generator().manual_seed(seed)
    result: dict[str, Tensor] = {"row": torch.arange(batch)}
    for spec in specs:
        shape = (batch, len(spec.bands), px, px) if spec.shape is Shape.RASTER else (batch, len(spec.bands))
        valid = torch.rand(shape, generator=generator) < observed
        if spec.values is Values.CLASSES:
            classes = torch.randint(0, spec.class_count, shape, generator=generator)
            result[spec.name] = torch.where(valid, classes, -1)
        else:
            result[spec.name] = torch.where(valid, torch.randn(shape, generator=generator), 0.0)
        result[f"{spec.name}_valid"] = valid
    return result


def without(batch: dict[str, Tensor], spec: ArraySpec) -> dict[str, Tensor]:
    """The batch as if nothing of one array had been observed."""
    fill = -1 if spec.values is Values.CLASSES else 0
    return {
        **batch,
        spec.name: torch.full_like(batch[spec.name], fill),
        f"{spec.name}_valid": torch.zeros_like(batch[f"{spec.name}_valid"]),
    }


def write_campaign(
    root: Path,
    *,
    names: Sequence[str] = ("sentinel2_l2a", "sentinel2_l1c", "sentinel1_asc", "worldcover", "biome", "month"),
    splits: Sequence[str] = ("train",) * 24 + ("val",) * 6 + ("test",) * 6,
    chip_px: int = 64,
    seed: int = 0,
) -> Campaign:
    """A campaign with sealed chips whose arrays all follow from one hidden field, and with statistics.

    Every third chip has no Sentinel-1, every fifth L1C instead of L2A, and some pixels of every raster are unobserved.
    """
    campaign = create_campaign(root, CampaignConfig(sample=SampleConfig(chip_px=chip_px)))
    specs = specs_of(*names)
    create_store(campaign.store_path, specs, chip_m=campaign.chip_m, shard_chips=16)
    grow_store(campaign.store_path, -(-len(splits) // 16) * 16)
    generator = np.random.default_rng(seed)
    chips = [_sealed(row, split, specs, campaign.chip_m, generator) for row, split in enumerate(splits)]
    for shard in range(-(-len(splits) // 16)):
        seal_shard(campaign.store_path, shard, chips[16 * shard : 16 * shard + 16])
    if "train" in splits:
        run_normalize(campaign, progress=SilentProgress())
    return campaign


def _sealed(
    row: int, split: str, specs: Sequence[ArraySpec], chip_m: float, generator: np.random.Generator
) -> SealedChip:
    field = _smooth(generator, 64)
    biome = row % 3
    values = {}
    for spec in specs:
        absent = (spec.name == "sentinel1_asc" and row % 3 == 2) or (
            spec.name in ("sentinel2_l2a", "sentinel2_l1c") and (spec.name == "sentinel2_l1c") != (row % 5 == 4)
        )
        if not absent:
            values[spec.name] = _stored(spec, field, biome, spec.chip_shape(chip_m), generator)
    return SealedChip(
        row=row,
        chip_id=f"32632-{int(chip_m)}-{row:04d}-4956",
        lon=9.0 + row * 0.01,
        lat=50.0,
        epsg=32632,
        xmin=500_000.0 + row * chip_m,
        ymax=5_000_000.0,
        split=split,
        arrays=values,
    )


def _smooth(generator: np.random.Generator, side: int) -> np.ndarray:
    coarse = generator.normal(size=(5, 5))
    steps = np.linspace(0, 4, side)
    rows = np.stack([np.interp(steps, range(5), column) for column in coarse.T], axis=1)
    return np.stack([np.interp(steps, range(5), line) for line in rows])


def _stored(
    spec: ArraySpec, field: np.ndarray, biome: int, shape: tuple[int, ...], generator: np.random.Generator
) -> np.ndarray:
    if spec.shape is Shape.VECTOR:
        if spec.values is Values.CLASSES:
            return np.full(shape, biome, dtype=spec.dtype)
        return np.resize([np.sin(biome), np.cos(biome)], shape).astype(spec.dtype)
    step = field.shape[0] / shape[1]
    index = (np.arange(shape[1]) * step).astype(int)
    picture = 0.4 * field[np.ix_(index, index)] + 1.5 * (biome - 1)
    if spec.values is Values.CLASSES:
        codes = np.array([item.code for item in spec.classes])
        stored = codes[np.digitize(picture, [-1.0, 0.0, 1.0])][None].repeat(shape[0], 0)
    else:
        low, high = (0.05, 0.5) if spec.name.startswith("sentinel2") else (-20.0, -5.0)
        slopes = np.linspace(0.5, 1.5, shape[0])[:, None, None]
        noise = generator.normal(scale=0.05, size=shape)
        physical = low + (high - low) * (0.5 + 0.12 * (picture * slopes + noise)) + 0.02 * (high - low) * biome
        stored = np.round((physical - spec.offset) / spec.scale).clip(spec.stored_min, spec.stored_max)
    stored = np.where(generator.random(shape) < 0.02, spec.fill, stored)
    return stored.astype(spec.dtype)
