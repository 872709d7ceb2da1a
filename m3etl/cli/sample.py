"""`m3etl sample`: draws the plan of a campaign."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from m3etl.cli.options import FiniteRange, Settings, earthengine_options, parse_years


def parse_fractions(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[float, float, float] | None:
    """`60/20/20` as fractions of train, val and test."""
    if text is None:
        return None
    try:
        train, val, test = (float(part) for part in text.split("/"))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not TRAIN/VAL/TEST, for example 60/20/20") from None
    total = train + val + test
    if min(train, val, test) < 0 or not abs(total - 100.0) < 1e-6:
        raise click.BadParameter(f"{text!r} are not percentages that add up to 100")
    return train / 100.0, val / 100.0, test / 100.0


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
@click.option(
    "--per-ecoregion", is_flag=True, default=None, help="The same number for every ecoregion, not by biome and area."
)
@click.option(
    "--spacing", "spacing_m", type=FiniteRange(min=0), metavar="METRES", help="Least distance of two chip centres."
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="FILE",
    help="Places that no chip may touch: GeoJSON, CSV, GeoParquet, a region's file or name. May be repeated.",
)
@click.option(
    "--exclude-buffer-km", type=FiniteRange(min=0), metavar="KM", help="Keep so far away from them.  [default: 0]"
)
@click.option(
    "--split-by",
    type=click.Choice(["block", "bands", "ecoregion", "region", "points"]),
    help="block: equal-area blocks; bands: 60 angled bands as M3LEO; region: --hold-out is test; points: the points' "
    "own column split.  [default: block]",
)
@click.option("--hold-out", multiple=True, metavar="REGION", help="Region or file that is test, all of it.")
@click.option(
    "--split-fractions",
    metavar="TRAIN/VAL/TEST",
    callback=parse_fractions,
    help="In percent.  [default: 80/10/10; bands: 60/20/20]",
)
@click.option(
    "--split-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV with the columns identifier and split, for points with an identifier; implies --split-by points.",
)
@click.option("--buffer-km", type=FiniteRange(min=0), help="Least distance of chips of different splits.  [default: 5]")
@click.option("--add", is_flag=True, help="Append these chips to the plan that is there; --chips is how many more.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Another seed, another draw.  [default: 0]")
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
    add: bool,
    ecoregions: Path | None,
    ee_url: str | None,
    ee_project: str | None,
    archive: str | None,
    **options: Any,
) -> None:
    """Draw the plan: which chips, where, which year, which split.

    A plan that is there is kept: with the same options nothing happens, and --add appends further chips, years or
    regions to it. See docs/sampling.md.
    """
    from m3etl.cli.connection import existing_config, source_of
    from m3etl.cli.output import write_summaries
    from m3etl.cli.progress import make_progress
    from m3etl.stages.chain import grow_campaign, start_campaign

    config = existing_config(settings.directory)
    source = source_of(ee_url, ee_project, archive)
    recorded = config.earthengine
    split = _split_options(options)
    config = replace(
        config,
        sample=replace(config.sample, **_sample_options(**options)),
        split=replace(config.split, **split),
        earthengine=replace(
            recorded,
            url=source.url or recorded.url,
            project=source.project or recorded.project,
            archive=source.archive or recorded.archive,
        ),
    )
    if config.sample.strategy == "points" and not config.sample.points:
        raise click.UsageError("--strategy points needs --points FILE")
    if add:
        _check_addition(config.sample.strategy, options)
        _campaign, summary = grow_campaign(
            settings.directory, config, words=_words(options), ecoregions=ecoregions, progress=make_progress()
        )
    else:
        _campaign, summary = start_campaign(settings.directory, config, ecoregions=ecoregions, progress=make_progress())
    write_summaries(settings, [summary])


def _sample_options(
    biomes: str | None, points: Path | None, exclude: tuple[str, ...] = (), **options: Any
) -> dict[str, Any]:
    """The options that were given, by the names of the configuration."""
    from m3etl.spec.biomes import parse_biomes

    given = {name: value for name, value in options.items() if value is not None}
    if biomes is not None:
        given["biomes"] = parse_biomes(biomes)
    if points is not None:
        if given.setdefault("strategy", "points") != "points":
            raise click.UsageError(f"--points belongs to --strategy points, not to {given['strategy']}")
        given["points"] = str(points.resolve())
    if exclude:
        given["exclude"] = tuple(_resolved(name) for name in exclude)
    return given


def _split_options(options: dict[str, Any]) -> dict[str, Any]:
    """Takes the options of splits out of `options`; those that were given, by the names of the configuration."""
    by, hold_out, fractions, file, buffer_km = (
        options.pop(name) for name in ("split_by", "hold_out", "split_fractions", "split_file", "buffer_km")
    )
    given: dict[str, Any] = {}
    if hold_out:
        by, given["hold_out"] = by or "region", tuple(_resolved(name) for name in hold_out)
    if file is not None:
        by, given["file"] = by or "points", str(file.resolve())
    if by is not None:
        given["by"] = by
    if fractions is None and by == "bands":
        fractions = (0.6, 0.2, 0.2)
    if fractions is not None:
        given.update(zip(("train", "val", "test"), fractions, strict=True))
    if buffer_km is not None:
        given["buffer_km"] = buffer_km
    return given


def _check_addition(strategy: str, options: dict[str, Any]) -> None:
    """Says what an addition must name, so that nothing is added by accident."""
    needed = {"biome": "chips", "grid": "region", "points": "points"}.get(strategy, "chips")
    if options[needed] is None:
        raise click.UsageError(f"--add to a plan of strategy {strategy} needs --{needed}")


def _words(options: dict[str, Any]) -> str:
    """The request as it could be typed again."""
    words = []
    for name, value in options.items():
        for item in value if isinstance(value, tuple) and name == "exclude" else (value,):
            if item is not None and item is not False:
                flag = "--" + {"spacing_m": "spacing"}.get(name, name.replace("_", "-"))
                text = ":".join(map(str, item)) if isinstance(item, tuple) else str(item)
                words += [flag] if item is True else [flag, text]
    return shlex.join(words)


def _resolved(name: str) -> str:
    """A path that holds wherever the command is run from; the name of a shipped region stays."""
    return str(Path(name).resolve()) if Path(name).exists() else name
