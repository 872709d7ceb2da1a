"""How an array that needs no code of its own is made from an Earth Engine asset: which images, which pixels of them,
reduced how over which periods. Said in a declaration (of the package or of a user's TOML file), run by `io.programs`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

seasons = {"DJF": (12, 2), "MAM": (3, 5), "JJA": (6, 8), "SON": (9, 11)}
months = {f"{month:02d}": (month, month) for month in range(1, 13)}
periods = {**seasons, **months}
reducer_names = ("mosaic", "first", "mean", "median", "mode", "min", "max", "sum", "std", "count")
_percentile = re.compile(r"p(\d{1,2})")


def is_reducer(name: str) -> bool:
    """Whether a reducer has this name."""
    return name in reducer_names or _percentile.fullmatch(name) is not None


class Comparison(StrEnum):
    """How a property of an image is compared."""

    EQUALS = "equals"
    NOT_EQUALS = "not_equals"
    AT_LEAST = "at_least"
    AT_MOST = "at_most"
    CONTAINS = "contains"  # the property is a list
    ONE_OF = "one_of"


class Window(StrEnum):
    """Which images belong to a chip, by time."""

    STATIC = "static"  # all of them: tiles of one map
    NEAREST = "nearest"  # the acquisition nearest to the anchor within `max_gap_days`
    YEAR = "year"  # the anchor's calendar year
    SEASONS = "seasons"  # four seasons, December of the year before to November of the anchor's year


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Images whose property compares so are used."""

    property: str
    comparison: Comparison
    value: str | float | tuple[str | float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """Pixels that are not used, by a band: where any of `bits` is set, or the value is one of `values`, or outside
    [at_least, at_most].
    """

    band: str
    bits: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One stored band: a source band, how many images of a pixel become one, and of which season or month.

    period: "" for all images, DJF, MAM, JJA, SON, or 01 to 12.
    """

    name: str
    band: str
    reducer: str = "mosaic"
    period: str = ""

    @property
    def percentile(self) -> int | None:
        """The percentile that the reducer names (p05, p50 ...), None for the others."""
        found = _percentile.fullmatch(self.reducer)
        return int(found.group(1)) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The images of a collection (or the one image) and what is made of them.

    no_data: values that mean "nothing observed" in the band that has them; masks apply to all bands.
    source_scale, source_offset: physical = source x scale + offset. decibel: the source is in dB; pixels are resampled
    and reduced in linear power and stored in dB again (counts stay counts).
    """

    outputs: tuple[Output, ...]
    is_collection: bool = True
    window: Window = Window.STATIC
    filters: tuple[Filter, ...] = ()
    masks: tuple[Mask, ...] = ()
    no_data: tuple[float, ...] = ()
    source_scale: float = 1.0
    source_offset: float = 0.0
    decibel: bool = False

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Program:
        """The inverse of `dataclasses.asdict`, lists for tuples."""
        values = dict(data)
        values["outputs"] = tuple(Output(**item) for item in values["outputs"])
        values["filters"] = tuple(
            Filter(
                property=item["property"],
                comparison=Comparison(item["comparison"]),
                value=tuple(item["value"]) if isinstance(item["value"], list) else item["value"],
            )
            for item in values.get("filters", ())
        )
        values["masks"] = tuple(
            Mask(**{**item, "bits": tuple(item.get("bits", ())), "values": tuple(item.get("values", ()))})
            for item in values.get("masks", ())
        )
        values["no_data"] = tuple(values.get("no_data", ()))
        if "window" in values:
            values["window"] = Window(values["window"])
        return cls(**values)

    @property
    def bands(self) -> tuple[str, ...]:
        """Source bands that are read, each once."""
        return tuple(dict.fromkeys(output.band for output in self.outputs))

    def problems(self) -> Iterator[str]:
        """What can't be: said in full, so that a file is mended once."""
        for output in self.outputs:
            if not is_reducer(output.reducer):
                known = ", ".join(reducer_names)
                yield f"band {output.name}: unknown reducer {output.reducer!r} (known: {known}, p00 to p99)"
            if output.period and output.period not in periods:
                yield f"band {output.name}: unknown period {output.period!r} (known: {', '.join(periods)})"
            if output.period in seasons and self.window is not Window.SEASONS:
                yield f"band {output.name}: the season {output.period} needs the window 'seasons'"
            if output.period in months and self.window is not Window.YEAR:
                yield f"band {output.name}: the month {output.period} needs the window 'year'"
            if output.reducer == "mosaic" and self.window in (Window.YEAR, Window.SEASONS):
                yield f"band {output.name}: many images of a {self.window.value} need a reducer, mosaic would hide them"
        if not self.outputs:
            yield "a program needs at least one band"
        if not self.is_collection and (self.filters or self.window is not Window.STATIC):
            yield "a single image has no filters and no window in time"
        if not self.source_scale:
            yield "source_scale must not be 0"
        for mask in self.masks:
            if not (mask.bits or mask.values or mask.at_least is not None or mask.at_most is not None):
                yield f"the mask of band {mask.band} names neither bits, values nor limits"
            if any(not 0 <= bit < 32 for bit in mask.bits):
                yield f"the mask of band {mask.band} has bits outside 0 to 31"


def seasonal(bands: tuple[str, ...], reducers: tuple[str, ...]) -> tuple[Output, ...]:
    """Outputs named SEASON_band_reducer for the four seasons."""
    return _periodic(tuple(seasons), bands, reducers)


def monthly(bands: tuple[str, ...], reducers: tuple[str, ...]) -> tuple[Output, ...]:
    """Outputs named MM_band_reducer for the twelve months."""
    return _periodic(tuple(months), bands, reducers)


def _periodic(names: tuple[str, ...], bands: tuple[str, ...], reducers: tuple[str, ...]) -> tuple[Output, ...]:
    return tuple(
        Output(name=f"{period}_{band}_{reducer}", band=band, reducer=reducer, period=period)
        for period in names
        for band in bands
        for reducer in reducers
    )
