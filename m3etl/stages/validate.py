"""The audit of a campaign: every stored chip against its checksum, its record and its declaration; the arrays against
each other; the plan against overlaps and leakage; times against the scenes and the anchor."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from m3etl.campaign import Campaign, ensure_directory, write_atomically
from m3etl.compute.audit import Finding, RepeatedContent, find_leaks, find_overlaps
from m3etl.errors import NothingSelectedError
from m3etl.io.pictures import write_registration_chart
from m3etl.io.plan import read_plan
from m3etl.io.store import ChipStore, open_store
from m3etl.io.workers import open_workers
from m3etl.stages.registration import find_shifted, measure_registration
from m3etl.stages.shardaudit import audit_shard
from m3etl.stages.summary import Progress, Summary

plan_columns = ("chip_id", "epsg", "xmin", "ymin", "xmax", "ymax", "lon", "lat", "split")


def run_validate(campaign: Campaign, *, scheduler: str = "", progress: Progress) -> Summary:
    """Audit the campaign and write `validate.json` and `previews/registration.png`. `failed` counts kinds of defects;
    `findings` lists them, `registration` the shifts between arrays.

    scheduler: address of a Dask scheduler whose workers audit the shards; threads of this process by default.

    Raises NothingSelectedError where there is nothing to audit. Damage is a finding, not an exception.
    """
    started = time.monotonic()
    if not campaign.store_path.exists():
        raise NothingSelectedError("there are no chips to audit yet", hint="Run `m3etl export` first.")
    store = open_store(campaign.store_path)
    plan = read_plan(campaign.plan_path, columns=[*plan_columns, "row"])
    columns = {name: plan[name].to_numpy() for name in plan_columns}
    found = [*find_overlaps(columns), *find_leaks(columns, campaign.config.split.buffer_km)]
    found += _audit_rows(store, plan) + _audit_places(store, plan)
    compared = 0
    repeated = RepeatedContent()
    tasks = list(_shard_tasks(campaign, store))
    progress.start("validate", len(tasks))
    with open_workers(scheduler, shared=campaign.root) as workers:
        for result in workers.run(audit_shard, tasks):
            found += result.findings
            compared += result.compared
            for name, checksums in result.observed.items():
                found += repeated.find(name, checksums)
            progress.advance(1)
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


def _shard_tasks(campaign: Campaign, store: ChipStore) -> Iterator[tuple[Any, ...]]:
    """Arguments of `audit_shard` for every shard that has chips."""
    paths = campaign.store_path.resolve(), campaign.provenance_path.resolve()
    for shard in range(store.shard_count):
        chip_ids = store.chip_ids[shard * store.shard_chips : (shard + 1) * store.shard_chips].tolist()
        if any(chip_ids):
            yield (*paths, shard, chip_ids)


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


def _audit_places(store: ChipStore, plan: pd.DataFrame) -> list[Finding]:
    """Splits and corners of sealed chips are those of the plan: readers take the store's, people look at the plan's."""
    rows = np.flatnonzero(store.chip_ids != "")
    columns = ["chip_id", "split", "epsg", "xmin", "ymax"]
    unique = plan[columns].drop_duplicates("chip_id").set_index("chip_id")
    place = unique.index.get_indexer(pd.Index(store.chip_ids[rows]))
    rows, mine = rows[place >= 0], unique.iloc[place[place >= 0]]
    marks = {
        "split": (store.split[rows] != mine["split"].to_numpy(str), "plan and store disagree on the chip's split"),
        "place": (
            (store.epsg[rows] != mine["epsg"].to_numpy())
            | (store.xmin[rows] != mine["xmin"].to_numpy())
            | (store.ymax[rows] != mine["ymax"].to_numpy()),
            "plan and store disagree on where the chip lies",
        ),
    }
    return [
        Finding(check=check, array="", count=int(wrong.sum()), example=str(mine.index[wrong.argmax()]), meaning=meaning)
        for check, (wrong, meaning) in marks.items()
        if wrong.any()
    ]


def _merged(findings: Iterable[Finding]) -> list[Finding]:
    """Findings of all shards, one per check and array, in the order in which they were met."""
    merged: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        key = (finding.check, finding.array)
        known = merged.get(key)
        merged[key] = finding if known is None else replace(known, count=known.count + finding.count)
    return list(merged.values())
