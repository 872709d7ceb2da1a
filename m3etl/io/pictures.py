"""PNG files of chips: one contact sheet per array, one overview of all arrays side by side, one chart per vector."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from m3etl.compute.colors import render, shown_bands, stretch_of
from m3etl.spec.modality import ArraySpec, Shape, Values, physical_of

Stored = npt.NDArray[Any]
per_chip_stretch = ("elevation",)  # heights of the whole Earth in one ramp would leave each chip a single colour


def write_contact_sheet(path: Path, spec: ArraySpec, stored: Stored, captions: Sequence[str]) -> None:
    """A grid of chips, stored (chip, band, y, x), with a caption each and the legend of the array."""
    columns = min(8, max(1, len(captions)))
    lines = -(-len(captions) // columns)
    figure = Figure(figsize=(1.75 * columns, 2.05 * lines + 0.9), layout="constrained")
    figure.suptitle(f"{spec.name}: {spec.title}  [{_what_is_shown(spec)}]", fontsize=10)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, chip, picture, caption in zip(axes, stored, chip_pictures(spec, stored), captions, strict=False):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(caption, fontsize=6, pad=2)
        del chip
    if spec.values is Values.CLASSES:
        _add_class_legend(figure, spec, stored)
    _save(figure, path)


def write_overview(
    path: Path, specs: Sequence[ArraySpec], stored: Mapping[str, Stored], captions: Sequence[str]
) -> None:
    """One line per chip, one column per raster array, so that misaligned modalities show at a glance."""
    rasters = [spec for spec in specs if spec.shape is Shape.RASTER]
    figure = Figure(figsize=(1.5 * len(rasters) + 0.6, 1.55 * len(captions) + 0.5), layout="constrained")
    axes = figure.subplots(len(captions), len(rasters), squeeze=False)
    for column, spec in enumerate(rasters):
        for line, picture in enumerate(chip_pictures(spec, stored[spec.name])):
            axis = axes[line, column]
            axis.imshow(picture, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            if column == 0:
                axis.set_ylabel(captions[line], fontsize=6)
            if line == 0:
                axis.set_title(spec.name, fontsize=7)
    _save(figure, path)


def write_vector_chart(path: Path, spec: ArraySpec, stored: Stored) -> None:
    """The distribution of a vector array, stored (chip, feature): bars of classes, histograms, or points on circles."""
    physical = physical_of(spec, stored)
    count = 1 if spec.values is Values.CLASSES else len(spec.bands) // (2 if spec.values is Values.CYCLIC else 1)
    columns = min(3, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(4.0 * columns, 2.6 * lines + 0.4), layout="constrained")
    figure.suptitle(f"{spec.name}: {spec.title}", fontsize=10)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes[count:]:
        axis.set_axis_off()
    if spec.values is Values.CLASSES:
        _draw_class_bars(axes[0], spec, physical[:, 0])
    elif spec.values is Values.CYCLIC:
        for index in range(count):
            _draw_circle(axes[index], spec.bands[2 * index : 2 * index + 2], physical[:, 2 * index : 2 * index + 2])
    else:
        for index, band in enumerate(spec.bands):
            values = physical[:, index]
            axes[index].hist(values[np.isfinite(values)], bins=24, color="#3b6ea5")
            axes[index].set_title(f"{band} [{spec.units}]", fontsize=7)
            axes[index].tick_params(labelsize=6)
    _save(figure, path)


def chip_pictures(spec: ArraySpec, stored: Stored) -> list[npt.NDArray[np.uint8]]:
    """Every chip of (chip, band, y, x) as RGB with one stretch for all, so that chips can be compared."""
    common = stretch_of(spec, stored)
    alone = shown_bands(spec)[0] in per_chip_stretch
    return [render(spec, chip, stretch_of(spec, chip) if alone else common) for chip in stored]


def encode_png(picture: npt.NDArray[np.uint8]) -> bytes:
    """(y, x, 3) uint8 as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def _what_is_shown(spec: ArraySpec) -> str:
    if spec.values is Values.CLASSES:
        return "classes; hatched: not observed"
    bands = shown_bands(spec)
    shown = "VV, VH, VV-VH" if bands == ("VV", "VH") else ", ".join(bands)
    stretch = "each chip its own stretch" if bands[0] in per_chip_stretch else "one stretch"
    return f"{shown}; {stretch}; hatched: not observed"


def _add_class_legend(figure: Figure, spec: ArraySpec, stored: Stored) -> None:
    present = set(np.unique(stored).tolist())
    handles = [Patch(color=item.color, label=item.name) for item in spec.classes if item.code in present]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, max(1, len(handles))), fontsize=7)


def _draw_class_bars(axis: Axes, spec: ArraySpec, codes: npt.NDArray[np.float64]) -> None:
    observed = codes[np.isfinite(codes)].astype(int)
    names = {item.code: item.name for item in spec.classes}
    found, counts = np.unique(observed, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:20]
    labels = [names.get(int(code), str(code))[:38] for code in found[order]]
    axis.barh(range(len(order)), counts[order], color="#3b6ea5")
    axis.set_yticks(range(len(order)), labels, fontsize=6)
    axis.invert_yaxis()
    axis.set_xlabel(f"chips ({len(found)} classes, the {len(order)} most frequent)", fontsize=7)
    axis.tick_params(axis="x", labelsize=6)


def _draw_circle(axis: Axes, bands: Sequence[str], points: npt.NDArray[np.float64]) -> None:
    axis.scatter(points[:, 1], points[:, 0], s=6, color="#3b6ea5")
    axis.set_xlabel(bands[1], fontsize=7)
    axis.set_ylabel(bands[0], fontsize=7)
    axis.set_xlim(-1.1, 1.1)
    axis.set_ylim(-1.1, 1.1)
    axis.set_aspect("equal")
    axis.tick_params(labelsize=6)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110, metadata={"Software": None})
