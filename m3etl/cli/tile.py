"""`m3etl tile`: cuts and seals what has landed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from m3etl.cli.options import Settings, scheduler_option


def parse_files(
    context: click.Context, parameter: click.Parameter, texts: Sequence[str]
) -> Mapping[str, tuple[str, ...]]:
    """ARRAY=PATH options, by array."""
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise click.BadParameter(f"{text!r} is not ARRAY=PATH, for example worldcover=maps/")
        found[name] = (*found.get(name, ()), path)
    return found


@click.command("tile")
@click.option(
    "--gunw",
    metavar="PLACE",
    help="Also store the interferograms of ARIA S1-GUNW products: a directory of files, a text file with a path or "
    "address in each line, or `asf` to search the archive.",
)
@click.option(
    "--from",
    "given",
    metavar="ARRAY=PATH",
    multiple=True,
    callback=parse_files,
    help="Also store an array from rasters of your own: a file, pattern, folder or URL. Repeat it for more. What the "
    "files do not say (nodata, units, bands) goes to [sources.ARRAY] of campaign.toml.",
)
@click.option(
    "--declare",
    "declared",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="TOML file that declares arrays for --from.",
)
@scheduler_option
@click.pass_obj
def command(
    settings: Settings, gunw: str | None, given: Mapping[str, tuple[str, ...]], declared: Sequence[Path], scheduler: str
) -> None:
    """Align, cut, check and seal what has landed."""
    from m3etl.cli.connection import prepare, source_from_environment
    from m3etl.cli.output import write_summaries
    from m3etl.cli.progress import make_progress
    from m3etl.stages.tile import run_tile

    progress = make_progress()
    campaign, summaries = prepare(
        settings, last="export", source=source_from_environment(), progress=progress, may_start=True
    )
    summaries = [*summaries, run_tile(campaign, scheduler=scheduler, progress=progress)]
    if gunw is not None:
        from m3etl.stages.interferometry import run_interferometry

        summaries.append(run_interferometry(campaign, gunw, progress=progress))
    for path in declared:
        from m3etl.io.declared import keep_declarations

        keep_declarations(campaign.root, path)
    if given or campaign.config.sources:
        from m3etl.stages.localarrays import run_local_arrays, with_sources

        campaign = with_sources(campaign, given)
        summaries.append(run_local_arrays(campaign, progress=progress))
    write_summaries(settings, summaries)
