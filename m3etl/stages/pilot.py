"""A pilot: a few chips of the plan exported aside, every request profiled, so that the cost of the whole is known."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from m3etl.campaign import Campaign, create_campaign, locked
from m3etl.errors import InputError
from m3etl.io.earthengine import Session
from m3etl.io.ledger import Chosen, open_ledger
from m3etl.io.plan import iterate_plan, write_plan
from m3etl.spec.budget import Figures, hour_s
from m3etl.spec.hashing import stream
from m3etl.stages.budget import over_budget, read_figures, write_pilot
from m3etl.stages.export import run_export
from m3etl.stages.scheduling import choose, count_planned
from m3etl.stages.summary import Progress

# First questions, so that at least five are asked and their cost has a bound, even where one is asked after the other
# and they grow fourfold.
planning_requests_wanted = 16
least_chips = 8


def run_pilot(
    campaign: Campaign,
    *,
    session: Session,
    chips: int,
    progress: Progress,
    region: str | None = None,
    modalities: Sequence[str] = (),
    s2: str | None = None,
    budget_eecu_hours: float | None = None,
    base_wait_s: float = 1.0,
) -> Figures:
    """Export `chips` of the planned chips into a directory that is removed afterwards, and keep what they have cost.

    Every request is profiled. The chips are drawn with the plan's seed; nothing of the campaign changes but its
    pilot.json. Raises InputError for fewer than 8 chips, BudgetError where even the pilot exceeds the budget.
    """
    if chips < least_chips:
        raise InputError(
            f"a pilot of {chips} chips says too little about the rest", hint=f"Use at least {least_chips} chips."
        )
    with locked(campaign):
        left = _budget_left(campaign, budget_eecu_hours)
        chosen = _draw(campaign, choose(campaign, region, ""), chips)
        folder = Path(tempfile.mkdtemp(prefix=".pilot-", dir=campaign.root))
        progress.say(f"a pilot of {len(chosen)} chips is profiled first; it is not kept")
        try:
            aside = _scratch(campaign, folder, chosen, len(chosen))
            run_export(
                aside,
                session=session,
                modalities=modalities,
                s2=s2,
                budget_eecu_hours=left,
                progress=progress,
                base_wait_s=base_wait_s,
            )
            return _keep(campaign, aside)
        except BaseException:
            if folder.exists():
                _keep(campaign, Campaign(folder, campaign.config))  # what it has spent is spent
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _draw(campaign: Campaign, chosen: Chosen, chips: int) -> pd.DataFrame:
    """Rows of the plan, reserve left out, drawn with its seed."""
    among = count_planned(campaign, chosen)
    drawn = stream(campaign.config.sample.seed, "pilot").choice(among, size=min(chips, among), replace=False)
    wanted, found, seen = np.zeros(among, dtype=bool), [], 0
    wanted[drawn] = True
    for batch in iterate_plan(campaign.plan_path):
        primary = batch[~batch["reserve"].to_numpy(dtype=bool)] if "reserve" in batch else batch
        if chosen.inside is not None:
            primary = primary[chosen.inside(primary["lon"].to_numpy(), primary["lat"].to_numpy())]
        found.append(primary[wanted[seen : seen + len(primary)]])
        seen += len(primary)
    return pd.concat(found, ignore_index=True).assign(row=-1, generation=-1)


def _budget_left(campaign: Campaign, budget_eecu_hours: float | None) -> float | None:
    if budget_eecu_hours is None:
        return None
    ledger = open_ledger(campaign.ledger_path) if campaign.ledger_path.exists() else None
    try:
        figures = read_figures(campaign, ledger)
    finally:
        if ledger is not None:
            ledger.close()
    left = budget_eecu_hours - figures.spent_upper_s() / hour_s
    if left <= 0:
        raise over_budget(campaign, figures, budget_eecu_hours, "nothing was sent")
    return left


def _scratch(campaign: Campaign, folder: Path, plan: pd.DataFrame, chips: int) -> Campaign:
    config = campaign.config
    batch = max(1, min(config.export.plan_batch, chips // planning_requests_wanted))
    aside = create_campaign(
        folder,
        replace(
            config,
            export=replace(config.export, lane="pixels", plan_batch=batch, profile_every=1),
            store=replace(config.store, shard_chips=0),
        ),
    )
    write_plan(aside.plan_path, plan)
    return aside


def _keep(campaign: Campaign, aside: Campaign) -> Figures:
    if not aside.ledger_path.exists():
        return Figures()
    ledger = open_ledger(aside.ledger_path)
    try:
        figures = read_figures(aside, ledger)
    finally:
        ledger.close()
    write_pilot(campaign, figures)
    return figures
