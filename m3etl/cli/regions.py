"""`m3etl regions`: the named areas of interest."""

from __future__ import annotations

import click

from m3etl.cli.options import Settings


@click.command("regions")
@click.argument("name", required=False)
@click.pass_obj
def command(settings: Settings, name: str | None) -> None:
    """List the regions, or describe one of them."""
    from m3etl.cli import output
    from m3etl.io.regions import describe_regions

    rows = describe_regions(name)
    if settings.as_json:
        output.write_document(rows)
    elif name is None:
        output.write_rows(rows)
    else:
        output.write_pairs(rows[0])
