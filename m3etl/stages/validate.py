"""The audit of a campaign: every stored chip against its checksum, its record and its declaration; the arrays against
each other; the plan against overlaps and leakage; times against the scenes and the anchor."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from m3etl.campaign import Campaign, ensure_directory, write_atomically
from m3etl.compute.audit import (
    Finding,
    RepeatedContent,
    find_in_chips,
    find_leaks,
    find_overlaps,
    find_split_anchors,
    find_wrong_times,
)
from m3etl.errors import DamagedError, NothingSelectedError
from m3etl.io.pictures import write_registration_chart
from m3etl.io.plan import read_plan
from m3etl.io.provenance import read_provenance
from m3etl.io.store import ChipStore, open_store
from m3etl.spec.modality import ArraySpec
from m3etl.stages.registration import find_shifted, measure_registration
from m3etl.stages.summary import Progress, Summary

plan_columns = ("chip_id", "epsg", "xmin", "ymin", "xmax", "ymax", "lon", "lat", "split")


def run_validate(campaign: Campaign, *, progress: Progress) -> Summary:
    """Audit the campaign and write `validate.json` and `previews/registration.png`. `failed` counts kinds of defects;
    `findings` lists them, `registration` the shifts between arrays.

    Raises NothingSelectedError where there is nothing to audit. Damage is a finding, not an exception.
    """
    started = time.monotonic()
    if not campaign.store_path.exists():
        raise NothingSelectedError("there are no chips to audit yet", hint="Run `m3etl export` first.")
    store = open_store(campaign.store_path)
    plan = read_plan(campaign.plan_path)
    columns = {name: plan[name].to_numpy() for name in plan_columns}
    found = [*find_overlaps(columns), *find_leaks(columns, campaign.config.split.buffer_km)]
    found += _audit_rows(store, plan)
    compared = 0
    repeated = RepeatedContent()
    progress.start("validate", store.shard_count * len(store.specs))
    for shard in range(store.shard_count):
        if not _is_sealed(store, shard):
            progress.advance(len(store.specs))
            continue
        try:
            records = read_provenance(campaign.provenance_path, [shard])
        except DamagedError as error:
            found.append(
                Finding(check="damaged record", array="", count=1, example=error.message, meaning="unreadable")
            )
            records = read_provenance(campaign.provenance_path, [])
        compared += len(records)
        found += _audit_record(store, shard, records) + _audit_times(records)
        for spec in store.specs.values():
            mine = records[records["array"] == spec.name].drop_duplicates("chip_id").set_index("chip_id")
            found += _audit_shard(store, spec, shard, mine) + _audit_gaps(spec, mine)
            found += repeated.find(spec.name, _observed_checksums(mine))
            progress.advance(1, array=spec.name)
    progress.finish()
    progress.say("registration: arrays are compared with the optical one")
    measured = measure_registration(store, seed=campaign.config.sample.seed)
    findings = _merged([*found, *find_shifted(measured)])
    report = [asdict(finding) for finding in findings]
    write_atomically(campaign.root / "validate.json", json.dumps(report, indent=1).encode())
    chips = int((store.chip_ids != "").sum())
    facts: dict[str, Any] = {"chips": chips, "arrays": len(store.specs), "checksums compared": compared}
    if measured:
        facts["registration"] = [item.as_row() for item in measured]
        ensure_directory(campaign.previews_path)
        write_registration_chart(campaign.previews_path / "registration.png", facts["registration"])
    if report:
        facts["findings"] = report
    errors = {f"{finding.check} {finding.array}".strip(): finding.count for finding in findings}
    return Summary(
        stage="validate",
        done=chips,
        failed=len(findings),
        seconds=time.monotonic() - started,
        errors=errors,
        facts=facts,
    )


def _audit_rows(store: ChipStore, plan: pd.DataFrame) -> list[Finding]:
    """The store's chip at each row is the plan's chip of that row, and no sealed chip is unknown to the plan."""
    planned = dict(zip(plan["row"], plan["chip_id"], strict=True))
    wrong = [chip_id for row, chip_id in enumerate(store.chip_ids) if chip_id and planned.get(row, chip_id) != chip_id]
    unknown = set(store.chip_ids.tolist()) - {""} - set(plan["chip_id"])
    found = []
    if wrong:
        meaning = "plan and store disagree on which chip has this row"
        found.append(Finding(check="row", array="", count=len(wrong), example=wrong[0], meaning=meaning))
    if unknown:
        meaning = "the store holds a chip that is not in the plan"
        found.append(Finding(check="unknown chip", array="", count=len(unknown), example=min(unknown), meaning=meaning))
    return found


def _is_sealed(store: ChipStore, shard: int) -> bool:
    first = shard * store.shard_chips
    return bool((store.chip_ids[first : first + store.shard_chips] != "").any())


def _audit_record(store: ChipStore, shard: int, records: pd.DataFrame) -> list[Finding]:
    """Every chip of the shard has exactly one record per array."""
    chip_ids = store.chip_ids[shard * store.shard_chips : (shard + 1) * store.shard_chips]
    expected = pd.MultiIndex.from_product([chip_ids[chip_ids != ""], list(store.specs)])
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


def _audit_shard(store: ChipStore, spec: ArraySpec, shard: int, records: pd.DataFrame) -> list[Finding]:
    first = shard * store.shard_chips
    rows = np.arange(first, min(first + store.shard_chips, store.rows))
    rows = rows[store.chip_ids[rows] != ""]
    chip_ids = [str(name) for name in store.chip_ids[rows]]
    try:
        stored = store.read(spec.name, rows)
    except DamagedError as error:
        return [Finding(check="damaged", array=spec.name, count=1, example=error.message, meaning="unreadable bytes")]
    mine = records.reindex(chip_ids)
    found = find_in_chips(spec, stored, chip_ids, [str(status) for status in mine["status"]])
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


def _merged(findings: Iterable[Finding]) -> list[Finding]:
    """Findings of all shards, one per check and array, in the order in which they were met."""
    merged: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        key = (finding.check, finding.array)
        known = merged.get(key)
        merged[key] = finding if known is None else replace(known, count=known.count + finding.count)
    return list(merged.values())
