"""Interferograms: the arrays that come from ARIA S1-GUNW products, one band for each window of days between the dates.

They come from files or an archive, not from Earth Engine: `m3etl tile --gunw PLACE`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from m3etl.spec.modality import ArraySpec, Resampling, Shape, Temporal, Transform, Values

gunw_recipe = "gunw"
gunw_notice = (
    "ARIA Sentinel-1 Geocoded Unwrapped Phase (S1-GUNW), made by Caltech/JPL and distributed by the ASF DAAC, contains "
    "modified Copernicus Sentinel data."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DayWindow:
    """Days between the two dates of a pair, both ends included."""

    least: int
    most: int

    @property
    def name(self) -> str:
        """The band of this window."""
        return f"days_{self.least}_{self.most}"

    @property
    def middle(self) -> float:
        return (self.least + self.most) / 2


day_windows = (  # M3LEO's
    DayWindow(least=0, most=60),
    DayWindow(least=72, most=132),
    DayWindow(least=140, most=216),
)
pair_features = ("interval_days", "baseline_m", "incidence_deg", "look_deg", "azimuth_deg")


def insar_arrays() -> tuple[ArraySpec, ...]:
    """All rows, in the order in which they are stored."""
    bands = tuple(window.name for window in day_windows)
    return (
        _raster(
            "gunw_phase",
            "Unwrapped phase, corrected where the product says how, less the median of its connected component",
            bands, dtype="float32", fill=None, units="rad", resampling=Resampling.BILINEAR, transform=Transform.ROBUST,
        ),
        _raster(
            "gunw_coherence", "Coherence of the interferogram, filtered",
            bands, dtype="uint8", fill=255, scale=0.01, units="1", valid_min=0.0, valid_max=1.0,
            resampling=Resampling.BILINEAR,
        ),
        _raster(
            "gunw_amplitude", "Amplitude of the interferogram, as the product has it",
            bands, dtype="float32", fill=None, units="1", valid_min=0.0, resampling=Resampling.BILINEAR,
            transform=Transform.LOG_ZSCORE,
        ),
        _raster(
            "gunw_component", "Label of the connected component: phases compare within one component only",
            bands, dtype="int16", fill=0, units="1", valid_min=1.0, valid_max=32767.0, resampling=Resampling.NEAREST,
            transform=Transform.NONE, target=False,
        ),
        _gunw(
            "gunw_pairs",
            "The pair of each window: days between the dates, perpendicular baseline (m), and incidence, look and "
            "azimuth angle (degrees) at the chip's centre",
            tuple(f"{band}_{feature}" for band in bands for feature in pair_features),
            shape=Shape.VECTOR, dtype="float32", fill=None, units="1", target=False,
        ),
    )  # fmt: skip


def _raster(name: str, title: str, bands: tuple[str, ...], **declared: Any) -> ArraySpec:
    return _gunw(name, title, bands, shape=Shape.RASTER, native_gsd_m=92.7, **declared)


def _gunw(name: str, title: str, bands: tuple[str, ...], **declared: Any) -> ArraySpec:
    return ArraySpec(
        name=name,
        modality="gunw",
        title=title,
        values=Values.CONTINUOUS,
        bands=bands,
        source=("ARIA S1-GUNW",),
        recipe=gunw_recipe,
        temporal=Temporal.NEAREST,
        license="copernicus-sentinel",
        notice=gunw_notice,
        **declared,
    )
