"""The order of the stages: which of them a campaign still lacks, and running those before the one asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3etl.campaign import (
    Campaign,
    CampaignConfig,
    EarthEngineConfig,
    SampleConfig,
    create_campaign,
    locked,
    open_campaign,
    save_config,
)
from m3etl.errors import DamagedError, InputError, M3etlError
from m3etl.stages.summary import Progress, Summary

if TYPE_CHECKING:
    from m3etl.io.earthengine import Session
    from m3etl.spec.modality import ArraySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One stage of the chain. lacking: why it must still run on a campaign, "" if it need not."""

    name: str
    lacking: Callable[[Campaign], str]
    run: Callable[[Campaign, Progress], Summary]


def run_missing(
    campaign: Campaign, last: str, *, progress: Progress, steps: Sequence[Step] | None = None
) -> tuple[Campaign, list[Summary]]:
    """Run what the campaign lacks, up to and including the stage `last`, and say so before each.

    Returns the campaign as the stages left it and one summary per stage that ran.
    """
    steps = default_steps if steps is None else steps
    names = [step.name for step in steps]
    summaries = []
    for step in steps[: names.index(last) + 1]:
        reason = step.lacking(campaign)
        if not reason:
            continue
        progress.say(f"{reason}: running `m3etl {step.name}` first")
        summaries.append(step.run(campaign, progress))
        progress.say(_outcome(summaries[-1]))
        campaign = reread(campaign)
    return campaign, summaries


def open_or_plan(
    root: Path, wanted: CampaignConfig, *, source: EarthEngineConfig, progress: Progress
) -> tuple[Campaign, list[Summary]]:
    """The campaign in `root` with a plan in it; without one, a plan is drawn first from `wanted`, and that is said.

    A campaign.toml that waits without a plan decides itself what is drawn.
    """
    if not (root / "campaign.toml").is_file():
        progress.say(f"there is no campaign in {root}: running `m3etl sample` first")
        campaign, summary = start_campaign(
            root, replace(wanted, earthengine=source), ecoregions=None, progress=progress
        )
        progress.say(_outcome(summary))
        return campaign, [summary]
    campaign = with_source(open_campaign(root), source)
    return run_missing(campaign, "sample", progress=progress)


def start_campaign(
    root: Path, wanted: CampaignConfig, *, ecoregions: Path | None, progress: Progress
) -> tuple[Campaign, Summary]:
    """Draw the plan of a new campaign in `root`; nothing stays behind if that is refused.

    An equal request where the plan exists already does nothing; InputError for another request.
    """
    existing = open_campaign(root) if (root / "campaign.toml").is_file() else None
    if existing is not None and existing.plan_path.exists():
        _refuse_other_plan(existing, wanted)
        return existing, Summary(stage="sample", facts={"plan": "exists already, drawn from the same request"})
    is_new = not root.exists()
    if existing is None:
        campaign = create_campaign(root, wanted)
    else:
        campaign = Campaign(root, wanted)
        save_config(campaign)
    try:
        summary = draw_plan(campaign, ecoregions=ecoregions, progress=progress)
    except M3etlError:
        if existing is None:
            campaign.config_path.unlink(missing_ok=True)
            if is_new:
                with contextlib.suppress(OSError):  # only while it is empty
                    root.rmdir()
        else:
            save_config(existing)
        raise
    return reread(campaign), summary


def grow_campaign(
    root: Path, wanted: CampaignConfig, *, words: str, ecoregions: Path | None, progress: Progress
) -> tuple[Campaign, Summary]:
    """Append the chips of a further request, `wanted.sample`, to the plan in `root`; what it holds stays as it is.

    `words`: the request as it was typed, kept in campaign.toml. Raises InputError where there is no plan or the
    request does not fit it.
    """
    campaign = open_campaign(root)
    if not campaign.plan_path.exists():
        raise InputError(f"there is no plan in {root} to add to", hint="Draw one first, without --add.")
    recorded, addition = campaign.config, wanted.sample
    campaign = with_source(campaign, wanted.earthengine)
    if wanted.split != recorded.split:
        raise InputError(
            "the split of a chip never changes: a plan that is there keeps its way to split",
            hint="Leave the options of splits away, or start another campaign with `m3etl -C DIR sample`.",
        )
    summary = draw_plan(campaign, ecoregions=ecoregions, progress=progress, addition=addition)
    years = (min(recorded.sample.years[0], addition.years[0]), max(recorded.sample.years[1], addition.years[1]))
    number = str(len(recorded.additions) + 1)
    grown = open_campaign(root).with_config(
        sample=replace(recorded.sample, years=years), additions={**recorded.additions, number: words}
    )
    save_config(grown)
    return grown, summary


