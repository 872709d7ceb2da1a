"""Planning in a process of its own: the same decisions as here, within the run's quota, whatever becomes of the
child.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import time
from multiprocessing.connection import Connection

import pytest
from fakes.earth import FakeEarth, install

from m3etl.campaign import ExportConfig
from m3etl.errors import AuthenticationError, InputError, RemoteError
from m3etl.io.flow import FlowCounts, Quota
from m3etl.io.journal import AnswerJournal
from m3etl.io.outcomes import Failure, Kind
from m3etl.io.workers import usable_cores
from m3etl.stages.asking import MeteredSession, PlanningRules
from m3etl.stages.childprocess import ChildProcess, many_chips, serve_connection
from m3etl.stages.feeding import Feed
from m3etl.stages.planningprocess import Parent, Planner, PlanningProcess, serve_calls
from tests.unit.stages.test_planning import Book, Grouped, chips_of, plan, specs

two_cores = pytest.mark.skipif(usable_cores() < 2, reason="one core: everything is planned here")


@pytest.fixture(autouse=True)
def fake_earth(monkeypatch):
    install(monkeypatch)


class ThreadChild:
    """A child that is a thread of this process, where the fake Earth Engine is known too."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.connection, self.other = Connection(ours.detach()), Connection(theirs.detach())
        self.is_lost = False
        self.sides: list[EndingParent] = []
        threading.Thread(target=serve_connection, args=(self.other, self._serve, self._end), daemon=True).start()
        assert self.connection.recv() == "ready"

    def is_ready_within(self, seconds: float) -> bool:
        return not self.is_lost

    def lose(self, *, amid_a_message: bool) -> None:
        """As a killed process is lost."""
        with self.sides[0]._lock, socket.socket(fileno=os.dup(self.other.fileno())) as again:
            if amid_a_message:
                again.sendall(struct.pack("!i", 1000) + b"begun")
            again.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.connection.close()

    def _serve(self, connection, messages) -> None:
        self.sides.append(EndingParent(connection))
        serve_calls(self.sides[0], messages)

    def _end(self) -> None:
        for side in self.sides:
            side.end()


class EndingParent(Parent):
    """The parent as such a child sees it: calls that are not answered end with it, as a process would."""

    def end(self) -> None:
        for number in list(self._calls):
            self.answered(number, RuntimeError("the parent is gone"))

    def answered(self, number, answer) -> None:
        with contextlib.suppress(KeyError):
            super().answered(number, answer)

    def _send(self, *message) -> None:
        try:
            super()._send(*message)
        except OSError:
            self.end()


@pytest.fixture
def child():
    made = ThreadChild()
    yield made
    made.close()


def plan_there(
    child, chips, earth, *, book=None, groups=None, feed=None, journal=None, stop=None, quota=None, **config
):
    book, counts, told = book or Book(), FlowCounts(), []
    process = PlanningProcess(least=0)
    process._child = child
    rules = PlanningRules(
        specs=tuple(specs),
        config=ExportConfig(**{"requests_per_second": 10_000.0, "max_attempts": 3, **config}),
        seed=4,
        years=(2017, 2020),
        must_have_scene=True,
        journal=journal,
        base_wait_s=0.001,
    )
    planner = Planner(
        rules,
        process=process,
        service=MeteredSession(earth, rules),
        ledger=book,
        counts=counts,
        stop=stop or threading.Event(),
        on_planned=told.append,
        quota=quota or Quota(per_second=10_000.0, in_flight=40),
    )
    planner.plan(groups or Grouped(chips, feed=feed), len(chips))
    assert sum(told) == len(book.scenes) + len(book.lost)
    return book, counts


def test_decisions_are_those_made_here(child):
    chips, feed = chips_of(600), Feed()
    there, counts = plan_there(child, chips, FakeEarth(lost=0.1), feed=feed)
    here, of_here = plan(chips, FakeEarth(lost=0.1))
    assert there.scenes == here.scenes
    assert counts.requests == sum(counts.outcomes.values()) <= of_here.requests + 4
    feed.close()
    usable = {name: scenes for name, scenes in here.scenes.items() if scenes is not None}
    assert {chip.chip_id: chip for chip in feed} == usable


