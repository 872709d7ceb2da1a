"""`m3etl status`: how far the export is."""

from __future__ import annotations

import click

from m3etl.cli.options import Settings


@click.command("status")
@click.pass_obj
def command(settings: Settings) -> None:
    """Say what is done, running, failed, and how long it takes."""
    from m3etl.cli.connection import existing_campaign
    from m3etl.cli.output import write_summaries
    from m3etl.stages.status import read_status

    write_summaries(settings, [read_status(existing_campaign(settings))])
