"""PNG files of chips: one contact sheet per array, one overview of all arrays side by side, one chart per vector."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from m3etl.campaign import write_atomically
from m3etl.compute.colors import over_ice, render, shown_bands, stretch_of
from m3etl.spec.modality import ArraySpec, Shape, Values, physical_of

Stored = npt.NDArray[Any]
# Heights of the whole Earth in one ramp would leave each chip a single colour; snow would be white beside dark ground.
per_chip_stretch = {
    "elevation": "each chip its own stretch",
    "angle": "each chip its own stretch",
    "B4": "reflectance 0 to 0.3, bright chips 0 to 1",
}
tile_px = 160
gap_px = 6
caption_px = 28
ink = (40, 40, 40)


def write_contact_sheet(path: Path, spec: ArraySpec, stored: Stored, captions: Sequence[str]) -> None:
    """A grid of chips, stored (chip, band, y, x), with a caption each and the legend of the array."""
    columns = min(8, max(1, len(captions)))
    lines = -(-len(captions) // columns)
    present = set(np.unique(stored).tolist())
    legend = [item for item in spec.classes if item.code in present]
    width = columns * (tile_px + gap_px) + gap_px
    per_line = max(1, width // 190)
    height = 30 + lines * (tile_px + caption_px + gap_px) + 20 * -(-len(legend) // per_line) + gap_px
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((gap_px, 8), f"{spec.name}: {spec.title}  [{_what_is_shown(spec)}]", ink, font=_font(13))
    for index, (picture, caption) in enumerate(zip(chip_pictures(spec, stored), captions, strict=True)):
        left = gap_px + index % columns * (tile_px + gap_px)
        top = 30 + index // columns * (tile_px + caption_px + gap_px)
        draw.multiline_text((left, top), caption, ink, font=_font(10), spacing=1)
        sheet.paste(_tile(picture), (left, top + caption_px))
    for index, item in enumerate(legend):
        left = gap_px + index % per_line * 190
        top = height - 20 * (-(-len(legend) // per_line) - index // per_line)
        draw.rectangle((left, top, left + 14, top + 14), fill=item.color, outline=ink)
        draw.text((left + 20, top), item.name, ink, font=_font(11))
    _save_image(sheet, path)


def write_overview(
    path: Path, specs: Sequence[ArraySpec], stored: Mapping[str, Stored], captions: Sequence[str]
) -> None:
    """One line per chip, one column per raster array, so that misaligned modalities show at a glance."""
    rasters = [spec for spec in specs if spec.shape is Shape.RASTER]
    left_margin = 150
    size = (left_margin + len(rasters) * (tile_px + gap_px), 24 + len(captions) * (tile_px + gap_px))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for line, caption in enumerate(captions):
        top = 24 + line * (tile_px + gap_px)
        draw.multiline_text((gap_px, top + tile_px // 2 - 16), caption, ink, font=_font(11), spacing=3)
    for column, spec in enumerate(rasters):
        left = left_margin + column * (tile_px + gap_px)
        draw.text((left, 6), _shortened(spec.name, 22), ink, font=_font(12))
        for line, picture in enumerate(chip_pictures(spec, stored[spec.name])):
            sheet.paste(_tile(picture), (left, 24 + line * (tile_px + gap_px)))
    _save_image(sheet, path)


def write_vector_chart(path: Path, spec: ArraySpec, stored: Stored) -> None:
    """The distribution of a vector array, stored (chip, feature): bars of classes, histograms, or points on circles."""
    physical = physical_of(spec, stored)
    count = 1 if spec.values is Values.CLASSES else len(spec.bands) // (2 if spec.values is Values.CYCLIC else 1)
    columns = min(3, count)
    lines = -(-count // columns)
    width = max(6.4, 4.0 * columns)  # room for the title
    figure = Figure(figsize=(width, 2.6 * lines + 0.4), layout="constrained")
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


def write_registration_chart(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Where each array lies against the optical one: a point with its spread; rows as in the audit's report."""
    measured = [row for row in rows if row["verdict"] in ("in place", "shifted")]
    rest = [row["array"] for row in rows if row not in measured]
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axis = figure.subplots()
    reach = 1.2 * max([1.0, *(max(abs(row["right [px]"]), abs(row["down [px]"])) for row in measured)])
    axis.add_patch(Circle((0, 0), 0.5, fill=False, linestyle="--", color="#888888"))
    axis.annotate("half a pixel", (0, -0.5), ha="center", va="top", fontsize=7, color="#666666")
    for row in measured:
        color = "#c0392b" if row["verdict"] == "shifted" else "#3b6ea5"
        x, y = row["right [px]"], row["down [px]"]
        axis.errorbar(x, y, xerr=row["spread [px]"], yerr=row["spread [px]"], fmt="o", ms=4, color=color)
    labels = "\n".join(f"{row['array']}: {row['right [px]']:+.2f}, {row['down [px]']:+.2f}" for row in measured)
    axis.text(1.03, 1.0, "right, down [px]\n" + labels, transform=axis.transAxes, va="top", fontsize=7)
    if rest:
        text = "too little structure\nto measure:\n" + "\n".join(rest)
        axis.text(1.03, 0.3, text, transform=axis.transAxes, va="top", fontsize=7, color="#666666")
    axis.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect="equal", xlabel="right [px]", ylabel="down [px]")
    axis.set_title("Shift against the optical array", fontsize=10)
    axis.axhline(0, lw=0.5, color="#bbbbbb", zorder=0)
    axis.axvline(0, lw=0.5, color="#bbbbbb", zorder=0)
    axis.tick_params(labelsize=7)
    _save(figure, path)


