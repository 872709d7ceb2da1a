"""Small made-up learning data: normalised batches, and campaigns with a few chips in a real store."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from m3etl.spec.catalog import arrays
from m3etl.spec.modality import ArraySpec, Shape, Values


def specs_of(*names: str) -> tuple[ArraySpec, ...]:
    """Declarations of the catalogue by name; all without a name."""
    return tuple(arrays[name] for name in names or arrays)


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
