"""The ways to split a plan: by equal-area blocks, by angled bands, by ecoregion, or with whole regions held out.

Every way is a function of a chip's place alone, so a chip's split never changes when a plan grows. Chips near ground of
another split are `buffer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from m3etl.spec.hashing import hashed_uniform
from m3etl.spec.nearness import Outline, outline_of
from m3etl.spec.splits import SplitRule, buffer, split_of_lonlat, test, train, val

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int8]
Geometries = npt.NDArray[np.object_]

split_modes: tuple[str, ...] = ("block", "bands", "ecoregion", "region", "points")
_km_per_degree = 110.57  # of latitude, at its shortest; those of longitude at the equator are longer


class Splits(Protocol):
    """One way to split."""

    def codes(self, lon: Floats, lat: Floats, eco_id: Integers, chip_m: float) -> Codes:
        """Index into `split_names` of each chip, from its centre and ecoregion (-1 none); (N,) each."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSplits:
    """Random equal-area blocks, see `m3etl.spec.splits`."""

    rule: SplitRule

    def codes(self, lon: Floats, lat: Floats, eco_id: Integers, chip_m: float) -> Codes:
        return split_of_lonlat(self.rule, lon, lat, chip_m)


@dataclass(frozen=True, slots=True, kw_only=True)
class BandSplits:
    """Straight bands across a region, as M3LEO makes them with geetiles, and a buffer between them.

    Longitude and latitude are each scaled to [0, 1] over the region's outline and projected on the direction of
    `angle` (radians in that scaled plane, within +-pi/2: 0 gives bands along parallels, pi/2 along meridians). The
    range of the region is cut into `bands` equal steps, which get the splits of `pattern` in turn. 60, 20 and 20 % are
    the pattern train, train, train, test, val.
    """

    bounds_lonlat: tuple[float, float, float, float]
    span: tuple[float, float]
    weights: tuple[float, float]
    bands: int
    pattern: tuple[int, ...]
    buffer_km: float

    def codes(self, lon: Floats, lat: Floats, eco_id: Integers, chip_m: float) -> Codes:
        place = self._place(lon, lat)
        own = self._code_of_band(place)
        if self.buffer_km == 0.0:
            return own
        reach_km = self.buffer_km + float(np.sqrt(0.5)) * chip_m / 1000.0
        reach = reach_km * self._steepest(lat, reach_km)
        change = np.concatenate([[0], np.cumsum(np.diff(self._codes_of_bands()) != 0)])
        near = change[self._band(place - reach)] != change[self._band(place + reach)]
        if self.weights[0] != 0.0 and self.bounds_lonlat[2] - self.bounds_lonlat[0] > 359.0:
            # The two ends of a region round the globe meet at the antimeridian.
            away_km = (180.0 - np.abs(lon)) * _km_per_degree * np.cos(np.radians(lat))
            near |= away_km < reach_km
        return np.where(near, np.int8(buffer), own)

    def width_km(self) -> float:
        """Width of a band where it is narrowest in the region."""
        worst = max((self.bounds_lonlat[1], self.bounds_lonlat[3]), key=abs)
        steepest = self._steepest(np.asarray([worst]), 0.0)[0]
        return float((self.span[1] - self.span[0]) / self.bands / steepest)

    def _place(self, lon: Floats, lat: Floats) -> Floats:
        west, south, east, north = self.bounds_lonlat
        return np.asarray(
            self.weights[0] * (lon - west) / (east - west) + self.weights[1] * (lat - south) / (north - south)
        )

    def _steepest(self, lat: Floats, reach_km: float) -> Floats:
        """How fast the place changes at most within `reach_km` of a point, per km."""
        west, south, east, north = self.bounds_lonlat
        farthest = np.minimum(np.abs(lat) + reach_km / _km_per_degree, 89.0)
        along_lon = self.weights[0] / (east - west) / (_km_per_degree * np.cos(np.radians(farthest)))
        return np.hypot(along_lon, self.weights[1] / (north - south) / _km_per_degree)

    def _band(self, place: Floats) -> Integers:
        low, high = self.span
        return np.clip(np.floor((place - low) / (high - low) * self.bands), 0, self.bands - 1).astype(np.int64)

    def _codes_of_bands(self) -> Codes:
        return np.resize(np.asarray(self.pattern, dtype=np.int8), self.bands)

    def _code_of_band(self, place: Floats) -> Codes:
        return self._codes_of_bands()[self._band(place)]


