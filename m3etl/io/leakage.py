"""Measures how close chips of different splits come to each other, from the plan on disk and in bounded memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from m3etl.io.plan import iterate_plan, iterate_tables
from m3etl.spec.leakage import Leakage, leakage_of_slice, merged
from m3etl.spec.splits import split_names

slice_chips = 1_000_000
_bins = 1640  # tenths of a degree from 80S to 84N
_search_km = 50.0  # how far apart chips of different slices are still compared
_km_per_degree = 110.5


def read_leakage(plan: Path, distance_km: float) -> tuple[Leakage, tuple[str, str]]:
    """The leakage of a plan and the ids of its closest pair ("" where there is none); reads slices of latitude.

    `closest` of the result are positions in the plan. Raises what `iterate_plan` raises.
    """
    counts, chip_m = _counted(plan)
    edges = _slice_edges(counts)
    margin = max(distance_km + 2.0 * chip_m / 1000.0, _search_km) / _km_per_degree
    total: Leakage | None = None
    for south, north in pairwise(edges):
        position, lon, lat, split = _read_slice(plan, south, north + margin)
        found = leakage_of_slice(lon, lat, split, lat < north, chip_m=chip_m, distance_km=distance_km)
        if found.closest[0] >= 0:
            first, second = (int(position[index]) for index in found.closest)
            found = replace(found, closest=(first, second))
        total = found if total is None else merged(total, found)
    assert total is not None  # there is always one slice
    return total, _chip_ids(plan, total.closest)


def _counted(plan: Path) -> tuple[npt.NDArray[np.int64], float]:
    """Chips by tenth of a degree of latitude, and the side of a chip."""
    counts, chip_m = np.zeros(_bins, dtype=np.int64), 0.0
    for batch in iterate_plan(plan, ["lat", "xmin", "xmax"]):
        tenth = ((batch["lat"].to_numpy() + 80.0) * 10.0).astype(np.int64)
        counts += np.bincount(np.clip(tenth, 0, _bins - 1), minlength=_bins)
        chip_m = float(batch["xmax"].iloc[0] - batch["xmin"].iloc[0])
    return counts, chip_m


def _slice_edges(counts: npt.NDArray[np.int64]) -> list[float]:
    """Latitudes between slices of about `slice_chips` chips; everything lies between the first and the last."""
    number = np.cumsum(counts) // slice_chips
    inner = [(edge + 1) / 10.0 - 80.0 for edge in np.flatnonzero(np.diff(number)).tolist()]
    return [-91.0, *inner, 91.0]


def _read_slice(
    plan: Path, south: float, north: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int8]]:
    """Positions in the plan, longitudes, latitudes and splits of the chips with a latitude in [south, north)."""
    parts = []
    start = 0
    for batch in iterate_tables(plan, ["lon", "lat", "split"]):
        lat = batch["lat"].to_numpy()
        chosen = np.flatnonzero((lat >= south) & (lat < north))
        codes = pc.fill_null(pc.index_in(batch["split"], pa.array(split_names)), split_names.index("buffer"))
        split = codes.to_numpy()[chosen].astype(np.int8)
        parts.append((start + chosen, batch["lon"].to_numpy()[chosen], lat[chosen], split))
        start += len(batch)
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0), np.zeros(0), np.zeros(0, np.int8)
    position, lon, lat, split = zip(*parts, strict=True)
    return np.concatenate(position), np.concatenate(lon), np.concatenate(lat), np.concatenate(split)


def _chip_ids(plan: Path, positions: tuple[int, int]) -> tuple[str, str]:
    names = {-1: ""}
    start = 0
    for batch in iterate_plan(plan, ["chip_id"]) if positions[0] >= 0 else ():
        for position in positions:
            if start <= position < start + len(batch):
                names[position] = str(batch["chip_id"].iloc[position - start])
        start += len(batch)
    return names[positions[0]], names[positions[1]]
