"""Faults files: what is accepted, what is refused and how it is said, and which calls a rule picks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from m3etl.emulator.faults import Calls, Faults, RateGate, parse_faults, read_faults
from m3etl.emulator.messages import Account
from m3etl.errors import InputError


def test_every_part_of_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    value = {
        "seed": 3,
        "rules": [
            {"path": "computePixels", "calls": {"first": 2}, "status": 503, "headers": {"Retry-After": "1"}},
            {"path": "*/value:compute", "method": "POST", "calls": {"nth": [2]}, "html": "<html/>", "delay_ms": 5},
            {"path": "thumbnails", "drop": "after"},
            {"path": "thumbnails", "truncate": 10},
        ],
        "gates": {"concurrency": 40, "rate_per_s": 100},
        "latency": {"base_ms": 200, "per_band_ms": 1, "per_scene_ms": 5},
    }
    path.write_text(json.dumps(value))
    plan = read_faults(path)
    assert plan.seed == 3
    assert [rule.path for rule in plan.rules] == ["computePixels", "*/value:compute", "thumbnails", "thumbnails"]
    assert plan.rules[0].calls == Calls(first=2)
    assert plan.rules[2].drop == "after"
    assert plan.rules[3].truncate == 10
    assert (plan.concurrency, plan.rate_per_s) == (40, 100.0)
    assert plan.latency.seconds(Account(bands=3, scenes=2)) == pytest.approx(0.213)


def test_all_problems_are_told_at_once() -> None:
    value = {
        "rules": [
            {"path": "", "status": 99, "calls": {"first": 0}},
            {"path": "x", "retry": 1},
            {"path": "x", "status": 500, "calls": {"first": 1, "every": 2}},
            {"path": "x", "drop": "sometimes"},
            {"path": "x", "alter": {"set": {"B1": "a"}, "dtype": "text", "rows": -1, "swap": 1}},
            {"path": "x", "alter": {}},
        ],
        "gates": {"concurrency": 0, "rate_per_s": 0},
        "latency": {"base_ms": -1},
        "wrong": 1,
    }
    with pytest.raises(InputError) as caught:
        parse_faults(value)
    text = caught.value.message
    for part in (
        "unknown key 'wrong'",
        "rules[0].path: expected a non-empty text",
        "rules[0].status: expected a whole number >= 200 and <= 599, found 99",
        "rules[0].calls.first: expected a whole number >= 1, found 0",
        "rules[1]: unknown key 'retry'",
        "rules[1]: needs one of",
        'rules[2].calls: needs "all" or exactly one of',
        'rules[3].drop: expected true, false, "before" or "after"',
        "rules[4].alter.set: expected an object of numbers",
        "rules[4].alter.dtype: expected one of uint8",
        "rules[4].alter.rows: expected a whole number >= 0, found -1",
        "rules[4].alter.swap: expected true or false, found 1",
        "rules[5].alter: needs one of",
        "gates.concurrency: expected a whole number >= 1",
        "gates.rate_per_s: expected a number > 0",
        "latency.base_ms: expected a number >= 0, found -1",
    ):
        assert part in text


@pytest.mark.parametrize(("text", "said"), [("{", "is not JSON"), ("[1]", "expected an object, found [1]")])
def test_a_bad_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "faults.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"faults\.json") as caught:
        read_faults(path)
    assert said in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_faults(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("calls", "picked"),
    [
        ({"nth": 2}, [2]),
        ({"nth": [1, 4]}, [1, 4]),
        ({"first": 3}, [1, 2, 3]),
        ({"after": 4}, [5, 6]),
        ({"every": 3}, [3, 6]),
        ("all", [1, 2, 3, 4, 5, 6]),
        ({"probability": 0.0}, []),
        ({"probability": 1.0}, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_calls_are_counted_per_rule(calls: object, picked: list[int]) -> None:
    faults = Faults(parse_faults({"rules": [{"path": "pixels", "calls": calls, "status": 500}]}))
    found = []
    for number in range(1, 7):
        assert faults.pick("GET", "/other") is None
        if faults.pick("POST", "/v1/p:pixels") is not None:
            found.append(number)
    assert found == picked


def test_probability_follows_the_seed() -> None:
    def picks(seed: int) -> list[bool]:
        plan = parse_faults({"seed": seed, "rules": [{"path": "x", "calls": {"probability": 0.5}, "status": 500}]})
        faults = Faults(plan)
        return [faults.pick("GET", "/x") is not None for _ in range(64)]

    assert picks(1) == picks(1)
    assert picks(1) != picks(2)
    assert 16 < sum(picks(1)) < 48


def test_paths_match_as_part_or_as_glob_and_by_method() -> None:
    plan = parse_faults(
        {
            "rules": [
                {"path": "*:computePixels", "method": "POST", "status": 500},
                {"path": "operations", "status": 503},
            ]
        }
    )
    faults = Faults(plan)
    assert faults.pick("GET", "/v1/p/image:computePixels") is None
    assert faults.pick("POST", "/v1/p/image:computePixels/x") is None
    assert faults.pick("POST", "/v1/p/image:computePixels") == (0, plan.rules[0])
    assert faults.pick("GET", "/v1/p/operations/1") == (1, plan.rules[1])


def test_the_rate_gate_refills_with_time() -> None:
    now = [0.0]
    gate = RateGate(10.0, clock=lambda: now[0])
    assert [gate.admit() for _ in range(11)] == [True] * 10 + [False]
    now[0] = 0.25
    assert [gate.admit() for _ in range(3)] == [True, True, False]


def test_the_concurrency_gate_counts_the_request_itself() -> None:
    faults = Faults(parse_faults({"gates": {"concurrency": 2}}))
    assert [faults.refuses(count) for count in (1, 2, 3)] == [False, False, True]
