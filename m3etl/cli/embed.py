"""`m3etl embed`: features of chips as a table."""

from __future__ import annotations

from pathlib import Path

import click

from m3etl.cli.options import Settings


@click.command("embed")
@click.option(
    "--checkpoint", type=click.Path(exists=True, path_type=Path), help="Checkpoint to use; the latest run by default."
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Parquet file to write.")
@click.pass_obj
def command(settings: Settings, checkpoint: Path | None, output: Path | None) -> None:
    """Write the features of every chip to a Parquet file."""
    from m3etl.cli.connection import prepare, source_from_environment
    from m3etl.cli.output import write_summaries
    from m3etl.cli.progress import make_progress
    from m3etl.stages.embed import run_embed

    progress = make_progress()
    last = "pretrain" if checkpoint is None else "normalize"
    campaign, summaries = prepare(settings, last=last, source=source_from_environment(), progress=progress)
    summary = run_embed(campaign, checkpoint=checkpoint, output=output, progress=progress)
    write_summaries(settings, [*summaries, summary])
