"""The evaluation gate: a bounded number of worker threads, a run-time limit per request, CPU time per piece of work."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from m3etl.emulator.messages import Account, failure

T = TypeVar("T")

# Interactive requests: https://developers.google.com/earth-engine/guides/usage
run_time_limit_s = 300.0
_look_s = 1.0  # how often is looked whether the client of work that waits is still there


@dataclass(slots=True)
class _Work:
    function: Callable[[], Any]
    done: threading.Event = field(default_factory=threading.Event)
    started_s: float | None = None
    is_abandoned: bool = False
    cpu_s: float = 0.0
    result: Any = None
    error: BaseException | None = None

    def perform(self) -> None:
        if self.is_abandoned:
            return
        self.started_s = time.monotonic()
        cpu = time.thread_time()
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error
        self.cpu_s = time.thread_time() - cpu
        self.done.set()


class Workers:
    """At most `count` pieces of work run at a time; callers wait in line without using CPU."""

    def __init__(self, count: int | None = None, *, limit_s: float = run_time_limit_s) -> None:
        self._count = count or max(1, os.cpu_count() or 1)
        self._limit_s = limit_s
        self._queue: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._started = False
        self._lock = threading.Lock()

    def run(self, function: Callable[[], T], *, account: Account | None = None, limit_s: float | None = None) -> T:
        """Runs `function` in a worker thread and waits for it; its exceptions are raised here, its CPU time charged.

        Raises ServiceError 400 "Computation timed out." once it has run (not waited) longer than the limit; the thread
        is then left to finish by itself. ServiceError 499 where the client goes before it has begun: it never runs.
        """
        self._start()
        work = _Work(function)
        self._queue.put(work)
        limit = self._limit_s if limit_s is None else limit_s
        remaining = limit
        while not work.done.wait(min(remaining, _look_s)):
            started = work.started_s
            if started is None and account is not None and not account.is_wanted():
                work.is_abandoned = True
                raise failure(499, "The client has closed the connection.")
            remaining = limit if started is None else limit - (time.monotonic() - started)
            if remaining <= 0:
                raise failure(400, "Computation timed out.")
        if account is not None:
            account.eecu_s += work.cpu_s
        if work.error is not None:
            raise work.error
        result: T = work.result
        return result

    def _start(self) -> None:
        if self._started:
            return
        with self._lock:
            if not self._started:
                for index in range(self._count):
                    threading.Thread(target=self._serve, name=f"evaluate-{index}", daemon=True).start()
                self._started = True

    def _serve(self) -> None:
        while True:
            self._queue.get().perform()
