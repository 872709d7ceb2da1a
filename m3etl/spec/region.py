"""Regions: named areas of interest as longitude/latitude polygons, from a TOML document or from GeoJSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from m3etl.errors import InputError
from m3etl.spec.ecoregions import area_km2_of, polygons_only

globe = "globe"
document_keys = ("name", "title", "description", "polygons")


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A named area. `geometry`: polygon or multipolygon in degrees, longitudes within [-180, 180], valid and prepared.

    `source` says where it was read from, for messages.
    """

    name: str
    title: str
    description: str
    geometry: BaseGeometry
    source: str = ""

    def __post_init__(self) -> None:
        shapely.prepare(self.geometry)

    @property
    def area_km2(self) -> float:
        """Area on WGS 84, sea included."""
        fine = shapely.segmentize(self.geometry, 0.5)
        return float(area_km2_of(np.asarray([fine], dtype=object))[0])

    @property
    def is_globe(self) -> bool:
        return self.name == globe

    def contains_lonlat(self, lon: npt.ArrayLike, lat: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Which points lie inside; arrays of equal length. Everything lies in the globe, its rim included."""
        if self.is_globe:
            return np.isfinite(np.asarray(lon, dtype=np.float64)) & np.isfinite(np.asarray(lat, dtype=np.float64))
        return np.asarray(shapely.contains_xy(self.geometry, np.asarray(lon), np.asarray(lat)), dtype=bool)


def region_from_document(document: Mapping[str, Any], source: str) -> Region:
    """A region from the keys name, title, description and polygons (a list of rings of [longitude, latitude]).

    Raises InputError that lists every problem: missing or unknown keys, rings that are no rings, coordinates out of
    range.
    """
    problems = [f"unknown key {key!r}" for key in document if key not in document_keys]
    problems += [f"missing key {key!r}" for key in ("name", "polygons") if key not in document]
    problems += [
        f"{key} must be a text, not {document[key]!r}"
        for key in ("name", "title", "description")
        if key in document and not isinstance(document[key], str)
    ]
    rings = document.get("polygons", [])
    polygons = []
    if not isinstance(rings, Sequence) or isinstance(rings, str) or (not rings and "polygons" in document):
        problems.append("polygons must be a list of at least one ring")
    else:
        for number, ring in enumerate(rings, start=1):
            polygon = _polygon(ring, f"polygon {number}", problems)
            if polygon is not None:
                polygons.append(polygon)
    _raise(problems, source)
    name = str(document["name"])
    title, description = str(document.get("title", name)), str(document.get("description", ""))
    return Region(name=name, title=title, description=description, geometry=shapely.union_all(polygons), source=source)


def region_from_geometry(name: str, geometries: Sequence[BaseGeometry], source: str) -> Region:
    """A region from the polygons of a vector file in longitude and latitude. Raises InputError for anything else."""
    problems = []
    if not geometries:
        problems.append("it holds no feature")
    kinds = sorted({shape.geom_type for shape in geometries if shape is not None} - {"Polygon", "MultiPolygon"})
    if kinds:
        problems.append(f"only polygons make a region, not {', '.join(kinds)}")
    present = [shape for shape in geometries if shape is not None and not shape.is_empty]
    if geometries and not present:
        problems.append("its features are empty")
    for shape in present:
        _check_range(np.asarray(shape.bounds).reshape(2, 2), "a feature", problems)
    _raise(problems, source)
    geometry = shapely.union_all(polygons_only(np.asarray(present, dtype=object)))
    return Region(name=name, title=name, description=f"polygons of {source}", geometry=geometry, source=source)


def _polygon(ring: Any, label: str, problems: list[str]) -> BaseGeometry | None:
    try:
        corners = np.asarray(ring, dtype=np.float64)
    except (TypeError, ValueError):
        corners = np.zeros(0)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        problems.append(f"{label} must be a list of at least three [longitude, latitude] pairs")
        return None
    before = len(problems)
    _check_range(corners, label, problems)
    if len(problems) > before:
        return None
    polygon = shapely.Polygon(corners)
    if not polygon.is_valid or polygon.area == 0:
        problems.append(f"{label} is no simple ring: {shapely.is_valid_reason(polygon)}")
        return None
    return polygon


def _check_range(lonlat: npt.NDArray[np.float64], label: str, problems: list[str]) -> None:
    if not np.all(np.isfinite(lonlat)):
        problems.append(f"{label} has a coordinate that is no finite number")
    elif np.abs(lonlat[:, 0]).max() > 180.0 or np.abs(lonlat[:, 1]).max() > 90.0:
        low, high = lonlat.min(axis=0), lonlat.max(axis=0)
        problems.append(
            f"{label} spans longitude {low[0]:g} to {high[0]:g} and latitude {low[1]:g} to {high[1]:g}, "
            "which is not within -180..180 and -90..90"
        )


def _raise(problems: Sequence[str], source: str) -> None:
    if problems:
        raise InputError(
            f"{source} is no region: " + "; ".join(problems),
            hint="A region has name, title, description and polygons = [[[lon, lat], ...], ...] in degrees; "
            "cut one that crosses the antimeridian in two.",
        )
