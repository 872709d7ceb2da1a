"""What an export says at its end, and what a dry run says before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m3etl.campaign import Campaign
from m3etl.io.flow import FlowCounts
from m3etl.io.ledger import ChipState, Chosen, Ledger, everything
from m3etl.io.outcomes import Kind, retry_may_help
from m3etl.io.tasks import describe_tasks
from m3etl.spec.biomes import biome_name, no_biome
from m3etl.stages.dryrun import dry_run_facts
from m3etl.stages.layout import wanted_specs
from m3etl.stages.summary import Progress, Summary

Tally = Mapping[tuple[int, bool, ChipState], int]
stored_states = (ChipState.SEALED, ChipState.LANDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run did: counts of both flows, chips landed, bytes received, profiles asked for, whether Earth Engine
    was in restricted mode, how far additions of arrays are.
    """

    planning: FlowCounts
    pixels: FlowCounts
    landed: int
    nbytes: int
    seconds: float
    profiles: int = 0
    restricted: bool = False
    additions: Sequence[Mapping[str, Any]] = ()


def summarise(campaign: Campaign, ledger: Ledger, outcome: Outcome, progress: Progress) -> Summary:
    """The summary of a run over the chips that it was about."""
    by_biome = campaign.config.sample.strategy == "biome"
    tally: Tally = {(no_biome, False, ChipState(state)): chips for state, chips in ledger.counts().items()}
    if by_biome or ledger.chosen.inside is not None:
        tally = ledger.tally()
    done, failed = _chips(tally, *stored_states), _chips(tally, ChipState.FAILED)
    failures = ledger.failures() if failed else []
    if failures:
        progress.say(what_to_do_about([Kind(kind) for kind, _, _ in failures]))
    planning, pixels = outcome.planning, outcome.pixels
    requests = planning.requests + pixels.requests + outcome.profiles
    facts: dict[str, Any] = {
        "chips": done,
        "new chips": outcome.landed,
        "requests": requests,
        "requests per chip": round(requests / outcome.landed, 3) if outcome.landed else None,
        "planning requests": planning.requests,
        "bytes": outcome.nbytes,
        "retries": planning.retries + pixels.retries,
        "refused for rate": planning.outcomes[Kind.RATE] + pixels.outcomes[Kind.RATE],
        "peak in flight": pixels.peak_in_flight,
        **({"restricted mode": True} if outcome.restricted else {}),
    }
    tasks = describe_tasks(campaign.ledger_path)
    if tasks:
        facts["tasks"] = tasks
    if by_biome:
        facts["biomes"] = _biome_rows(tally)
    facts["observed" if ledger.chosen.inside is None else "observed in the whole campaign"] = [
        {"array": name, "landed chips": chips, "share of their pixels": round(valid / chips, 4)}
        for name, (chips, valid) in ledger.valid_fractions().items()
    ]
    if outcome.additions:
        facts["added to existing rows"] = list(outcome.additions)
    return Summary(
        stage="export",
        done=done,
        skipped=done - outcome.landed,
        rejected=_chips(tally, ChipState.UNUSABLE),
        failed=failed + sum(item["failed"] for item in outcome.additions),
        seconds=outcome.seconds,
        errors={f"{kind}: {reason}": chips for kind, reason, chips in failures},
        facts=facts,
    )


def what_to_do_about(kinds: Sequence[Kind]) -> str:
    """What a user does about chips that failed like this; the same command alone leaves them as they are."""
    passing = sorted({str(kind) for kind in kinds if kind in retry_may_help})
    lasting = sorted({str(kind) for kind in kinds if kind not in retry_may_help})
    again = "`m3etl export --retry-failed`"
    if not lasting:
        return f"some chips failed for reasons that may pass: try them with {again}"
    advice = f"some chips failed for reasons that stay until their cause is gone ({', '.join(lasting)}): then try "
    only = ", ".join(f"`m3etl export --only {kind}`" for kind in passing)
    return f"{advice}{again}" + (f"; others may pass: try {only}" if passing else "")


def dry_run(
    campaign: Campaign, ledger: Ledger | None, chips: int, modalities: Sequence[str], chosen: Chosen = everything
) -> Summary:
    """What an export of so many chips would still ask for; nothing is sent."""
    specs = wanted_specs(campaign.config.export, modalities)
    figures = dry_run_facts(campaign, specs, ledger, chips=chips, chosen=chosen)
    so_far = describe_tasks(campaign.ledger_path) if ledger is not None else ""
    if so_far:
        figures["tasks so far"] = so_far
    return Summary(stage="export", skipped=chips, facts={"dry run": "nothing was exported", **figures})


def _chips(tally: Tally, *states: ChipState) -> int:
    return sum(chips for (_, _, state), chips in tally.items() if state in states)


def _biome_rows(tally: Tally) -> list[dict[str, Any]]:
    rows = []
    for biome in sorted({biome for biome, _, _ in tally}):
        mine = {(reserve, state): chips for (number, reserve, state), chips in tally.items() if number == biome}
        used = (*stored_states, ChipState.PLANNED)
        rows.append(
            {
                "biome": biome,
                "name": biome_name(biome),
                "planned": sum(chips for (reserve, _), chips in mine.items() if not reserve),
                "usable": sum(chips for (_, state), chips in mine.items() if state in used),
                "from the reserve": sum(chips for (reserve, state), chips in mine.items() if reserve and state in used),
            }
        )
    return rows
