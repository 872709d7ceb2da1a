"""The batch queue: order, limits, idempotence, cancelling, failing, and surviving its server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3etl.emulator.batch import OperationQueue, Running
from m3etl.emulator.model import ServiceError, invalid
from m3etl.emulator.operations import Operation

repository = Path(__file__).resolve().parents[3]


class Runner:
    """Carries operations out by waiting for permission, reporting on the way."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.gate = threading.Semaphore(0)
        self.fail: Exception | None = None

    def __call__(self, running: Running) -> None:
        self.order.append(running.operation.description)
        while not self.gate.acquire(timeout=0.005):
            running.report(0.25)
        if self.fail is not None:
            raise self.fail
        running.report(0.5, eecu_s=2.0, file="one.tif")
        running.operation.uris = ["somewhere"]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)


def queue_in(path: Path, runner: Callable[[Running], None], **options: Any) -> OperationQueue:
    queue = OperationQueue(path, runner, **options)
    queue.start()
    return queue


def submit(queue: OperationQueue, name: str, **request: Any) -> Operation:
    return queue.submit("p", "EXPORT_IMAGE", {"description": name, **request})


def test_an_operation_goes_from_pending_to_succeeded(tmp_path: Path) -> None:
    runner = Runner()
    queue = queue_in(tmp_path, runner)
    operation = submit(queue, "first")
    until(lambda: queue.get(operation.id).progress == 0.25)
    running = operation.resource()
    assert running["name"] == f"projects/p/operations/{operation.id}"
    assert (running["metadata"]["state"], "done" in running) == ("RUNNING", False)
    assert running["metadata"]["stages"][0]["completeWorkUnits"] == 0.25
    runner.gate.release()
    done = queue.wait(operation.id, 10).resource()
    queue.close()
    metadata = done["metadata"]
    assert (done["done"], metadata["state"], metadata["progress"]) == (True, "SUCCEEDED", 1.0)
    assert (metadata["batchEecuUsageSeconds"], metadata["destinationUris"]) == (2.0, ["somewhere"])
    assert metadata["createTime"] <= metadata["startTime"] <= metadata["endTime"] == metadata["updateTime"]
    assert "response" in done
    assert "error" not in done


def test_two_run_at_a_time_by_priority_then_age(tmp_path: Path) -> None:
    runner = Runner()
    queue = queue_in(tmp_path, runner)
    names = {"a": 100, "b": 100, "c": 5, "d": 100, "e": 900}
    operations = [submit(queue, name, priority={"value": priority}) for name, priority in names.items()]
    until(lambda: len(runner.order) == 2)
    assert [operation.state for operation in operations] == ["RUNNING", "RUNNING", *["PENDING"] * 3]
    for count in range(3, 6):
        runner.gate.release()
        until(lambda count=count: len(runner.order) == count)
    runner.gate.release(2)
    for operation in operations:
        queue.wait(operation.id, 10)
    queue.close()
    assert runner.order == ["a", "b", "e", "d", "c"]
    assert [operation.description for operation in queue.of_project("p")] == ["e", "d", "c", "b", "a"]
    assert queue.of_project("other") == []


def test_a_request_id_starts_one_operation(tmp_path: Path) -> None:
    runner = Runner()
    queue = queue_in(tmp_path, runner)
    first = submit(queue, "a", requestId="chip-1")
    assert submit(queue, "again", requestId="chip-1") is first
    assert submit(queue, "b", requestId="chip-2").id != first.id
    assert submit(queue, "c").id != submit(queue, "d").id
    other = queue.submit("q", "EXPORT_IMAGE", {"description": "e", "requestId": "chip-1"})
    assert other.id != first.id
    queue.cancel(first.id)
    queue.wait(first.id, 10)
    assert submit(queue, "again", requestId="chip-1").state == "CANCELLED"
    for item in queue.of_project("p") + queue.of_project("q"):
        queue.cancel(item.id)
    queue.close()