def draw_plan(
    campaign: Campaign, *, ecoregions: Path | None = None, progress: Progress, addition: SampleConfig | None = None
) -> Summary:
    """Run `sample` with the ecoregions of a file, else with those of the campaign's Earth Engine.

    The options and the user's own files are checked before any ecoregion is read.
    """
    from m3etl.stages.sample import read_request, run_sample

    request = read_request(campaign, addition)
    if ecoregions is not None:
        from m3etl.io.ecoregions import read_ecoregions as read_file

        table = read_file(ecoregions)
        with locked(campaign):
            return run_sample(campaign, ecoregions=table, progress=progress, addition=addition, request=request)
    from m3etl.io.earthengine import read_ecoregions

    with open_source(campaign) as session:
        progress.say("reading the ecoregions (RESOLVE/ECOREGIONS/2017) from Earth Engine")
        table = read_ecoregions(session)
    with locked(campaign):
        return run_sample(campaign, ecoregions=table, progress=progress, addition=addition, request=request)


@contextlib.contextmanager
def open_source(campaign: Campaign, *, need_high_volume: bool = False) -> Iterator[Session]:
    """A session with the Earth Engine that the campaign's configuration names; its state lies in the campaign."""
    from m3etl.io.earthengine import open_session

    source = campaign.config.earthengine
    with open_session(
        url=source.url,
        project=source.project,
        archive=Path(source.archive) if source.archive else None,
        state_dir=campaign.root / ".emulator",
        need_high_volume=need_high_volume,
        deadline_s=campaign.config.export.deadline_s,
    ) as session:
        yield session


def with_source(campaign: Campaign, source: EarthEngineConfig) -> Campaign:
    """The campaign with what `source` states; what it leaves open stays as recorded."""
    recorded = campaign.config.earthengine
    merged = EarthEngineConfig(
        url=source.url or recorded.url,
        project=source.project or recorded.project,
        archive=source.archive or recorded.archive,
    )
    return campaign.with_config(earthengine=merged)


def reread(campaign: Campaign) -> Campaign:
    """The campaign with its configuration as it is on disk now, and the connection of this run."""
    return open_campaign(campaign.root).with_config(earthengine=campaign.config.earthengine)


def export_pixels(campaign: Campaign, progress: Progress, **selection: Any) -> Summary:
    """Run `export` in a session of its own; `selection` is passed on (region, modalities, retry_failed, dry_run ...).

    pilot: chips of a pilot that is profiled first.
    """
    from m3etl.io.plan import count_plan
    from m3etl.stages.export import run_export
    from m3etl.stages.planningprocess import PlanningProcess

    chips = selection.pop("pilot", None)
    if chips is not None:
        from m3etl.stages.pilot import run_pilot

        with open_source(campaign) as session:
            run_pilot(
                campaign,
                session=session,
                chips=chips,
                progress=progress,
                region=selection.get("region"),
                modalities=selection.get("modalities", ()),
                s2=selection.get("s2"),
                budget_eecu_hours=selection.get("budget_eecu_hours"),
            )
    if selection.get("dry_run"):
        return run_export(campaign, session=None, progress=progress, **selection)
    with contextlib.closing(PlanningProcess()) as planners:
        planners.start(count_plan(campaign.plan_path))  # it loads while the client connects
        with open_source(campaign) as session:
            return run_export(campaign, session=session, progress=progress, planners=planners, **selection)


