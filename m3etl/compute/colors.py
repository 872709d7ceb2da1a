"""Stored arrays as 8-bit RGB: natural colour, SAR false colour, class palettes, colour ramps; fill is hatched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

from m3etl.spec.modality import ArraySpec, Values, physical_of

Rgb = npt.NDArray[np.uint8]

natural_color = ("B4", "B3", "B2")
reflectance_limits = (0.0, 0.3)  # the usual stretch of viewers for vegetated and bare ground
bright_limits = (0.0, 1.0)  # for chips that it would turn all white: snow, ice, cloud
backscatter_limits_db = ((-20.0, 0.0), (-27.0, -7.0), (2.0, 15.0))  # VV, VH, VV - VH
over_ice = ("HH", "HV")
# Bands of one look at arrays with seasons, months or days: summer, where there is one.
telling_bands = (
    ("JJA_B4", "JJA_B3", "JJA_B2"),
    ("JJA_VV", "JJA_VH"),
    ("JJA_cs_cdf",),
    ("JJA_B4_median", "JJA_B3_median", "JJA_B2_median"),
    ("07_B4_median", "07_B3_median", "07_B2_median"),
    ("JJA_VV_mean", "JJA_VH_mean"),
    ("07_VV_mean", "07_VH_mean"),
    ("JJA_vv_COH12",),
    ("JJA_hh_COH12",),
    ("JJA_vv_rho",),
    ("JJA_hh_rho",),
    ("JJA_vv_AMP",),
    ("JJA_VV_count",),
    ("trees",),
)
ramps = {"elevation": "gist_earth", "slope": "magma", "height": "YlGn", "std": "viridis", "cs_cdf": "gray"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Physical (low, high) for each of the channels shown; one pair, or three for natural colour."""

    limits: tuple[tuple[float, float], ...]


def shown_bands(spec: ArraySpec) -> tuple[str, ...]:
    """The bands a picture of the array shows: three for natural colour, two for SAR, one otherwise."""
    if set(natural_color) <= set(spec.bands):
        return natural_color
    if {"VV", "VH"} <= set(spec.bands):
        return ("VV", "VH")
    telling = next((bands for bands in telling_bands if set(bands) <= set(spec.bands)), spec.bands[:1])
    return ("cs_cdf",) if "cs_cdf" in spec.bands else telling


def stretch_of(spec: ArraySpec, stored: npt.NDArray[Any]) -> Stretch:
    """Limits for pictures of `stored`: (..., band, y, x).

    Fixed for natural colour (two ranges), SAR and cloud score, so that pictures compare; else percentiles 2 and 98 of
    the valid pixels.
    """
    shown = shown_bands(spec)
    if len(shown) == 2:
        return Stretch(limits=backscatter_limits_db)
    if len(shown) == 3:
        red = physical_of(spec, stored)[..., spec.bands.index(shown[0]), :, :]
        red = red[np.isfinite(red)]
        bright = red.size > 0 and float(np.median(red)) > reflectance_limits[1]
        return Stretch(limits=(bright_limits if bright else reflectance_limits,) * 3)
    if shown == ("cs_cdf",):
        return Stretch(limits=((spec.valid_min, spec.valid_max),))
    physical = physical_of(spec, stored)
    limits = []
    for band in shown:
        values = physical[..., spec.bands.index(band), :, :]
        values = values[np.isfinite(values)]
        low, high = np.percentile(values, (2, 98)) if values.size else (0.0, 1.0)
        limits.append((float(low), float(max(high, low + 1e-6))))
    return Stretch(limits=tuple(limits))


def render(spec: ArraySpec, stored: npt.NDArray[Any], stretch: Stretch) -> Rgb:
    """One chip, stored (band, y, x), as (y, x, 3) uint8."""
    physical = physical_of(spec, stored)
    if spec.values is Values.CLASSES:
        return _render_classes(spec, physical[0])
    bands = [physical[spec.bands.index(band)] for band in _shown_in(spec, physical)]
    if len(bands) == 2:
        if spec.units != "dB":
            bands = [10.0 * np.log10(np.where(band > 0, band, np.nan)) for band in bands]
        bands.append(bands[0] - bands[1])
    scaled = [
        np.clip((band - low) / (high - low), 0.0, 1.0) for band, (low, high) in zip(bands, stretch.limits, strict=True)
    ]
    if len(scaled) == 1:
        ramp = mpl.colormaps[ramps.get(shown_bands(spec)[0], "viridis")]
        picture = ramp(np.nan_to_num(scaled[0]))[..., :3]
    else:
        picture = np.nan_to_num(np.stack(scaled, axis=-1)) ** (
            1 / 1.4 if len(bands) == 3 and len(spec.bands) > 4 else 1
        )
    rgb = (np.asarray(picture) * 255).round().astype(np.uint8)
    return _hatched(rgb, np.isfinite(bands[0]))


def _shown_in(spec: ArraySpec, physical: npt.NDArray[np.float64]) -> tuple[str, ...]:
    """Bands of the picture of one chip: over ice, acquired in HH and HV, these instead of VV and VH."""
    shown = shown_bands(spec)
    if shown == ("VV", "VH") and set(over_ice) <= set(spec.bands):
        there = [bool(np.isfinite(physical[spec.bands.index(pair[0])]).any()) for pair in (shown, over_ice)]
        return over_ice if there == [False, True] else shown
    return shown


def _render_classes(spec: ArraySpec, codes: npt.NDArray[np.float64]) -> Rgb:
    rgb = np.zeros((*codes.shape, 3), np.uint8)
    for item in spec.classes:
        rgb[codes == item.code] = tuple(bytes.fromhex(item.color.lstrip("#")))
    return _hatched(rgb, np.isfinite(codes))


def _hatched(rgb: Rgb, valid: npt.NDArray[np.bool_]) -> Rgb:
    """Stripes over what was not observed, about as wide at any resolution once chips are drawn at one size."""
    rows, columns = np.indices(valid.shape)
    period = max(4, min(valid.shape) // 16)
    stripes = np.where((rows + columns) % period < period // 4, 150, 225).astype(np.uint8)
    rgb[~valid] = stripes[~valid][:, None]
    return rgb
