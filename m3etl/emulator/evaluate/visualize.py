"""Eight-bit pictures from bands: Image.visualize and the visualisation options of pixel requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from m3etl.emulator.evaluate.bands import Array, Band, Pixels, PointwiseBand, meaningful_projection
from m3etl.emulator.evaluate.calls import algorithm
from m3etl.emulator.evaluate.images import select_bands
from m3etl.emulator.evaluate.values import ImageValue, union_footprint
from m3etl.emulator.model import PixelType, invalid

if TYPE_CHECKING:
    from m3etl.emulator.evaluate.context import Context

NAMES = ("vis-red", "vis-green", "vis-blue")
BYTE = PixelType.of("uint8")


def _colour(text: str) -> tuple[int, int, int]:
    """A CSS name or hexadecimal colour."""
    from PIL import ImageColor

    code = text.strip()
    if all(character in "0123456789abcdefABCDEF" for character in code) and len(code) in (3, 6):
        code = "#" + code
    try:
        red, green, blue = ImageColor.getrgb(code)[:3]
    except ValueError as error:
        raise invalid(f"Image.visualize: Invalid color '{text}'.") from error
    return red, green, blue


def _listed(value: Any, count: int) -> list[float] | None:
    if value is None:
        return None
    if isinstance(value, str):
        value = [float(part) for part in value.split(",")]
    values = [float(item) for item in value] if isinstance(value, list) else [float(value)]
    if len(values) == 1:
        return values * count
    if len(values) != count:
        raise invalid(f"Image.visualize: Expected 1 or {count} values, got {len(values)}.")
    return values


def _scaled(values: Array, low: float, high: float, gamma: float) -> Array:
    span = high - low
    unit = np.clip((values.astype(np.float64) - low) / (span or 1.0), 0.0, 1.0)
    return unit ** (1.0 / gamma) if gamma != 1.0 else unit


def visualized(
    image: ImageValue,
    *,
    bands: Sequence[Any] | None = None,
    low: Any = None,
    high: Any = None,
    gain: Any = None,
    bias: Any = None,
    gamma: Any = None,
    opacity: float | None = None,
    palette: Any = None,
) -> ImageValue:
    """Three byte bands vis-red, vis-green, vis-blue; masked where any input is."""
    chosen = list((select_bands("Image.visualize", image, bands, None) if bands else image).bands.values())
    chosen = chosen[:3] if len(chosen) >= 3 else chosen[:1]
    if not chosen:
        raise invalid("Image.visualize: The image has no bands.")
    count = len(chosen)
    pairs = _ranges(chosen, *(_listed(value, count) for value in (low, high, gain, bias)))
    exponents = _listed(gamma, count) or [1.0] * count
    strength = 1.0 if opacity is None else float(opacity)
    if palette:
        names = palette.split(",") if isinstance(palette, str) else list(palette)
        if count != 1:
            raise invalid("Image.visualize: Cannot provide a palette when visualizing more than one band.")
        table = np.array([_colour(str(name)) for name in names], dtype=np.float64)
        return _output([_paletted(chosen[0], pairs[0], exponents[0], table[:, i], strength) for i in range(3)])
    made = [
        _byte(band, pair, exponent, strength) for band, pair, exponent in zip(chosen, pairs, exponents, strict=True)
    ]
    return _output(made if count == 3 else made * 3)


def _ranges(
    bands: Sequence[Band],
    lows: list[float] | None,
    highs: list[float] | None,
    gains: list[float] | None,
    biases: list[float] | None,
) -> list[tuple[float, float]]:
    """(low, high) per band from ranges, or from gain and bias, or from the pixel type."""
    pairs = []
    for index, band in enumerate(bands):
        if gains is not None:
            offset = 0.0 if biases is None else biases[index]
            pairs.append((-offset / gains[index], (255.0 - offset) / gains[index]))
            continue
        kind = band.pixel_type
        low = 0.0 if kind.minimum is None else kind.minimum
        high = 1.0 if kind.maximum is None else kind.maximum
        pairs.append((low if lows is None else lows[index], high if highs is None else highs[index]))
    return pairs


def _byte(band: Band, pair: tuple[float, float], gamma: float, opacity: float) -> Band:
    def compute(a: Pixels) -> Pixels:
        return Pixels(np.round(_scaled(a.values, *pair, gamma) * 255 * opacity).astype(np.uint8), a.valid)

    return PointwiseBand(compute, (band,), BYTE, band.projection, band.footprint)


def _paletted(band: Band, pair: tuple[float, float], gamma: float, channel: Array, opacity: float) -> Band:
    def compute(a: Pixels) -> Pixels:
        position = _scaled(a.values, *pair, gamma) * (len(channel) - 1)
        values = np.interp(position, np.arange(len(channel)), channel)
        return Pixels(np.round(values * opacity).astype(np.uint8), a.valid)

    return PointwiseBand(compute, (band,), BYTE, band.projection, band.footprint)


def _output(bands: Sequence[Band]) -> ImageValue:
    """The picture; its bands share one mask."""
    shared = list(dict.fromkeys(bands))

    def masked(index: int) -> Band:
        def compute(*pixels: Pixels) -> Pixels:
            valid = np.logical_and.reduce([item.valid for item in pixels])
            return Pixels(pixels[index].values, valid)

        footprint = union_footprint(band.footprint for band in shared)
        return PointwiseBand(compute, shared, BYTE, meaningful_projection(shared), footprint)

    return ImageValue({name: masked(shared.index(band)) for name, band in zip(NAMES, bands, strict=True)})


@algorithm("Image.visualize")
def visualize(
    context: Context,
    image: ImageValue,
    bands: Any,
    gain: Any,
    bias: Any,
    low: Any,
    high: Any,
    gamma: Any,
    opacity: float | None,
    palette: Any,
    force_rgb: bool,
) -> ImageValue:
    if isinstance(bands, str):
        bands = [part.strip() for part in bands.split(",")]
    return visualized(
        image, bands=bands, low=low, high=high, gain=gain, bias=bias, gamma=gamma, opacity=opacity, palette=palette
    ).with_properties(image.properties)


def from_options(image: ImageValue, options: Mapping[str, Any]) -> ImageValue:
    """The picture that a request's visualizationOptions ask for."""
    ranges = options.get("ranges") or []
    gamma = options.get("gamma")
    return visualized(
        image,
        low=[item.get("min", 0) for item in ranges] or None,
        high=[item.get("max", 0) for item in ranges] or None,
        gamma=gamma.get("value") if isinstance(gamma, Mapping) else gamma,
        opacity=options.get("opacity"),
        palette=options.get("paletteColors"),
    )
