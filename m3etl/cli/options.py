"""What commands share: the settings of the group and the options that say where the data comes from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
first_year, last_year = 1980, 2100


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Options of the group. directory: the campaign's; url: a published data set in place of it, "" without one;
    as_json: one JSON document instead of tables.
    """

    directory: Path
    url: str = ""
    as_json: bool = False
    verbose: bool = False


class CampaignPlace(click.Path):
    """A directory, or the URL of a published data set, which has "://" in it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A URL stays text; everything else is a path."""
        return value if isinstance(value, str) and "://" in value else super().convert(value, param, ctx)


class FiniteRange(click.FloatRange):
    """A number within bounds; NaN, which is within any bounds for Click, and infinity are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, param, ctx)
        return number if math.isfinite(number) else self.fail(f"{value} is no finite number.", param, ctx)


def earthengine_options(function: F) -> F:
    """Add --ee-url, --ee-project and --archive, each with its environment variable."""
    options = (
        click.option(
            "--ee-url",
            envvar="M3ETL_EE_URL",
            metavar="URL",
            default=None,
            help="Earth Engine to use: `embedded`, or a URL. Default: the real service.  [env: M3ETL_EE_URL]",
        ),
        click.option(
            "--ee-project",
            envvar="M3ETL_EE_PROJECT",
            metavar="PROJECT",
            default=None,
            help="Cloud project that is registered for Earth Engine.  [env: M3ETL_EE_PROJECT]",
        ),
        click.option(
            "--archive",
            envvar="M3ETL_ARCHIVE",
            metavar="DIR",
            default=None,
            help="Directory with archive.jsonl: real rasters for the embedded Earth Engine.  [env: M3ETL_ARCHIVE]",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def scheduler_option(function: F) -> F:
    """Add --scheduler."""
    return click.option(
        "--scheduler",
        metavar="ADDRESS",
        default="",
        help="Dask scheduler whose workers do it, one shard at a time, such as tcp://10.0.0.1:8786. They need this "
        "version of m3etl and the campaign at the same path. Default: threads here.",
    )(function)


def parse_years(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """`2017:2020` or `2019` as an inclusive pair of years."""
    if text is None:
        return None
    first, colon, last = text.partition(":")
    try:
        years = int(first), int(last if colon else first)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not FIRST:LAST, for example 2017:2020") from None
    if years[0] > years[1]:
        raise click.BadParameter(f"{text!r} is not an ascending pair of years")
    if years[0] < first_year or years[1] > last_year:
        raise click.BadParameter(f"{text!r} is not within {first_year}:{last_year}")
    return years
