"""`m3etl describe`: what is in a campaign."""

from __future__ import annotations

import click

from m3etl.cli.options import Settings


@click.command("describe")
@click.option(
    "--presence",
    is_flag=True,
    help="Also which chips have which array: counts by status, region and split, and presence.parquet, chip by chip.",
)
@click.pass_obj
def command(settings: Settings, presence: bool) -> None:
    """Say what is in the campaign: chips, arrays, bands, units. With `-C URL`, what a published data set holds."""
    from m3etl.cli.connection import existing_campaign
    from m3etl.cli.output import write_summaries
    from m3etl.stages.describe import describe_published, run_describe

    if settings.url:
        if presence:
            raise click.UsageError("--presence needs the records of a campaign; a data set elsewhere has none")
        write_summaries(settings, [describe_published(settings.url)])
        return
    write_summaries(settings, [run_describe(existing_campaign(settings), presence=presence)])
