"""`m3etl validate`: the audit of a data set."""

from __future__ import annotations

import click

from m3etl.cli.options import Settings, scheduler_option


@click.command("validate")
@scheduler_option
@click.pass_obj
def command(settings: Settings, scheduler: str) -> int:
    """Audit checksums, provenance, registration and splits.

    Exit code 3 if something is found.
    """
    from m3etl.cli.connection import prepare, source_from_environment
    from m3etl.cli.output import write_summaries
    from m3etl.cli.progress import make_progress
    from m3etl.stages.validate import run_validate

    progress = make_progress()
    campaign, summaries = prepare(settings, last="tile", source=source_from_environment(), progress=progress)
    summary = run_validate(campaign, scheduler=scheduler, progress=progress)
    write_summaries(settings, [*summaries, summary])
    return 3 if summary.failed else 0
