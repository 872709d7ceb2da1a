"""What an export costs: requests, bytes, time at the quota, and Earth Engine compute with a bound on the estimate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from m3etl.spec.catalog_dates import recipes_of_dates
from m3etl.spec.jobs import max_request_bytes, request_bytes
from m3etl.spec.modality import ArraySpec, Shape
from m3etl.spec.program import seasons
from m3etl.spec.tilecounts import TaskGroup

# EECU-hours a month, https://developers.google.com/earth-engine/guides/noncommercial_tiers (since 27 April 2026)
tiers: Mapping[str, float] = {"Community": 150.0, "Contributor": 1_000.0, "Partner": 100_000.0}
hour_s = 3600.0
least_samples = 5
# The quantile of 99 % is used for the bound that is called 95 %: costs are skewed and samples few. Of 1,500 simulated
# campaigns of 2,000 requests with log-normal cost (sigma 0.8), 96 % stayed under the bound from 20 profiled requests,
# 92 % from 5.
_quantile = 2.3263479

rounds_of_companions, rounds_of_search = 1.0, 1.5  # measured on the planet: some search in other years too
rounds_of_dates = len(seasons)  # a question more for each, where a scene of each season is wanted
# As stages.planning works: so many questions go out before the first answer is there; a question holds up to four times
# as many items as the first while answers come within half a minute, and is doubled once in the time of an answer; the
# first of a large plan are small, each a little larger than the one before; the last is about what was left.
planning_at_first, most_growth, last_questions = 12, 4, 1
first_questions, chips_without, chips_of_one = 24, 1000, 100
first_items, more_items = 8, 2
assumed_task_s = 600.0
assumed_stored_share = 0.6  # compressed size of a shard against its raw values, measured on the planet
planning_lane, pixel_lane, batch_lane = "planning", "pixels", "batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One profiled request. units: its size (questions about chips, bytes of pixels); eecu_s: EECU-seconds."""

    lane: str
    units: float
    eecu_s: float


@dataclass(slots=True)
class LaneCost:
    """What the requests of one lane (planning, pixels, batch) have cost and will cost.

    requests, units: all that were sent; samples: (units, EECU-seconds) of those that were profiled.
    """

    requests: int = 0
    units: float = 0.0
    samples: list[tuple[float, float]] = field(default_factory=list)
    _fit: _Fit | None = None

    def add(self, units: float, eecu_s: float) -> None:
        """One more profiled request (counted in `requests` and `units` apart from this)."""
        self.samples.append((units, eecu_s))
        self._fit = None

    def merge(self, other: LaneCost) -> None:
        """Take in what another run has sent and measured."""
        self.requests += other.requests
        self.units += other.units
        self.samples.extend(other.samples)
        self._fit = None

    @property
    def is_known(self) -> bool:
        """Whether there are enough samples for a bound."""
        return len(self.samples) >= least_samples

    def expected_s(self, units: float) -> float:
        """EECU-seconds that requests of so many units take, from the mean of the samples."""
        return units * self._fitted().per_unit

    def upper_s(self, units: float) -> float:
        """The same, not exceeded with 95 % confidence; infinite with fewer than 5 samples."""
        if units <= 0:
            return 0.0
        if not self.is_known:
            return math.inf
        return units * self._fitted().per_unit + self._fitted().margin_s(units)

    def spent_s(self) -> float:
        """EECU-seconds of what was sent: measured where profiled, expected elsewhere; 0 without any sample."""
        return self._fitted().total_s + self.expected_s(self._unprofiled())

    def spent_upper_s(self, *, further_units: float = 0.0) -> float:
        """Upper bound of what was sent and of `further_units` more; twice the expectation while no bound is known."""
        unprofiled = self._unprofiled() + further_units
        upper = self.upper_s(unprofiled) if self.is_known else 2 * self.expected_s(unprofiled)
        return self._fitted().total_s + upper

    def _unprofiled(self) -> float:
        return max(0.0, self.units - self._fitted().total_units)

    def _fitted(self) -> _Fit:
        if self._fit is None:
            self._fit = _fit(self.samples)
        return self._fit


