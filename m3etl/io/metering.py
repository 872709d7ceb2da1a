"""Counts what is sent to Earth Engine and has some of it profiled, so that its cost is known while it is spent."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from m3etl.io.outcomes import Kind, RequestFailed
from m3etl.spec.budget import Figures, Sample

first_profiled = 20  # of every lane, where a budget is to be kept
seconds_between_saves = 5.0


class Profiler(Protocol):
    """A session that can say what a call has cost."""

    def profiled(self) -> AbstractContextManager[list[str]]: ...

    def eecu_seconds(self, profile_id: str) -> float: ...


class Metering(Protocol):
    """What a lane tells about its requests."""

    def request(self, lane: str, units: float) -> AbstractContextManager[None]: ...

    def charge(self, lane: str, units: float, eecu_s: float) -> None: ...


class Unmetered:
    """Counts nothing."""

    def request(self, lane: str, units: float) -> AbstractContextManager[None]:
        return nullcontext()

    def charge(self, lane: str, units: float, eecu_s: float) -> None:
        return None


class Meter:
    """The cost of one run, over what the campaign has cost before. Safe to use from threads.

    every: one request in so many of each lane is profiled (0: none). figures: what is known so far; it grows. keep:
    takes profiled requests and amounts for the running totals, a few times a minute and at the end. budget_s:
    EECU-seconds that the campaign may spend; as soon as the upper bound reaches it, `over` is true and on_over is
    called (from any thread). in_flight: requests that may still be sent then; they are part of the bound.
    """

    def __init__(
        self,
        profiler: Profiler,
        *,
        every: int,
        figures: Figures,
        keep: Callable[[Sequence[Sample], Mapping[str, float]], None],
        budget_s: float | None = None,
        on_over: Callable[[], None] = lambda: None,
        in_flight: int = 40,
    ) -> None:
        self._profiler = profiler
        self._every = every
        self._figures = figures
        self._keep = keep
        self._budget_s = budget_s
        self._on_over = on_over
        self._in_flight = in_flight
        self._lock = threading.Lock()
        self._sent: Counter[str] = Counter()
        self._samples: list[Sample] = []
        self._amounts: defaultdict[str, float] = defaultdict(float)
        self._saved_at = time.monotonic()
        self.requests = 0
        self.over = False

    @contextmanager
    def request(self, lane: str, units: float) -> Iterator[None]:
        """Around one call of the session: it counts, and is profiled when it is its turn. Raises what the call raises.

        A call that is refused for its rate has cost nothing.
        """
        due = self._count(lane, units)
        try:
            with self._profiler.profiled() if due else nullcontext([]) as ids:
                yield
        except RequestFailed as failed:
            if failed.failure.kind is Kind.RATE:
                self._uncount(lane, units)
            raise
        if ids:
            self._measure(lane, units, ids[0])
        self._save_sometimes()

    def charge(self, lane: str, units: float, eecu_s: float) -> None:
        """A finished piece of work whose cost the service has told, such as a batch operation."""
        self._count(lane, units)
        self._add(Sample(lane=lane, units=units, eecu_s=eecu_s))
        self._save_sometimes()

    def close(self) -> None:
        """Hand over what was not handed over yet."""
        self._save()

    def _count(self, lane: str, units: float) -> bool:
        with self._lock:
            known = self._figures.lane(lane)
            known.requests += 1
            known.units += units
            self._amounts[requests_name(lane)] += 1
            self._amounts[units_name(lane)] += units
            self._sent[lane] += 1
            watched = self._budget_s is not None and len(known.samples) < first_profiled
            due = watched or (self._every > 0 and self._sent[lane] % self._every == self._every // 10)
            over = self._is_over(lane, units)
            self.over = self.over or over
        if over:
            self._on_over()
        return due

    def _uncount(self, lane: str, units: float) -> None:
        with self._lock:
            known = self._figures.lane(lane)
            known.requests -= 1
            known.units -= units
            self._amounts[requests_name(lane)] -= 1
            self._amounts[units_name(lane)] -= units

    def _is_over(self, lane: str, units: float) -> bool:
        if self._budget_s is None:
            return False
        further = {lane: self._in_flight * units}
        lanes = self._figures.lanes.items()
        upper = sum(known.spent_upper_s(further_units=further.get(name, 0.0)) for name, known in lanes)
        return upper >= self._budget_s

    def _measure(self, lane: str, units: float, profile_id: str) -> None:
        with self._lock:
            self.requests += 1
        try:
            eecu_s = self._profiler.eecu_seconds(profile_id)
        except RequestFailed:
            return  # the answer itself has come; its cost stays an estimate like that of most requests
        self._add(Sample(lane=lane, units=units, eecu_s=eecu_s))

    def _add(self, sample: Sample) -> None:
        with self._lock:
            self._figures.add([sample])
            self._samples.append(sample)

    def _save_sometimes(self) -> None:
        with self._lock:
            due = time.monotonic() - self._saved_at >= seconds_between_saves
            if due:
                self._saved_at = time.monotonic()
        if due:
            self._save()

    def _save(self) -> None:
        with self._lock:
            samples, self._samples = self._samples, []
            amounts, self._amounts = self._amounts, defaultdict(float)
        if samples or amounts:
            self._keep(samples, amounts)


def requests_name(lane: str) -> str:
    """Name of a running total: requests sent in a lane."""
    return f"{lane} requests"


def units_name(lane: str) -> str:
    """Name of a running total: size of the requests sent in a lane."""
    return f"{lane} units"
