"""`m3etl normalize`: statistics, and the normalised copy if wanted."""

from __future__ import annotations

import click

from m3etl.cli.options import Settings, scheduler_option


@click.command("normalize")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the normalisation pass runs.",
)
@click.option("--materialize", is_flag=True, help="Also write the normalised values, not only the statistics.")
@scheduler_option
@click.pass_obj
def command(settings: Settings, device: str, materialize: bool, scheduler: str) -> None:
    """Compute statistics and run the normalisation pass."""
    from m3etl.cli.connection import prepare, source_from_environment
    from m3etl.cli.output import write_summaries
    from m3etl.cli.progress import make_progress
    from m3etl.stages.normalize import run_normalize

    progress = make_progress()
    campaign, summaries = prepare(
        settings, last="tile", source=source_from_environment(), progress=progress, may_start=True
    )
    summary = run_normalize(campaign, device=device, materialize=materialize, scheduler=scheduler, progress=progress)
    write_summaries(settings, [*summaries, summary])
