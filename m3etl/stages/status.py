"""What a campaign has done so far, from the ledger alone."""

from __future__ import annotations

from typing import Any

from m3etl.campaign import Campaign
from m3etl.errors import NothingSelectedError
from m3etl.io.ledger import ChipState, Ledger, open_ledger
from m3etl.io.plan import count_plan
from m3etl.io.tasks import describe_tasks
from m3etl.stages.budget import read_figures, spent_facts
from m3etl.stages.summary import Summary


def read_status(campaign: Campaign) -> Summary:
    """Chips by state, reasons of failure, requests, bytes, rate of the last run and time left; nothing is changed.

    Raises NothingSelectedError where there is no plan yet.
    """
    if not campaign.plan_path.exists():
        raise NothingSelectedError(f"there is no plan in {campaign.root} yet", hint="Draw one with `m3etl sample`.")
    planned = count_plan(campaign.plan_path)
    if not campaign.ledger_path.exists():
        return Summary(stage="status", facts={"chips in the plan": planned, "state": "nothing is exported yet"})
    ledger = open_ledger(campaign.ledger_path)
    try:
        return _summary(campaign, ledger, planned)
    finally:
        ledger.close()


def _summary(campaign: Campaign, ledger: Ledger, planned: int) -> Summary:
    counts = ledger.counts()
    totals = ledger.totals()
    shards, sealed = ledger.shard_counts()
    waiting = counts.get(ChipState.PLANNED, 0)
    last = ledger.read_meta("last_run") or {}
    rate = last.get("chips", 0) / last["seconds"] if last.get("seconds") else 0.0
    requests = int(sum(totals.get(f"{kind}_requests", 0) for kind in ("planning", "pixel", "profile")))
    final = sum(counts.get(state, 0) for state in (ChipState.LANDED, ChipState.SEALED))
    facts: dict[str, Any] = {
        "chips in the plan": planned,
        **{str(state): counts.get(state, 0) for state in ChipState},
        "generations": ledger.generation_count(),
        "shards sealed": f"{sealed} of {shards}",
        "requests": requests,
        "requests per chip": round(requests / final, 3) if final else None,
        "bytes received": int(totals.get("bytes", 0)),
        "retries": int(totals.get("retries", 0)),
        **spent_facts(read_figures(campaign, ledger)),
        "chips per second (last run)": round(rate, 2) if rate else None,
        "seconds left": round(waiting / rate) if rate and waiting else (0 if not waiting else None),
    }
    tasks = describe_tasks(campaign.ledger_path)
    if tasks:
        facts["tasks"] = tasks
    failures = ledger.failures()
    return Summary(
        stage="status",
        done=final,
        skipped=waiting,
        rejected=counts.get(ChipState.UNUSABLE, 0),
        failed=counts.get(ChipState.FAILED, 0),
        errors={f"{kind}: {reason}": chips for kind, reason, chips in failures},
        facts=facts,
    )
