"""`m3etl upload-hf`: publishes a data set on the Hugging Face Hub."""

from __future__ import annotations

import click

from m3etl.cli.options import Settings


@click.command("upload-hf")
@click.option("--repo", metavar="ORG/NAME", default="", help="Data set repository; else hub.repo of campaign.toml.")
@click.option("--synthetic", is_flag=True, help="Allow made-up data; the repository's name and card say so.")
@click.option("--dry-run", is_flag=True, help="Write the card, the tables and the manifest; send nothing.")
@click.pass_obj
def command(settings: Settings, repo: str, synthetic: bool, dry_run: bool) -> None:
    """Publish the data set on the Hugging Face Hub.

    Card, licences, table of chips and store; resumable, and verified afterwards.
    """
    from m3etl.cli.connection import existing_config, prepare, source_from_environment
    from m3etl.cli.output import write_summaries
    from m3etl.cli.progress import make_progress
    from m3etl.io.hub import check_repository
    from m3etl.stages.upload import run_upload

    check_repository(repo or existing_config(settings.directory).hub.repo)
    progress = make_progress()
    campaign, summaries = prepare(settings, last="normalize", source=source_from_environment(), progress=progress)
    summary = run_upload(campaign, repo=repo, synthetic=synthetic, dry_run=dry_run, progress=progress)
    write_summaries(settings, [*summaries, summary])
