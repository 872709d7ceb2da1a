"""Counts chips of a plan that share ground, from what is on disk: centres, corners and footprints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from m3etl.io.plan import read_footprints, read_plan
from m3etl.spec.nearness import chord_of_km, unit_vectors

_largest_scale = 1.01  # metres of a grid exceed those on the ground by up to 2 per mille
_smallest_area = 1e-12  # square degrees, about a hundredth of a square metre: what rounding makes of a shared edge


def overlapping_pairs(plan: Path) -> int:
    """Pairs of chips that share more ground than an edge; the same cell twice is a pair too.

    Within a zone corners in metres decide, between zones the footprints in degrees.
    """
    chips = read_plan(plan, ["epsg", "xmin", "ymin", "xmax", "lon", "lat"])
    side_m = float((chips["xmax"] - chips["xmin"]).iloc[0])
    reach = chord_of_km(side_m / 1000 * np.sqrt(2) * _largest_scale)
    tree = cKDTree(unit_vectors(chips["lon"].to_numpy(), chips["lat"].to_numpy()))
    first, second = tree.query_pairs(reach, output_type="ndarray").T
    epsg, west, south = (chips[name].to_numpy() for name in ("epsg", "xmin", "ymin"))
    one_zone = epsg[first] == epsg[second]
    gap_m = np.maximum(np.abs(west[first] - west[second]), np.abs(south[first] - south[second]))
    return int(np.sum(one_zone & (gap_m < side_m))) + _overlapping_footprints(plan, first[~one_zone], second[~one_zone])


def _overlapping_footprints(plan: Path, first: np.ndarray, second: np.ndarray) -> int:
    ones, others = (read_footprints(plan, positions.tolist()) for positions in (first, second))
    return sum(one.intersection(other).area > _smallest_area for one, other in zip(ones, others, strict=True))
