"""Losses that see observed values only, and how the losses of many arrays become one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from m3etl.errors import InputError
from m3etl.learn.mpmae import patches_of, pick_patches
from m3etl.spec.modality import ArraySpec, Shape, Values

patch_variance_eps = 1e-6  # MAE and MMEarth


@dataclass(frozen=True, slots=True)
class ArrayLoss:
    """The loss of one array as a sum over observed elements and their number (float); parts of a whole set add up."""

    total: Tensor
    count: Tensor

    @property
    def mean(self) -> Tensor:
        """Loss per observed element; exactly 0 with a gradient of exactly 0 where nothing was observed."""
        return self.total / self.count.clamp(min=1)


def array_losses(
    targets: Sequence[ArraySpec],
    predictions: Mapping[str, Tensor],
    arrays: Mapping[str, Tensor],
    hidden: Tensor,
    *,
    patch_px: int,
    patch_normalised: Sequence[str] = (),
) -> dict[str, ArrayLoss]:
    """The loss of each target: rasters at the hidden patches only, vectors for the whole image.

    Continuous and cyclic values: squared error of normalised values; the targets of the arrays named in
    `patch_normalised` are first brought to mean 0 and variance 1 within each patch, over all its observed bands and
    pixels together (MAE). Classes: cross-entropy. Unobserved elements are no part of either.
    """
    losses = {}
    for spec in targets:
        target, valid = targets_of(spec, arrays, hidden, patch_px)
        prediction = predictions[spec.name].float()
        if spec.values is Values.CLASSES:
            losses[spec.name] = class_loss(prediction, target)
            continue
        if spec.name in patch_normalised:
            mean, deviation = patch_statistics(target, valid)
            target = (target - mean) / deviation
        losses[spec.name] = squared_loss(prediction, target, valid)
    return losses


def targets_of(spec: ArraySpec, arrays: Mapping[str, Tensor], numbers: Tensor, patch_px: int) -> tuple[Tensor, Tensor]:
    """Values and validity of one target in the shape of its prediction: at the patches `numbers` of each image."""
    values, valid = arrays[spec.name], arrays[f"{spec.name}_valid"]
    if spec.shape is Shape.VECTOR:
        return values, valid
    return (
        pick_patches(patches_of(values, patch_px), numbers),
        pick_patches(patches_of(valid, patch_px), numbers),
    )


def squared_loss(prediction: Tensor, target: Tensor, valid: Tensor) -> ArrayLoss:
    """Squared differences where `valid`; a NaN in an invalid target does no harm."""
    difference = torch.where(valid, prediction - target.float(), 0.0)
    return ArrayLoss(difference.square().sum(), valid.sum().float())


def class_loss(scores: Tensor, target: Tensor) -> ArrayLoss:
    """Cross-entropy of scores (..., class) with class numbers (...) int64; -1 is unobserved."""
    total = functional.cross_entropy(scores.flatten(0, -2), target.flatten(), ignore_index=-1, reduction="sum")
    return ArrayLoss(total, (target >= 0).sum().float())


def patch_statistics(target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the observed values of each patch, over bands and pixels together: (B, n, 1, 1, 1) each."""
    inner = (2, 3, 4)
    count = valid.sum(dim=inner, keepdim=True).clamp(min=1)
    mean = torch.where(valid, target, 0.0).sum(dim=inner, keepdim=True) / count
    variance = torch.where(valid, target - mean, 0.0).square().sum(dim=inner, keepdim=True) / count
    return mean, (variance + patch_variance_eps).sqrt()


class UncertaintyWeights(nn.Module):
    """sum of exp(-s) L + s with one learned s per array (Kendall et al. 2018, without the factor 1/2, as in MMEarth).

    An array of which nothing was observed contributes neither to the sum nor to any gradient, that of its s included.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.log_variance = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, losses: Mapping[str, ArrayLoss]) -> Tensor:
        means, present = _stacked(self.names, losses)
        return (present * (torch.exp(-self.log_variance) * means + self.log_variance)).sum()


class FixedWeights(nn.Module):
    """sum of w L with fixed weights, 1 where none is given."""

    def __init__(self, names: Sequence[str], weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.names = tuple(names)
        unknown = sorted(set(weights or {}) - set(names))
        if unknown:
            raise InputError(
                f"loss.weights names {', '.join(unknown)}, which are no targets", hint=f"Targets: {', '.join(names)}."
            )
        values = [float((weights or {}).get(name, 1.0)) for name in self.names]
        self.weight: Tensor
        self.register_buffer("weight", torch.tensor(values), persistent=False)

    def forward(self, losses: Mapping[str, ArrayLoss]) -> Tensor:
        means, present = _stacked(self.names, losses)
        return (present * self.weight * means).sum()


def build_weights(names: Sequence[str], weighting: str, weights: Mapping[str, float]) -> nn.Module:
    """`uncertainty` or `fixed`."""
    if weighting == "uncertainty" and not weights:
        return UncertaintyWeights(names)
    if weighting == "fixed":
        return FixedWeights(names, weights)
    raise InputError(
        f"loss.weighting = {weighting} with {len(weights)} fixed weights",
        hint="Use loss.weighting=uncertainty, or loss.weighting=fixed with loss.weights={array: weight}.",
    )


def _stacked(names: Sequence[str], losses: Mapping[str, ArrayLoss]) -> tuple[Tensor, Tensor]:
    """Means and presence (1 or 0). With several ranks counts are averaged over them, so that the mean of the ranks'
    gradients is the gradient of the mean over all observed elements."""
    counts = torch.stack([losses[name].count for name in names])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(counts)
        counts = counts / torch.distributed.get_world_size()
    totals = torch.stack([losses[name].total for name in names])
    return totals / torch.where(counts > 0, counts, 1.0), (counts > 0).float()
