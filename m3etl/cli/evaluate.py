"""`m3etl evaluate`: probes of a pretrained encoder."""

from __future__ import annotations

from pathlib import Path

import click

from m3etl.cli.options import Settings


@click.command("evaluate")
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, path_type=Path),
    help="Checkpoint to probe.",
)
@click.option(
    "--label",
    "labels",
    metavar="NAME",
    multiple=True,
    help="What to probe: an array with classes, or a column that your points brought along. May be repeated.",
)
@click.pass_obj
def command(settings: Settings, checkpoint: Path | None, labels: tuple[str, ...]) -> None:
    """Probe the encoder on labels it was not trained on.

    kNN and a swept linear probe, beside floors that were never trained: accuracy for classes, R2 for numbers.
    Without a checkpoint it takes runs that left the label's family out, and trains short ones where there are none.
    """
    from m3etl.cli.connection import existing_campaign, prepare, source_from_environment
    from m3etl.cli.output import write_summaries
    from m3etl.cli.progress import make_progress
    from m3etl.stages.evaluate import check_labels, run_evaluate

    check_labels(existing_campaign(settings), labels)
    progress = make_progress()
    campaign, summaries = prepare(settings, last="normalize", source=source_from_environment(), progress=progress)
    summary = run_evaluate(campaign, checkpoint=checkpoint, labels=labels, progress=progress)
    write_summaries(settings, [*summaries, summary])
