"""How a command finds its campaign and the Earth Engine it works with."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from m3etl.campaign import Campaign, CampaignConfig, EarthEngineConfig, open_campaign
from m3etl.cli.options import Settings
from m3etl.errors import InputError
from m3etl.stages.summary import Progress, Summary

most_named = 3  # campaigns below a directory that holds none


def source_of(ee_url: str | None, ee_project: str | None, archive: str | None) -> EarthEngineConfig:
    """The options --ee-url, --ee-project and --archive as configuration; an archive directory must exist."""
    if archive and not (Path(archive) / "archive.jsonl").is_file():
        raise InputError(
            f"there is no archive in {archive}", hint="--archive names a directory with an archive.jsonl in it."
        )
    if ee_url and ee_url != "embedded" and not ee_url.startswith(("http://", "https://")):
        raise InputError(f"{ee_url!r} is no Earth Engine", hint="Use --ee-url embedded, or an address with http://.")
    return EarthEngineConfig(
        url=ee_url or "", project=ee_project or "", archive=str(Path(archive).resolve()) if archive else ""
    )


def source_from_environment() -> EarthEngineConfig:
    """The same from the environment alone, for commands that need Earth Engine only if an earlier stage is missing."""
    names = ("M3ETL_EE_URL", "M3ETL_EE_PROJECT", "M3ETL_ARCHIVE")
    return source_of(*(os.environ.get(name) for name in names))


def prepare(
    settings: Settings,
    *,
    last: str,
    source: EarthEngineConfig,
    progress: Progress,
    region: str | None = None,
    may_start: bool = False,
) -> tuple[Campaign, list[Summary]]:
    """The campaign with every stage up to and including `last` done; returns the summaries of those that ran now.

    InputError where the directory does not exist, and without `may_start` where it holds no campaign: a mistyped one
    must not cost an export. Only the stages of the chain that make the data set may start one, from its first stage.
    """
    from m3etl.stages.chain import open_or_plan, run_missing

    if may_start:
        _need_directory(settings)
    else:
        existing_campaign(settings)
    default = CampaignConfig()
    if region:
        default = replace(default, sample=replace(default.sample, region=region))
    campaign, summaries = open_or_plan(settings.directory, default, source=source, progress=progress)
    if last == "sample":
        return campaign, summaries
    campaign, further = run_missing(campaign, last, progress=progress)
    return campaign, [*summaries, *further]


def with_declared(campaign: Campaign, files: Sequence[Path], modalities: Sequence[str]) -> tuple[str, ...]:
    """What to export when files of a user's arrays come along: they are kept in the campaign, their assets asked for,
    and their modalities added (to MMEarth's twelve where nothing is named and nothing was exported before).
    """
    if not files:
        return tuple(modalities)
    from m3etl.io.declared import keep_declarations, read_declarations
    from m3etl.spec.catalog import select_arrays
    from m3etl.stages.chain import check_declared

    named = tuple(modalities) or tuple(campaign.config.export.modalities)
    if not named and not campaign.ledger_path.exists():
        named = ("mmearth",)
    for path in files:
        check_declared(campaign, path, *read_declarations(path))
    declared = [spec.modality for path in files for spec in keep_declarations(campaign.root, path)]
    chosen = (*named, *dict.fromkeys(declared))
    select_arrays(chosen)
    return chosen


def existing_campaign(settings: Settings) -> Campaign:
    """The campaign of the command; InputError where there is none, naming those in the directories below."""
    _need_directory(settings)
    below = sorted(path.parent for path in settings.directory.glob("*/campaign.toml"))[:most_named]
    if below and not (settings.directory / "campaign.toml").is_file():
        raise InputError(
            f"no campaign in {settings.directory}: there is no campaign.toml",
            hint="There is one below: " + ", or ".join(f"`m3etl -C {shlex.quote(str(path))} ...`" for path in below),
        )
    return open_campaign(settings.directory)


def _need_directory(settings: Settings) -> None:
    if not settings.directory.is_dir():
        raise InputError(
            f"there is no directory {settings.directory}",
            hint="`m3etl -C DIR sample` starts a campaign in a new one; other commands need one that is there.",
        )


def existing_config(directory: Path) -> CampaignConfig:
    """The configuration that waits in `directory`, or the default one."""
    return open_campaign(directory).config if (directory / "campaign.toml").is_file() else CampaignConfig()


def require_success(summaries: Sequence[Summary]) -> int:
    """Exit code of a stage that ran to its end: 4 if some of its items failed remotely, else 0."""
    return 4 if summaries[-1].failed else 0