@dataclass(frozen=True, slots=True)
class _Fit:
    """The ratio estimator of cost per unit. residual_s: standard deviation around it; skew: added to the mean."""

    count: int
    per_unit: float
    total_units: float
    total_s: float
    residual_s: float
    skew_s: float
    quantile: float

    def margin_s(self, units: float) -> float:
        further = units * self.count / self.total_units if self.total_units else 0.0  # requests of the mean size
        spread = self.residual_s * math.sqrt(further**2 / self.count + further)
        return self.quantile * spread + further * self.skew_s * (1 + 2 * self.quantile**2)


def _fit(samples: Sequence[tuple[float, float]]) -> _Fit:
    if not samples:
        return _Fit(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    units, cost = np.array(samples, dtype=np.float64).T
    count, total, total_s = len(samples), float(units.sum()), float(cost.sum())
    per_unit = total_s / total if total else 0.0
    residual = cost - per_unit * units
    variance = float((residual**2).sum()) / max(1, count - 1)
    # Johnson's correction of the t interval for skewed costs (Journal of the American Statistical Association 73, 1978)
    skew = float((residual**3).mean()) / (6 * variance * count) if variance > 0 else 0.0
    quantile = _student(_quantile, max(1, count - 1))
    return _Fit(count, per_unit, total, total_s, math.sqrt(variance), max(0.0, skew), quantile)


def _student(z: float, freedom: int) -> float:
    """Student's quantile from the normal one, Abramowitz and Stegun 26.7.5; within 1 % from 4 degrees of freedom."""
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92_160,
    )
    return sum(term / float(freedom) ** power for power, term in enumerate(terms))


@dataclass(slots=True, kw_only=True)
class Figures:
    """What earlier requests of a campaign have shown: the cost of every lane, and sizes.

    source: where the figures come from, in words; planned, chips: chips that were planned and that have landed;
    bytes_down: received for these; stored_bytes_per_chip: on disk, 0 where nothing is stored yet. tasks, task_s: export
    tasks that were finished, and the seconds that these took together.
    """

    source: str = ""
    planned: int = 0
    chips: int = 0
    bytes_down: float = 0.0
    stored_bytes_per_chip: float = 0.0
    tasks: int = 0
    task_s: float = 0.0
    lanes: dict[str, LaneCost] = field(default_factory=dict)

    def lane(self, name: str) -> LaneCost:
        """The cost of one lane; new and empty where nothing was sent in it."""
        return self.lanes.setdefault(name, LaneCost())

    def merge(self, other: Figures) -> None:
        """Take in what other requests have shown."""
        self.source = " and ".join(item for item in (self.source, other.source) if item)
        self.planned += other.planned
        self.chips += other.chips
        self.bytes_down += other.bytes_down
        self.tasks += other.tasks
        self.task_s += other.task_s
        self.stored_bytes_per_chip = self.stored_bytes_per_chip or other.stored_bytes_per_chip
        for name, lane in other.lanes.items():
            self.lane(name).merge(lane)

    def add(self, samples: Iterable[Sample]) -> None:
        """Take in profiled requests."""
        for sample in samples:
            self.lane(sample.lane).add(sample.units, sample.eecu_s)

    def per_chip(self, name: str) -> float:
        """Units of a lane per chip that was planned (planning) or has landed (pixels, batch)."""
        chips = self.planned if name == planning_lane else self.chips
        return self.lanes[name].units / chips if chips and name in self.lanes else 0.0

    def spent_s(self) -> float:
        """EECU-seconds spent so far, as far as anything was profiled."""
        return sum(lane.spent_s() for lane in self.lanes.values())

    def spent_upper_s(self) -> float:
        """Upper bound of what was spent so far."""
        return sum(lane.spent_upper_s() for lane in self.lanes.values())