def test_counts_of_several_selections_add_up(child):
    first, _ = plan_there(child, chips_of(40), FakeEarth())
    earth = FakeEarth()
    book, process, total = Book(), PlanningProcess(least=0), FlowCounts()
    process._child = child
    rules = PlanningRules(
        specs=tuple(specs), config=ExportConfig(), seed=4, years=(2017, 2020), must_have_scene=True, base_wait_s=0.001
    )
    planner = Planner(
        rules,
        process=process,
        service=MeteredSession(earth, rules),
        ledger=book,
        counts=total,
        stop=threading.Event(),
        on_planned=lambda count: None,
        quota=Quota(per_second=10_000.0, in_flight=40),
    )
    chips = chips_of(60)
    planner.plan(Grouped(chips[:40]), 40)
    planner.plan(Grouped(chips[40:]), 20)
    assert total.requests == earth.requests
    assert {name: book.scenes[name] for name in first.scenes} == first.scenes
    assert len(book.scenes) == 60


def test_failures_of_the_service_are_met_as_here(child):
    def trouble(kind, question, number):
        if number % 3 == 1:
            return Failure(kind=Kind.CAPACITY, message="too many", status=503)
        bad = [item for item in question.items if item.chip.chip_id == bad_id]
        return Failure(kind=Kind.DETERMINISTIC, message="bad geometry", status=400) if bad else None

    chips = chips_of(60)
    bad_id = chips[17].chip_id
    there, _ = plan_there(child, chips, FakeEarth(trouble=trouble), max_attempts=6)
    here, _ = plan(chips, FakeEarth(trouble=trouble), max_attempts=6)
    assert there.scenes == here.scenes
    assert there.lost == here.lost == {bad_id: "deterministic"}


def test_a_lost_login_ends_it_with_the_same_error(child):
    failure = Failure(kind=Kind.AUTH, message="token expired", status=401)
    with pytest.raises(AuthenticationError, match="token expired") as caught:
        plan_there(child, chips_of(20), FakeEarth(trouble=lambda *item: failure))
    assert "earthengine authenticate" in caught.value.hint


def test_what_could_not_be_asked_is_said(child):
    failure = Failure(kind=Kind.TRANSIENT, message="odd", status=500)

    def trouble(kind, question, number):
        return failure if question.anchored else None

    with pytest.raises(RemoteError, match="planning requests failed for good"):
        plan_there(child, chips_of(20), FakeEarth(trouble=trouble))


def test_an_error_of_the_ledger_is_raised_as_it_is(child):
    class Full(Book):
        def record_planned(self, chips) -> None:
            raise InputError("the disk is full", hint="Make room.")

    with pytest.raises(InputError, match="the disk is full"):
        plan_there(child, chips_of(20), FakeEarth(), book=Full())


def test_questions_keep_to_the_quota_of_the_run(child):
    earth, together, most = FakeEarth(), [], []

    def trouble(kind, question, number):
        together.append(1)
        most.append(len(together))
        time.sleep(0.01)
        together.pop()

    earth.trouble = trouble
    plan_there(child, chips_of(100), earth, plan_batch=8, quota=Quota(per_second=10_000.0, in_flight=2))
    assert max(most) == 2


def test_a_full_feed_holds_planning_back(child, monkeypatch):
    monkeypatch.setattr("m3etl.stages.feeding.chips_ahead", 50)
    feed, book, stop = Feed(), Book(), threading.Event()
    run = threading.Thread(
        target=plan_there,
        args=(child, chips_of(600), FakeEarth()),
        kwargs={"feed": feed, "book": book, "stop": stop, "plan_batch": 16},
    )
    run.start()
    try:
        wait_until(lambda: len(book.scenes) >= 50)
        time.sleep(0.3)
        assert len(book.scenes) < 500
        chips = iter(feed)
        while len(book.scenes) < 600:
            assert run.is_alive()
            if next(chips) is None:
                time.sleep(0.01)
    finally:
        stop.set()
        run.join()


