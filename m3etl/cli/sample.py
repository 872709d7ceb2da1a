"""`m3etl sample`: draws the plan of a campaign."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from m3etl.cli.options import Settings, earthengine_options, parse_years


@click.command("sample")
@click.option("--biomes", metavar="BIOMES", help="14 for all, or ids (0-13) or names, separated by commas.")
@click.option("--chips", type=click.IntRange(min=1), help="Number of chips.  [default: 112]")
@click.option("--region", metavar="REGION", help="Name of a region, see `m3etl regions`.  [default: globe]")
@click.option(
    "--strategy",
    type=click.Choice(["biome", "grid", "points"]),
    help="biome: equal quota per biome; grid: every cell; points: the cells of --points.  [default: biome]",
)
@click.option(
    "--points",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="GeoJSON, CSV (lon, lat) or GeoParquet; implies --strategy points.",
)
@click.option("--chip-px", type=click.IntRange(8, 4096), help="Side of a chip in pixels of 10 m.  [default: 128]")
@click.option("--years", metavar="FIRST:LAST", callback=parse_years, help="Both inclusive.  [default: 2017:2020]")
@click.option("--seed", type=click.IntRange(min=0), help="Another seed, another draw.  [default: 0]")
@click.option(
    "--ecoregions",
    type=click.Path(exists=True, path_type=Path),
    help="RESOLVE ecoregions as a file, instead of asking Earth Engine for them.",
)
@earthengine_options
@click.pass_obj
def command(
    settings: Settings,
    /,
    ecoregions: Path | None,
    ee_url: str | None,
    ee_project: str | None,
    archive: str | None,
    **options: Any,
) -> None:
    """Draw the plan: which chips, where, which year, which split."""
    from m3etl.cli.connection import existing_config, source_of
    from m3etl.cli.output import write_summaries
    from m3etl.cli.progress import make_progress
    from m3etl.stages.chain import start_campaign

    config = existing_config(settings.directory)
    source = source_of(ee_url, ee_project, archive)
    recorded = config.earthengine
    config = replace(
        config,
        sample=replace(config.sample, **_sample_options(**options)),
        earthengine=replace(
            recorded,
            url=source.url or recorded.url,
            project=source.project or recorded.project,
            archive=source.archive or recorded.archive,
        ),
    )
    if config.sample.strategy == "points" and not config.sample.points:
        raise click.UsageError("--strategy points needs --points FILE")
    _campaign, summary = start_campaign(settings.directory, config, ecoregions=ecoregions, progress=make_progress())
    write_summaries(settings, [summary])


def _sample_options(biomes: str | None, points: Path | None, **options: Any) -> dict[str, Any]:
    """The options that were given, by the names of the configuration."""
    from m3etl.spec.biomes import parse_biomes

    given = {name: value for name, value in options.items() if value is not None}
    if biomes is not None:
        given["biomes"] = parse_biomes(biomes)
    if points is not None:
        if given.setdefault("strategy", "points") != "points":
            raise click.UsageError(f"--points belongs to --strategy points, not to {given['strategy']}")
        given["points"] = str(points.resolve())
    return given