def estimate(
    *,
    chips: int,
    unplanned: int | None = None,
    places: int | None = None,
    pixel_requests: int | None = None,
    specs: Sequence[ArraySpec],
    chip_m: float,
    chip_px: int,
    plan_batch: int,
    requests_per_second: float,
    check_every: int,
    figures: Figures | None = None,
    tasks: Sequence[TaskGroup] | None = None,
    running: int = 2,
) -> dict[str, Any]:
    """What an export of `chips` more chips takes, `unplanned` of them (all by default) still without scenes: requests,
    bytes, the seconds that the quota makes it take at least, EECU-hours and the months of each tier.

    Sizes and compute are those of `figures` where there are any; without them sizes follow from the declarations and
    compute is unknown (None). places: blocks among the unplanned, pixel_requests: those that blocks make; both as many
    as there are chips by default. tasks: export tasks that bring the pixels in place of requests, `running` at a time.
    """
    known = figures or Figures()
    rasters = [spec for spec in specs if spec.shape is Shape.RASTER]
    unplanned = chips if unplanned is None else unplanned
    assumed = rounds_of_companions + rounds_of_dates * any(spec.recipe in recipes_of_dates for spec in specs)
    assumed += rounds_of_search * any(spec.modality == "sentinel2" for spec in specs)
    rounds = known.per_chip(planning_lane) * (unplanned / places if places else 1.0) or assumed
    first = first_questions_about(unplanned)
    planning = _planning_requests(unplanned if places is None else places, rounds, plan_batch, first)
    asked = sum(group.least for group in tasks) if tasks is not None else None
    pixels = _pixel_requests(chips, pixel_requests, rasters, chip_px, known) if asked is None else asked
    requests = pixels + planning
    return {
        "chips": chips,
        "requests": requests,
        "requests per chip": round(requests / chips, 3) if chips else None,
        "planning requests": planning,
        **_bytes(chips, specs, rasters, chip_m, chip_px, check_every if tasks is None else 0, known),
        **(_task_facts(tasks, running, known) if tasks is not None else {}),
        "seconds at the quota": round(requests / requests_per_second, 1),
        **compute_facts(chips, unplanned, known, task_bytes=sum(group.nbytes for group in tasks or ())),
    }


def _planning_requests(places: int, rounds: float, plan_batch: int, first: int) -> int:
    """Requests about so many places, with so many questions about each, when twice `first` of them are small. An answer
    that takes long makes it more.
    """
    left, requests, size = rounds * places, 0, max(1, plan_batch)
    most = size * most_growth
    while left > 0 and size < most:
        number = requests - 2 * first
        left -= min(size, items_of_first(requests, first)) if number < 0 else size
        requests += 1
        if number >= 0 and (number + 1) % planning_at_first == 0:
            size *= 2
    return requests + math.ceil(max(0.0, left) / most) + last_questions * bool(places)


def items_of_first(number: int, first: int) -> int:
    """Items of a small question, of which there are twice `first`: those about scenes, then what follows from them."""
    return first_items + more_items * (number % first)


