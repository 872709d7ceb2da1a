"""`m3etl doctor`: what works on this machine, and what to do about the rest."""

from __future__ import annotations

import click

from m3etl.cli.options import Settings, earthengine_options


@click.command("doctor")
@click.option(
    "--bucket", metavar="gs://NAME/PREFIX", default="", help="Try to list and write there (default: the campaign's)."
)
@earthengine_options
@click.pass_obj
def command(settings: Settings, bucket: str, ee_url: str | None, ee_project: str | None, archive: str | None) -> int:
    """Say what works on this machine, and what to do about the rest.

    Checks login, project, endpoint, bucket, disk, device and packages. Exit code 3 if something that is needed does not
    work; a login is needed where a project, a service or a bucket is named.
    """
    from m3etl.cli import output
    from m3etl.cli.connection import existing_config, source_of
    from m3etl.stages.doctor import run_doctor

    config = existing_config(settings.directory)
    source = source_of(ee_url, ee_project, archive)
    summary = run_doctor(settings.directory, config=config, source=source, bucket=bucket)
    if settings.as_json:
        output.write_summaries(settings, [summary])
    else:
        output.write_rows(summary.facts["checks"])
    return 3 if summary.failed else 0
