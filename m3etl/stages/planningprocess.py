"""Planning beside fetching, in a process of its own: asking about thousands of chips and deciding about them would
share one interpreter's lock with the requests in flight. Small runs never start it.

The child decides; its parent sends the child's questions to Earth Engine, with its own login and within the quota of
the run, writes the decisions to the ledger and hands the chips on. What crosses is text, bytes and packed decisions.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from m3etl.io.earthengine import value_of
from m3etl.io.flow import FlowCounts, Quota
from m3etl.io.ledger_records import PlannedChip
from m3etl.io.outcomes import Failure, Kind, RequestFailed
from m3etl.io.planning import Form
from m3etl.io.workers import usable_cores
from m3etl.stages.asking import Decisions, MeteredSession, PlannedGroups, PlanningRules
from m3etl.stages.childprocess import ChildProcess, loading_s, many_chips, run_child, sendable
from m3etl.stages.decisions import PlanChip
from m3etl.stages.planning import ScenePlanner, planning_in_flight

chips_at_once = 256  # sent in one piece, so that nothing holds the lock for long
seen_for_s = 0.05  # that an answer about waiting chips is good for
looks_every_s = 0.1

_Handlers = Mapping[str, Callable[..., Any]]


class PlanningProcess:
    """The child of one run, started for selections of `least` chips. It ends when its parent does."""

    def __init__(self, *, least: int = many_chips) -> None:
        self._least = least if usable_cores() > 1 else float("inf")
        self._child: ChildProcess | None = None

    def start(self, chips: int) -> None:
        """Let the child load where so many chips are to be planned; it may do so while something else is done."""
        if self._child is None and chips >= self._least:
            with contextlib.suppress(OSError):  # without it everything is planned here
                self._child = ChildProcess("m3etl.stages.planningprocess")

    def child_for(self, chips: int) -> ChildProcess | None:
        """The loaded child, started for so many chips or before; None without one, or where it is lost."""
        self.start(chips)
        return self._child if self._child is not None and self._child.is_ready_within(loading_s) else None

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close()


class Planner:
    """Plans as `ScenePlanner` does, in the child of `process` if there is one; what a lost child leaves is planned
    here.
    """

    def __init__(
        self,
        rules: PlanningRules,
        *,
        process: PlanningProcess,
        service: MeteredSession,
        ledger: Decisions,
        counts: FlowCounts,
        stop: threading.Event,
        on_planned: Callable[[int], None],
        quota: Quota,
    ) -> None:
        self._rules = rules
        self._process = process
        self._service = service
        self._ledger = ledger
        self._counts = counts
        self._stop = stop
        self._on_planned = on_planned
        self._quota = quota

    def plan(self, groups: PlannedGroups, chips: int) -> None:
        """See `ScenePlanner.plan`; raises what it raises. chips: about so many are to be planned."""
        work = _Work(groups, self._ledger, self._on_planned)
        child = self._process.child_for(chips)
        if child is not None:
            try:
                error = self._plan_there(child, work, chips)
            except (EOFError, OSError):
                child.is_lost = True
                work.begin_again()
            else:
                if error is not None:
                    raise error
                return
        here = ScenePlanner(
            self._rules, service=self._service, ledger=work, counts=self._counts, stop=self._stop, quota=self._quota
        )
        here.plan(work, chips)

    def _plan_there(self, child: ChildProcess, work: _Work, chips: int) -> BaseException | None:
        there = _There(child.connection, self._rules, self._counts, self._stop)

        def next_group() -> bool:
            chips = work.next_group()
            there.send_chips(chips or ())
            return chips is not None

        return there.plan(
            {
                "encode": self._service.encode,
                "ask": self._ask,
                "is_serving": self._service.is_serving,
                "waiting": work.waiting,
                "next_group": next_group,
                "settle": lambda: there.send_chips(work.settle()),
                "record_planned": work.record_planned,
                "record_unplannable": work.record_unplannable,
            },
            chips,
        )

    def _ask(self, expression: str, items: int) -> bytes:
        if not self._quota.wait_for_place(self._stop):
            # No fault of what was to be asked, else it could be its last: the next run asks for it.
            raise RequestFailed(Failure(kind=Kind.UNREACHABLE, message="the run was stopped before this was asked"))
        try:
            return self._service.ask_encoded(expression, items)
        except RequestFailed as failed:
            self._quota.pause_for(failed.failure)
            raise
        finally:
            self._quota.give_back()


class _Work:
    """Groups and ledger as a planner sees them. What was handed out and is not decided is kept, so that another planner
    can take over from one that is lost.
    """

    def __init__(self, groups: PlannedGroups, ledger: Decisions, on_planned: Callable[[int], None]) -> None:
        self._groups = groups
        self._ledger = ledger
        self._on_planned = on_planned
        self._open: deque[dict[str, PlanChip]] = deque()  # groups that are not settled: chips that are not decided
        self._again: deque[dict[str, PlanChip]] = deque()  # those that are to be handed out once more

    def begin_again(self) -> None:
        """Hand out once more what is not decided."""
        self._again = self._open.copy()

    def waiting(self) -> int | None:
        """See `Groups`."""
        return self._groups.waiting()

    def next_group(self) -> Sequence[PlanChip] | None:
        """See `Groups`."""
        if self._again:
            return list(self._again.popleft().values())
        chips = self._groups.next_group()
        if chips is not None:
            self._open.append({chip.chip_id: chip for chip in chips})
        return chips

    def settle(self) -> Sequence[PlanChip]:
        """See `Groups`."""
        chips = self._groups.settle()
        if chips:
            self._open[0].update((chip.chip_id, chip) for chip in chips)
        else:
            self._open.popleft()
        return chips

    def record_planned(self, chips: Sequence[PlannedChip]) -> None:
        """See `Decisions`."""
        self._ledger.record_planned(chips)
        self._groups.recorded(chips)
        self._are_decided([item.chip_id for item in chips])

    def record_unplannable(self, chip_id: str, kind: str, reason: str) -> None:
        """See `Decisions`."""
        self._ledger.record_unplannable(chip_id, kind, reason)
        self._are_decided([chip_id])

    def _are_decided(self, names: Sequence[str]) -> None:
        for group in list(self._open):
            for name in names:
                group.pop(name, None)
        self._on_planned(len(names))


class _There:
    """Planning by one set of rules in the child, and this side's answers to its calls."""

    def __init__(self, connection: Connection, rules: PlanningRules, counts: FlowCounts, stop: threading.Event) -> None:
        self._connection = connection
        self._counts = counts
        self._counted = FlowCounts()
        self._stop = stop
        self._is_told = False
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._send("rules", rules)

    def send_chips(self, chips: Sequence[PlanChip]) -> None:
        """Let the child have these; the answer to its call follows."""
        with contextlib.suppress(OSError):  # a lost child is noticed where its calls are received
            for start in range(0, len(chips), chips_at_once):
                self._send("chips", chips[start : start + chips_at_once])

    def plan(self, handlers: _Handlers, chips: int) -> BaseException | None:
        """Returns what a handler here raised, or planning there. Raises EOFError or OSError for a lost child alone."""
        self._send("plan", chips)
        try:
            with ThreadPoolExecutor(planning_in_flight + 4, "m3etl-ask") as pool:
                error = self._serve(pool, handlers)
        except (EOFError, OSError):
            if self._error is None:
                raise
            error = None
        return self._error or error

    def _serve(self, pool: ThreadPoolExecutor, handlers: _Handlers) -> BaseException | None:
        while True:
            name, counts, *content = self._receive()
            self._counts.add(counts, self._counted)
            self._counted = counts
            if name == "done":
                error: BaseException | None = content[0]
                return error
            pool.submit(self._answer, handlers[name], *content)

    def _receive(self) -> Any:
        while not self._connection.poll(looks_every_s):
            self._tell_stop()
        return self._connection.recv()

    def _answer(self, handler: Callable[..., Any], number: int, *arguments: Any) -> None:
        try:
            answer = handler(*arguments)
        except RequestFailed as failed:
            answer = failed.failure
        except BaseException as error:
            self._error = self._error or error
            answer = RuntimeError("this could not be answered")
        with contextlib.suppress(OSError):  # a lost child is noticed where its calls are received
            self._tell_stop()
            self._send("answer", number, answer)

    def _tell_stop(self) -> None:
        if self._stop.is_set() and not self._is_told:
            self._send("stop")
            self._is_told = True  # not before: who finds it told may answer with what only a stop explains

    def _send(self, *message: Any) -> None:
        with self._lock:
            self._connection.send(message)


