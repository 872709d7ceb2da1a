"""Which scenes a chip is made of: the anchor among scored Sentinel-2 scenes, the nearest Sentinel-1 pass, climate
windows.

Times are milliseconds since 1970 (UTC); fractions are over the chip. Nothing here talks to the service.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from m3etl.spec.hashing import stream

day_ms = 86_400_000
pass_window_ms = 60_000  # slices of one Sentinel-1 pass follow each other within seconds
climate_bands = ("temperature_2m", "temperature_2m_min", "temperature_2m_max", "total_precipitation_sum")
Months = Mapping[tuple[int, int], Sequence[float | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One Sentinel-2 scene as scored over a chip. rank: position by the granule's own cloud percentage; cloud: None
    where unknown.
    """

    level: str
    scene_id: str
    index: str
    time_ms: int
    rank: int
    valid: float
    cloud: float | None
    has_cloud_score: bool = False
    license: str = ""
    synthetic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PassImage:
    """One Sentinel-1 image near a chip. orbit: relative orbit number, -1 where unknown; coverage: share of the chip
    observed.
    """

    scene_id: str
    time_ms: int
    orbit: int
    polarisations: tuple[str, ...]
    coverage: float
    license: str = ""
    synthetic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorRule:
    """How an anchor is chosen: rule `random` among the good or `best`; a good scene has cloud <= max_cloud and valid
    >= min_valid.
    """

    rule: str
    max_cloud: float
    min_valid: float
    seed: int


def choose_anchor(candidates: Sequence[Candidate], rule: AnchorRule, chip_id: str) -> Candidate | None:
    """A good scene, drawn by (seed, chip) or the clearest; scenes of unknown cloud come last; None where none is
    good.
    """
    good = [item for item in candidates if is_good(item, rule) and item.cloud is not None]
    if not good:
        return min((item for item in candidates if is_good(item, rule)), key=_quality, default=None)
    if rule.rule == "best":
        return min(good, key=_quality)
    ordered = sorted(good, key=lambda item: (item.time_ms, item.scene_id))
    return ordered[int(stream(rule.seed, f"anchor {chip_id}").integers(len(ordered)))]


def choose_nearest(candidates: Sequence[Candidate], rule: AnchorRule, wish_ms: int) -> Candidate | None:
    """The good scene nearest in time to the wished moment; level 2A at a tie."""
    good = [item for item in candidates if is_good(item, rule)]
    return min(
        good,
        key=lambda item: (abs(item.time_ms - wish_ms), item.level != "l2a", _quality(item), item.scene_id),
        default=None,
    )


def best_available(candidates: Sequence[Candidate]) -> Candidate | None:
    """The scene that shows most of the chip clear, good or not, unknown cloud last; None where none shows anything."""

    def order(item: Candidate) -> tuple[bool, float, tuple[float, float, bool, int, str]]:
        return item.cloud is None, -round(item.valid * (1 - (item.cloud or 0.0)), 6), _quality(item)

    return min((item for item in candidates if item.valid > 0), key=order, default=None)


def is_good(candidate: Candidate, rule: AnchorRule) -> bool:
    """Whether a scene passes the thresholds; unknown cloud passes (and ranks last)."""
    cloud_ok = candidate.cloud is None or candidate.cloud <= rule.max_cloud
    return cloud_ok and candidate.valid >= rule.min_valid and candidate.valid > 0


def _quality(item: Candidate) -> tuple[float, float, bool, int, str]:
    return (math.inf if item.cloud is None else item.cloud, -item.valid, item.level != "l2a", item.rank, item.scene_id)


def year_order(preferred: int, years: tuple[int, int], seed: int, chip_id: str) -> tuple[int, ...]:
    """The preferred year, then the others of [first, last] in an order drawn by (seed, chip)."""
    others = [year for year in range(years[0], years[1] + 1) if year != preferred]
    return (preferred, *(others[item] for item in stream(seed, f"years {chip_id}").permutation(len(others)).tolist()))


def same_acquisition(candidates: Iterable[Candidate], index: str) -> Candidate | None:
    """The scene of the same acquisition (equal index) where it shows the chip: only that one lies under the anchor's
    cloud mask.
    """
    return next((item for item in candidates if item.index == index and item.valid > 0), None)


