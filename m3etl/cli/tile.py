"""`m3etl tile`: cuts and seals what has landed."""

from __future__ import annotations

import click

from m3etl.cli.options import Settings, scheduler_option


@click.command("tile")
@click.option(
    "--gunw",
    metavar="PLACE",
    help="Also store the interferograms of ARIA S1-GUNW products: a directory of files, a text file with a path or "
    "address in each line, or `asf` to search the archive.",
)
@scheduler_option
@click.pass_obj
def command(settings: Settings, gunw: str | None, scheduler: str) -> None:
    """Align, cut, check and seal what has landed."""
    from m3etl.cli.connection import prepare, source_from_environment
    from m3etl.cli.output import write_summaries
    from m3etl.cli.progress import make_progress
    from m3etl.stages.tile import run_tile

    progress = make_progress()
    campaign, summaries = prepare(settings, last="export", source=source_from_environment(), progress=progress)
    summaries = [*summaries, run_tile(campaign, scheduler=scheduler, progress=progress)]
    if gunw is not None:
        from m3etl.stages.interferometry import run_interferometry

        summaries.append(run_interferometry(campaign, gunw, progress=progress))
    write_summaries(settings, summaries)