@dataclass(frozen=True, slots=True, kw_only=True)
class EcoregionSplits:
    """Whole ecoregions by chance. Chips without an ecoregion (sea, ice) belong to no split and are `buffer`.

    `outlines`: the outlines of the ecoregions of train, val and test.
    """

    seed: int
    fractions: tuple[float, float, float]
    buffer_km: float
    outlines: tuple[Outline, Outline, Outline]

    def codes(self, lon: Floats, lat: Floats, eco_id: Integers, chip_m: float) -> Codes:
        own = split_of_ecoregion(self.seed, self.fractions, eco_id)
        result = np.where(eco_id < 0, np.int8(buffer), own)
        if self.buffer_km == 0.0:
            return result
        # Ecoregions of two splits can lie across a strait, so each chip keeps its whole diagonal away.
        reach_km = self.buffer_km + float(np.sqrt(2.0)) * chip_m / 1000.0
        for code, outline in enumerate(self.outlines):
            others = np.flatnonzero((result != buffer) & (own != code))
            result[others[outline.near(lon[others], lat[others], reach_km)]] = buffer
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutSplits:
    """Chips in the held-out regions are test, all others train or val by block; chips close to the regions `buffer`."""

    regions: tuple[BaseGeometry, ...]
    blocks: SplitRule
    outline: Outline

    def codes(self, lon: Floats, lat: Floats, eco_id: Integers, chip_m: float) -> Codes:
        held = np.zeros(len(lon), dtype=bool)
        for region in self.regions:
            held |= np.asarray(shapely.contains_xy(region, lon, lat), dtype=bool)
        codes = np.where(held, np.int8(test), split_of_lonlat(self.blocks, lon, lat, chip_m))
        if self.blocks.buffer_km > 0.0:
            reach_km = self.blocks.buffer_km + float(np.sqrt(2.0)) * chip_m / 1000.0
            outside = np.flatnonzero(~held)
            codes[outside[self.outline.near(lon[outside], lat[outside], reach_km)]] = buffer
        return codes


def band_splits(
    region: BaseGeometry, *, bands: int, angle: float, fractions: tuple[float, float, float], buffer_km: float
) -> BandSplits:
    """Bands across the region's outline. Raises ValueError that lists every problem."""
    problems = []
    if not 2 <= bands <= 10_000:
        problems.append(f"bands must be within 2 and 10000, not {bands}")
    if not -np.pi / 2 <= angle <= np.pi / 2:
        problems.append(f"the angle must be within +-pi/2, not {angle:g}")
    problems += fraction_problems(fractions)
    if not 0.0 <= buffer_km <= 100.0:
        problems.append(f"buffer_km must be within 0 and 100, not {buffer_km:g}")
    if problems:
        raise ValueError("; ".join(problems))
    weights = _direction(angle)
    west, south, east, north = region.bounds
    corner = shapely.get_coordinates(region)
    place = weights[0] * (corner[:, 0] - west) / (east - west) + weights[1] * (corner[:, 1] - south) / (north - south)
    return BandSplits(
        bounds_lonlat=(west, south, east, north),
        span=(float(place.min()), float(place.max())),
        weights=weights,
        bands=bands,
        pattern=_pattern(fractions),
        buffer_km=buffer_km,
    )


def ecoregion_splits(
    eco_id: Integers, geometry: Geometries, *, seed: int, fractions: tuple[float, float, float], buffer_km: float
) -> EcoregionSplits:
    """Splits by ecoregion from whole polygons, one row per id or several. Raises ValueError for wrong fractions."""
    problems = fraction_problems(fractions)
    if not 0.0 <= buffer_km <= 100.0:
        problems.append(f"buffer_km must be within 0 and 100, not {buffer_km:g}")
    if problems:
        raise ValueError("; ".join(problems))
    code = split_of_ecoregion(seed, fractions, eco_id)
    outlines = tuple(outline_of(geometry[code == number].tolist()) for number in (train, val, test))
    return EcoregionSplits(
        seed=seed, fractions=fractions, buffer_km=buffer_km, outlines=(outlines[0], outlines[1], outlines[2])
    )


def held_out_splits(
    regions: Sequence[BaseGeometry],
    *,
    seed: int,
    block_km: float,
    fractions: tuple[float, float, float],
    buffer_km: float,
) -> HeldOutSplits:
    """Splits that hold `regions` out for test; train and val keep their proportion. Raises ValueError."""
    problems = fraction_problems(fractions)
    rest = fractions[train] + fractions[val]
    if not regions:
        problems.append("no region to hold out is named")
    if not problems and rest <= 0:
        problems.append("the fractions leave nothing for train and val")
    if problems:
        raise ValueError("; ".join(problems))
    share = fractions[train] / rest
    return HeldOutSplits(
        regions=tuple(regions),
        blocks=SplitRule(seed=seed, block_km=block_km, fractions=(share, 1.0 - share, 0.0), buffer_km=buffer_km),
        outline=outline_of(regions),
    )


def split_of_ecoregion(seed: int, fractions: tuple[float, float, float], eco_id: Integers) -> Codes:
    """train, val or test for each ecoregion id; depends on seed and id alone."""
    uniform = hashed_uniform(seed, "split-ecoregion", eco_id)
    later = np.where(uniform < fractions[train] + fractions[val], np.int8(val), np.int8(test))
    return np.where(uniform < fractions[train], np.int8(train), later)


def fraction_problems(fractions: tuple[float, float, float]) -> list[str]:
    """What is wrong with fractions of train, val and test; nothing where they add up to one."""
    if min(fractions) < 0 or abs(sum(fractions) - 1.0) > 1e-9:
        return [f"the fractions train, val, test must not be negative and add up to 1, not {fractions}"]
    return []


def _direction(angle: float) -> tuple[float, float]:
    """Weights of longitude and latitude as in geetiles; the larger one is always 1."""
    quarter = np.pi / 4
    if abs(angle) <= quarter:
        return float(angle / quarter), 1.0
    return float(np.sign(angle)), float((np.pi / 2 - abs(angle)) / quarter)


def _pattern(fractions: tuple[float, float, float]) -> tuple[int, ...]:
    """Splits of consecutive bands: as often as the smallest fraction goes into each; train, then test, then val."""
    smallest = min(share for share in fractions if share > 0)
    return tuple(code for code in (train, test, val) for _ in range(round(fractions[code] / smallest)))
