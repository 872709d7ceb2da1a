"""`m3etl preview`: pictures and a map."""

from __future__ import annotations

import click

from m3etl.cli.options import Settings


@click.command("preview")
@click.pass_obj
def command(settings: Settings) -> None:
    """Draw a contact sheet per modality and a map of the chips."""
    from m3etl.cli.connection import prepare, source_from_environment
    from m3etl.cli.output import write_summaries
    from m3etl.cli.progress import make_progress
    from m3etl.stages.preview import run_preview

    progress = make_progress()
    campaign, summaries = prepare(settings, last="tile", source=source_from_environment(), progress=progress)
    write_summaries(settings, [*summaries, run_preview(campaign, progress=progress)])
