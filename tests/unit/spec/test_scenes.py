"""The choice of scenes: anchors by the recorded rule, passes within the gap, climate over exactly 12 months."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3etl.spec.scenes import (
    AnchorRule,
    Candidate,
    PassImage,
    best_available,
    choose_anchor,
    choose_nearest,
    choose_pass,
    climate_bands,
    climate_features,
    day_ms,
    months_until,
    same_acquisition,
    utc_ms,
    utc_text,
    year_order,
    year_window,
)

random_rule = AnchorRule(rule="random", max_cloud=0.1, min_valid=0.95, seed=3)
best_rule = AnchorRule(rule="best", max_cloud=0.1, min_valid=0.95, seed=3)


def scene(
    name: str, *, cloud: float | None = 0.0, valid: float = 1.0, time_ms: int = 0, level: str = "l2a"
) -> Candidate:
    return Candidate(level=level, scene_id=name, index=name, time_ms=time_ms, rank=0, valid=valid, cloud=cloud)


def image(name: str, *, days: float, orbit: int = 1, coverage: float = 1.0) -> PassImage:
    time_ms = round(days * day_ms)
    return PassImage(scene_id=name, time_ms=time_ms, orbit=orbit, polarisations=("VV", "VH"), coverage=coverage)


def test_only_good_scenes_are_drawn():
    candidates = [scene("cloudy", cloud=0.11), scene("edge", valid=0.9), scene("good", cloud=0.1, valid=0.95)]
    for chip in range(20):
        assert choose_anchor(candidates, random_rule, str(chip)).scene_id == "good"
    assert choose_anchor(candidates[:2], random_rule, "chip") is None


def test_the_draw_depends_on_seed_and_chip_and_not_on_order():
    candidates = [scene(str(number), time_ms=number) for number in range(8)]
    drawn = {choose_anchor(candidates, random_rule, f"chip {number}").scene_id for number in range(200)}
    assert drawn == {str(number) for number in range(8)}
    forward = [choose_anchor(candidates, random_rule, f"chip {number}") for number in range(50)]
    backward = [choose_anchor(candidates[::-1], random_rule, f"chip {number}") for number in range(50)]
    assert forward == backward


def test_best_takes_the_clearest_and_unknown_cloud_comes_last():
    unknown = scene("unknown", cloud=None)
    candidates = [unknown, scene("hazy", cloud=0.08), scene("clear", cloud=0.02)]
    assert choose_anchor(candidates, best_rule, "chip").scene_id == "clear"
    assert choose_anchor([unknown, scene("hazy", cloud=0.08)], random_rule, "chip").scene_id == "hazy"
    assert choose_anchor([unknown, scene("overcast", cloud=0.9)], random_rule, "chip") is unknown


def test_best_available_goes_below_the_thresholds_but_not_to_nothing():
    assert best_available([scene("overcast", cloud=0.9), scene("worse", cloud=0.95)]).scene_id == "overcast"
    assert best_available([scene("outside", valid=0.0)]) is None


def test_a_clear_sliver_is_not_the_best_available():
    sliver, cloudy, unknown = scene("sliver", valid=0.01), scene("cloudy", cloud=0.15), scene("unknown", cloud=None)
    assert best_available([sliver, cloudy, unknown]).scene_id == "cloudy"
    assert best_available([unknown, scene("overcast", cloud=1.0)]).scene_id == "overcast"


def test_nearest_prefers_level_2a_at_a_tie():
    candidates = [
        scene("l1c", level="l1c", time_ms=1000),
        scene("l2a", level="l2a", time_ms=1000),
        scene("cloudy", cloud=0.5, time_ms=990),
    ]
    assert choose_nearest(candidates, random_rule, 980).scene_id == "l2a"
    assert choose_nearest(candidates[:1], random_rule, 980).scene_id == "l1c"


def test_the_other_level_is_the_same_acquisition_or_none():
    near, same = scene("near", time_ms=5), scene("same", time_ms=9 * day_ms)
    assert same_acquisition([near, same], "same") is same
    assert same_acquisition([near], "same") is None
    assert same_acquisition([scene("same", valid=0.0)], "same") is None


def test_pass_within_the_gap_only():
    assert choose_pass([image("late", days=31)], 0, max_gap_days=30, min_coverage=0.95) == ()
    chosen = choose_pass([image("in", days=-30), image("late", days=31)], 0, max_gap_days=30, min_coverage=0.95)
    assert [item.scene_id for item in chosen] == ["in"]


def test_an_image_that_covers_wins_over_a_nearer_one_that_does_not():
    images = [image("corner", days=1, coverage=0.2), image("whole", days=6, orbit=2)]
    assert [item.scene_id for item in choose_pass(images, 0, max_gap_days=30, min_coverage=0.95)] == ["whole"]
    corners = [image("corner", days=1, coverage=0.2), image("half", days=6, orbit=2, coverage=0.5)]
    assert [item.scene_id for item in choose_pass(corners, 0, max_gap_days=30, min_coverage=0.95)] == ["half"]
    assert choose_pass([image("none", days=1, coverage=0.0)], 0, max_gap_days=30, min_coverage=0.95) == ()


def test_slices_of_one_pass_go_together_in_order_of_time():
    second = 25_000 / day_ms
    images = [image("b", days=2 + second, coverage=0.5), image("a", days=2, coverage=0.5), image("c", days=14)]
    chosen = choose_pass(images, 0, max_gap_days=30, min_coverage=0.95)
    assert [item.scene_id for item in chosen] == ["a", "b"]
    apart = [image("a", days=2, coverage=0.5), image("b", days=2 + 61_000 / day_ms, coverage=0.6)]
    assert len(choose_pass(apart, 0, max_gap_days=30, min_coverage=0.95)) == 1


@given(st.integers(1979, 2030), st.integers(1, 12))
def test_a_climate_year_has_twelve_months(year, month):
    window = months_until(year, month)
    assert len(window) == len(set(window)) == 12
    assert window[-1] == (year, month)
    numbers = [y * 12 + m for y, m in window]
    assert numbers == list(range(numbers[0], numbers[0] + 12))


def test_climate_features_of_a_january_use_the_previous_year():
    window = months_until(2020, 1)
    months = {item: (float(position), -float(position), 100.0 + position, 0.5) for position, item in enumerate(window)}
    months[(2018, 12)] = months[(2019, 1)] = (1e9, -1e9, 1e9, 1e9)  # outside the window
    features = climate_features(months, 2020, 1)
    assert features["temperature_2m_previous_month"] == 10.0
    assert features["temperature_2m_month"] == 11.0
    assert features["temperature_2m_year"] == pytest.approx(sum(range(12)) / 12)
    assert features["temperature_2m_min_year"] == -11.0
    assert features["temperature_2m_max_year"] == 111.0
    assert features["total_precipitation_sum_year"] == pytest.approx(6.0)
    assert features.keys() == {
        f"{band}_{name}" for band, name in itertools.product(climate_bands, ("previous_month", "month", "year"))
    }


def test_a_masked_month_makes_the_year_unknown():
    months = dict.fromkeys(months_until(2020, 6), (280.0, 270.0, 290.0, 0.1))
    months[(2019, 9)] = (None, None, None, None)
    features = climate_features(months, 2020, 6)
    assert features["temperature_2m_month"] == 280.0
    assert features["temperature_2m_year"] is None


def test_dry_months_a_little_below_zero_are_dry_and_not_missing():
    months = dict.fromkeys(months_until(2020, 6), (280.0, 270.0, 290.0, -2e-6))
    features = climate_features(months, 2020, 6)
    assert [features[f"total_precipitation_sum_{name}"] for name in ("previous_month", "month", "year")] == [0.0] * 3


@given(st.integers(2017, 2020), st.integers(0, 10_000))
def test_other_years_follow_the_preferred_one(preferred, seed):
    order = year_order(preferred, (2017, 2020), seed, "chip")
    assert order[0] == preferred
    assert sorted(order) == [2017, 2018, 2019, 2020]
    assert order == year_order(preferred, (2017, 2020), seed, "chip")


def test_times_are_utc_and_half_open():
    start, end = year_window(2020)
    assert utc_text(start) == "2020-01-01T00:00:00Z"
    assert end - start == 366 * day_ms
    assert utc_ms("2020-04-08") == utc_ms("2020-04-08T12:00:00Z")
    assert utc_ms("2020-04-08T14:00:00+02:00") == utc_ms("2020-04-08T12:00:00Z")
    assert utc_ms(utc_text(1586356649123)) == 1586356649123