def first_questions_about(chips: int) -> int:
    """How many of the questions about so many chips are small, so that there is something to fetch soon: as many as
    leave planning below a twentieth of a request for each chip.
    """
    return min(first_questions, max(0, chips - chips_without) // chips_of_one)


def _task_facts(tasks: Sequence[TaskGroup], running: int, known: Figures) -> dict[str, Any]:
    """Tasks by group, the bytes that they leave in the bucket, and the time that they take where `running` run."""
    least, most = sum(group.least for group in tasks), sum(group.most for group in tasks)
    each_s = known.task_s / known.tasks if known.tasks else assumed_task_s
    source = f"{known.source}: {known.tasks} tasks" if known.tasks else f"assumed, {assumed_task_s:g} s a task"
    return {
        "tasks": f"{least:,} to {most:,}" if most > least else f"{least:,}",
        "bucket bytes (upper bound)": sum(group.nbytes for group in tasks),
        f"seconds with {running} tasks running": round(each_s * math.ceil(least / running)),
        "task time from": source,
        "tasks by group": [
            {
                "arrays": ", ".join(group.arrays),
                "type": group.dtype,
                "pixels a side": group.side,
                "tasks, one a tile": group.least,
                "tasks at most": group.most,
                "pixels": group.pixels,
                "bucket bytes": group.nbytes,
            }
            for group in tasks
        ],
    }


def compute_facts(chips: int, unplanned: int, known: Figures, *, task_bytes: float = 0.0) -> dict[str, Any]:
    """EECU-hours of so many more chips with their upper bound and source, and the months of each tier they fill.

    task_bytes: what export tasks are to bring; where their cost is known it is used, else that of pixel requests.
    """
    lanes = {name: lane for name, lane in known.lanes.items() if lane.units > 0}
    by_tasks = bool(task_bytes) and batch_lane in lanes and lanes[batch_lane].is_known
    if by_tasks:
        lanes.pop(pixel_lane, None)
    unmeasured = sorted(name for name, lane in lanes.items() if not lane.is_known)
    if not lanes or not known.chips or unmeasured:
        missing = f" of {' and '.join(unmeasured)}" if unmeasured else ""
        how = "measure more with a larger --pilot" if known.chips else "measure them with --pilot"
        reason = f"unknown: fewer than {least_samples} profiled requests{missing}; {how}"
        return {"EECU-hours": None, "EECU-hours (95 % upper bound)": None, "EECU figures from": reason}
    units = {name: known.per_chip(name) * (unplanned if name == planning_lane else chips) for name in lanes}
    if by_tasks:
        units[batch_lane] = task_bytes
    expected = sum(lane.expected_s(units[name]) for name, lane in lanes.items()) / hour_s
    upper = sum(lane.upper_s(units[name]) for name, lane in lanes.items()) / hour_s
    samples = sum(len(lane.samples) for lane in lanes.values())
    return {
        "EECU-hours": _significant(expected),
        "EECU-hours (95 % upper bound)": _significant(upper),
        "EECU figures from": f"{known.source}: {samples} profiled {'tasks and ' if by_tasks else ''}requests, "
        f"{known.chips} chips",
        "months of a tier": [
            {
                "tier": name,
                "EECU-hours a month": hours,
                "months": _significant(expected / hours),
                "at most": math.ceil(upper / hours),
            }
            for name, hours in tiers.items()
        ],
    }


def _pixel_requests(chips: int, blocks: int | None, rasters: Sequence[ArraySpec], chip_px: int, known: Figures) -> int:
    lane = known.lanes.get(pixel_lane)
    if blocks is not None and rasters:
        return blocks
    if known.chips and lane is not None and lane.requests:
        return math.ceil(chips * lane.requests / known.chips)
    counted = request_bytes(chip_px, chip_px, rasters)
    return chips * max(1, math.ceil(counted / max_request_bytes)) if rasters else 0


def _bytes(
    chips: int,
    specs: Sequence[ArraySpec],
    rasters: Sequence[ArraySpec],
    chip_m: float,
    chip_px: int,
    check_every: int,
    known: Figures,
) -> dict[str, int]:
    if known.chips and known.bytes_down:
        down = {"bytes down (estimate)": round(chips * known.bytes_down / known.chips)}
    else:
        per_pixel = sum(len(spec.bands) * np.dtype(spec.dtype).itemsize for spec in rasters)
        check = math.ceil(chips / check_every) * 12 * chip_px * chip_px if check_every and rasters else 0
        down = {"bytes down (upper bound)": chips * per_pixel * chip_px * chip_px + check}
    values = sum(int(np.prod(spec.chip_shape(chip_m))) * np.dtype(spec.dtype).itemsize for spec in specs)
    stored = known.stored_bytes_per_chip or values * assumed_stored_share
    return {**down, "bytes on disk (estimate)": round(chips * stored)}


def _significant(value: float) -> float:
    return float(f"{value:.3g}")