@pytest.mark.parametrize(
    ("request_part", "said"),
    [
        ({"requestId": "a b"}, "Invalid request id"),
        ({"requestId": "x" * 61}, "Invalid request id"),
        ({"requestId": 5}, "Invalid request id"),
        ({"priority": {"value": 10_000}}, "Priority must be between 0 and 9999"),
        ({"priority": {"value": "high"}}, "Expected a whole number"),
    ],
)
def test_bad_requests_are_refused(tmp_path: Path, request_part: dict[str, Any], said: str) -> None:
    queue = queue_in(tmp_path, Runner())
    with pytest.raises(ServiceError, match=said) as caught:
        submit(queue, "a", **request_part)
    queue.close()
    assert caught.value.code == 400


def test_a_full_queue_refuses_in_the_services_words(tmp_path: Path) -> None:
    runner = Runner()
    queue = queue_in(tmp_path, runner, pending=3)
    operations = [submit(queue, str(number)) for number in range(5)]
    with pytest.raises(ServiceError) as caught:
        submit(queue, "too many")
    assert caught.value.message == "Too many tasks already in the queue (3). Please wait for some of them to complete."
    queue.cancel(operations[4].id)
    assert submit(queue, "fits").state == "PENDING"
    for operation in queue.of_project("p"):
        queue.cancel(operation.id)
    queue.close()


def test_cancelling_waiting_running_and_finished_operations(tmp_path: Path) -> None:
    runner = Runner()
    queue = queue_in(tmp_path, runner, running=1)
    running, waiting = submit(queue, "running"), submit(queue, "waiting")
    queue.cancel(waiting.id)
    assert waiting.state == "CANCELLED"
    until(lambda: running.state == "RUNNING")
    queue.cancel(running.id)
    done = queue.wait(running.id, 10).resource()
    assert done["metadata"]["state"] == "CANCELLED"
    assert done["error"] == {"code": 1, "message": "Cancelled."}
    queue.cancel(running.id)
    assert queue.get(running.id).state == "CANCELLED"
    assert runner.order == ["running"]
    queue.delete(running.id)
    for action in (queue.get, queue.cancel):
        with pytest.raises(ServiceError) as caught:
            action(running.id)
        assert caught.value.code == 404
    queue.close()


def test_failures_keep_the_services_message_and_code(tmp_path: Path) -> None:
    crashes: list[BaseException] = []
    runner = Runner()
    runner.gate.release(2)
    queue = queue_in(tmp_path, runner, running=1, on_crash=lambda operation, error: crashes.append(error))
    runner.fail = invalid("Export too large.")
    failed = queue.wait(submit(queue, "a").id, 10).resource()
    assert failed["metadata"]["state"] == "FAILED"
    assert failed["error"] == {"code": 3, "message": "Export too large. (Error code: 3)"}
    assert crashes == []
    runner.fail = KeyError("bug")
    crashed = queue.wait(submit(queue, "b").id, 10).resource()
    queue.close()
    assert crashed["error"]["code"] == 13
    assert "KeyError" in crashed["error"]["message"]
    assert isinstance(crashes[0], KeyError)


def test_operations_go_on_after_a_restart(tmp_path: Path) -> None:
    runner = Runner()
    queue = queue_in(tmp_path, runner, running=1)
    running, waiting = submit(queue, "running"), submit(queue, "waiting", requestId="w")
    until(lambda: running.progress == 0.25)
    queue.close()
    assert json.loads((tmp_path / f"{running.id}.json").read_text())["state"] == "PENDING"

    second = Runner()
    second.gate.release(2)
    queue = queue_in(tmp_path, second, running=1)
    assert submit(queue, "again", requestId="w").id == waiting.id
    assert queue.wait(running.id, 10).state == "SUCCEEDED"
    assert queue.wait(waiting.id, 10).state == "SUCCEEDED"
    queue.close()
    assert (queue.get(running.id).attempt, queue.get(waiting.id).attempt) == (2, 1)
    assert second.order == ["running", "waiting"]

    third = Runner()
    queue = queue_in(tmp_path, third)
    assert [item.state for item in queue.of_project("p")] == ["SUCCEEDED", "SUCCEEDED"]
    assert queue.get(running.id).eecu_s == 2.0
    queue.close()
    assert third.order == []


