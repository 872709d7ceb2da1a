"""Costs of an export: the bound holds for skewed costs, figures add up, months follow from the tiers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from m3etl.spec.budget import Figures, LaneCost, Sample, _student, compute_facts, estimate, tiers
from m3etl.spec.catalog import select_arrays


def lane_of(costs, units=1.0) -> LaneCost:
    lane = LaneCost(requests=len(costs), units=units * len(costs))
    for cost in costs:
        lane.add(units, float(cost))
    return lane


def figures_of(costs, *, chips: int, requests: int, lane: str = "pixels") -> Figures:
    figures = Figures(source="a pilot", planned=chips, chips=chips)
    figures.lane(lane).requests = requests
    figures.lane(lane).units = float(requests)
    figures.add(Sample(lane=lane, units=1.0, eecu_s=float(cost)) for cost in costs)
    return figures


@pytest.mark.parametrize("freedom", [4, 9, 29, 199])
def test_students_quantile(freedom):
    assert _student(stats.norm.ppf(0.99), freedom) == pytest.approx(stats.t.ppf(0.99, freedom), rel=0.01)


@pytest.mark.parametrize(("count", "at_least"), [(5, 0.88), (20, 0.93), (100, 0.95)])
def test_the_bound_holds_for_skewed_costs(count, at_least):
    draw = np.random.default_rng(7)
    runs = 400
    kept = sum(
        lane_of(draw.lognormal(0, 0.8, count)).upper_s(2_000) >= draw.lognormal(0, 0.8, 2_000).sum()
        for _ in range(runs)
    )
    assert kept / runs >= at_least


def test_the_bound_narrows_with_samples_and_is_close_for_even_costs():
    draw = np.random.default_rng(1)
    few, many = (lane_of(draw.normal(2.0, 0.1, count)).upper_s(1_000) for count in (10, 1_000))
    assert 2_000 < many < few < 2_300
    assert lane_of([2.0] * 5).upper_s(10) == pytest.approx(20.0)
    assert lane_of([2.0] * 4).upper_s(10) == math.inf
    assert lane_of([2.0] * 4).upper_s(0) == 0.0


def test_cost_follows_the_size_of_requests():
    lane = LaneCost(requests=10, units=0.0)
    for units in (1, 10, 50, 2, 8):
        lane.add(units, 0.1 * units)
    lane.units = 71 + 29
    assert lane.expected_s(1_000) == pytest.approx(100.0)
    assert lane.upper_s(1_000) == pytest.approx(100.0)
    assert lane.spent_s() == pytest.approx(10.0)
    assert lane.spent_upper_s(further_units=10) == pytest.approx(11.0)


def test_what_was_spent_before_a_bound_is_known_counts_twice():
    lane = LaneCost(requests=3, units=3.0)
    assert lane.spent_s() == lane.spent_upper_s() == 0.0
    lane.add(1.0, 2.0)
    assert lane.spent_s() == pytest.approx(6.0)
    assert lane.spent_upper_s() == pytest.approx(2.0 + 2 * 4.0)


def test_months_of_every_tier():
    facts = compute_facts(1_000_000, 0, figures_of([3.6] * 20, chips=20, requests=21))
    assert facts["EECU-hours"] == pytest.approx(1050.0)
    assert facts["EECU-hours (95 % upper bound)"] == pytest.approx(1050.0)
    assert facts["EECU figures from"] == "a pilot: 20 profiled requests, 20 chips"
    months = {row["tier"]: row for row in facts["months of a tier"]}
    assert months.keys() == tiers.keys()
    assert months["Community"]["months"] == 7.0
    assert months["Contributor"]["at most"] == 2
    assert months["Partner"]["at most"] == 1


def test_too_few_profiles_are_no_estimate():
    facts = compute_facts(10, 10, figures_of([1.0] * 4, chips=20, requests=20))
    assert facts["EECU-hours"] is None
    assert "of pixels" in facts["EECU figures from"]
    assert "--pilot" in compute_facts(10, 10, Figures())["EECU figures from"]


def test_sizes_come_from_figures_where_there_are_any():
    specs = select_arrays(["aster", "worldcover"])
    options = {"specs": specs, "chip_m": 1280.0, "chip_px": 128, "plan_batch": 50, "requests_per_second": 100.0}
    declared = estimate(chips=1000, check_every=0, **options)
    assert declared["planning requests"] == 12 + 4 + 1, "50 items each, 100 each, the last"
    assert declared["requests"] == 1000 + declared["planning requests"]
    assert declared["bytes down (upper bound)"] == 1000 * 128 * 128 * sum(
        len(spec.bands) * np.dtype(spec.dtype).itemsize for spec in specs
    )
    figures = figures_of([1.0] * 5, chips=100, requests=110)
    figures.lane("planning").requests, figures.lane("planning").units = 4, 150.0
    figures.bytes_down, figures.stored_bytes_per_chip = 5e6, 2e4
    known = estimate(chips=1000, check_every=0, figures=figures, **options)
    assert known["requests"] == 1100 + 12 + 9 + 1
    assert known["bytes down (estimate)"] == 50_000_000
    assert known["bytes on disk (estimate)"] == 20_000_000
    assert known["seconds at the quota"] == pytest.approx(11.2)
    assert estimate(chips=1000, unplanned=0, check_every=0, figures=figures, **options)["requests"] == 1100


def test_scenes_of_each_season_are_questions_more():
    options = {"chip_m": 1280.0, "chip_px": 128, "plan_batch": 50, "requests_per_second": 100.0, "check_every": 0}
    plain, dated = (
        estimate(chips=100_000, specs=select_arrays(names), **options)["planning requests"]
        for names in (["sentinel2"], ["sentinel2", "sentinel2_dates"])
    )
    assert dated - plain == 4 * 100_000 / 200


def test_a_task_costs_what_tasks_have_cost_and_else_what_requests_have():
    figures = figures_of([3.6] * 20, chips=20, requests=20)
    by_requests = compute_facts(1000, 0, figures, task_bytes=1e9)
    assert by_requests["EECU-hours"] == pytest.approx(1.0)
    figures.lane("batch").requests, figures.lane("batch").units = 10, 1e9
    figures.add(Sample(lane="batch", units=1e8, eecu_s=360.0) for _ in range(10))
    by_tasks = compute_facts(1000, 0, figures, task_bytes=2e9)
    assert by_tasks["EECU-hours"] == pytest.approx(2.0)
    assert "10 profiled tasks" in by_tasks["EECU figures from"]


def test_figures_add_up():
    figures, other = figures_of([1.0] * 5, chips=10, requests=10), figures_of([3.0] * 5, chips=10, requests=10)
    other.source = "the runs so far"
    figures.merge(other)
    assert figures.chips == 20
    assert figures.source == "a pilot and the runs so far"
    assert figures.spent_s() == pytest.approx(40.0)
    assert figures.spent_upper_s() > 40.0
