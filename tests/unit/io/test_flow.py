"""The flow: everything lands once, limits hold, each kind of failure has its reaction."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3etl.io.flow import AdaptiveLimit, Flow, FlowStopped, Pace, Quota, RateGate
from m3etl.io.outcomes import Failure, Kind, Reaction, RequestFailed, reactions


@dataclass(frozen=True)
class Ask:
    name: str
    nbytes: int = 1


def failed(kind: Kind, **values) -> RequestFailed:
    return RequestFailed(Failure(kind=kind, message=f"a {kind} failure", **values))


class Rig:
    """A flow over a function, and what came of it."""

    def __init__(self, send, *, split=None, stop=None, is_serving=None, **pace) -> None:
        self.landed: list[tuple[str, object]] = []
        self.given_up: list[tuple[str, Kind]] = []
        settings = {"requests_per_second": 10_000, "base_wait_s": 0.002, "patience_s": 30.0, **pace}
        self.flow = Flow(
            send=send,
            land=lambda batch: self.landed.extend((ask.name, answer) for ask, answer in batch),
            split=split or (lambda ask, failure: None),
            give_up=lambda ask, failure: self.given_up.append((ask.name, failure.kind)),
            pace=Pace(**settings),
            stop=stop,
            is_serving=is_serving,
            jitter=random.Random(1),
        )

    def run(self, count: int) -> Rig:
        self.flow.run(Ask(str(number)) for number in range(count))
        return self


def test_everything_lands_exactly_once():
    rig = Rig(lambda ask: ask.name.upper()).run(300)
    assert sorted(rig.landed) == sorted((str(number), str(number)) for number in range(300))
    assert rig.flow.counts.requests == 300


def test_passing_failures_are_retried_until_they_pass():
    tries: Counter[str] = Counter()
    lock = threading.Lock()

    def send(ask):
        with lock:
            tries[ask.name] += 1
            count = tries[ask.name]
        kinds = [Kind.RATE, Kind.CAPACITY, Kind.TRANSIENT, Kind.NETWORK, Kind.WRONG]
        if count <= int(ask.name) % 3:
            raise failed(kinds[int(ask.name) % len(kinds)])
        return count

    rig = Rig(send).run(60)
    assert len(rig.landed) == 60
    assert not rig.given_up
    assert rig.flow.counts.retries == sum(number % 3 for number in range(60))


def test_a_source_may_have_nothing_yet():
    landed: list[str] = []

    def source():
        yield Ask("0")
        while not landed:
            yield None
        yield Ask("after the first")

    flow = Flow(
        send=lambda ask: ask.name,
        land=lambda batch: landed.extend(answer for _, answer in batch),
        split=lambda ask, failure: None,
        give_up=lambda ask, failure: None,
        pace=Pace(requests_per_second=10_000),
    )
    flow.run(source())
    assert landed == ["0", "after the first"]


def test_no_more_is_answered_and_not_durable_than_may_be_in_flight():
    most, sent, durable, seen = 4, [], [], []
    lock = threading.Lock()

    def send(ask):
        with lock:
            sent.append(ask)
            seen.append(len(sent) - len(durable))
        return 1

    def land(batch):
        time.sleep(0.02)
        with lock:
            durable.extend(batch)

    flow = Flow(
        send=send,
        land=land,
        split=lambda ask, failure: None,
        give_up=lambda ask, failure: None,
        pace=Pace(requests_per_second=10_000, max_in_flight=most, start_in_flight=most),
    )
    flow.run(Ask(str(number)) for number in range(60))
    assert len(durable) == 60
    assert most < max(seen) <= 2 * most


def test_flows_share_one_quota_and_one_of_them_goes_first():
    quota = Quota(per_second=10_000, in_flight=3)
    flying: Counter[str] = Counter()
    peaks: list[int] = []
    lock = threading.Lock()

    def send(ask):
        with lock:
            flying[ask.name[0]] += 1
            peaks.append(sum(flying.values()))
        time.sleep(0.002)
        with lock:
            flying[ask.name[0]] -= 1
        return ask.name

    landed: list[str] = []
    threads = []
    for name in ("first", "other"):
        flow = Flow(
            send=send,
            land=lambda batch: landed.extend(answer for _, answer in batch),
            split=lambda ask, failure: None,
            give_up=lambda ask, failure: None,
            pace=Pace(requests_per_second=10_000, max_in_flight=3, start_in_flight=3),
            quota=quota,
            goes_first=name == "first",
        )
        asks = [Ask(f"{name} {number}") for number in range(80)]
        threads.append(threading.Thread(target=flow.run, args=(asks,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(name.split()[0] for name in landed) == {"first": 80, "other": 80}
    assert max(peaks) == 3


def test_a_place_that_is_claimed_goes_to_nobody_else():
    quota = Quota(per_second=1000, in_flight=1)
    assert quota.take(1.0, goes_first=False)
    assert not quota.take(2.0, goes_first=True)
    quota.give_back()
    assert not quota.take(3.0, goes_first=False)
    assert quota.take(3.0, goes_first=True)
    quota.give_back()
    assert quota.take(4.0, goes_first=False)
    assert not quota.take(5.0, goes_first=True)
    quota.unclaim()
    quota.give_back()
    assert quota.take(6.0, goes_first=False)
    quota.give_back()
    quota.pause(8.0)
    assert not quota.take(7.0, goes_first=True)
    assert quota.wait_s(7.0) == pytest.approx(1.0)


@pytest.mark.parametrize("pause_s", [0.0, 600.0])
def test_a_stop_ends_the_wait_for_a_place(pause_s):
    quota, stop, found = Quota(per_second=1000, in_flight=1), threading.Event(), []
    began = time.monotonic()
    assert quota.take(began, goes_first=False)
    quota.pause(began + pause_s)
    waiting = threading.Thread(target=lambda: found.append(quota.wait_for_place(stop)), daemon=True)
    waiting.start()
    time.sleep(0.1)
    stop.set()
    waiting.join(30)
    assert found == [False]
    quota.give_back()
    assert quota.take(began + 601, goes_first=False), "nobody claims it any more"


def test_nothing_deterministic_is_sent_twice():
    def send(ask):
        raise failed(Kind.DETERMINISTIC)

    rig = Rig(send).run(20)
    assert rig.flow.counts.requests == 20
    assert sorted(rig.given_up) == sorted((str(number), Kind.DETERMINISTIC) for number in range(20))


def test_a_request_is_quarantined_after_its_attempts():
    def send(ask):
        if ask.name == "3":
            raise failed(Kind.TRANSIENT)
        return 1

    rig = Rig(send, max_attempts=4).run(10)
    assert rig.given_up == [("3", Kind.TRANSIENT)]
    assert rig.flow.counts.requests == 9 + 4


def test_refusals_for_rate_do_not_count_as_attempts():
    tries: Counter[str] = Counter()

    def send(ask):
        tries[ask.name] += 1
        if tries[ask.name] < 8:
            raise failed(Kind.RATE)
        return 1

    rig = Rig(send, max_attempts=2).run(1)
    assert rig.landed == [("0", 1)]


def test_a_request_that_is_too_large_is_split():
    def send(ask):
        if len(ask.name) > 1:
            raise failed(Kind.TOO_LARGE)
        return ask.name

    def split(ask, failure):
        return None if len(ask.name) < 2 else [Ask(ask.name[: len(ask.name) // 2]), Ask(ask.name[len(ask.name) // 2 :])]

    rig = Rig(send, split=split)
    rig.flow.run([Ask("abcd")])
    assert sorted(name for name, _ in rig.landed) == list("abcd")


def test_a_lost_login_stops_the_run_and_keeps_what_landed():
    def send(ask):
        if ask.name == "30":
            raise failed(Kind.AUTH, status=401)
        return 1

    rig = Rig(send, max_in_flight=4, start_in_flight=4)
    with pytest.raises(FlowStopped) as caught:
        rig.run(1000)
    assert caught.value.failure.kind is Kind.AUTH
    assert 25 <= len(rig.landed) < 1000


def test_a_dead_network_ends_the_run_instead_of_failing_every_chip():
    def send(ask):
        raise failed(Kind.NETWORK)

    rig = Rig(send, patience_s=0.2, max_attempts=50)
    with pytest.raises(FlowStopped):
        rig.run(100)
    assert not rig.given_up


def test_a_service_that_is_not_there_counts_against_no_request():
    tries = Counter()

    def send(ask):
        tries[ask.name] += 1
        if tries[ask.name] < 6:
            raise failed(Kind.UNREACHABLE)
        return 1

    rig = Rig(send, max_attempts=2).run(5)
    assert len(rig.landed) == 5
    assert not rig.given_up


of_a_service_that_is_down = pytest.mark.parametrize(
    "kind", [Kind.TRANSIENT, Kind.CAPACITY, Kind.NETWORK, Kind.DEADLINE]
)


@of_a_service_that_is_down
def test_a_long_outage_ends_the_run_and_fails_nothing(kind):
    down = threading.Event()

    def send(ask):
        if int(ask.name) >= 20:
            down.set()
        if down.is_set():
            raise failed(kind, status=503)
        return 1

    rig = Rig(send, is_serving=lambda: not down.is_set(), patience_s=0.3, max_attempts=2, max_in_flight=4)
    with pytest.raises(FlowStopped) as caught:
        rig.run(40)
    assert caught.value.failure.kind is kind
    assert len(rig.landed) >= 17
    assert not rig.given_up


def test_what_takes_too_long_is_asked_for_in_parts():
    sent = []

    def send(ask):
        sent.append(ask.name)
        if len(ask.name) > 2:
            raise failed(Kind.DEADLINE)
        return 1

    def halves(ask, failure):
        middle = len(ask.name) // 2
        return [Ask(ask.name[:middle]), Ask(ask.name[middle:])] if middle else None

    rig = Rig(send, split=halves, patience_s=0.0, max_attempts=4)
    rig.flow.run(iter([Ask("abcdefgh"), Ask("ij")]))
    assert sorted(name for name, _ in rig.landed) == ["ab", "cd", "ef", "gh", "ij"]
    assert len(sent) == len(set(sent)), "nothing is asked for twice"


def test_a_service_that_never_answers_ends_the_run_whatever_can_be_split():
    asked = []

    def send(ask):
        asked.append(ask.name)
        raise failed(Kind.DEADLINE)

    def halves(ask, failure):
        return [Ask(ask.name + "0"), Ask(ask.name + "1")]

    rig = Rig(send, split=halves, is_serving=lambda: False, patience_s=0.0, max_attempts=4)
    with pytest.raises(FlowStopped):
        rig.run(5)
    assert not rig.given_up
    assert len(asked) <= 5 * 7, "halves of halves of halves are not made"


def test_pauses_asked_for_without_end_end_the_run(monkeypatch):
    monkeypatch.setattr("m3etl.io.flow.longest_pause_s", 0.2)

    def send(ask):
        raise failed(Kind.CAPACITY, status=503, retry_after_s=0.05)

    rig = Rig(send, is_serving=lambda: False, patience_s=0.1, max_attempts=2)
    with pytest.raises(FlowStopped):
        rig.run(5)
    assert not rig.given_up


@of_a_service_that_is_down
def test_an_outage_that_passes_costs_no_request_its_attempts(kind):
    began = time.monotonic()

    def send(ask):
        if time.monotonic() - began < 0.25:
            raise failed(kind)
        return 1

    rig = Rig(send, is_serving=lambda: False, max_attempts=2).run(30)
    assert len(rig.landed) == 30
    assert not rig.given_up


@pytest.mark.parametrize("count", [1, 3, 50])
def test_poisonous_requests_are_given_up_though_nothing_else_is_left(count):
    tried = []

    def is_serving():
        tried.append(1)
        return True

    def send(ask):
        if int(ask.name) >= count - 2:
            raise failed(Kind.TRANSIENT, status=500)
        return 1

    rig = Rig(send, is_serving=is_serving, max_attempts=4).run(count)
    assert sorted(int(name) for name, _ in rig.given_up) == list(range(count))[-2:]
    assert len(rig.landed) == count - len(rig.given_up)
    assert len(tried) <= 1, "the service is not asked again and again"
    assert rig.flow.counts.requests <= len(rig.landed) + 2 * 5 + len(tried)


def test_while_there_is_more_to_ask_silence_is_blamed_on_the_service():
    def send(ask):
        raise failed(Kind.TRANSIENT, status=500)

    rig = Rig(send, is_serving=lambda: True, patience_s=0.3, max_attempts=2, requests_per_second=200)
    with pytest.raises(FlowStopped):
        rig.run(10_000)
    assert not rig.given_up


def test_slow_failures_are_retried_before_the_run_loses_its_patience():
    tries = Counter()

    def send(ask):
        tries[ask.name] += 1
        if tries[ask.name] < 3:
            time.sleep(0.02)
            raise failed(Kind.CAPACITY)
        return 1

    rig = Rig(send, patience_s=0.0).run(3)
    assert len(rig.landed) == 3


def test_stop_drains_what_is_in_flight():
    stop = threading.Event()

    def send(ask):
        if ask.name == "5":
            stop.set()
        time.sleep(0.01)
        return 1

    rig = Rig(send, stop=stop, max_in_flight=4, start_in_flight=4).run(1000)
    assert 5 <= len(rig.landed) <= 12
    assert rig.flow.counts.requests == len(rig.landed)


def test_an_error_of_ours_ends_the_run():
    def send(ask):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Rig(send).run(10)


def test_a_full_disk_ends_the_run():
    def land(batch):
        raise OSError(28, "No space left on device")

    flow = Flow(
        send=lambda ask: 1,
        land=land,
        split=lambda ask, failure: None,
        give_up=lambda ask, failure: None,
        pace=Pace(requests_per_second=10_000, max_in_flight=2, start_in_flight=2),
    )
    with pytest.raises(OSError, match="No space left"):
        flow.run(Ask(str(number)) for number in range(100_000))
    assert flow.counts.requests < 100_000


def test_in_flight_and_bytes_are_bounded():
    level = peak = 0
    lock = threading.Lock()

    def send(ask):
        nonlocal level, peak
        with lock:
            level += 1
            peak = max(peak, level)
        time.sleep(0.002)
        with lock:
            level -= 1
        return 1

    rig = Rig(send, max_in_flight=7, start_in_flight=7)
    rig.run(60)
    assert 2 <= peak <= 7
    peak = 0
    bounded = Rig(send, max_in_flight=7, start_in_flight=7, max_bytes=250)
    bounded.flow.run(Ask(str(number), nbytes=100) for number in range(30))
    assert peak <= 2
    assert len(bounded.landed) == 30


def test_one_request_beyond_the_byte_bound_still_goes():
    rig = Rig(lambda ask: 1, max_bytes=10)
    rig.flow.run([Ask("big", nbytes=1000), Ask("small")])
    assert len(rig.landed) == 2


def test_limit_grows_and_halves_once_per_round():
    limit = AdaptiveLimit(maximum=40, start=8)
    for _ in range(100):
        limit.accepted()
    assert limit.value == 40
    limit.refused(sent_at=1.0, now=2.0)
    limit.refused(sent_at=1.5, now=2.1)
    assert limit.value == 20
    limit.accepted()
    assert limit.value == 20
    for _ in range(25):
        limit.accepted()
    assert limit.value == 21
    for moment in range(3, 20):
        limit.refused(sent_at=moment, now=moment + 0.5)
    assert limit.value == 1


def test_rate_gate_spaces_and_pauses():
    gate = RateGate(100)
    moment, sent = 50.0, []
    for _ in range(500):
        moment += gate.wait_s(moment)
        gate.take(moment)
        sent.append(moment)
    assert all(later - earlier >= 1.0 - 1e-6 for earlier, later in zip(sent, sent[112:], strict=False))
    gate.pause(moment + 3)
    assert gate.wait_s(moment) == pytest.approx(3)


def test_a_request_that_failed_for_good_is_split_before_it_is_given_up():
    def send(ask):
        if "x" in ask.name:
            raise failed(Kind.DETERMINISTIC if len(ask.name) > 2 else Kind.TRANSIENT)
        return ask.name

    def split(ask, failure):
        middle = len(ask.name) // 2
        return None if middle < 1 else [Ask(ask.name[:middle]), Ask(ask.name[middle:])]

    rig = Rig(send, split=split, max_attempts=3)
    rig.flow.run([Ask("abcdexgh")])
    assert sorted(name for name, _ in rig.landed) == ["abcd", "e", "gh"]
    assert rig.given_up == [("x", Kind.TRANSIENT)]
    assert rig.flow.counts.requests == 1 + 2 + 2 + 3 - 1 + 1 + 3


def test_a_long_retry_after_is_kept_to_and_tries_nobodys_patience():
    sent = []

    def send(ask):
        sent.append(time.monotonic())
        if len(sent) <= 4:
            raise failed(Kind.RATE, status=429, retry_after_s=0.3)
        return 1

    rig = Rig(send, max_in_flight=1, patience_s=0.1).run(3)
    assert len(rig.landed) == 3
    assert all(later - earlier >= 0.29 for earlier, later in itertools.pairwise(sent[:5]))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(list(Kind)), max_size=4), min_size=1, max_size=12),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 40),
)
def test_whatever_comes_back_every_request_lands_or_is_given_up_once(plans, in_flight, attempts, max_bytes):
    plans = [[kind for kind in plan if reactions.get(kind, Reaction.STOP) is not Reaction.STOP] for plan in plans]
    lock = threading.Lock()
    level, bytes_now, tries = 0, 0, Counter()
    worst = {"level": 0, "bytes": 0}

    def send(ask):
        nonlocal level, bytes_now
        with lock:
            level, bytes_now = level + 1, bytes_now + ask.nbytes
            worst["level"] = max(worst["level"], level)
            worst["bytes"] = max(worst["bytes"], bytes_now if level > 1 else 0)
            number = tries[ask.name]
            tries[ask.name] += 1
        time.sleep(0.0002)
        with lock:
            level, bytes_now = level - 1, bytes_now - ask.nbytes
        plan = plans[int(ask.name)]
        if number < len(plan):
            raise failed(plan[number])
        return number

    rig = Rig(send, max_in_flight=in_flight, start_in_flight=in_flight, max_attempts=attempts, max_bytes=max_bytes)
    rig.flow._pace = replace(rig.flow._pace, base_wait_s=0.0001)
    rig.flow.run(Ask(str(number), nbytes=1 + number) for number in range(len(plans)))
    ends = [name for name, _ in rig.landed] + [name for name, _ in rig.given_up]
    assert sorted(ends) == sorted(map(str, range(len(plans))))
    assert worst["level"] <= in_flight
    assert worst["bytes"] <= max_bytes
    once = {kind for kind, reaction in reactions.items() if reaction in (Reaction.SPLIT, Reaction.GIVE_UP)}
    for name, kind in rig.given_up:
        plan = plans[int(name)]
        first = next((position for position, item in enumerate(plan) if item in once), len(plan))
        counted = sum(reactions[item] is not Reaction.WAIT for item in plan[: tries[name]])
        assert tries[name] <= first + 1
        assert kind in once or counted == attempts
    assert rig.flow._bytes == 0, "everything that was reserved is free again"
