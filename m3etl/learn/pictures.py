"""Pictures of reconstructions: for each raster array the input, what the encoder saw of it, the prediction at the
hidden patches and the target, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from m3etl.compute.colors import Rgb, render, stretch_of
from m3etl.learn.losses import patch_statistics
from m3etl.learn.mpmae import input_levels, patches_of, raster_of
from m3etl.learn.training import Pretraining
from m3etl.spec.modality import ArraySpec, Shape, Values

unseen = np.array([232, 232, 232], dtype=np.uint8)
columns = ("input", "seen by the encoder", "prediction where hidden", "target")


@torch.no_grad()
def write_reconstructions(
    folder: Path, module: Pretraining, batch: Mapping[str, Tensor], *, captions: Sequence[str], chips: int
) -> list[Path]:
    """One PNG per raster target that any chip of the batch has, of its first `chips` chips that do.

    batch: stored chips with masks, on the module's device; captions: a name for each of them.
    """
    module.eval()
    arrays = module.normalizer(batch)
    predictions = module.model(arrays, batch["visible"], batch["hidden"], everywhere=True)
    module.train()
    patch_px = module.config.model.patch_px
    levels = {name: _stored(batch[name]) for name in input_levels if name in batch}
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for spec in module.model.targets:
        if spec.shape is not Shape.RASTER:
            continue
        has = arrays[f"{spec.name}_valid"].flatten(1).any(dim=1)
        chosen = torch.nonzero(has).flatten()[:chips].tolist()
        if not chosen:
            continue
        grid = batch[spec.name].shape[-1] // patch_px
        values = _predicted(spec, predictions[spec.name].float(), arrays, module, grid)
        hidden = _hidden_pixels(batch["hidden"], batch[spec.name].shape, patch_px)
        stored = _stored(batch[spec.name])
        lines = [
            Line(captions[chip], _input_picture(module, levels, chip), hidden[chip], values[chip], stored[chip])
            for chip in chosen
        ]
        paths.append(folder / f"{spec.name}.png")
        _write_sheet(paths[-1], spec, lines)
    return paths


@dataclass(frozen=True, slots=True)
class Line:
    """One chip of a sheet: input as RGB, hidden pixels (y, x), prediction and target in stored units (band, y, x)."""

    caption: str
    picture: Rgb
    hidden: NDArray[np.bool_]
    predicted: NDArray[Any]
    target: NDArray[Any]


def _write_sheet(path: Path, spec: ArraySpec, lines: Sequence[Line]) -> None:
    figure = Figure(figsize=(7.4, 1.85 * len(lines) + 0.5), layout="constrained")
    axes = figure.subplots(len(lines), len(columns), squeeze=False)
    figure.suptitle(f"{spec.name}: {spec.title}", fontsize=9)
    together = stretch_of(spec, np.stack([line.target for line in lines]))
    for number, line in enumerate(lines):
        own = spec.name in input_levels  # brightness varies too much
        stretch = stretch_of(spec, line.target) if own else together
        hidden = line.hidden[..., None]
        guess = np.where(hidden, render(spec, line.predicted, stretch), unseen)
        seen = np.where(hidden, unseen, line.picture)
        for column, shown in enumerate((line.picture, seen, guess, render(spec, line.target, stretch))):
            axis = axes[number, column]
            axis.imshow(shown, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            if number == 0:
                axis.set_title(columns[column], fontsize=7)
            if column == 0:
                axis.set_ylabel(line.caption, fontsize=6)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110)


def _predicted(
    spec: ArraySpec, prediction: Tensor, arrays: Mapping[str, Tensor], module: Pretraining, grid: int
) -> NDArray[Any]:
    """The prediction in stored units, (B, band, y, x); what was normalised per patch gets back its mean and scale."""
    if spec.values is Values.CLASSES:
        raster = raster_of(prediction.argmax(dim=-1), grid)
        return module.normalizer.inverse(spec.name, raster).cpu().numpy().astype(spec.dtype)
    if module.config.loss.norm_pix and spec.name in input_levels:
        patch_px = module.config.model.patch_px
        mean, deviation = patch_statistics(
            patches_of(arrays[spec.name], patch_px), patches_of(arrays[f"{spec.name}_valid"], patch_px)
        )
        prediction = prediction * deviation + mean
    physical = module.normalizer.inverse(spec.name, raster_of(prediction, grid)).cpu().double().numpy()
    stored = ((physical - spec.offset) / spec.scale).clip(spec.stored_min, spec.stored_max)
    if spec.fill is None:
        return stored.astype(spec.dtype)
    return np.where(np.isnan(stored), spec.fill, stored.round()).astype(spec.dtype)


def _input_picture(module: Pretraining, shown: Mapping[str, NDArray[Any]], chip: int) -> Rgb:
    """Natural colour of the level that the encoder used for this chip: the first that has any valid pixel."""
    specs = {spec.name: spec for spec in module.specs}
    names = [name for name in input_levels if name in shown]
    name = next((name for name in names if np.any(shown[name][chip] != specs[name].fill)), names[0])
    return render(specs[name], shown[name][chip], stretch_of(specs[name], shown[name][chip]))


def _hidden_pixels(hidden: Tensor, shape: tuple[int, ...], patch_px: int) -> NDArray[np.bool_]:
    batch, _, height, width = shape
    grid = np.zeros((batch, height // patch_px * (width // patch_px)), dtype=bool)
    np.put_along_axis(grid, hidden.cpu().numpy(), True, axis=1)
    return grid.reshape(batch, height // patch_px, -1).repeat(patch_px, axis=1).repeat(patch_px, axis=2)


def _stored(values: Tensor) -> NDArray[Any]:
    return values.cpu().numpy()
