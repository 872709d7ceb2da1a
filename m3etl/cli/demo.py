"""`m3etl demo`: the whole chain without account and network."""

from __future__ import annotations

from pathlib import Path

import click

from m3etl.cli.options import Settings


@click.command("demo")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("m3etl-demo"),
    show_default=True,
    help="Where the campaign of the demo goes; an unfinished one goes on.",
)
@click.pass_obj
def command(settings: Settings, directory: Path) -> None:
    """Run the whole chain on the embedded Earth Engine.

    Needs no account, no network and no GPU, and a few minutes. Chips are sampled, exported, cut, normalised, drawn,
    audited, and used to train and probe a model. Ends with a table and the paths of the pictures.
    """
    from m3etl.cli import output
    from m3etl.cli.progress import make_progress
    from m3etl.stages.demo import run_demo

    summary = run_demo(directory, progress=make_progress())
    output.write_summaries(settings, [summary])
