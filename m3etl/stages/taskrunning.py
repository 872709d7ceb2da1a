"""Export tasks at work: asked for as far as the service runs them, looked at until they end, and what each end leads
to: another attempt, smaller tasks, or chips given up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from m3etl.errors import RemoteError
from m3etl.io.exports import ExportService, Operation, blames_bucket, most_queued
from m3etl.io.flow import FlowCounts, FlowStopped
from m3etl.io.metering import Metering
from m3etl.io.outcomes import Failure, Kind, Reaction, RequestFailed, reactions
from m3etl.io.tasks import TaskRecord, Tasks, TaskState
from m3etl.spec.budget import batch_lane
from m3etl.spec.catalog import find_array
from m3etl.spec.exporttasks import ExportTask, halves, without_image
from m3etl.spec.jobs import ArrayStatus
from m3etl.stages.planning import stopped_error
from m3etl.stages.summary import Progress

most_attempts = 3  # of one task; each costs minutes and EECU
longest_pause_s = 30.0
patience_s = 300.0  # without any answer of the service


class TaskRunner:
    """Brings the planned tasks of a campaign to their end.

    fail: takes (chip id, kind, reason) of a chip that can't be had. place: the bucket, for messages; salt: part of the
    identity of every task; in_flight: tasks at a time, 0 for as many as the service runs; deadline_h: hours after which
    an attempt is given up.
    """

    def __init__(
        self,
        *,
        tasks: Tasks,
        service: ExportService,
        fail: Callable[[str, str, str], None],
        place: str,
        salt: str,
        in_flight: int,
        deadline_h: float,
        base_wait_s: float,
        counts: FlowCounts,
        meter: Metering,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self._tasks = tasks
        self._service = service
        self._fail = fail
        self._place = place
        self._salt = salt
        self._in_flight = in_flight
        self._deadline_h = deadline_h
        self._base_wait_s = base_wait_s
        self._counts = counts
        self._meter = meter
        self._progress = progress
        self._stop = stop
        self._limit = 0
        self._refusals = 0
        self._hold_until = 0.0
        self._silent_since = 0.0

    def step(self) -> int:
        """Look at what runs, ask for more; returns how many tasks began or ended. Raises RemoteError when the run can't
        go on.
        """
        self._limit = self._limit or max(1, min(self._in_flight or self._service.running_limit(), most_queued))
        changed = self._look_at_all()
        if time.monotonic() < self._hold_until:
            return changed
        submitted, held = self._submit()
        if held:
            wait_s = min(longest_pause_s, self._base_wait_s * 2.0 ** min(self._refusals, 10))
            self._hold_until = time.monotonic() + wait_s
        return changed + submitted

    def try_again(self, record: TaskRecord, reason: str) -> bool:
        """Have a task exported once more whose files are wrong; False where it was tried often enough."""
        if record.attempt % most_attempts == 0:
            return False
        self._tasks.try_again(record.job, Kind.WRONG, reason)
        self._counts.retries += 1
        return True

    def _submit(self) -> tuple[int, bool]:
        """Ask for tasks as far as there is room; returns how many, and whether the service wants none for now."""
        room = self._limit - self._tasks.counts().get(TaskState.RUNNING, 0)
        count = 0
        for record in self._tasks.next_to_submit(room) if room > 0 else []:
            if self._stop.is_set():
                break
            self._tasks.submitting(record.job)
            self._counts.requests += 1
            try:
                operation = self._service.submit(record.job, record.attempt, record.task)
            except RequestFailed as failed:
                if not blames_bucket(failed.failure) and self._may_ask_again(failed.failure):
                    return count, True
                self._came_to_nothing(record, failed.failure)
                continue
            self._tasks.started(record.job, operation)
            self._refusals = 0
            count += 1
            self._counts.peak_in_flight = max(self._counts.peak_in_flight, self._limit - room + count)
        return count, False

    def _look_at_all(self) -> int:
        """Look at every task that the service has; returns how many of them ended."""
        ended = 0
        for record in self._tasks.running():
            if self._stop.is_set():
                break
            self._counts.requests += 1
            try:
                operation = self._service.look(record.operation)
            except RequestFailed as failed:
                if self._may_ask_again(failed.failure):
                    break
                gone = Failure(kind=Kind.TRANSIENT, message=f"the operation is not there: {failed.failure.message}")
                self._came_to_nothing(record, gone)
                continue
            self._refusals = 0
            ended += self._take(record, operation)
        return ended

    def _take(self, record: TaskRecord, operation: Operation) -> bool:
        if not operation.done:
            if time.time() - record.since < self._deadline_h * 3600:
                return False
            self._cancel(record)
            message = f"not finished after {self._deadline_h:g} hours"
            self._came_to_nothing(record, Failure(kind=Kind.TRANSIENT, message=message))
        elif operation.failure is None:
            self._tasks.exported(record.job)
            self._meter.charge(batch_lane, task_bytes(record.task), operation.eecu_seconds)
        else:
            self._came_to_nothing(record, operation.failure)
        return True

    def _cancel(self, record: TaskRecord) -> None:
        try:
            self._service.cancel(record.operation)
        except RequestFailed as failed:
            self._progress.say(f"{record.operation} could not be cancelled: {failed.failure.message}")

    def _may_ask_again(self, failure: Failure) -> bool:
        """Whether the same is to be asked again later; raises when the run can't go on."""
        self._counts.outcomes[str(failure.kind)] += 1
        reaction = reactions[failure.kind]
        if reaction is Reaction.STOP:
            raise stopped_error(FlowStopped(failure))
        if reaction not in (Reaction.WAIT, Reaction.RETRY):
            return False
        self._counts.retries += 1
        now = time.monotonic()
        self._silent_since = self._silent_since if self._refusals else now
        self._refusals += 1
        if failure.kind is Kind.RATE and self._refusals == 1:
            self._progress.say("Earth Engine's queue of export tasks is full: waiting for room (Ctrl-C loses nothing)")
        patient = self._refusals < most_attempts or now - self._silent_since <= patience_s
        if failure.kind is not Kind.RATE and not patient:
            raise stopped_error(FlowStopped(failure))
        return True

    def _came_to_nothing(self, record: TaskRecord, failure: Failure) -> None:
        """React to an attempt that failed: another one, other tasks in its place, or none."""
        reaction = reactions[failure.kind]
        if blames_bucket(failure):
            self._tasks.try_again(record.job, str(failure.kind), failure.message)
            raise RemoteError(
                f"Earth Engine cannot write to {self._place}: {failure.message}",
                hint="Let the account that runs the exports write there (Storage Object Admin), then run the same "
                "command again; nothing landed is lost.",
            )
        if reaction is Reaction.STOP:
            self._tasks.try_again(record.job, str(failure.kind), failure.message)
            raise stopped_error(FlowStopped(failure))
        if reaction is Reaction.SPLIT and self._replace(record, failure):
            return
        if reaction in (Reaction.WAIT, Reaction.RETRY) and record.attempt % most_attempts:
            self._tasks.try_again(record.job, str(failure.kind), failure.message)
            self._counts.retries += 1
            return
        self._give_up(record, str(failure.kind), failure.message)

    def _replace(self, record: TaskRecord, failure: Failure) -> bool:
        """Put other tasks in the place of one that can't be done as it is; False where nothing smaller is left."""
        task = record.task
        parts: list[ExportTask] | None
        absent: dict[str, str] = {}
        if failure.kind is Kind.SOURCE_CHANGED:
            parts, gone = without_image(task, failure.asset)
            absent = dict.fromkeys(gone, ArrayStatus.SOURCE_CHANGED)
        elif failure.kind is Kind.NO_DATA and len(task.scenes) == 1:
            parts, absent = [], dict.fromkeys(task.scenes, ArrayStatus.NO_SCENE)
        else:
            parts = halves(task)
        if parts is None or (failure.kind is Kind.SOURCE_CHANGED and not absent):
            return False
        self._tasks.replaced(record.job, parts, salt=self._salt, absent=absent)
        return True

    def _give_up(self, record: TaskRecord, kind: str, reason: str) -> None:
        for chip_id in sorted(record.task.chip_ids):
            self._fail(chip_id, kind, reason)
        self._tasks.failed(record.job, kind, reason)


def task_bytes(task: ExportTask) -> float:
    """Bytes of a task's files before compression."""
    specs = [find_array(name) for name in task.scenes]
    return float(task.width * task.height * sum(len(spec.bands) * np.dtype(spec.dtype).itemsize for spec in specs))
