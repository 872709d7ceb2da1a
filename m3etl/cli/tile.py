"""`m3etl tile`: cuts and seals what has landed."""

from __future__ import annotations

import click

from m3etl.cli.options import Settings


@click.command("tile")
@click.pass_obj
def command(settings: Settings) -> None:
    """Align, cut, check and seal what has landed."""
    from m3etl.cli.connection import prepare, source_from_environment
    from m3etl.cli.output import write_summaries
    from m3etl.cli.progress import make_progress
    from m3etl.stages.tile import run_tile

    progress = make_progress()
    campaign, summaries = prepare(settings, last="export", source=source_from_environment(), progress=progress)
    write_summaries(settings, [*summaries, run_tile(campaign, progress=progress)])
