"""The audit of one shard, which is a task that runs anywhere: every chip against its checksum, its record and its
declaration, times against scenes and the anchor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from m3etl.compute.audit import Finding, find_in_chips, find_split_anchors, find_wrong_seasons, find_wrong_times
from m3etl.errors import DamagedError
from m3etl.io.provenance import read_provenance
from m3etl.io.store import ChipStore, open_store
from m3etl.spec.modality import ArraySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFindings:
    """What the audit of a shard found. compared: records; observed: array -> chip_id -> checksum, of observed chips."""

    findings: tuple[Finding, ...]
    compared: int
    observed: Mapping[str, Mapping[str, str]]


def audit_shard(store_path: Path, provenance_path: Path, shard: int, chip_ids: Sequence[str]) -> ShardFindings:
    """Audit one shard of a store, whose rows hold these chips ("" in padding). Damage is a finding, no exception."""
    store = open_store(store_path)
    found = []
    try:
        records = read_provenance(provenance_path, [shard])
    except DamagedError as error:
        found.append(Finding(check="damaged record", array="", count=1, example=error.message, meaning="unreadable"))
        records = read_provenance(provenance_path, [])
    chips = {shard * store.shard_chips + place: name for place, name in enumerate(chip_ids) if name}
    dated = _dates_of(records)
    found += _audit_record(list(store.specs), list(chips.values()), records) + _audit_times(records)
    found += _audit_times(dated) + _audit_seasons(dated)
    observed = {}
    for spec in store.specs.values():
        mine = records[records["array"] == spec.name].drop_duplicates("chip_id").set_index("chip_id")
        found += _audit_array(store, spec, chips, mine) + _audit_gaps(spec, mine)
        found += _audit_gaps(spec, dated[dated["array"] == spec.name].set_index("chip_id"))
        observed[spec.name] = _observed_checksums(mine)
    return ShardFindings(findings=tuple(found), compared=len(records), observed=observed)


def _audit_record(arrays: Sequence[str], chip_ids: Sequence[str], records: pd.DataFrame) -> list[Finding]:
    """Every chip of the shard has exactly one record per array."""
    expected = pd.MultiIndex.from_product([chip_ids, arrays])
    recorded = pd.MultiIndex.from_frame(records[["chip_id", "array"]])
    missing = expected.difference(recorded)
    found = []
    if len(missing):
        meaning = "a stored chip has no record of where it came from"
        example = " ".join(map(str, missing[0]))
        found.append(Finding(check="no record", array="", count=len(missing), example=example, meaning=meaning))
    if recorded.has_duplicates:
        twice = recorded[recorded.duplicated()]
        meaning = "a chip has two records for one array"
        example = " ".join(map(str, twice[0]))
        found.append(Finding(check="two records", array="", count=len(twice), example=example, meaning=meaning))
    return found


def _audit_array(store: ChipStore, spec: ArraySpec, chips: Mapping[int, str], records: pd.DataFrame) -> list[Finding]:
    """One array of chips (row -> chip_id) against its records."""
    stored, damaged = _read_sound(store, spec.name, list(chips))
    chip_ids = [chip_id for row, chip_id in chips.items() if row not in damaged]
    found = []
    if damaged:
        example, meaning = next(iter(damaged.values())), "unreadable bytes"
        found.append(Finding(check="damaged", array=spec.name, count=len(damaged), example=example, meaning=meaning))
    if not chip_ids:
        return found
    mine = records.reindex(chip_ids)
    found += find_in_chips(spec, stored, chip_ids, [str(status) for status in mine["status"]])
    found += _audit_periods(spec, stored, mine)
    sums = [hashlib.sha256(np.ascontiguousarray(chip).tobytes()).hexdigest() for chip in stored]
    recorded = mine["checksum"].tolist()
    wrong = [
        name
        for name, actual, expected in zip(chip_ids, sums, recorded, strict=True)
        if isinstance(expected, str) and expected and actual != expected
    ]
    if wrong:
        meaning = "stored values differ from those that were sealed"
        found.append(Finding(check="checksum", array=spec.name, count=len(wrong), example=wrong[0], meaning=meaning))
    return found


def _read_sound(store: ChipStore, array: str, rows: Sequence[int]) -> tuple[npt.NDArray[Any], dict[int, str]]:
    """The chips of these rows that can be read, and what is wrong with each of the others."""
    try:
        return store.read(array, rows), {}
    except DamagedError:
        damaged = {}
        for row in rows:
            try:
                store.read(array, [row])
            except DamagedError as error:
                damaged[row] = error.message
        return store.read(array, [row for row in rows if row not in damaged]), damaged


def _dates_of(records: pd.DataFrame) -> pd.DataFrame:
    """The dates of arrays that have several as records of their own; their chips are named with the period."""
    rows = [
        {"array": array, **period, "chip_id": f"{chip_id} {period['period']}"}
        for chip_id, array, periods in zip(records["chip_id"], records["array"], records["periods"], strict=True)
        for period in (() if periods is None else periods)
    ]
    names = ["array", "chip_id", "period", "status", "scene_ids", "time", "gap_days"]
    frame = pd.DataFrame(rows, columns=names)
    return frame.assign(time=pd.to_datetime(frame["time"], utc=True))


def _audit_periods(spec: ArraySpec, stored: npt.NDArray[Any], records: pd.DataFrame) -> list[Finding]:
    """Each date of the chips of an array that has several, against its own record."""
    found: list[Finding] = []
    by_period = stored.reshape(spec.with_periods(stored.shape))
    for place, period in enumerate(spec.periods):
        statuses = {
            str(chip_id): item["status"]
            for chip_id, items in records["periods"].items()
            for item in (items if isinstance(items, np.ndarray | list) else ())
            if item["period"] == period
        }
        chosen = [number for number, chip_id in enumerate(records.index) if chip_id in statuses]
        if chosen:
            own = replace(spec.selected(periods=[period]), name=f"{spec.name}/{period}")
            chip_ids = [str(records.index[number]) for number in chosen]
            found += find_in_chips(own, by_period[chosen, place], chip_ids, [statuses[name] for name in chip_ids])
    return found


def _audit_seasons(dated: pd.DataFrame) -> list[Finding]:
    """Sentinel-2 scenes against the seasons they stand for; passes near them may lie in another."""
    anchors = dated[(dated["gap_days"] == 0.0) & dated["time"].notna()]
    found = []
    for array, mine in anchors.groupby("array"):
        names = [str(name).rpartition(" ")[0] for name in mine["chip_id"]]
        found += find_wrong_seasons(
            str(array), list(zip(names, mine["period"], _milliseconds(mine["time"]), strict=True))
        )
    return found


def _audit_gaps(spec: ArraySpec, records: pd.DataFrame) -> list[Finding]:
    gaps = records["gap_days"].astype(float).abs()
    late = gaps[gaps > spec.max_gap_days]
    if late.empty:
        return []
    meaning = f"the scene is further from the anchor than {spec.max_gap_days:g} days"
    example = str(late.index[0])
    return [Finding(check="time gap", array=spec.name, count=len(late), example=example, meaning=meaning)]


def _audit_times(records: pd.DataFrame) -> list[Finding]:
    """Times against the dates in scene ids, and against one anchor per chip."""
    timed = records[records["time"].notna()]
    found = []
    for array, mine in timed.groupby("array"):
        single = mine[mine["scene_ids"].map(len) == 1]
        scenes = zip(single["chip_id"], single["scene_ids"].str[0], _milliseconds(single["time"]), strict=True)
        found += find_wrong_times(str(array), list(scenes))
    with_gap = timed[timed["gap_days"].notna()]
    anchors: dict[str, list[tuple[int, float]]] = {}
    moments = _milliseconds(with_gap["time"])
    for chip_id, moment, gap in zip(with_gap["chip_id"], moments, with_gap["gap_days"], strict=True):
        anchors.setdefault(chip_id, []).append((moment, gap))
    return found + find_split_anchors(anchors)


def _milliseconds(times: pd.Series) -> list[int]:
    return [round(value.timestamp() * 1000) for value in times]


def _observed_checksums(records: pd.DataFrame) -> dict[str, str]:
    """Checksums of one array by chip, of the chips with observations."""
    observed = records[(records["valid_fraction"] > 0) & records["checksum"].notna()]
    return dict(zip(observed.index, observed["checksum"], strict=True))
