"""What a campaign has done so far, from the ledger alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from m3etl.campaign import Campaign
from m3etl.errors import NothingSelectedError
from m3etl.io.ledger import ChipState, Ledger
from m3etl.io.plan import count_plan
from m3etl.io.tasks import describe_tasks
from m3etl.stages.budget import read_figures, spent_facts
from m3etl.stages.ledgers import open_ledgers, read_additions
from m3etl.stages.summary import Summary


def read_status(campaign: Campaign) -> Summary:
    """Chips by state, reasons of failure, requests, bytes, rate of the last run and time left; nothing is changed.

    Raises NothingSelectedError where there is no plan yet.
    """
    if not campaign.plan_path.exists():
        raise NothingSelectedError(f"there is no plan in {campaign.root} yet", hint="Draw one with `m3etl sample`.")
    planned = count_plan(campaign.plan_path)
    if not campaign.with_ledger:
        return Summary(
            stage="status", facts={"chips in the plan (with reserve)": planned, "state": "nothing is exported yet"}
        )
    with open_ledgers(campaign, to_read=True) as opened:
        return _summary(campaign, opened, planned)


def _summary(campaign: Campaign, opened: Sequence[tuple[Campaign, Ledger]], planned: int) -> Summary:
    ledgers = [ledger for _, ledger in opened]
    counts, totals, failures = Counter[str](), Counter[str](), Counter[str]()
    for ledger in ledgers:
        counts.update(ledger.counts())
        totals.update(ledger.totals())
        failures.update({f"{kind}: {reason}": chips for kind, reason, chips in ledger.failures()})
    shards = [ledger.shard_counts() for ledger in ledgers]
    left = counts[ChipState.WAITING] + counts[ChipState.PLANNED]
    rate = sum(map(_rate, ledgers))
    requests = int(sum(totals[f"{kind}_requests"] for kind in ("planning", "pixel", "profile")))
    final = counts[ChipState.LANDED] + counts[ChipState.SEALED]
    fresh = max(0, planned - sum(counts.values()))  # drawn since the last export, or in parts that are elsewhere
    facts: dict[str, Any] = {
        "chips in the plan (with reserve)": planned,
        **({"parts": _parts(opened)} if opened[0][0].part else {}),
        **({"of them in no export yet": fresh} if fresh else {}),
        **{str(state): counts[state] for state in ChipState},
        "generations": sum(ledger.generation_count() for ledger in ledgers),
        "shards sealed": f"{sum(sealed for _, sealed in shards)} of {sum(count for count, _ in shards)}",
        "requests": requests,
        "requests per chip": round(requests / final, 3) if final else None,
        "bytes received": int(totals["bytes"]),
        "retries": int(totals["retries"]),
        **spent_facts(read_figures(campaign, *ledgers)),
        "chips per second (last run)": round(rate, 2) if rate else None,
        "seconds left": round(left / rate) if rate and left else (None if left or fresh else 0),
    }
    adding = [item for owner, ledger in opened for item in read_additions(owner, ledger)]
    if adding:
        facts["adding to existing rows"] = adding
    tasks = [text for owner, _ in opened if (text := describe_tasks(owner.ledger_path))]
    if tasks:
        facts["tasks"] = "; ".join(tasks)
    return Summary(
        stage="status",
        done=final,
        skipped=left,
        rejected=counts[ChipState.UNUSABLE],
        failed=counts[ChipState.FAILED],
        errors=dict(failures.most_common()),
        facts=facts,
    )


def _rate(ledger: Ledger) -> float:
    """Chips per second of the last run."""
    last = ledger.read_meta("last_run") or {}
    return float(last["chips"] / last["seconds"]) if last.get("seconds") else 0.0


def _parts(opened: Sequence[tuple[Campaign, Ledger]]) -> str:
    here = [owner.part for owner, _ in opened if owner.part]
    return f"{', '.join(str(number) for number, _ in here)} of {here[0][1]}"
