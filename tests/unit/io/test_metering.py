"""The meter: what is profiled, what counts as spent, and when the budget is over."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest

from m3etl.io.metering import Meter, Unmetered, first_profiled
from m3etl.io.outcomes import Failure, Kind, RequestFailed
from m3etl.spec.budget import Figures, Sample


class Profiler:
    """Every call costs as much as it is told; a profile may get lost."""

    def __init__(self, cost: float = 2.0, lost: tuple[str, ...] = ()) -> None:
        self.cost = cost
        self.lost = lost
        self.asked = 0

    @contextmanager
    def profiled(self):
        self.asked += 1
        yield [str(self.asked)]

    def eecu_seconds(self, profile_id: str) -> float:
        if profile_id in self.lost:
            raise RequestFailed(Failure(kind=Kind.NETWORK, message="connection lost"))
        return self.cost


class Kept:
    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.amounts: dict[str, float] = {}

    def __call__(self, samples, amounts) -> None:
        self.samples += samples
        for name, value in amounts.items():
            self.amounts[name] = self.amounts.get(name, 0) + value


def meter_of(profiler, kept=None, **options) -> Meter:
    options = {"every": 10, "figures": Figures(), **options}
    return Meter(profiler, keep=kept or Kept(), **options)


def send(meter: Meter, count: int, lane: str = "pixels", units: float = 1.0) -> None:
    for _ in range(count):
        with meter.request(lane, units):
            pass


def test_one_request_in_so_many_is_profiled_in_each_lane():
    profiler, kept = Profiler(), Kept()
    meter = meter_of(profiler, kept)
    send(meter, 40)
    send(meter, 20, "planning", 50.0)
    meter.close()
    assert profiler.asked == meter.requests == 6
    assert kept.amounts == {
        "pixels requests": 40,
        "pixels units": 40,
        "planning requests": 20,
        "planning units": 1000,
    }
    assert [sample.lane for sample in kept.samples] == ["pixels"] * 4 + ["planning"] * 2
    assert kept.samples[-1].units == 50.0


def test_none_or_every_one_is_profiled():
    none, every = Profiler(), Profiler()
    send(meter_of(none, every=0), 50)
    send(meter_of(every, every=1), 50)
    assert (none.asked, every.asked) == (0, 50)


def test_a_request_refused_for_its_rate_has_cost_nothing():
    kept = Kept()
    meter = meter_of(Profiler(), kept)
    for kind in (Kind.RATE, Kind.TRANSIENT):
        with pytest.raises(RequestFailed), meter.request("pixels", 3.0):
            raise RequestFailed(Failure(kind=kind, message="no"))
    meter.close()
    assert kept.amounts == {"pixels requests": 1, "pixels units": 3.0}


def test_a_lost_profile_is_no_failure():
    kept = Kept()
    meter = meter_of(Profiler(lost=("1",)), kept, every=1)
    send(meter, 3)
    meter.close()
    assert len(kept.samples) == 2
    assert kept.amounts["pixels requests"] == 3


def test_the_budget_is_over_before_the_bound_passes_it():
    figures, profiler, calls = Figures(), Profiler(cost=2.0), []
    meter = meter_of(profiler, figures=figures, budget_s=400.0, on_over=lambda: calls.append(1), in_flight=10)
    while not meter.over:
        send(meter, 1)
    assert calls == [1]
    assert profiler.asked >= first_profiled
    assert figures.spent_upper_s() <= 400.0
    assert 350 <= 2.0 * figures.lane("pixels").requests <= 400.0 - 2.0 * 9, "requests in flight fit in too"


def test_what_was_spent_before_counts():
    figures = Figures()
    figures.lane("pixels").requests, figures.lane("pixels").units = 100, 100.0
    figures.add(Sample(lane="pixels", units=1.0, eecu_s=2.0) for _ in range(10))
    meter = meter_of(Profiler(), figures=figures, budget_s=205.0, in_flight=1)
    send(meter, 1)
    assert not meter.over
    send(meter, 1)
    assert meter.over


def test_a_finished_task_is_charged_as_told():
    figures, kept = Figures(), Kept()
    meter = meter_of(Profiler(), kept, figures=figures, budget_s=1e6)
    meter.charge("batch", 1.0, 340.0)
    meter.close()
    assert figures.spent_s() == 340.0
    assert kept.samples == [Sample(lane="batch", units=1.0, eecu_s=340.0)]


def test_threads_lose_nothing():
    kept = Kept()
    meter = meter_of(Profiler(), kept)
    threads = [threading.Thread(target=send, args=(meter, 100)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    meter.close()
    assert kept.amounts["pixels requests"] == 800
    assert len(kept.samples) == 80


def test_unmetered_calls_go_through():
    with Unmetered().request("pixels", 1.0):
        pass
    assert Unmetered().charge("batch", 1.0, 2.0) is None
