"""What an array of the data set is: the declaration from which export, dtype, fill, resampling, statistics, heads,
losses, evaluation labels, cards and docs all follow."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from m3etl.errors import InputError
from m3etl.spec.program import Program

hook_prefix = "hook:"  # of the recipe of an array that a function of the user's own makes: hook:module:function


class Shape(StrEnum):
    """Whether a chip has a picture or a list of numbers."""

    RASTER = "raster"
    VECTOR = "vector"


class Values(StrEnum):
    """What the numbers are; decides statistics, normalisation, head and loss."""

    CONTINUOUS = "continuous"
    CLASSES = "classes"
    CYCLIC = "cyclic"


class Resampling(StrEnum):
    """How a source pixel becomes a stored pixel."""

    BILINEAR = "bilinear"
    BILINEAR_LINEAR_POWER = "bilinear in linear power"
    NEAREST = "nearest"
    NONE = "none"


class Temporal(StrEnum):
    """Which time of the source belongs to a chip; the anchor is the chosen Sentinel-2 scene."""

    ANCHOR = "anchor"  # the anchor scene itself, or the product of the same acquisition
    NEAREST = "nearest"  # the image nearest in time to the anchor within `max_gap_days`
    YEAR = "year"  # every image of the anchor's calendar year
    SEASONS = "seasons"  # every image from December before the anchor's year to November of it
    MONTHS = "months"  # the anchor's month, the one before, and the 12 months that end with the anchor's
    DATES = "dates"  # a scene of each season of the anchor's year, or the image nearest to it within `max_gap_days`
    STATIC = "static"  # a map of one fixed year
    PLACE = "place"  # follows from the location
    TIME = "time"  # follows from the anchor's date


class Transform(StrEnum):
    """How physical values are brought to unit scale for a network."""

    ZSCORE = "z-score"
    ROBUST = "robust"  # (x - median) / (interquartile range / 1.349)
    MINMAX = "min-max"  # percentiles 1 and 99 to [0, 1]
    LOG_ZSCORE = "log z-score"  # z-score of log(1 + x / median)
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCode:
    """One class of a map: the code as stored, its name and a colour for pictures (#rrggbb)."""

    code: int
    name: str
    color: str = "#808080"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """One array of the store. physical = stored * scale + offset; `fill` is stored where nothing was observed.

    bands: names of bands (raster) or features (vector), in stored order; consumers select by name, never by position.
    periods: names of the seasons, months or dates that each have all of the array's `band_names`; empty for most. With
    them `bands` are PERIOD_BAND, period by period, which is how statistics name them; only the store's axes and what
    readers hand out know the two apart.
    dtype: numpy name of the stored type. fill: an integer that is no valid value, or None for NaN (floats).
    valid_min, valid_max: physical range; what lies outside is clamped into it when exported.
    native_gsd_m: metres of a source pixel. source: Earth Engine asset ids. recipe: name of the function in `io.recipes`
    that builds it. classes: the code table; class_limit: number of codes [0, n) where the table is a data set
    of its own.
    statistics: "clear" leaves out cloudy pixels, "valid" takes all observed ones. target: may be a pretext target.
    label_family: arrays of one family say the same thing; none is a pretext target of an encoder probed on another.
    program: what the recipe "program" does; None for recipes with code of their own.
    """

    name: str
    modality: str
    title: str
    shape: Shape
    values: Values
    bands: tuple[str, ...]
    dtype: str
    fill: int | None
    units: str
    source: tuple[str, ...]
    recipe: str
    temporal: Temporal
    license: str
    scale: float = 1.0
    offset: float = 0.0
    valid_min: float = -math.inf
    valid_max: float = math.inf
    native_gsd_m: float = 0.0
    resampling: Resampling = Resampling.NONE
    transform: Transform = Transform.ZSCORE
    classes: tuple[ClassCode, ...] = ()
    class_limit: int = 0
    statistics: str = "valid"
    max_gap_days: float = math.inf
    target: bool = True
    label_family: str = ""
    notice: str = ""
    program: Program | None = None
    periods: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise InputError(f"array {self.name!r} is declared wrongly: " + "; ".join(problems))

    def _problems(self) -> list[str]:
        if not self.scale > 0:
            return [f"scale must be positive, found {self.scale}"]
        found = []
        dtype = np.dtype(self.dtype)
        if len(set(self.bands)) != len(self.bands) or not self.bands:
            found.append(f"bands must be unique and at least one, found {self.bands}")
        if self.periods:
            found += self._problems_of_periods()
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            if self.fill is None:
                found.append(f"an integer array ({self.dtype}) needs a fill value")
            elif not limits.min <= self.fill <= limits.max:
                found.append(f"fill {self.fill} does not fit {self.dtype}")
            elif self.fill in {item.code for item in self.classes}:
                found.append(f"fill {self.fill} is also the code of a class")
            elif _beyond(self.stored_min, limits.min, -1) or _beyond(self.stored_max, limits.max, 1):
                found.append(
                    f"{self.dtype} cannot hold [{self.valid_min}, {self.valid_max}] in steps of {self.scale:g}: set "
                    "valid_min and valid_max, or another dtype"
                )
            elif self.stored_min <= self.fill <= self.stored_max:
                found.append(f"fill {self.fill} is a valid value of [{self.valid_min}, {self.valid_max}]")
        elif self.fill is not None:
            found.append(f"a float array ({self.dtype}) uses NaN, not fill {self.fill}")
        if self.shape is Shape.RASTER and self.native_gsd_m <= 0:
            found.append("a raster needs native_gsd_m")
        if self.values is Values.CLASSES and not (self.classes or self.class_limit):
            found.append("classes need a code table or class_limit")
        if self.classes and len({item.code for item in self.classes}) != len(self.classes):
            found.append("two classes have the same code")
        if (self.program is not None) != (self.recipe == "program" or self.recipe.startswith(hook_prefix)):
            found.append("the recipe 'program' (or a hook) and a program go together")
        if self.program is not None:
            found += self.program.problems()
            if tuple(output.name for output in self.program.outputs) != self.bands:
                found.append(f"bands {self.bands} are not those of the program")
        return found

    def _problems_of_periods(self) -> list[str]:
        if self.shape is Shape.VECTOR:
            return ["a vector has no periods"]
        if len(set(self.periods)) != len(self.periods):
            return [f"periods must be unique, found {self.periods}"]
        if self.bands != names_by_period(self.periods, self.band_names):
            return [f"bands must be PERIOD_BAND, all of each period in turn, for {self.periods}; found {self.bands}"]
        return []

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the bands that each period has; `bands` for an array without periods."""
        if not self.periods:
            return self.bands
        return tuple(name.removeprefix(f"{self.periods[0]}_") for name in self.bands[: self.bands_of_period])

    @property
    def bands_of_period(self) -> int:
        """Number of `band_names`."""
        return len(self.bands) // max(1, len(self.periods))

    @property
    def stored_min(self) -> float:
        """Smallest stored number that is a value; -inf without a lower limit."""
        return (self.valid_min - self.offset) / self.scale

    @property
    def stored_max(self) -> float:
        """Largest stored number that is a value; inf without an upper limit."""
        return (self.valid_max - self.offset) / self.scale

    @property
    def class_count(self) -> int:
        """Number of classes a head needs; 0 where values are not classes."""
        if self.values is not Values.CLASSES:
            return 0
        return len(self.classes) or self.class_limit

    def pixels(self, chip_m: float) -> int:
        """Pixels a side of one chip: max(1, round(chip metres / native metres)); a coarse layer is stored coarse."""
        if self.shape is Shape.VECTOR:
            raise ValueError(f"{self.name} is a vector and has no pixels")
        return max(1, round(chip_m / self.native_gsd_m))

    def chip_shape(self, chip_m: float) -> tuple[int, ...]:
        """Shape of one chip of this array: (band, y, x) or (feature,); the bands of all periods one after the other."""
        if self.shape is Shape.VECTOR:
            return (len(self.bands),)
        side = self.pixels(chip_m)
        return (len(self.bands), side, side)

    def with_periods(self, shape: Sequence[int]) -> tuple[int, ...]:
        """`shape`, which ends with (band, y, x), with the axis of the periods: (..., period, band, y, x).

        The same memory in the same order; unchanged for an array without periods.
        """
        if not self.periods:
            return tuple(shape)
        return (*shape[:-3], len(self.periods), self.bands_of_period, *shape[-2:])

    def selected(self, bands: Sequence[str] | None = None, periods: Sequence[str] | None = None) -> ArraySpec:
        """The declaration with these of its `band_names` and periods only, in this order (None: all of them)."""
        names = self.band_names if bands is None else tuple(bands)
        kept = self.periods if periods is None else tuple(periods)
        flat = names_by_period(kept, names) if self.periods else names
        program = self.program
        if program is not None:
            made = {output.name: output for output in program.outputs}
            program = replace(program, outputs=tuple(made[name] for name in flat))
        return replace(self, bands=flat, periods=kept, program=program)

    def fill_value(self) -> Any:
        """The fill as a scalar of the stored dtype."""
        return np.dtype(self.dtype).type(np.nan if self.fill is None else self.fill)

    def digest(self) -> str:
        """sha256 over the declaration: a changed declaration is another array."""
        declared = {name: value for name, value in asdict(self).items() if value or name not in ("program", "periods")}
        text = json.dumps(declared, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def names_by_period(periods: Sequence[str], bands: Sequence[str]) -> tuple[str, ...]:
    """PERIOD_BAND of every band of every period, period by period."""
    return tuple(f"{period}_{band}" for period in periods for band in bands)


def _beyond(limit: float, of_dtype: float, sign: int) -> bool:
    return math.isfinite(limit) and sign * (limit - of_dtype) > 1e-6


def valid_of(spec: ArraySpec, stored: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where `stored` (any shape, the array's dtype) holds an observation rather than fill."""
    valid = ~np.isnan(stored) if spec.fill is None else stored != spec.fill
    return np.asarray(valid, dtype=np.bool_)


def physical_of(spec: ArraySpec, stored: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """`stored` in physical units as float64, NaN where nothing was observed."""
    physical = stored.astype(np.float64) * spec.scale + spec.offset
    physical[~valid_of(spec, stored)] = np.nan
    return physical
