"""Which points lie near the outline of polygons, by distance on the ground, anywhere on the globe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely
from scipy.spatial import cKDTree
from shapely.geometry.base import BaseGeometry

from m3etl.spec.splits import smallest_radius_km

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_step_km = 2.0  # between the points that stand for an outline
_km_per_degree = 111.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """Points along outlines, not more than `_step_km` apart, as a tree of unit vectors."""

    tree: cKDTree

    def near(self, lon: Floats, lat: Floats, reach_km: float) -> Flags:
        """Which points may be nearer than `reach_km`, (N,); misses none and errs by less than 2 %."""
        if self.tree.n == 0 or len(lon) == 0:
            return np.zeros(len(lon), dtype=bool)
        widened_km = np.hypot(reach_km, _step_km / 2)
        distance, _ = self.tree.query(unit_vectors(lon, lat), distance_upper_bound=chord_of_km(float(widened_km)))
        return np.asarray(np.isfinite(distance))


def outline_of(polygons: Sequence[BaseGeometry]) -> Outline:
    """The outlines of polygons in degrees."""
    points = [np.zeros((0, 2)), *(_points_along(polygon) for polygon in polygons)]
    lonlat = np.concatenate(points)
    return Outline(tree=cKDTree(unit_vectors(lonlat[:, 0], lonlat[:, 1])))


def unit_vectors(lon: Floats, lat: Floats) -> Floats:
    """(N, 3) vectors on the unit sphere, with latitudes as they are."""
    lon, lat = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def chord_of_km(distance_km: float) -> float:
    """Straight distance of two unit vectors whose points are so far apart; the ground is never shorter than that."""
    return float(2.0 * np.sin(min(distance_km / smallest_radius_km / 2.0, np.pi / 2)))


def km_of_chord(chord: npt.ArrayLike) -> Floats:
    """The inverse of `chord_of_km`."""
    return np.asarray(2.0 * smallest_radius_km * np.arcsin(np.clip(np.asarray(chord) / 2.0, 0.0, 1.0)))


def _points_along(polygon: BaseGeometry) -> Floats:
    return np.asarray(shapely.get_coordinates(shapely.segmentize(polygon, _step_km / _km_per_degree)))
