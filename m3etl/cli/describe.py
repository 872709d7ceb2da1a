"""`m3etl describe`: what is in a campaign."""

from __future__ import annotations

import click

from m3etl.cli.options import Settings


@click.command("describe")
@click.pass_obj
def command(settings: Settings) -> None:
    """Say what is in the campaign: chips, arrays, bands, units."""
    from m3etl.cli.connection import prepare, source_from_environment
    from m3etl.cli.output import write_summaries
    from m3etl.cli.progress import make_progress
    from m3etl.stages.describe import run_describe

    campaign, summaries = prepare(settings, last="sample", source=source_from_environment(), progress=make_progress())
    write_summaries(settings, [*summaries, run_describe(campaign)])
