"""Sends many requests at the pace that the service allows: a rate gate, concurrency that adapts, bounded bytes in
flight, retries with full jitter, and one reaction to each kind of outcome. What a request is and where results go is
the caller's; several flows may share one quota.
"""

from __future__ import annotations

import heapq
import itertools
import math
import queue
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from m3etl.io.outcomes import Failure, Kind, Reaction, RequestFailed, reactions

max_bytes_in_flight = 384 * 1024 * 1024
longest_wait_s = 60.0  # of our own; a Retry-After of the service's is kept to beyond that
longest_pause_s = 900.0
least_tries = 3  # one slow answer may outlast the patience; it says little before it was asked for again
trial_every_s = 1.0
longest_look_s = 0.05
# What a service that is down answers to everything.
of_the_service = frozenset({Kind.CAPACITY, Kind.TRANSIENT, Kind.NETWORK, Kind.DEADLINE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The service's quota and how patient we are. base_wait_s: first back-off, doubled with every attempt, fully
    jittered.
    """

    requests_per_second: float = 100.0
    max_in_flight: int = 40
    max_attempts: int = 6
    base_wait_s: float = 1.0
    max_bytes: int = max_bytes_in_flight
    start_in_flight: int = 8
    patience_s: float = 120.0


@dataclass(slots=True, kw_only=True)
class FlowCounts:
    """What happened so far: requests sent, outcomes by kind, retries, bytes received, peak in flight."""

    requests: int = 0
    retries: int = 0
    nbytes: int = 0
    peak_in_flight: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def add(self, later: FlowCounts, since: FlowCounts) -> None:
        """What other counts have grown by."""
        self.requests += later.requests - since.requests
        self.retries += later.retries - since.retries
        self.nbytes += later.nbytes - since.nbytes
        self.peak_in_flight = max(self.peak_in_flight, later.peak_in_flight)
        self.outcomes.update(later.outcomes - since.outcomes)


class AdaptiveLimit:
    """How many requests may be in flight: doubles per round until the first refusal, then +1 per round and halves on
    refusal.

    A refusal of a request sent before the last decrease says nothing new and is ignored.
    """

    def __init__(self, *, maximum: int, start: int) -> None:
        self._maximum = float(max(1, maximum))
        self._limit = float(max(1, min(start, maximum)))
        self._slow_start = True
        self._decreased_at = -float("inf")

    @property
    def value(self) -> int:
        """The limit now, at least 1."""
        return int(self._limit)

    def accepted(self) -> None:
        """One more request went well."""
        self._limit = min(self._maximum, self._limit + (1.0 if self._slow_start else 1.0 / self._limit))

    def refused(self, *, sent_at: float, now: float, factor: float = 0.5) -> None:
        """The service said that there were too many."""
        if sent_at < self._decreased_at:
            return
        self._slow_start = False
        self._decreased_at = now
        self._limit = max(1.0, self._limit * factor)


class RateGate:
    """At most `per_second` requests in any second, evenly spaced; `pause` holds everything back for a while."""

    def __init__(self, per_second: float) -> None:
        self._interval = 1.0 / per_second
        self._next = 0.0

    def wait_s(self, now: float) -> float:
        """Seconds until the next request may go; 0 when it may go now."""
        return max(0.0, self._next - now)

    def take(self, now: float) -> None:
        """A request goes now. Unused time is not saved up beyond a tenth of a second."""
        self._next = max(self._next, now - 0.1) + self._interval

    def pause(self, until: float) -> None:
        """Nothing goes before `until`."""
        self._next = max(self._next, until)


class Quota:
    """The rate and the requests in flight that flows may have together, each from a thread of its own.

    on_pause: called, in any of them, with seconds for which the service wants no request, and the outcome that says so.
    """

    def __init__(
        self, *, per_second: float, in_flight: int, on_pause: Callable[[float, Failure], None] | None = None
    ) -> None:
        self._gate = RateGate(per_second)
        self._free = max(1, in_flight)
        self._is_claimed = False
        self._on_pause = on_pause
        self._lock = threading.Condition()

    def wait_s(self, now: float) -> float:
        """Seconds until the rate lets the next request go."""
        with self._lock:
            return self._gate.wait_s(now)

    def take(self, now: float, *, goes_first: bool) -> bool:
        """Whether a request may go now; if so it counts until `give_back`. One that goes first and finds no place gets
        the next that is free.
        """
        with self._lock:
            return self._take(now, goes_first)

    def _take(self, now: float, goes_first: bool) -> bool:
        if self._gate.wait_s(now) > 0:
            return False
        if self._free <= (self._is_claimed and not goes_first):
            self._is_claimed = self._is_claimed or goes_first
            return False
        self._is_claimed = self._is_claimed and not goes_first
        self._free -= 1
        self._gate.take(now)
        return True

    def wait_for_place(self, stop: threading.Event) -> bool:
        """Take a place before those who do not go first, as soon as there is one; False when `stop` is set before."""
        with self._lock:
            while not stop.is_set():
                if self._take(time.monotonic(), True):
                    return True
                self._lock.wait(min(self._gate.wait_s(time.monotonic()) or longest_look_s, longest_look_s))
            self._is_claimed = False
            return False

    def give_back(self) -> None:
        """A request that was in flight has its outcome."""
        with self._lock:
            self._free += 1
            self._lock.notify()

    def unclaim(self) -> None:
        """Nobody waits for a place any more."""
        with self._lock:
            self._is_claimed = False

    def pause(self, until: float) -> None:
        """Nothing goes before `until`."""
        with self._lock:
            self._gate.pause(until)

    def pause_for(self, failure: Failure) -> float:
        """Nothing goes for as long as the service asks with an outcome; returns the seconds."""
        pause_s = min(failure.retry_after_s or 0.0, longest_pause_s)
        if pause_s:
            self.pause(time.monotonic() + pause_s)
            if self._on_pause is not None:
                self._on_pause(pause_s, failure)
        return pause_s


class Sendable(Protocol):
    """A request: `nbytes` is what its answer will take in memory."""

    @property
    def nbytes(self) -> int: ...


Request = TypeVar("Request", bound=Sendable)


@dataclass(slots=True)
class _Try(Generic[Request]):
    request: Request
    attempts: int = 0
    refusals: int = 0
    sent_at: float = 0.0
    failed_at: float = -math.inf
    serves_others: bool = False


class FlowStopped(Exception):  # noqa: N818 - ends a run; the caller decides what it means
    """The run can't go on: login lost, or nothing has come through for a while. What was landed stays."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Flow(Generic[Request]):
    """Runs requests to their end. One use per run.

    send: called in worker threads, returns the checked answer or raises RequestFailed. land: called in one writer
    thread with a batch of (request, answer), returns once they are durable. split: requests that replace one which is
    too large or too slow, lacks a source or has failed for good, empty when nothing of it is left to ask for, None when
    it can't be split. give_up: called in the coordinating thread for a request that can't be split and failed for good.
    on_answer: called there with a request and the seconds that its answer took. on_tick: after every outcome.
    is_serving: called in a worker thread, asks the service for the least there is and returns whether it answered. With
    it, failures of the service (5xx, lost connections) count against no request while nothing comes through, and a
    request that alone is left is given up only when the service answers other things. Without it they always count.
    quota: shared with other flows, its own without one; goes_first: it gets places before them.

    At most `max_in_flight` requests are at the service, and as many more are answered and not durable yet: what a kill
    makes to be asked again.
    """

    def __init__(
        self,
        *,
        send: Callable[[Request], Any],
        land: Callable[[Sequence[tuple[Request, Any]]], None],
        split: Callable[[Request, Failure], Sequence[Request] | None],
        give_up: Callable[[Request, Failure], None],
        pace: Pace,
        counts: FlowCounts | None = None,
        stop: threading.Event | None = None,
        on_answer: Callable[[Request, float], None] | None = None,
        on_tick: Callable[[int, FlowCounts], None] | None = None,
        is_serving: Callable[[], bool] | None = None,
        quota: Quota | None = None,
        goes_first: bool = False,
        jitter: random.Random | None = None,
    ) -> None:
        self._send, self._land, self._split, self._give_up = send, land, split, give_up
        self._pace = pace
        self.counts = counts if counts is not None else FlowCounts()
        self._stop = stop or threading.Event()
        self._on_answer, self._on_tick = on_answer, on_tick
        self._is_serving = is_serving
        self._trial_lock = threading.Lock()
        self._trial_at, self._trials, self._trial_went_well = -math.inf, 0, False
        self._jitter = jitter or random.Random()
        self._limit = AdaptiveLimit(maximum=pace.max_in_flight, start=pace.start_in_flight)
        self._quota = quota or Quota(per_second=pace.requests_per_second, in_flight=pace.max_in_flight)
        self._goes_first = goes_first
        self._ready: deque[_Try[Request]] = deque()
        self._waiting: list[tuple[float, int, _Try[Request]]] = []
        self._order = itertools.count()
        self._finished: queue.SimpleQueue[tuple[_Try[Request], Any, Failure | None, BaseException | None] | None] = (
            queue.SimpleQueue()
        )  # None: something has landed
        self._landing: queue.SimpleQueue[tuple[Request, Any, int] | None] = queue.SimpleQueue()
        self._landed_error: BaseException | None = None
        self._bytes = 0
        self._reserved = 0  # requests in flight, and answered ones that are not durable
        self._is_held_back = False  # until something lands: too much is not durable, or the source has nothing yet
        self._bytes_lock = threading.Lock()
        self._in_flight = 0
        self._exhausted = self._is_idle = False
        self._answered_at = 0.0  # when the last request was sent whose answer says that the service works
        self._last_good = 0.0  # when it came, or the end of a pause that the service asked for
        self._stopped: FlowStopped | None = None

    def run(self, requests: Iterable[Request | None]) -> None:
        """Send everything and return when all of it has landed or was given up. None in `requests`: there is nothing to
        send yet; what is to come is asked for again soon, and as soon as something has landed.

        Raises FlowStopped when the run can't go on (after what was in flight has landed), and whatever `land` raised.
        When `stop` is set, nothing new is sent and what is in flight lands; the call then returns.
        """
        source = iter(requests)
        self._last_good = self._answered_at = time.monotonic()
        writer = threading.Thread(target=self._write, name="m3etl-land", daemon=True)
        writer.start()
        pool = ThreadPoolExecutor(max_workers=self._pace.max_in_flight, thread_name_prefix="m3etl-send")
        try:
            self._coordinate(source, pool)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            self._take_finished(block_s=0.0)
            self._landing.put(None)
            writer.join()
            if self._goes_first:
                self._quota.unclaim()
            self.counts.requests += self._trials
        if self._landed_error is not None:
            raise self._landed_error
        if self._stopped is not None:
            raise self._stopped

    def _coordinate(self, source: Iterator[Request | None], pool: ThreadPoolExecutor) -> None:
        while True:
            draining = self._stop.is_set() or self._stopped is not None or self._landed_error is not None
            if not draining:
                self._dispatch(source, pool)
            if self._in_flight == 0 and (draining or (self._exhausted and not self._ready and not self._waiting)):
                return
            self._take_finished(block_s=self._pause_s(draining))

    def _dispatch(self, source: Iterator[Request | None], pool: ThreadPoolExecutor) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            self._ready.append(heapq.heappop(self._waiting)[2])
        while self._in_flight < self._limit.value and self._quota.wait_s(now) <= 0:
            if not self._ready and not self._fill(source):
                break
            nbytes = self._ready[0].request.nbytes
            if not self._reserve(nbytes):
                break
            now = time.monotonic()
            if not self._quota.take(now, goes_first=self._goes_first):
                self._release(nbytes)
                break
            attempt = self._ready.popleft()
            attempt.sent_at = now
            self._in_flight += 1
            self.counts.requests += 1
            self.counts.peak_in_flight = max(self.counts.peak_in_flight, self._in_flight)
            pool.submit(self._work, attempt)

    def _fill(self, source: Iterator[Request | None]) -> bool:
        item = None
        if not self._exhausted:
            self._is_held_back = True  # before it is asked, for what lands from now on may change what it says
            try:
                item = next(source)
            except StopIteration:
                self._exhausted = True
        self._is_idle = item is None
        if item is not None:
            self._ready.append(_Try(item))
        return item is not None

    def _reserve(self, nbytes: int) -> bool:
        with self._bytes_lock:
            too_much = self._bytes + nbytes > self._pace.max_bytes or self._reserved >= 2 * self._pace.max_in_flight
            if self._reserved and too_much:
                self._is_held_back = True
                return False
            self._bytes += nbytes
            self._reserved += 1
            return True

    def _release(self, nbytes: int) -> None:
        with self._bytes_lock:
            self._bytes -= nbytes
            self._reserved -= 1

    def _work(self, attempt: _Try[Request]) -> None:
        try:
            try:
                self._finished.put((attempt, self._send(attempt.request), None, None))
            except RequestFailed as failed:
                if self._is_left_alone(attempt, failed.failure):
                    attempt.serves_others = self._try_service()
                self._finished.put((attempt, None, failed.failure, None))
        except BaseException as error:
            self._finished.put((attempt, None, None, error))

    def _is_left_alone(self, attempt: _Try[Request], failure: Failure) -> bool:
        """Whether it has failed often enough, and nothing that was sent since it failed the last time was answered."""
        tries = attempt.attempts + attempt.refusals + 1
        return tries >= self._pace.max_attempts and self._is_silent(attempt, failure)

    def _is_silent(self, attempt: _Try[Request], failure: Failure) -> bool:
        is_its_fault = self._is_serving is None or failure.kind not in of_the_service
        return not is_its_fault and self._answered_at <= attempt.failed_at

    def _try_service(self) -> bool:
        with self._trial_lock:
            if self._is_serving is not None and time.monotonic() - self._trial_at > trial_every_s:
                self._trials += 1
                self._trial_went_well = self._is_serving()
                self._trial_at = time.monotonic()
            return self._trial_went_well

    def _pause_s(self, draining: bool) -> float:
        if draining:
            return 0.2
        now = time.monotonic()
        due = [0.2]
        if self._waiting:
            due.append(self._waiting[0][0] - now)
        if self._in_flight < self._limit.value:
            due.append(self._quota.wait_s(now) or longest_look_s)
        return max(0.0005, min(due))

    def _take_finished(self, *, block_s: float) -> None:
        try:
            item = self._finished.get(timeout=block_s) if block_s > 0 else self._finished.get_nowait()
        except queue.Empty:
            return
        while True:
            if item is not None:
                self._settle(*item)
            try:
                item = self._finished.get_nowait()
            except queue.Empty:
                return

    def _settle(
        self, attempt: _Try[Request], answer: Any, failure: Failure | None, error: BaseException | None
    ) -> None:
        self._in_flight -= 1
        self._quota.give_back()
        now = time.monotonic()
        request = attempt.request
        if error is not None:
            self._release(request.nbytes)
            self._landed_error = self._landed_error or error
            return
        kind = failure.kind if failure else Kind.OK
        self.counts.outcomes[str(kind)] += 1
        if failure is None:
            self._note_answer(attempt, now)
            self._limit.accepted()
            self._landing.put((request, answer, request.nbytes))
            if self._on_answer is not None:
                self._on_answer(request, now - attempt.sent_at)
        else:
            self._release(request.nbytes)
            self._react(attempt, failure, now)
        if self._on_tick is not None:
            self._on_tick(self._in_flight, self.counts)

    def _react(self, attempt: _Try[Request], failure: Failure, now: float) -> None:
        reaction = reactions[failure.kind]
        if reaction is Reaction.STOP:
            self._stopped = self._stopped or FlowStopped(failure)
            return
        if reaction in (Reaction.SPLIT, Reaction.GIVE_UP):
            self._note_answer(attempt, now)
            self._replace(attempt.request, failure)
            return
        self._retry(attempt, failure, reaction, now)

    def _note_answer(self, attempt: _Try[Request], now: float) -> None:
        self._last_good = now
        self._answered_at = max(self._answered_at, attempt.sent_at)

    def _replace(self, request: Request, failure: Failure) -> None:
        parts = self._split(request, failure)
        if parts is None:
            self._give_up(request, failure)
        else:
            self._ready.extend(_Try(part) for part in parts)

    def _retry(self, attempt: _Try[Request], failure: Failure, reaction: Reaction, now: float) -> None:
        if failure.kind in (Kind.RATE, Kind.DEADLINE):
            self._limit.refused(sent_at=attempt.sent_at, now=now)
        elif failure.kind is Kind.CAPACITY:
            self._limit.refused(sent_at=attempt.sent_at, now=now, factor=0.8)
        pause_s = self._quota.pause_for(failure)
        if pause_s:
            self._last_good = max(self._last_good, now + pause_s)  # silence that was asked for tries nobody's patience
        is_silent = self._is_silent(attempt, failure)
        attempt.failed_at = now
        if reaction is Reaction.WAIT or is_silent:
            attempt.refusals += 1
        else:
            attempt.attempts += 1
        if self._is_out_of_patience(now) and attempt.attempts + attempt.refusals >= least_tries:
            self._stopped = self._stopped or FlowStopped(failure)
            return
        nothing_else = is_silent and attempt.serves_others and self._is_idle and not self._ready
        if attempt.attempts >= self._pace.max_attempts or nothing_else:
            self._replace(attempt.request, failure)
            return
        if failure.kind is Kind.DEADLINE:
            parts = self._split(attempt.request, failure)
            if parts is not None:  # what they were part of was asked for as often
                self._ready.extend(_Try(part, attempt.attempts, attempt.refusals) for part in parts)
                return
        self.counts.retries += 1
        tries = min(attempt.attempts + attempt.refusals, 10)
        wait = self._jitter.random() * min(longest_wait_s, self._pace.base_wait_s * 2.0 ** (tries - 1))
        heapq.heappush(self._waiting, (now + wait, next(self._order), attempt))

    def _is_out_of_patience(self, now: float) -> bool:
        silent_s = now - self._answered_at  # pauses that the service asks for end too
        return now - self._last_good > self._pace.patience_s or silent_s > self._pace.patience_s + longest_pause_s

    def _write(self) -> None:
        while True:
            item = self._landing.get()
            batch = []
            ended = item is None
            if item is not None:
                batch.append(item)
            while not ended:
                try:
                    item = self._landing.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    ended = True
                else:
                    batch.append(item)
            if batch and self._landed_error is None:
                try:
                    self._land([(request, answer) for request, answer, _ in batch])
                except BaseException as error:
                    self._landed_error = error
            for _, _, nbytes in batch:
                self._release(nbytes)
            if self._is_held_back:
                self._is_held_back = False
                self._finished.put(None)
            if ended:
                return