def choose_pass(
    images: Sequence[PassImage], anchor_ms: int, *, max_gap_days: float, min_coverage: float
) -> tuple[PassImage, ...]:
    """The images of the pass nearest in time to the anchor that covers the chip, in order of time; () where there is
    none.

    Images of one orbit within 60 s are one pass. Where no pass reaches `min_coverage`, the one that covers most is
    taken.
    """
    near = [item for item in images if abs(item.time_ms - anchor_ms) <= max_gap_days * day_ms and item.coverage > 0]
    passes = _grouped(near)
    if not passes:
        return ()

    def gap(group: Sequence[PassImage]) -> int:
        return min(abs(item.time_ms - anchor_ms) for item in group)

    def coverage(group: Sequence[PassImage]) -> float:
        return min(1.0, sum(item.coverage for item in group))

    covering = [group for group in passes if coverage(group) >= min_coverage]
    chosen = covering or passes
    first = min(
        range(len(chosen)),
        key=lambda item: (
            0.0 if covering else -round(coverage(chosen[item]), 3),
            gap(chosen[item]),
            chosen[item][0].scene_id,
        ),
    )
    return tuple(chosen[first])


def _grouped(images: Sequence[PassImage]) -> list[list[PassImage]]:
    groups: list[list[PassImage]] = []
    for item in sorted(images, key=lambda item: (item.orbit, item.time_ms, item.scene_id)):
        last = groups[-1] if groups else None
        if last and last[-1].orbit == item.orbit and item.time_ms - last[-1].time_ms <= pass_window_ms:
            last.append(item)
        else:
            groups.append([item])
    return groups


def months_until(year: int, month: int) -> tuple[tuple[int, int], ...]:
    """The 12 months that end with (year, month), oldest first; never 13."""
    last = year * 12 + month - 1
    return tuple((item // 12, item % 12 + 1) for item in range(last - 11, last + 1))


def climate_features(months: Months, year: int, month: int) -> dict[str, float | None]:
    """`<band>_<window>` of ERA5's monthly values over the previous month, the month and the 12 months that end with it.

    Year: mean of means, minimum of minima, maximum of maxima, sum of precipitation; None where a month of the window
    is missing.
    """
    window = months_until(year, month)
    features: dict[str, float | None] = {}
    for column, band in enumerate(climate_bands):
        values = [_value(months, item, column) for item in window]
        features[f"{band}_previous_month"] = values[-2]
        features[f"{band}_month"] = values[-1]
        known = [value for value in values if value is not None]
        features[f"{band}_year"] = _yearly[band](known) if len(known) == len(window) else None
    return features


def _value(months: Months, month: tuple[int, int], column: int) -> float | None:
    row = months.get(month)
    value = None if row is None else row[column]
    if value is None or not math.isfinite(value):
        return None
    # Sums of ERA5-Land's packed hours come out a little below zero where no rain fell.
    return max(0.0, float(value)) if climate_bands[column] == "total_precipitation_sum" else float(value)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


_yearly: Mapping[str, Callable[[Sequence[float]], float]] = {
    "temperature_2m": _mean,
    "temperature_2m_min": min,
    "temperature_2m_max": max,
    "total_precipitation_sum": math.fsum,
}


def utc_text(time_ms: float) -> str:
    """ISO 8601 in UTC with whole milliseconds where there are any, e.g. 2020-04-08T14:37:29Z."""
    moment = datetime.fromtimestamp(round(time_ms) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds" if round(time_ms) % 1000 else "seconds").replace("+00:00", "Z")


def utc_ms(text: str) -> int:
    """The inverse of `utc_text`; also reads plain dates (as their noon, the middle of the day)."""
    moment = datetime.fromisoformat(text)
    if len(text) == len("2020-04-08"):
        moment = moment.replace(hour=12)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def year_window(year: int) -> tuple[int, int]:
    """[start, end) of a calendar year."""
    start, end = (round(datetime(item, 1, 1, tzinfo=UTC).timestamp() * 1000) for item in (year, year + 1))
    return start, end


def year_of(time_ms: int) -> tuple[int, int]:
    """(year, month) of a moment, UTC."""
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.year, moment.month


def midsummer(year: int) -> int:
    """The anchor time of a chip without an anchor scene: 1 July 00:00 UTC."""
    return round(datetime(year, 7, 1, tzinfo=UTC).timestamp() * 1000)