def check_declared(campaign: Campaign, path: Path, text: str, specs: Sequence[ArraySpec]) -> None:
    """Ask Earth Engine for the assets and bands that a user's file names, at the plan's first chip. InputError with
    lines where they are not there.
    """
    from m3etl.io.plan import iterate_plan
    from m3etl.stages.declaring import Pilot, check_assets

    first = next(iter(iterate_plan(campaign.plan_path))).iloc[0]
    pilot = Pilot(
        lon=float(first["lon"]),
        lat=float(first["lat"]),
        year=int(first["year"]),
        chip_px=campaign.config.sample.chip_px,
    )
    with open_source(campaign) as session:
        check_assets(session, specs, text=text, file=path.name, pilot=pilot)


def _refuse_other_plan(existing: Campaign, wanted: CampaignConfig) -> None:
    recorded = existing.config
    if (recorded.sample, recorded.split) == (wanted.sample, wanted.split):
        return
    changed = [
        f"{name} {getattr(recorded.sample, name)!r} (now {getattr(wanted.sample, name)!r})"
        for name in recorded.sample.__dataclass_fields__
        if getattr(recorded.sample, name) != getattr(wanted.sample, name)
    ]
    raise InputError(
        f"{existing.root} holds a plan that was drawn from another request: {'; '.join(changed) or 'other splits'}",
        hint="Give the same options to keep it, add chips to it with `m3etl sample --add`, or start another campaign "
        "with `m3etl -C DIR sample`.",
    )


def _lacks_plan(campaign: Campaign) -> str:
    return "" if campaign.plan_path.exists() else "there is no plan yet"


def _lacks_export(campaign: Campaign) -> str:
    if not campaign.with_ledger:  # a data set that was copied here has a store and no ledger
        return "" if campaign.store_path.exists() else "nothing is exported yet"
    sealed, ready = _shards(campaign)
    return "" if sealed + ready else "no shard is exported whole yet"


def _lacks_tiles(campaign: Campaign) -> str:
    if not campaign.store_path.exists():
        return "nothing is cut into chips yet"
    _, ready = _shards(campaign)
    return "some of what has landed is not sealed yet" if ready else ""


def _shards(campaign: Campaign) -> tuple[int, int]:
    """(sealed, ready to be sealed)."""
    from m3etl.stages.ledgers import open_ledgers

    with open_ledgers(campaign, to_read=True) as opened:
        ledgers = [ledger for _, ledger in opened]
        return sum(item.shard_counts()[1] for item in ledgers), sum(len(item.ready_shards()) for item in ledgers)


def _lacks_statistics(campaign: Campaign) -> str:
    if not campaign.stats_path.exists():
        return "there are no statistics yet"
    from m3etl.io.store import dataset_id, read_stats

    try:
        recorded = read_stats(campaign.stats_path).get("dataset_id")
    except DamagedError:
        return "the statistics cannot be read"
    return "" if recorded == dataset_id(campaign.store_path) else "the data has changed since the statistics were made"


def _lacks_checkpoint(campaign: Campaign) -> str:
    trained = campaign.runs_path.is_dir() and any(campaign.runs_path.rglob("*.safetensors"))
    return "" if trained else "no model is trained yet"


def _run_tile(campaign: Campaign, progress: Progress) -> Summary:
    from m3etl.stages.tile import run_tile

    return run_tile(campaign, progress=progress)


def _run_normalize(campaign: Campaign, progress: Progress) -> Summary:
    from m3etl.stages.normalize import run_normalize

    return run_normalize(campaign, progress=progress)


def _run_pretrain(campaign: Campaign, progress: Progress) -> Summary:
    from m3etl.stages.pretrain import run_pretrain

    return run_pretrain(campaign, progress=progress)


def _outcome(summary: Summary) -> str:
    counts = [f"{getattr(summary, name):,} {name}" for name in ("done", "skipped", "rejected", "failed")]
    return f"{summary.stage}: {', '.join(count for count in counts if not count.startswith('0 ')) or 'nothing to do'}"


default_steps: tuple[Step, ...] = (
    Step(name="sample", lacking=_lacks_plan, run=lambda campaign, progress: draw_plan(campaign, progress=progress)),
    Step(name="export", lacking=_lacks_export, run=export_pixels),
    Step(name="tile", lacking=_lacks_tiles, run=_run_tile),
    Step(name="normalize", lacking=_lacks_statistics, run=_run_normalize),
    Step(name="pretrain", lacking=_lacks_checkpoint, run=_run_pretrain),
)
