"""What can be wrong with stored chips, found from the numbers alone: codes outside the table, values outside the
physical range, blank and constant chips, chips that overlap, and splits that leak into each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from m3etl.spec.modality import ArraySpec, Shape, Values, valid_of

earth_radius_km = 6371.0088  # mean radius, IUGG
learning_splits = ("train", "val", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One kind of defect: which check, in which array ("" for the plan), how often, one example, what it means."""

    check: str
    array: str
    count: int
    example: str
    meaning: str


def find_in_chips(
    spec: ArraySpec, stored: npt.NDArray[Any], chip_ids: Sequence[str], statuses: Sequence[str]
) -> list[Finding]:
    """Defects of chips of one array, stored (chip, ...), against its declaration and the recorded status."""
    valid = valid_of(spec, stored).reshape(len(stored), -1)
    flat = stored.reshape(len(stored), -1)
    observed = valid.any(axis=1)
    promised = np.array([status == "ok" for status in statuses])
    marks: list[tuple[str, npt.NDArray[np.bool_], str]] = [
        ("blank", promised & ~observed, "the record says ok, but every pixel is fill"),
        ("unexplained data", ~promised & observed, "the record says there is no data, but there are values"),
        (
            "out of range",
            _out_of_range(spec, flat, valid),
            f"outside [{spec.valid_min}, {spec.valid_max}] {spec.units}",
        ),
    ]
    if spec.values is Values.CLASSES and spec.classes:
        codes = np.array([item.code for item in spec.classes])
        unknown = np.asarray((valid & ~np.isin(flat, codes)).any(axis=1), dtype=np.bool_)
        marks.append(("unknown class", unknown, "a code outside the class table"))
    if spec.shape is Shape.RASTER and spec.name.startswith(("sentinel1", "sentinel2_l")):
        marks.append(("constant", _constant(flat, valid), "every observed pixel of the chip has the same value"))
    return [
        Finding(check=check, array=spec.name, count=int(mark.sum()), example=chip_ids[int(mark.argmax())], meaning=text)
        for check, mark, text in marks
        if mark.any()
    ]


def _out_of_range(spec: ArraySpec, flat: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    slack = 0.0 if spec.fill is not None else 1e-6
    outside = (flat < spec.stored_min - slack) | (flat > spec.stored_max + slack)
    return np.asarray((outside & valid).any(axis=1), dtype=np.bool_)


def _constant(flat: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    wide = flat.astype(np.float64)
    low = np.where(valid, wide, np.inf).min(axis=1)
    high = np.where(valid, wide, -np.inf).max(axis=1)
    return np.asarray((valid.sum(axis=1) > 1) & (low == high), dtype=np.bool_)


def find_overlaps(plan: Mapping[str, npt.NDArray[Any]]) -> list[Finding]:
    """Chips planned twice, and chips of one zone whose squares overlap. plan: chip_id, epsg, xmin, ymin, xmax."""
    found = []
    names, counts = np.unique(plan["chip_id"].astype(str), return_counts=True)
    if (counts > 1).any():
        twice = int((counts > 1).sum())
        example = str(names[counts > 1][0])
        meaning = "the same chip is in the plan more than once"
        found.append(Finding(check="duplicate chip", array="", count=twice, example=example, meaning=meaning))
    side = plan["xmax"] - plan["xmin"]
    pairs: list[tuple[int, int]] = []
    for epsg in np.unique(plan["epsg"]):
        members = np.flatnonzero(plan["epsg"] == epsg)
        corners = np.column_stack([plan["xmin"][members], plan["ymin"][members]]).astype(np.float64)
        reach = float(side[members].max()) * (1 - 1e-9)
        close = cKDTree(corners).query_pairs(reach, p=np.inf, output_type="ndarray")
        pairs.extend((int(members[a]), int(members[b])) for a, b in close)
    overlapping = [(a, b) for a, b in pairs if plan["chip_id"][a] != plan["chip_id"][b]]
    if overlapping:
        first = " and ".join(str(plan["chip_id"][index]) for index in overlapping[0])
        meaning = "two chips cover the same ground"
        found.append(Finding(check="overlap", array="", count=len(overlapping), example=first, meaning=meaning))
    return found


def find_leaks(plan: Mapping[str, npt.NDArray[Any]], distance_km: float) -> list[Finding]:
    """Pairs of chips of different splits with centres closer than `distance_km`. plan: chip_id, lon, lat, split."""
    inside = np.flatnonzero(np.isin(plan["split"].astype(str), learning_splits))
    if len(inside) < 2 or distance_km <= 0:
        return []
    lon, lat = np.radians(plan["lon"][inside]), np.radians(plan["lat"][inside])
    points = np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    chord = 2 * np.sin(distance_km / earth_radius_km / 2)
    close = cKDTree(points).query_pairs(chord, output_type="ndarray")
    split = plan["split"][inside].astype(str)
    leaking = close[split[close[:, 0]] != split[close[:, 1]]] if len(close) else close
    if not len(leaking):
        return []
    first = " and ".join(str(plan["chip_id"][inside[index]]) for index in leaking[0])
    meaning = f"chips of different splits are closer than {distance_km:g} km"
    return [Finding(check="leakage", array="", count=len(leaking), example=first, meaning=meaning)]
