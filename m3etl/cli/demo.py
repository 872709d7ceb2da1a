"""`m3etl demo`: the whole chain without account and network."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from m3etl.cli.options import Settings

usual_directory = Path("m3etl-demo")


@click.command("demo")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Where the campaign of the demo goes, as with -C; an unfinished one goes on.  [default: {usual_directory}]",
)
@click.pass_context
def command(context: click.Context, directory: Path | None) -> None:
    """Run the whole chain on the embedded Earth Engine.

    Needs no account, no network and no GPU, and a few minutes. Chips are sampled, exported, cut, normalised, drawn,
    audited, and used to train and probe a model. Ends with a table and the paths of the pictures.
    """
    from m3etl.cli import output
    from m3etl.cli.progress import make_progress
    from m3etl.stages.demo import run_demo

    settings: Settings = context.obj
    summary = run_demo(_place(context, settings.directory, directory), progress=make_progress())
    output.write_summaries(settings, [summary])


def _place(context: click.Context, campaign: Path, directory: Path | None) -> Path:
    """Where the demo goes. UsageError where -C and --directory name two places."""
    if context.find_root().get_parameter_source("campaign") is ParameterSource.DEFAULT:
        return directory or usual_directory
    if directory not in (None, campaign):
        raise click.UsageError(f"-C {campaign} and --directory {directory} are two places: give one of them")
    return campaign
