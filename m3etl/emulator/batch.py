"""The batch queue, which survives restarts: state lives in one small JSON file per operation.

Several servers may share a directory (parts of one campaign): each runs the operations that it took in, sees the
others', and adopts those whose server is gone. A running operation of a dead server starts again as a new attempt.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from m3etl.emulator.messages import failure, status_number
from m3etl.emulator.model import ServiceError, invalid, not_found
from m3etl.emulator.operations import Operation, operation_id, timestamp

try:
    import fcntl
except ImportError:  # pragma: no cover - not on Windows; there a directory is taken to have one server
    fcntl = None  # type: ignore[assignment]

# https://developers.google.com/earth-engine/guides/usage: tasks running on average, tasks waiting, life of a task.
max_running = 2
max_pending = 3_000
kept_days = 10
default_priority = 100


class CancelledError(Exception):
    """Raised inside a running operation at the next report after it was cancelled."""


class Running:
    """What the code that carries out an operation gets: the request, and where it reports."""

    def __init__(self, queue: OperationQueue, operation: Operation, request: Mapping[str, Any]) -> None:
        self.operation = operation
        self.request = request
        self._queue = queue

    def report(self, progress: float, *, eecu_s: float = 0.0, file: str | None = None) -> None:
        """Notes progress in [0, 1], cost, and a file that is complete. Raises CancelledError once it was cancelled."""
        self._queue.note(self.operation, progress, eecu_s, file)


class OperationQueue:
    """Takes operations in, runs at most `running` at a time by priority then age, and remembers them in `directory`.

    `run` carries one operation out; a ServiceError that it raises is the operation's failure. Thread-safe.
    """

    def __init__(
        self,
        directory: Path,
        run: Callable[[Running], None],
        *,
        running: int = max_running,
        pending: int = max_pending,
        on_crash: Callable[[Operation, BaseException], None] | None = None,
    ) -> None:
        self.max_running = running
        self._directory = directory
        self._run = run
        self._max_pending = pending
        self._on_crash = on_crash
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._operations: dict[str, Operation] = {}
        self._cancelling: set[str] = set()
        self._running = 0
        self._closed = False
        self._owner = uuid.uuid4().hex
        self._owner_lock: IO[str] | None = None
        self._order = 0

    def start(self) -> None:
        """Reads the directory, adopts operations whose server is gone, and starts running."""
        (self._directory / "servers").mkdir(parents=True, exist_ok=True)
        self._owner_lock = self._server_lock(self._owner).open("w")
        if fcntl is not None:
            fcntl.flock(self._owner_lock, fcntl.LOCK_EX)
        with self._lock, self._directory_lock():
            self._forget_old()
            for operation in self._operations.values():
                self._order = max(self._order, operation.order)
                if not operation.done and self._is_orphan(operation.owner):
                    self._adopt(operation)
        self._fill()

    def _adopt(self, operation: Operation) -> None:
        operation.owner = self._owner
        if operation.state == "CANCELLING":
            self._finish(operation, "CANCELLED", failure(499, "Cancelled."))
        else:
            operation.state = "PENDING"
            self._write(operation)

    def close(self) -> None:
        """Stops starting operations and asks the running ones to stop; they resume at the next start."""
        with self._lock:
            self._closed = True
            if self._owner_lock is not None:
                self._idle.wait_for(lambda: self._running == 0, timeout=10.0)
                self._owner_lock.close()
                self._owner_lock = None
                self._server_lock(self._owner).unlink(missing_ok=True)

    def submit(self, project: str, kind: str, request: Mapping[str, Any]) -> Operation:
        """Takes a request in; the same project and request id give the operation that exists already.

        Raises ServiceError 400 for a bad request id or priority, and when the queue is full.
        """
        identifier = operation_id(project, request.get("requestId"))
        priority = _wrapped(request.get("priority"), default_priority)
        if not 0 <= priority <= 9999:
            raise invalid(f"Priority must be between 0 and 9999, found {priority}.")
        with self._lock, self._directory_lock():
            existing = self._find(identifier)
            if existing is not None:
                return existing
            if sum(item.state == "PENDING" for item in self._operations.values()) >= self._max_pending:
                raise failure(
                    400,
                    f"Too many tasks already in the queue ({self._max_pending}). "
                    "Please wait for some of them to complete.",
                )
            self._order += 1
            now = _now()
            operation = Operation(
                id=identifier,
                project=project,
                kind=kind,
                description=str(request.get("description") or ""),
                priority=priority,
                order=self._order,
                created=now,
                updated=now,
                owner=self._owner,
                tag=request.get("workloadTag"),
            )
            _write_json(self._directory / f"{identifier}.request", request)
            self._operations[identifier] = operation
            self._write(operation)
        self._fill()
        return operation

    def get(self, identifier: str) -> Operation:
        """The operation of an id. Raises ServiceError 404."""
        with self._lock:
            operation = self._find(identifier)
        if operation is None:
            raise not_found(f"Operation {identifier} not found.")
        return operation

    def of_project(self, project: str) -> list[Operation]:
        """The operations of a project, newest first."""
        with self._lock:
            for path in self._directory.glob("*.json"):
                self._find(path.stem)
            chosen = [item for item in self._operations.values() if item.project == project]
        return sorted(chosen, key=lambda item: (item.created, item.order), reverse=True)

    def cancel(self, identifier: str) -> None:
        """Cancels a waiting operation at once and a running one at its next report; does nothing to finished ones."""
        with self._lock:
            operation = self.get(identifier)
            if operation.done:
                return
            if operation.owner != self._owner:
                (self._directory / f"{identifier}.cancel").touch()
            elif operation.state == "PENDING":
                self._finish(operation, "CANCELLED", failure(499, "Cancelled."))
            else:
                self._cancelling.add(identifier)
                operation.state = "CANCELLING"
                operation.updated = _now()
                self._write(operation)

    def delete(self, identifier: str) -> None:
        """Forgets a finished operation. Raises ServiceError 400 while it is not finished."""
        with self._lock:
            operation = self.get(identifier)
            if not operation.done:
                raise invalid(f"Operation {identifier} is {operation.state}; cancel it first.")
            self._remove(operation)

    def wait(self, identifier: str, timeout_s: float) -> Operation:
        """The operation once it is done, or as it is when the time is over."""
        with self._lock:
            self._idle.wait_for(lambda: self.get(identifier).done, timeout=timeout_s)
            return self.get(identifier)

    def note(self, operation: Operation, progress: float, eecu_s: float, file: str | None) -> None:
        """Called through Running.report."""
        with self._lock:
            operation.progress = max(operation.progress, min(1.0, progress))
            operation.eecu_s += eecu_s
            operation.updated = _now()
            if file is not None:
                operation.files.append(file)
                self._write(operation)
            if self._closed or self._is_cancelled(operation):
                raise CancelledError

    def _fill(self) -> None:
        with self._lock:
            while not self._closed and self._running < self.max_running:
                waiting = [
                    item
                    for item in self._operations.values()
                    if item.state == "PENDING" and item.owner == self._owner and not self._closed
                ]
                if not waiting:
                    return
                operation = min(waiting, key=lambda item: (-item.priority, item.order))
                if self._is_cancelled(operation):
                    self._finish(operation, "CANCELLED", failure(499, "Cancelled."))
                    continue
                self._running += 1
                operation.state = "RUNNING"
                operation.attempt += 1
                operation.started = operation.started or _now()
                operation.updated = _now()
                self._write(operation)
                threading.Thread(target=self._carry_out, args=(operation,), name="export", daemon=True).start()

    def _carry_out(self, operation: Operation) -> None:
        state, error = "SUCCEEDED", None
        try:
            request = json.loads((self._directory / f"{operation.id}.request").read_text(encoding="utf-8"))
            self._run(Running(self, operation, request))
        except CancelledError:
            state, error = "CANCELLED", failure(499, "Cancelled.")
        except ServiceError as problem:
            state, error = "FAILED", problem
        except Exception as problem:
            state, error = "FAILED", failure(500, f"An internal error has occurred: {problem!r}")
            if self._on_crash is not None:
                self._on_crash(operation, problem)
        with self._lock:
            self._running -= 1
            if state == "CANCELLED" and not self._is_cancelled(operation):
                operation.state = "PENDING"  # stopped because this server stops: the next one resumes it
                self._write(operation)
            else:
                self._finish(operation, state, error)
            self._idle.notify_all()
        self._fill()

    def _finish(self, operation: Operation, state: str, error: ServiceError | None) -> None:
        operation.state = state
        operation.ended = operation.updated = _now()
        if state == "SUCCEEDED":
            operation.progress = 1.0
        if error is not None:
            number = status_number.get(error.status, 2)
            operation.error_code = number
            operation.error_message = error.message + (f" (Error code: {number})" if state == "FAILED" else "")
        self._write(operation)
        self._cancelling.discard(operation.id)
        for suffix in ("request", "cancel"):
            (self._directory / f"{operation.id}.{suffix}").unlink(missing_ok=True)
        self._idle.notify_all()

    def _is_cancelled(self, operation: Operation) -> bool:
        return operation.id in self._cancelling or (self._directory / f"{operation.id}.cancel").exists()

    def _find(self, identifier: str) -> Operation | None:
        known = self._operations.get(identifier)
        if known is not None and (known.done or known.owner == self._owner):
            return known
        try:
            value = json.loads((self._directory / f"{identifier}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return known
        names = {item.name for item in dataclasses.fields(Operation)}
        operation = Operation(**{key: item for key, item in value.items() if key in names})
        self._operations[identifier] = operation
        return operation

    def _forget_old(self) -> None:
        oldest = timestamp(datetime.now(UTC) - timedelta(days=kept_days))
        for path in self._directory.glob("*.json"):
            operation = self._find(path.stem)
            if operation is not None and operation.done and operation.updated < oldest:
                self._remove(operation)

    def _remove(self, operation: Operation) -> None:
        self._operations.pop(operation.id, None)
        (self._directory / f"{operation.id}.json").unlink(missing_ok=True)

    def _write(self, operation: Operation) -> None:
        _write_json(self._directory / f"{operation.id}.json", dataclasses.asdict(operation))

    def _server_lock(self, owner: str) -> Path:
        return self._directory / "servers" / f"{owner}.lock"

    def _is_orphan(self, owner: str) -> bool:
        """Whether the server of that name no longer runs: its lock is free."""
        path = self._server_lock(owner)
        if owner == self._owner or not path.exists():
            return owner != self._owner
        if fcntl is not None:
            with path.open("r+") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    return False
        path.unlink(missing_ok=True)
        return True

    @contextlib.contextmanager
    def _directory_lock(self) -> Iterator[None]:
        with (self._directory / "servers" / "directory.lock").open("w") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _wrapped(value: Any, default: int) -> int:
    """A number in protobuf's wrapper form, {"value": "7"}. Raises ServiceError 400 when it is no number."""
    number = value.get("value", default) if isinstance(value, dict) else value
    if number is None:
        return default
    try:
        return int(number)
    except (TypeError, ValueError):
        raise invalid(f"Expected a whole number, found {number!r}.") from None


def _now() -> str:
    return timestamp(datetime.now(UTC))


def _write_json(path: Path, value: Any) -> None:
    """Writes atomically: readers, and the next server after a kill, see the old file or the new one."""
    temporary = path.with_suffix(f"{path.suffix}.{threading.get_ident()}.tmp")
    temporary.write_text(json.dumps(value, separators=(",", ":")), encoding="utf-8")
    temporary.replace(path)