def test_a_stop_ends_it_and_keeps_the_answers(child, tmp_path):
    stop, journal = threading.Event(), tmp_path / "planning.jsonl"

    def trouble(kind, question, number):
        if earth.calls["plan"] >= 6:
            stop.set()

    earth = FakeEarth(trouble=trouble)
    book, _ = plan_there(child, chips_of(300), earth, stop=stop, journal=journal, plan_batch=16)
    assert len(book.scenes) < 300
    assert AnswerJournal(journal).read()


def test_what_a_stop_leaves_unasked_is_no_failure(child):
    quota, stop, book = Quota(per_second=10_000.0, in_flight=1), threading.Event(), Book()
    assert quota.take(time.monotonic(), goes_first=False)
    run = threading.Thread(
        target=plan_there,
        args=(child, chips_of(1), FakeEarth()),
        kwargs={"book": book, "stop": stop, "quota": quota, "max_attempts": 1},
        daemon=True,
    )
    run.start()
    wait_until(lambda: quota._is_claimed)
    stop.set()
    run.join(30)
    assert not run.is_alive()
    assert not book.lost


@pytest.mark.parametrize("amid_a_message", [False, True])
@pytest.mark.parametrize("after", [2, 8, 14])  # every question counts twice
def test_what_a_lost_child_leaves_is_planned_here(child, after, amid_a_message, tmp_path):
    chips, feed = chips_of(300), Feed()

    def trouble(kind, question, number):
        if number == after:
            child.lose(amid_a_message=amid_a_message)

    earth = FakeEarth(lost=0.1, trouble=trouble)
    groups = Grouped(chips[:100], chips[100:200], chips[200:250], instead=[chips[250:270], (), chips[270:]], feed=feed)
    there, _ = plan_there(
        child, chips, earth, groups=groups, feed=feed, journal=tmp_path / "planning.jsonl", plan_batch=32
    )
    here, _ = plan(chips, FakeEarth(lost=0.1))
    assert child.is_lost
    assert groups.settled == [20, 0, 30, 0, 0]
    assert there.scenes == here.scenes
    feed.close()
    assert sorted(chip.chip_id for chip in feed) == sorted(name for name, item in here.scenes.items() if item)


def test_an_error_here_is_said_though_the_child_is_lost_then(child):
    class Failing(Grouped):
        def settle(self):
            child.lose(amid_a_message=False)
            time.sleep(0.1)
            raise InputError("the disk is full", hint="Make room.")

    chips = chips_of(40)
    with pytest.raises(InputError, match="the disk is full"):
        plan_there(child, chips, FakeEarth(), groups=Failing(chips))


def test_few_chips_start_no_child():
    process = PlanningProcess()
    assert process.child_for(many_chips - 1) is None
    assert process._child is None
    process.close()


@two_cores
def test_a_child_loads_beside_other_work_and_ends():
    process = PlanningProcess()
    process.start(many_chips)
    child = process.child_for(1)
    assert child is not None, "once it is there small selections are planned there too"
    process.close()
    assert not os.path.exists(f"/proc/{child.pid}")


@two_cores
def test_what_cannot_be_started_is_done_without(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    process = PlanningProcess()
    assert process.child_for(many_chips) is None
    process.close()


def wait_until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@two_cores
@pytest.mark.parametrize("module", ["m3etl.stages.planningprocess", "m3etl.stages.sealingprocess"])
def test_a_child_whose_parent_is_gone_at_once_is_silent(module, capfd):
    made = ChildProcess(module)
    made.connection.close()
    made._process.wait(30)
    assert capfd.readouterr().err == ""


@pytest.fixture
def loaded():
    made = ChildProcess("m3etl.stages.planningprocess")
    assert made.is_ready_within(30)
    yield made
    made.close()


@two_cores
@pytest.mark.parametrize("message", [b"not pickled", pickle.dumps(("rules", None))])
def test_a_child_that_cannot_go_on_is_lost(loaded, message):
    loaded.connection.send_bytes(message)
    assert loaded.connection.poll(30)
    with pytest.raises(EOFError):
        loaded.connection.recv()


@two_cores
def test_a_child_that_does_nothing_is_ended(loaded):
    os.kill(loaded.pid, signal.SIGSTOP)
    closing = threading.Thread(target=loaded.close, daemon=True)
    closing.start()
    closing.join(30)
    assert not closing.is_alive()
