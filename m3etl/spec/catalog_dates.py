"""Several dates of one year: a Sentinel-2 scene of each season, its clouds, and the Sentinel-1 passes nearest to it. By
name only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from m3etl.spec.modality import ArraySpec, Temporal, names_by_period
from m3etl.spec.program import seasons

optical_dates, cloud_dates, radar_dates = "sentinel2_dates", "sentinel2_dates_cloud", "sentinel1_dates"
recipes_of_dates = frozenset({optical_dates, cloud_dates, radar_dates})


def dated_arrays(base: Mapping[str, ArraySpec]) -> tuple[ArraySpec, ...]:
    """The rows, each declared as the row of `base` for the anchor's own date, with a season as period."""
    return (
        _dated(
            base["sentinel2_l2a"],
            name=optical_dates,
            modality=optical_dates,
            title="Sentinel-2 reflectance, level L2A: one scene of each season of the anchor's year",
            recipe=optical_dates,
        ),
        _dated(
            base["sentinel2_cloud"],
            name=cloud_dates,
            modality=optical_dates,
            title="Cloud Score+ x 100 (cs, cs_cdf; 100 is clear) and scene classification of the scenes of each season",
            recipe=cloud_dates,
        ),
        *(
            _dated(
                base[f"sentinel1_{way}"],
                name=f"sentinel1_dates_{way}",
                modality=radar_dates,
                title=f"Sentinel-1 backscatter (sigma0), {way}ending pass nearest to each season's Sentinel-2 scene",
                recipe=radar_dates,
            )
            for way in ("asc", "desc")
        ),
    )


def _dated(spec: ArraySpec, *, name: str, modality: str, title: str, recipe: str) -> ArraySpec:
    return replace(
        spec,
        name=name,
        modality=modality,
        title=title,
        recipe=recipe,
        temporal=Temporal.DATES,
        periods=tuple(seasons),
        bands=names_by_period(tuple(seasons), spec.bands),
    )
