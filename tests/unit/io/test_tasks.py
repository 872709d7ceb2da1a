"""The table of tasks: what a run that was killed finds, attempts, tiles that are complete, and its place in the
ledger's file.
"""

from __future__ import annotations

import pytest

from m3etl.errors import InputError
from m3etl.io.ledger import open_ledger
from m3etl.io.tasks import TaskState, describe_tasks, open_tasks
from m3etl.spec.exporttasks import ExportTask


def task(tile: str = "t", *, arrays=("worldcover",), chips=("a", "b")) -> ExportTask:
    return ExportTask(
        tile=tile,
        epsg=32632,
        xmin=0.0,
        ymax=320.0,
        columns=len(chips),
        rows=1,
        chip_m=160.0,
        side=16,
        scenes={name: (f"{name}/1",) for name in arrays},
        chips=tuple((f"{tile}-{chip}", column, 0) for column, chip in enumerate(chips)),
    )


@pytest.fixture
def path(tmp_path):
    open_ledger(tmp_path / "ledger.sqlite").close()
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def tasks(path):
    opened = open_tasks(path)
    yield opened
    opened.close()


def test_a_task_goes_through_its_states_and_survives(path, tasks):
    one = task()
    tasks.add([one], salt="s")
    job = one.job("s")
    (planned,) = tasks.next_to_submit(5)
    assert (planned.job, planned.state, planned.attempt, planned.task) == (job, TaskState.PLANNED, 1, one)
    tasks.submitting(job)
    again = open_tasks(path)
    (cut_off,) = again.next_to_submit(5)
    again.close()
    assert (cut_off.state, cut_off.attempt) == (TaskState.SUBMITTING, 1), "asked for again as the same attempt"
    assert cut_off.since > 0
    tasks.started(job, "operations/1")
    assert tasks.next_to_submit(5) == []
    assert [item.operation for item in tasks.running()] == ["operations/1"]
    tasks.exported(job)
    assert tasks.complete_tiles() == ["t"]
    assert [item.state for item in tasks.of_tile("t")] == [TaskState.EXPORTED]
    tasks.read("t")
    assert (tasks.complete_tiles(), tasks.counts(), tasks.unread()) == ([], {"read": 1}, 0)


def test_what_was_cut_off_is_asked_for_first(tasks):
    one, two, three = (task(name) for name in ("t1", "t2", "t3"))
    tasks.add([one, two, three], salt="s")
    tasks.submitting(three.job("s"))
    assert [item.task.tile for item in tasks.next_to_submit(2)] == ["t3", "t1"]


def test_a_tile_is_complete_when_nothing_of_it_is_open(tasks):
    one, two = task(arrays=("worldcover",)), task(arrays=("aster_slope",))
    tasks.add([one, two], salt="s")
    for item in (one, two):
        assert tasks.complete_tiles() == []
        tasks.submitting(item.job("s"))
        tasks.started(item.job("s"), "o")
        tasks.exported(item.job("s"))
    assert tasks.complete_tiles() == ["t"]
    tasks.try_again(one.job("s"), "wrong", "cut short")
    assert tasks.complete_tiles() == []
    (again,) = tasks.next_to_submit(5)
    assert (again.attempt, again.operation) == (2, "")


def test_a_replaced_task_says_what_is_absent(tasks):
    both, left = task(arrays=("worldcover", "canopy_height")), task(arrays=("canopy_height",))
    tasks.add([both], salt="s")
    assert tasks.coming("t") == {key: {"worldcover", "canopy_height"} for key in ("t-a", "t-b")}
    tasks.replaced(both.job("s"), [left], salt="s", absent={"worldcover": "source_changed"})
    assert tasks.coming("t") == {key: {"worldcover", "canopy_height"} for key in ("t-a", "t-b")}
    assert [item.task for item in tasks.next_to_submit(5)] == [left]
    tasks.failed(left.job("s"), "deterministic", "no")
    assert tasks.coming("t") == {key: {"worldcover"} for key in ("t-a", "t-b")}
    assert [item.absent for item in tasks.of_tile("t")] == [{"worldcover": "source_changed"}]


def test_chips_are_gathered_by_tile(tasks):
    tasks.gather([[("t1", "a"), ("t2", "b")], [], [("t1", "c")]])
    assert (tasks.gathered_tiles(), sorted(tasks.gathered_chips("t1"))) == (["t1", "t2"], ["a", "c"])
    tasks.gather([[("t3", "a")]])
    assert tasks.gathered_tiles() == ["t3"]


def test_a_task_that_is_asked_for_anew_is_its_next_attempt(tasks):
    one = task()
    tasks.add([one], salt="s")
    tasks.submitting(one.job("s"))
    tasks.failed(one.job("s"), "cancelled", "by hand")
    assert tasks.coming("t") == {}
    tasks.add([one], salt="s")
    (again,) = tasks.next_to_submit(5)
    assert (again.attempt, again.state) == (2, TaskState.PLANNED)


def test_the_place_stays_while_tasks_are_on_their_way(tasks):
    tasks.keep_place("gs://one")
    tasks.keep_place("gs://two")
    one = task()
    tasks.add([one], salt="s")
    tasks.submitting(one.job("s"))
    tasks.keep_place("gs://two")
    with pytest.raises(InputError, match="1 exports are on their way to gs://two; gs://three was asked for now"):
        tasks.keep_place("gs://three")


def test_the_salt_is_drawn_once_per_campaign(tmp_path, tasks):
    assert tasks.salt() == tasks.salt()
    open_ledger(tmp_path / "other.sqlite").close()
    other = open_tasks(tmp_path / "other.sqlite")
    assert other.salt() != tasks.salt()
    other.close()


def test_tasks_are_told_in_words(path, tmp_path):
    assert describe_tasks(path) == ""
    tasks = open_tasks(path)
    assert describe_tasks(path) == ""
    tasks.add([task(name) for name in ("t1", "t2", "t3")], salt="s")
    tasks.submitting(task("t2").job("s"))
    tasks.started(task("t2").job("s"), "o")
    assert describe_tasks(path) == "2 planned, 1 running"
    tasks.close()