def chip_pictures(spec: ArraySpec, stored: Stored) -> list[npt.NDArray[np.uint8]]:
    """Every chip of (chip, band, y, x) as RGB with one stretch for all, so that chips can be compared."""
    common = stretch_of(spec, stored)
    alone = shown_bands(spec)[0] in per_chip_stretch
    return [render(spec, chip, stretch_of(spec, chip) if alone else common) for chip in stored]


def encode_png(picture: npt.NDArray[np.uint8]) -> bytes:
    """(y, x, 3) uint8 as PNG bytes."""
    return _png(Image.fromarray(picture))


def _what_is_shown(spec: ArraySpec) -> str:
    if spec.values is Values.CLASSES:
        return "classes; hatched: not observed"
    bands = shown_bands(spec)
    shown = f"{bands[0]}, {bands[1]}, difference" if len(bands) == 2 else ", ".join(bands)
    if set(over_ice) <= set(spec.bands):
        shown += f" (over ice {', '.join(over_ice)})"
    stretch = per_chip_stretch.get(bands[0], "one stretch")
    return f"{shown}; {stretch}; hatched: not observed"


def _tile(picture: npt.NDArray[np.uint8]) -> Image.Image:
    """A chip enlarged or reduced to the size of a tile, pixels kept as squares, with a thin frame."""
    method = Image.Resampling.NEAREST if picture.shape[0] <= tile_px else Image.Resampling.BOX
    tile = Image.fromarray(picture).resize((tile_px, tile_px), method)
    ImageDraw.Draw(tile).rectangle((0, 0, tile_px - 1, tile_px - 1), outline=(120, 120, 120))
    return tile


def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that matplotlib brings, so that names with any letter can be written on every system."""
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _save_image(image: Image.Image, path: Path) -> None:
    write_atomically(path, _png(image))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def _draw_class_bars(axis: Axes, spec: ArraySpec, codes: npt.NDArray[np.float64]) -> None:
    observed = codes[np.isfinite(codes)].astype(int)
    names = {item.code: item.name for item in spec.classes}
    found, counts = np.unique(observed, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:20]
    labels = [_shortened(names.get(int(code), f"id {code}"), 40) for code in found[order]]
    axis.barh(range(len(order)), counts[order], color="#3b6ea5")
    axis.set_yticks(range(len(order)), labels, fontsize=6)
    axis.invert_yaxis()
    few = f", the {len(order)} most frequent" if len(order) < len(found) else ""
    axis.set_xlabel(f"chips ({len(found)} classes{few})", fontsize=7)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.tick_params(axis="x", labelsize=6)


def _draw_circle(axis: Axes, bands: Sequence[str], points: npt.NDArray[np.float64]) -> None:
    axis.scatter(points[:, 1], points[:, 0], s=6, color="#3b6ea5")
    axis.set_xlabel(bands[1], fontsize=7)
    axis.set_ylabel(bands[0], fontsize=7)
    axis.set_xlim(-1.1, 1.1)
    axis.set_ylim(-1.1, 1.1)
    axis.set_aspect("equal")
    axis.set_xticks([-1, 0, 1])
    axis.set_yticks([-1, 0, 1])
    axis.tick_params(labelsize=6)


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())
