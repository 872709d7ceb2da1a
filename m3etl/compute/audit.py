"""What can be wrong with stored chips, found from the numbers alone: codes outside the table, values outside the
physical range, blank, constant, saturated and shifted-offset chips, chips that overlap, splits that leak."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from m3etl.spec.catalog_dates import optical_dates
from m3etl.spec.leakage import leakage_of
from m3etl.spec.modality import ArraySpec, Shape, Values, valid_of
from m3etl.spec.program import periods
from m3etl.spec.splits import buffer, split_names

scene_arrays = ("sentinel1", "sentinel2_l", "sentinel2_dates")
smooth_arrays = ("_angle", "_counts", "_cloud")  # of scenes, but the same for many chips
saturated_share = 0.5
limit_slack = 1e-6  # of a stored step: limits are quotients of physical numbers
# Between these lie the darkest values of four or more bands of real L2A that kept the offset (1085 to 1241 in a chip
# over Chile), and of no chip without it.
offset_floor = (900.0, 1300.0)
day_ms = 86_400_000
anchor_tolerance_ms = 60_000  # gaps are recorded in days of six decimals
scene_date_tolerance_ms = 3_600_000  # ids name the start of the data take or of the product, not of the granule

_date_in_id = re.compile(r"(?<!\d)\d{8}T\d{6}(?!\d)")


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
    if spec.shape is Shape.RASTER and spec.target and spec.name.startswith(scene_arrays):
        marks.append(("constant", _constant(flat, valid), "every observed pixel of the chip has the same value"))
        top = (flat >= spec.stored_max - limit_slack) & valid
        saturated = np.asarray(top.sum(axis=1) > saturated_share * np.maximum(1, valid.sum(axis=1)), dtype=np.bool_)
        marks.append(("saturated", saturated, f"more than {saturated_share:.0%} of the values are at the upper limit"))
    if spec.shape is Shape.RASTER and spec.name.startswith("sentinel2_l"):
        jumped = np.array([_has_offset(spec, chip) for chip in stored], dtype=np.bool_) & ~_constant(flat, valid)
        marks.append(("offset jump", jumped, "dark pixels lie near 1000: the offset of baseline 04.00 was not removed"))
    if spec.name == optical_dates:
        jumped = np.array([_all_have_offset(spec, chip) for chip in stored], dtype=np.bool_)
        marks.append(("offset jump", jumped, "on every date dark pixels lie near 1000: the offset was not removed"))
    return [
        Finding(check=check, array=spec.name, count=int(mark.sum()), example=chip_ids[int(mark.argmax())], meaning=text)
        for check, mark, text in marks
        if mark.any()
    ]


def _has_offset(spec: ArraySpec, stored: npt.NDArray[Any]) -> bool:
    """Whether the darkest values of one chip (band, y, x) stand on the +1000 offset of processing baseline 04.00.

    The cirrus band is all but black at the ground, so with it one look is enough. Without it: no band goes below the
    offset and several stand on it; bright deserts rise from blue to short-wave infrared and do not.
    """
    floors = {}
    for band, values in zip(spec.bands, stored, strict=True):
        known = values[values != spec.fill]
        if known.size:
            floors[band] = float(np.quantile(known, 0.001))
    if len(floors) < 4:
        return False
    low, high = offset_floor
    if min(floors.values()) < low:
        return False
    return "B10" in floors or sum(floor <= high for floor in floors.values()) >= 4


def _all_have_offset(spec: ArraySpec, stored: npt.NDArray[Any]) -> bool:
    """Whether that is so on all dates of one chip, two at least: haze or melting snow can look like it on one."""
    one = replace(spec, bands=spec.band_names, periods=())
    parts = [part for part in stored.reshape(spec.with_periods(stored.shape)) if valid_of(spec, part).any()]
    return len(parts) > 1 and all(_has_offset(one, part) for part in parts)


def _out_of_range(spec: ArraySpec, flat: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    outside = (flat < spec.stored_min - limit_slack) | (flat > spec.stored_max + limit_slack)
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
    """Pairs of chips of different splits closer than `distance_km`, see `m3etl.spec.leakage`.

    plan: chip_id, lon, lat, split, xmin, xmax.
    """
    if len(plan["split"]) < 2 or distance_km <= 0:
        return []
    splits = plan["split"].astype(str)
    codes = np.select([splits == name for name in split_names], range(len(split_names)), buffer).astype(np.int8)
    chip_m = float((plan["xmax"] - plan["xmin"]).max())
    found = leakage_of(plan["lon"], plan["lat"], codes, chip_m=chip_m, distance_km=distance_km)
    if not found.count:
        return []
    first = " and ".join(str(plan["chip_id"][index]) for index in found.closest)
    meaning = f"chips of different splits are closer than {distance_km:g} km"
    return [Finding(check="leakage", array="", count=found.count, example=first, meaning=meaning)]


def find_wrong_times(array: str, records: Sequence[tuple[str, str, int]]) -> list[Finding]:
    """Recorded times that are not those of the recorded scene. records: (chip_id, asset id, UTC ms) of single scenes;
    ids without a date and time are passed over.
    """
    wrong = []
    for chip_id, scene_id, time_ms in records:
        stamp = _date_in_id.search(scene_id.rpartition("/")[2])
        if stamp is None:
            continue
        named = datetime.strptime(stamp.group(), "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
        if abs(named.timestamp() * 1000 - time_ms) > scene_date_tolerance_ms:
            wrong.append(chip_id)
    if not wrong:
        return []
    meaning = "the recorded time is not that of the recorded scene"
    return [Finding(check="swapped date", array=array, count=len(wrong), example=wrong[0], meaning=meaning)]


def find_wrong_seasons(array: str, records: Sequence[tuple[str, str, int]]) -> list[Finding]:
    """Scenes outside the season that they stand for. records: (chip_id, period, UTC ms); other periods are left out."""
    wrong = []
    for chip_id, period, time_ms in records:
        first, last = periods.get(period, (1, 12))
        month = datetime.fromtimestamp(time_ms / 1000, UTC).month
        if not (first <= month <= last if first <= last else month >= first or month <= last):
            wrong.append(f"{chip_id} {period}")
    if not wrong:
        return []
    meaning = "the recorded time is not in the season that the scene stands for"
    return [Finding(check="wrong season", array=array, count=len(wrong), example=wrong[0], meaning=meaning)]


def find_split_anchors(records: Mapping[str, Sequence[tuple[int, float]]]) -> list[Finding]:
    """Chips whose arrays disagree on the anchor. records: by chip_id, (UTC ms, gap in days) of each array with both."""
    wrong = []
    for chip_id, times in records.items():
        anchors = [time_ms - gap_days * day_ms for time_ms, gap_days in times]
        if anchors and max(anchors) - min(anchors) > anchor_tolerance_ms:
            wrong.append(chip_id)
    if not wrong:
        return []
    meaning = "times and gaps of the chip's arrays lead to different anchor dates"
    return [Finding(check="anchor", array="", count=len(wrong), example=wrong[0], meaning=meaning)]


class RepeatedContent:
    """Finds chips that hold the very same scene values as another chip; feed it every shard's checksums."""

    def __init__(self) -> None:
        self._seen: dict[str, set[bytes]] = {}

    def find(self, array: str, checksums: Mapping[str, str]) -> list[Finding]:
        """checksums: sha256 hex by chip_id of chips with observations of one array of scenes."""
        if not array.startswith(scene_arrays) or array.endswith(smooth_arrays):
            return []
        seen = self._seen.setdefault(array, set())
        repeated = []
        for chip_id, checksum in checksums.items():
            short = bytes.fromhex(checksum[:24])
            if short in seen:
                repeated.append(chip_id)
            seen.add(short)
        if not repeated:
            return []
        meaning = "the values are, bit for bit, those of another chip"
        return [
            Finding(check="duplicated chip", array=array, count=len(repeated), example=repeated[0], meaning=meaning)
        ]