def test_servers_that_share_a_directory_leave_each_other_alone(tmp_path: Path) -> None:
    first, second = Runner(), Runner()
    one, two = queue_in(tmp_path, first, running=1), queue_in(tmp_path, second, running=1)
    operation, waiting = submit(one, "mine", requestId="r"), submit(one, "next")
    until(lambda: operation.progress == 0.25)
    assert submit(two, "mine again", requestId="r").id == operation.id
    assert {item.id for item in two.of_project("p")} == {operation.id, waiting.id}
    assert two.get(operation.id).state == "RUNNING"
    two.cancel(operation.id)
    assert one.wait(operation.id, 10).state == "CANCELLED"
    assert two.get(operation.id).state == "CANCELLED"
    until(lambda: waiting.state == "RUNNING")
    one.close()
    assert second.order == []
    two.close()
    second.gate.release()
    three = queue_in(tmp_path, second)
    assert three.wait(waiting.id, 10).state == "SUCCEEDED"
    three.close()


def test_old_finished_operations_are_forgotten(tmp_path: Path) -> None:
    runner = Runner()
    runner.gate.release(2)
    queue = queue_in(tmp_path, runner)
    old, new = submit(queue, "old"), submit(queue, "new")
    for operation in (old, new):
        queue.wait(operation.id, 10)
    queue.close()
    path = tmp_path / f"{old.id}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"updated": "2001-01-01T00:00:00.000000Z"}))
    queue = queue_in(tmp_path, runner)
    assert [item.id for item in queue.of_project("p")] == [new.id]
    queue.close()
    assert not path.exists()


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 9999), st.booleans()), min_size=1, max_size=8))
def test_every_operation_ends_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[int, bool]]
) -> None:
    path = tmp_path_factory.mktemp("queue")
    order: list[str] = []
    may_start = threading.Event()

    def run(running: Running) -> None:
        may_start.wait()
        order.append(running.operation.description)

    queue = queue_in(path, run, running=1)
    blocker = submit(queue, "blocker")
    operations = [submit(queue, str(index), priority={"value": priority}) for index, (priority, _) in enumerate(plan)]
    for operation, (_, cancel) in zip(operations, plan, strict=True):
        if cancel:
            queue.cancel(operation.id)
    may_start.set()
    for operation in [blocker, *operations]:
        assert queue.wait(operation.id, 10).done
    queue.close()
    kept = [(-priority, index) for index, (priority, cancel) in enumerate(plan) if not cancel]
    assert order == ["blocker", *(str(index) for _, index in sorted(kept))]
    states = ["CANCELLED" if cancel else "SUCCEEDED" for _, cancel in plan]
    assert [operation.state for operation in operations] == states


def test_operations_of_a_killed_server_are_adopted(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from m3etl.emulator.batch import OperationQueue\n"
        "queue = OperationQueue(Path(sys.argv[1]), lambda running: time.sleep(60), running=1)\n"
        "queue.start()\n"
        "for name in ('running', 'waiting'):\n"
        "    print(queue.submit('p', 'EXPORT_IMAGE', {'description': name}).id, flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=repository)
    assert process.stdout is not None
    with process.stdout as output:
        ids = [output.readline().decode().strip() for _ in range(2)]
        runner = Runner()
        runner.gate.release(2)
        early = queue_in(tmp_path, runner)
        assert {early.get(identifier).done for identifier in ids} == {False}
        early.close()
        assert runner.order == [], "its server is alive"
        process.kill()
        process.wait()
    queue = queue_in(tmp_path, runner)
    assert [queue.wait(identifier, 10).state for identifier in ids] == ["SUCCEEDED", "SUCCEEDED"]
    assert queue.get(ids[0]).attempt == 2
    queue.close()
    assert sorted(path.name for path in (tmp_path / "servers").iterdir()) == ["directory.lock"]
