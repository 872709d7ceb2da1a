"""`m3etl export`: fixes scenes and fetches pixels."""

from __future__ import annotations

from pathlib import Path

import click

from m3etl.cli.options import FiniteRange, Settings, earthengine_options


@click.command("export")
@click.option("--region", metavar="REGION", help="Only the planned chips inside this region.")
@click.option(
    "--modality",
    "modalities",
    metavar="NAME",
    multiple=True,
    help="Only this modality, or set of them (mmearth, m3leo); may be given several times.",
)
@click.option(
    "--declare",
    "declarations",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A TOML file with arrays of your own; it is kept in the campaign, and its arrays are exported too.",
)
@click.option(
    "--s2",
    type=click.Choice(["auto", "l2a", "l1c", "both"]),
    help="Level of Sentinel-2: L2A where it exists, else L1C (auto, the default), one of them, or both.",
)
@click.option(
    "--lane",
    type=click.Choice(["pixels", "batch"]),
    help="One request per chip (pixels, the default), or export tasks into a bucket: for wall-to-wall layers.",
)
@click.option("--bucket", metavar="gs://NAME/PREFIX", help="Where the batch lane exports to.")
@click.option(
    "--part",
    metavar="I/N",
    callback=lambda context, option, value: _part_of(value),
    help="Only the I-th of N parts of the plan, for several hosts or projects; see docs/campaign.md.",
)
@click.option("--retry-failed", is_flag=True, help="Try again what failed for good.")
@click.option(
    "--only",
    metavar="REASON",
    default="",
    help="Try again only what failed as this kind or with this text in the reason (`m3etl status` lists them).",
)
@click.option("--dry-run", is_flag=True, help="Say what would be requested, its size and cost; request nothing.")
@click.option(
    "--pilot",
    type=click.IntRange(min=8),
    metavar="N",
    help="First export N chips aside with every request profiled, so that the cost of the rest is known.",
)
@click.option(
    "--budget-eecu-hours",
    type=FiniteRange(min=0),
    metavar="H",
    help="EECU-hours that all exports of this campaign may spend; ends cleanly when the upper bound reaches it. "
    "A part stops at its even share.",
)
@earthengine_options
@click.pass_obj
def command(
    settings: Settings,
    region: str | None,
    modalities: tuple[str, ...],
    declarations: tuple[Path, ...],
    s2: str | None,
    lane: str | None,
    bucket: str | None,
    part: tuple[int, int] | None,
    retry_failed: bool,
    only: str,
    dry_run: bool,
    pilot: int | None,
    budget_eecu_hours: float | None,
    ee_url: str | None,
    ee_project: str | None,
    archive: str | None,
) -> int:
    """Fix scenes and fetch pixels; goes on where it stopped.

    Without --modality the first export takes MMEarth's twelve modalities.
    """
    from m3etl.cli.connection import prepare, require_success, source_of, with_declared
    from m3etl.cli.output import write_summaries
    from m3etl.cli.progress import make_progress
    from m3etl.io.declared import read_declarations
    from m3etl.io.regions import read_region
    from m3etl.spec.catalog import select_arrays
    from m3etl.stages.chain import export_pixels

    for file in declarations:
        read_declarations(file)
    if not declarations:
        select_arrays(modalities)
    if region is not None:
        read_region(region)
    progress = make_progress()
    source = source_of(ee_url, ee_project, archive)
    campaign, summaries = prepare(
        settings, last="sample", source=source, progress=progress, region=region, may_start=True
    )
    modalities = with_declared(campaign, declarations, modalities)
    summary = export_pixels(
        campaign,
        progress,
        region=region,
        modalities=modalities,
        s2=s2,
        lane=lane,
        bucket=bucket,
        part=part,
        retry_failed=retry_failed,
        only=only,
        dry_run=dry_run,
        pilot=pilot,
        budget_eecu_hours=budget_eecu_hours,
    )
    write_summaries(settings, [*summaries, summary])
    return require_success([summary])


def _part_of(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise click.BadParameter(f"{text!r} is no part; write 3/8 for the third of eight")
    return int(number), int(count)
