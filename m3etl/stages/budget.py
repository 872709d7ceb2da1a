"""The compute budget of a campaign: what is known of its cost, and what a run may still spend."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from m3etl.campaign import Campaign, write_atomically
from m3etl.errors import BudgetError, DamagedError
from m3etl.io.ledger import ChipState, Ledger
from m3etl.io.metering import Meter, Profiler, requests_name, units_name
from m3etl.spec.budget import Figures, LaneCost, hour_s

most_shards_measured = 16
pilot_name = "pilot.json"


def read_figures(campaign: Campaign, *ledgers: Ledger | None) -> Figures:
    """What the runs of a campaign (in the ledgers of its parts) and its pilot have shown so far."""
    figures = read_pilot(campaign)
    for ledger in ledgers:
        if ledger is not None:
            figures.merge(_figures_of_runs(campaign, ledger))
    return figures


def make_meter(
    campaign: Campaign,
    profiler: Profiler,
    ledger: Ledger,
    *,
    budget_eecu_hours: float | None,
    on_over: Callable[[], None],
) -> Meter:
    """The meter of a run. Raises BudgetError where the campaign, or its part, has already spent what it may.

    budget_eecu_hours: what the run's ledger and the pilot may have spent in the end, see `share_of_part`.
    """
    figures = read_figures(campaign, ledger)
    if budget_eecu_hours is not None and figures.spent_upper_s() >= budget_eecu_hours * hour_s:
        raise over_budget(campaign, figures, budget_eecu_hours, "nothing was sent")
    config = campaign.config.export
    return Meter(
        profiler,
        every=config.profile_every,
        figures=figures,
        keep=ledger.record_profiles,
        budget_s=None if budget_eecu_hours is None else budget_eecu_hours * hour_s,
        on_over=on_over,
        in_flight=config.max_in_flight,
    )


def share_of_part(campaign: Campaign, budget_eecu_hours: float | None) -> float | None:
    """What a part may spend of the budget of all runs, pilot included: an even share of what the pilot has left. Nobody
    asks the other parts, and yet all of them together stay within the budget.
    """
    if campaign.part is None or budget_eecu_hours is None:
        return budget_eecu_hours
    pilot = read_pilot(campaign).spent_upper_s() / hour_s
    return pilot + max(0.0, budget_eecu_hours - pilot) / campaign.part[1]


def over_budget(campaign: Campaign, figures: Figures, budget_eecu_hours: float, outcome: str) -> BudgetError:
    """What the user is told when the budget is used up. outcome: what became of the run."""
    whose = "budget"
    if campaign.part is not None:
        whose = "budget for part {}/{}, its share,".format(*campaign.part)
    spent, upper = figures.spent_s() / hour_s, figures.spent_upper_s() / hour_s
    return BudgetError(
        f"the campaign's {whose} of {budget_eecu_hours:.4g} EECU-hours is used up: {spent:.3g} are spent by estimate "
        f"and at most {upper:.3g} with 95 % confidence; {outcome}",
        hint="Go on with the same command and a larger --budget-eecu-hours (it counts every run of the campaign), "
        "for example when the next month of your tier begins; what has landed is kept.",
    )


def spent_facts(figures: Figures) -> dict[str, Any]:
    """EECU-hours spent so far, for people; empty before anything was profiled."""
    samples = sum(len(lane.samples) for lane in figures.lanes.values())
    if not samples:
        return {"EECU-hours spent": None}
    return {
        "EECU-hours spent": float(f"{figures.spent_s() / hour_s:.3g}"),
        "EECU-hours spent (95 % upper bound)": float(f"{figures.spent_upper_s() / hour_s:.3g}"),
        "requests profiled": samples,
    }


def write_pilot(campaign: Campaign, figures: Figures) -> None:
    """Keep what a pilot has shown beside the campaign; earlier pilots stay in it."""
    known = read_pilot(campaign)
    known.merge(figures)
    document = {
        "planned": known.planned,
        "chips": known.chips,
        "bytes_down": known.bytes_down,
        "stored_bytes_per_chip": known.stored_bytes_per_chip,
        "lanes": {
            name: {"requests": lane.requests, "units": lane.units, "samples": lane.samples}
            for name, lane in sorted(known.lanes.items())
        },
    }
    write_atomically(campaign.root / pilot_name, json.dumps(document, indent=1).encode())


def read_pilot(campaign: Campaign) -> Figures:
    """What earlier pilots have shown; empty without any. Raises DamagedError where the file is not what was written."""
    path = campaign.root / pilot_name
    if not path.exists():
        return Figures()
    try:
        return _parse_pilot(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"cannot read {path}: {error}", hint="Remove it and run the pilot again.") from error


def _parse_pilot(document: dict[str, Any]) -> Figures:
    figures = Figures(
        source="a pilot",
        planned=int(document["planned"]),
        chips=int(document["chips"]),
        bytes_down=float(document["bytes_down"]),
        stored_bytes_per_chip=float(document["stored_bytes_per_chip"]),
    )
    for name, lane in document["lanes"].items():
        samples = [(float(units), float(eecu_s)) for units, eecu_s in lane["samples"]]
        figures.lanes[name] = LaneCost(requests=int(lane["requests"]), units=float(lane["units"]), samples=samples)
    return figures


def _figures_of_runs(campaign: Campaign, ledger: Ledger) -> Figures:
    counts, totals = ledger.counts(), ledger.totals()
    landed = counts.get(ChipState.LANDED, 0) + counts.get(ChipState.SEALED, 0)
    figures = Figures(
        source="the runs so far" if landed else "",
        planned=landed + counts.get(ChipState.PLANNED, 0) + counts.get(ChipState.FAILED, 0),
        chips=landed,
        bytes_down=totals.get("bytes", 0.0),
        tasks=int(totals.get("tasks", 0)),
        task_s=totals.get("task_s", 0.0),
        stored_bytes_per_chip=_stored_bytes_per_chip(campaign.store_path, ledger),
    )
    suffix = units_name("")
    for name, value in totals.items():
        if name.endswith(suffix):
            lane = figures.lane(name.removesuffix(suffix))
            lane.units, lane.requests = value, int(totals.get(requests_name(name.removesuffix(suffix)), 0))
    figures.add(ledger.profiles())
    return figures


def _stored_bytes_per_chip(path: Path, ledger: Ledger) -> float:
    """Measured on up to 16 sealed shards, evenly spread; 0 without any."""
    shards, sealed = ledger.shard_counts()
    if not sealed or not path.exists():
        return 0.0
    from m3etl.io.layout import read_layout, shard_path

    layout = read_layout(path)
    step = max(1, shards // most_shards_measured)
    stored = chips = 0
    for shard in (ledger.shard(number) for number in range(0, shards, step)):
        if shard is None or not shard.sealed:
            continue
        files = (shard_path(path, layout, name, shard.shard) for name in layout.specs)
        stored += sum(file.stat().st_size for file in files if file.exists())
        chips += shard.chips
    return stored / chips if chips else 0.0
