"""Features of whole chips: of a frozen encoder, and of the floors that need no training; and the labels to probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from m3etl.compute.normalize import Normalizer
from m3etl.learn.dataset import select_specs
from m3etl.learn.encoder import ConvNeXtV2
from m3etl.learn.loader import ChipLoader
from m3etl.learn.mpmae import EncoderInput, InputBands, input_levels
from m3etl.spec.modality import ArraySpec, Shape, Values

quantiles = (0.05, 0.25, 0.5, 0.75, 0.95)
random_filters = 128  # each gives two features: the mean of its positive and of its negative part

Extractor = Callable[[EncoderInput], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipFeatures:
    """rows: (n,) in the store; features: name -> (n, d) float32; labels: array -> (n,) int64 class index or -1."""

    rows: NDArray[np.int64]
    features: Mapping[str, NDArray[np.float32]]
    labels: Mapping[str, NDArray[np.int64]]


@torch.no_grad()
def read_features(
    campaign_dir: Path,
    *,
    normalizer: Normalizer,
    extractors: Mapping[str, Extractor],
    labels: Sequence[ArraySpec] = (),
    split: str | None,
    device: str = "cpu",
    batch_size: int = 16,
    threads: int = 2,
    report: Callable[..., None] | None = None,
) -> Iterator[ChipFeatures]:
    """Features and labels of the chips of a split that have Sentinel-2, batch by batch in the order of rows."""
    inputs = [name for name in input_levels if name in normalizer.parts]
    loader = ChipLoader(
        campaign_dir,
        arrays=[*inputs, *(spec.name for spec in labels)],
        split=split,
        batch_size=batch_size,
        shuffle="none",
        threads=threads,
        require=(tuple(inputs),),
        flat_periods=True,
    )
    bands = InputBands(list(select_specs(loader.store, inputs).values()))
    normalizer = normalizer.to(device)
    for batch in loader:
        arrays = normalizer({name: value.to(device) for name, value in batch.items()})
        picture = bands(arrays)
        yield ChipFeatures(
            rows=batch["row"].numpy(),
            features={name: extract(picture).float().cpu().numpy() for name, extract in extractors.items()},
            labels={spec.name: majority_class(spec, arrays[spec.name]).cpu().numpy() for spec in labels},
        )
        if report is not None:
            report(len(batch["row"]))


def joined(parts: Sequence[ChipFeatures]) -> ChipFeatures:
    """The features of all batches as one."""
    first = parts[0]
    return ChipFeatures(
        rows=np.concatenate([part.rows for part in parts]),
        features={name: np.concatenate([part.features[name] for part in parts]) for name in first.features},
        labels={name: np.concatenate([part.labels[name] for part in parts]) for name in first.labels},
    )


def probe_labels(specs: Sequence[ArraySpec]) -> tuple[ArraySpec, ...]:
    """The arrays that can be probed: those with a table of classes."""
    return tuple(spec for spec in specs if spec.values is Values.CLASSES and spec.classes)


def majority_class(spec: ArraySpec, classes: Tensor) -> Tensor:
    """The most frequent class of each chip, (B,) int64, of indexes (B, band, ...); -1 where nothing was observed."""
    if spec.shape is Shape.VECTOR:
        return classes[:, 0]
    flat = classes[:, 0].flatten(1)
    counts = torch.zeros(len(flat), spec.class_count + 1, dtype=torch.int64, device=flat.device)
    counts.scatter_add_(1, flat + 1, torch.ones_like(flat))
    return torch.where(counts[:, 1:].sum(dim=1) > 0, counts[:, 1:].argmax(dim=1), -1)


def encoder_features(encoder: ConvNeXtV2) -> Extractor:
    """The pooled features of an encoder; sides are cut to whole patches."""

    def extract(picture: EncoderInput) -> Tensor:
        height, width = (side // encoder.patch_px * encoder.patch_px for side in picture.x.shape[2:])
        return encoder(  # type: ignore[no-any-return]
            picture.x[..., :height, :width],
            level=picture.level,
            observed=picture.observed[..., :height, :width],
        )

    return extract


def image_statistics(picture: EncoderInput) -> Tensor:
    """Mean, deviation and five quantiles of each band over its observed pixels, (B, 7 x band); 0 for an absent band."""
    values, observed = picture.x.flatten(2).float(), picture.observed.flatten(2)
    count = observed.sum(dim=2, keepdim=True)
    mean = torch.where(observed, values, 0.0).sum(dim=2, keepdim=True) / count.clamp(min=1)
    variance = torch.where(observed, values - mean, 0.0).square().sum(dim=2, keepdim=True) / count.clamp(min=1)
    ordered = torch.where(observed, values, torch.inf).sort(dim=2).values
    places = [(quantile * (count - 1).clamp(min=0)).round().long() for quantile in quantiles]
    parts = [mean, variance.sqrt(), *(ordered.gather(2, place) for place in places)]
    return torch.where(count > 0, torch.cat(parts, dim=2), 0.0).flatten(1)


def random_convolutions(bands: int, *, seed: int) -> Extractor:
    """Means of rectified random 3x3 convolutions (Rolf et al. 2021, MOSAIKS, with normal filters), (B, 256)."""
    generator = torch.Generator().manual_seed(seed)
    filters = torch.randn(random_filters, bands, 3, 3, generator=generator) / (9 * bands) ** 0.5
    offsets = 0.5 * torch.randn(random_filters, generator=generator)

    def extract(picture: EncoderInput) -> Tensor:
        means = []
        for x in torch.split(picture.x.float(), 4):  # 128 maps of full resolution an image: few images at a time
            maps = functional.conv2d(x, filters.to(x.device), offsets.to(x.device))
            means.append(torch.cat([maps.relu().mean(dim=(2, 3)), (-maps).relu().mean(dim=(2, 3))], dim=1))
        return torch.cat(means)

    return extract
