"""`m3etl describe`: what is in a campaign."""

from __future__ import annotations

import click

from m3etl.cli.options import Settings


@click.command("describe")
@click.pass_obj
def command(settings: Settings) -> None:
    """Say what is in the campaign: chips, arrays, bands, units."""
    from m3etl.cli.connection import existing_campaign
    from m3etl.cli.output import write_summaries
    from m3etl.stages.describe import run_describe

    write_summaries(settings, [run_describe(existing_campaign(settings))])
