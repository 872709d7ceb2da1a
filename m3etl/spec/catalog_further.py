"""Rows beyond MMEarth's twelve modalities and M3LEO's layers, each by name only: the incidence angle of the Sentinel-1
scenes, Dynamic World's probabilities beside its most frequent label, WorldCover's second year beside its first.
"""

from __future__ import annotations

from collections.abc import Sequence

from m3etl.spec.modality import ArraySpec, ClassCode, Resampling, Shape, Temporal, Transform, Values
from m3etl.spec.program import Output, Program, Window

angle_recipe = "sentinel1_angle"


def further_arrays(land_cover: Sequence[ClassCode], probabilities: Sequence[ClassCode]) -> tuple[ArraySpec, ...]:
    """All rows. land_cover: WorldCover's table; probabilities: the classes of Dynamic World, one band each."""
    return (
        *(_angle(way) for way in ("asc", "desc")),
        _probabilities(tuple(item.name for item in probabilities)),
        _worldcover_2021(tuple(land_cover)),
    )


def pass_array(spec: ArraySpec) -> str:
    """The array of backscatter whose scenes an array of Sentinel-1 by date is made of."""
    return spec.name.removesuffix("_angle")


def _angle(way: str) -> ArraySpec:
    return ArraySpec(
        name=f"sentinel1_{way}_angle",
        modality="sentinel1_angle",
        title=f"Incidence angle from the ellipsoid of the scene of sentinel1_{way}",
        shape=Shape.RASTER,
        values=Values.CONTINUOUS,
        bands=("angle",),
        dtype="int16",
        fill=-32768,
        scale=0.01,
        units="degree",
        valid_min=0.0,
        valid_max=90.0,
        native_gsd_m=10.0,
        resampling=Resampling.BILINEAR,
        source=("COPERNICUS/S1_GRD",),
        recipe=angle_recipe,
        temporal=Temporal.NEAREST,
        max_gap_days=30.0,
        license="copernicus-sentinel",
        target=False,
    )


def _probabilities(classes: tuple[str, ...]) -> ArraySpec:
    return ArraySpec(
        name="dynamic_world_probabilities",
        modality="dynamic_world_probabilities",
        title="Dynamic World: mean probability of each class over the images of the anchor's calendar year",
        shape=Shape.RASTER,
        values=Values.CONTINUOUS,
        bands=classes,
        dtype="uint8",
        fill=255,
        scale=0.005,
        units="1",
        valid_min=0.0,
        valid_max=1.0,
        native_gsd_m=10.0,
        resampling=Resampling.BILINEAR,
        source=("GOOGLE/DYNAMICWORLD/V1",),
        recipe="program",
        temporal=Temporal.YEAR,
        transform=Transform.NONE,
        license="CC-BY-4.0",
        label_family="land_cover",
        program=Program(
            outputs=tuple(Output(name=name, band=name, reducer="mean") for name in classes), window=Window.YEAR
        ),
    )


def _worldcover_2021(classes: tuple[ClassCode, ...]) -> ArraySpec:
    return ArraySpec(
        name="worldcover_2021",
        modality="worldcover_2021",
        title="ESA WorldCover 2021 (v200): another algorithm than v100, so that differences are not change",
        shape=Shape.RASTER,
        values=Values.CLASSES,
        bands=("Map",),
        dtype="uint8",
        fill=255,
        units="1",
        valid_min=10.0,
        valid_max=100.0,
        native_gsd_m=10.0,
        resampling=Resampling.NEAREST,
        source=("ESA/WorldCover/v200",),
        recipe="worldcover",
        temporal=Temporal.STATIC,
        transform=Transform.NONE,
        classes=classes,
        license="CC-BY-4.0",
        label_family="land_cover",
    )