# --- the child --------------------------------------------------------------------------------------------------------


class Parent:
    """The other side as the child sees it: service, ledger and feed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._calls: dict[int, Future[Any]] = {}
        self._chips: list[PlanChip] = []
        self._seen_waiting: int | None = None
        self._seen_until = 0.0
        self.stop = threading.Event()
        self.counts = FlowCounts()

    def call(self, name: str, *arguments: Any) -> Any:
        """What the other side's handler of this name returns. Raises RequestFailed as it does."""
        number, answer = next(self._numbers), Future[Any]()
        self._calls[number] = answer
        self._send(name, number, *arguments)
        found = answer.result()
        if isinstance(found, Failure):
            raise RequestFailed(found)
        if isinstance(found, Exception):
            raise found
        return found

    def answered(self, number: int, answer: Any) -> None:
        """The answer to a call has come."""
        self._calls.pop(number).set_result(answer)

    def plan(self, planner: ScenePlanner, chips: int) -> None:
        """Plan all groups, and say so."""
        error: Exception | None = None
        try:
            planner.plan(self, chips)
        except Exception as caught:
            error = sendable(caught)
        self._send("done", error)

    def encode(self, form: Form) -> str:
        """See `Service`."""
        return str(self.call("encode", form))

    def ask(self, expression: str, items: int) -> Any:
        """See `Service`."""
        return value_of(self.call("ask", expression, items))

    def is_serving(self) -> bool:
        """See `Service`."""
        return bool(self.call("is_serving"))

    def record_planned(self, chips: Sequence[PlannedChip]) -> None:
        """See `Decisions`."""
        self.call("record_planned", chips)

    def record_unplannable(self, chip_id: str, kind: str, reason: str) -> None:
        """See `Decisions`."""
        self.call("record_unplannable", chip_id, kind, reason)

    def waiting(self) -> int | None:
        """See `Groups`."""
        if time.monotonic() >= self._seen_until:
            self._seen_waiting = self.call("waiting")
            self._seen_until = time.monotonic() + seen_for_s
        return self._seen_waiting

    def next_group(self) -> Sequence[PlanChip] | None:
        """See `Groups`."""
        return self._taken() if self.call("next_group") else None

    def settle(self) -> Sequence[PlanChip]:
        """See `Groups`."""
        self.call("settle")
        return self._taken()

    def take(self, chips: Sequence[PlanChip]) -> None:
        """Chips have come that a call will be answered with."""
        self._chips += chips

    def _taken(self) -> Sequence[PlanChip]:
        chips, self._chips = self._chips, []
        return chips

    def _send(self, name: str, *content: Any) -> None:
        with self._lock:
            self._connection.send((name, self.counts, *content))


def serve_calls(parent: Parent, messages: queue.SimpleQueue[Any]) -> None:
    """Plan what the other side asks for."""
    while True:
        match messages.get():
            case ("rules", rules):
                parent.counts = FlowCounts()
                planner = ScenePlanner(rules, service=parent, ledger=parent, counts=parent.counts, stop=parent.stop)
            case ("chips", part):
                parent.take(part)
            case ("plan", chips):
                threading.Thread(target=parent.plan, args=(planner, chips), daemon=True).start()
            case ("answer", number, answer):
                parent.answered(number, answer)
            case ("stop",):
                parent.stop.set()


if __name__ == "__main__":
    run_child(lambda connection, messages: serve_calls(Parent(connection), messages))
