"""What a dry run of `export` says: what is left to fetch, and what that will cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from m3etl.campaign import Campaign
from m3etl.io.exports import usual_running
from m3etl.io.ledger import ChipState, Chosen, Ledger, everything
from m3etl.spec.budget import estimate
from m3etl.spec.modality import ArraySpec
from m3etl.spec.tilecounts import count_block_requests, count_squares, count_tasks
from m3etl.stages.budget import read_figures, spent_facts
from m3etl.stages.fetching import block_chips_of
from m3etl.stages.scheduling import chosen_cells


def dry_run_facts(
    campaign: Campaign,
    specs: Sequence[ArraySpec],
    ledger: Ledger | None,
    *,
    chips: int,
    chosen: Chosen = everything,
    running: int = usual_running,
) -> dict[str, Any]:
    """What is left of an export of `chips` chips (those that are chosen), and what it will cost. running: export tasks
    that run at a time where the configuration names no number.
    """
    config = campaign.config.export
    whole, is_share = chips, False
    counts: Counter[ChipState] = Counter()
    tally = ledger.tally() if ledger is not None else {}
    for (_, _, state), number in tally.items():
        counts[state] += number
    if campaign.part is not None:
        is_share = ledger is None or ledger.read_meta("part") is None
        own = sum(number for (_, reserve, _), number in tally.items() if not reserve)
        chips = math.ceil(whole / campaign.part[1]) if is_share else own
    done = sum(counts[state] for state in (ChipState.LANDED, ChipState.SEALED, ChipState.FAILED))
    left = max(0, chips - done)
    figures = read_figures(campaign, ledger)
    unplanned = max(0, left - counts[ChipState.PLANNED])
    facts = estimate(
        chips=left,
        unplanned=unplanned,
        **_counted(campaign, specs, chosen, left=left / max(1, whole), unplanned=unplanned / max(1, whole)),
        running=config.batch_in_flight or running,
        specs=specs,
        chip_m=campaign.chip_m,
        chip_px=campaign.config.sample.chip_px,
        plan_batch=config.plan_batch,
        requests_per_second=config.requests_per_second,
        check_every=config.check_every,
        figures=figures,
    )
    spent = spent_facts(figures) if figures.lanes else {}
    shared = {"part": "an even share; its own chips are known after its first export"}
    return {
        **facts,
        "chips": chips,
        **(shared if is_share else {}),
        **({"chips left": left} if left != chips else {}),
        **spent,
    }


def _counted(
    campaign: Campaign, specs: Sequence[ArraySpec], chosen: Chosen, *, left: float, unplanned: float
) -> dict[str, Any]:
    """What neighbouring chips share, counted on the plan: requests of blocks, or export tasks; `left` and `unplanned`:
    the shares of the chips that are still to be fetched and planned.
    """
    block, batch = block_chips_of(campaign, specs), campaign.config.export.lane == "batch"
    if not (block > 1 or batch):
        return {}
    cells = chosen_cells(campaign, chosen)
    counted: dict[str, Any] = {"places": math.ceil(unplanned * count_squares(cells, block))}
    if not batch:
        return {**counted, "pixel_requests": math.ceil(left * count_block_requests(cells, block))}
    groups = count_tasks(
        cells,
        specs,
        chip_px=campaign.config.sample.chip_px,
        chip_m=campaign.chip_m,
        tile_px=campaign.config.export.batch_tile_px,
        block_chips=block,
    )
    return {**counted, "tasks": [group.share(left) for group in groups]}
