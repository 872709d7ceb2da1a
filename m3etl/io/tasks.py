"""Batch tasks in the ledger's file: what was asked of Earth Engine, how far it is, and what became of it.

States: planned -> submitting -> running -> exported -> read; failed and replaced end a task, and a failed attempt goes
back to planned with the next number. An attempt is `submitting` on the disk before the service hears of it, so a run
that was killed asks again for the same attempt and never for a second one.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from m3etl.errors import InputError
from m3etl.io.ledger_file import LedgerFile, open_file
from m3etl.spec.exporttasks import ExportTask


class TaskState(StrEnum):
    """Where a task stands."""

    PLANNED = "planned"
    SUBMITTING = "submitting"
    RUNNING = "running"
    EXPORTED = "exported"
    READ = "read"
    FAILED = "failed"
    REPLACED = "replaced"


open_states = (TaskState.PLANNED, TaskState.SUBMITTING, TaskState.RUNNING)
task_columns = "job, tile, state, attempt, task, operation, since, kind, reason, absent"
task_tables = (
    "CREATE TABLE IF NOT EXISTS tasks (number INTEGER PRIMARY KEY, job TEXT NOT NULL UNIQUE, tile TEXT NOT NULL, "
    "state TEXT NOT NULL, attempt INTEGER NOT NULL DEFAULT 1, task BLOB NOT NULL, operation TEXT NOT NULL DEFAULT '', "
    "since REAL NOT NULL DEFAULT 0, kind TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '', "
    "absent TEXT NOT NULL DEFAULT '{}')",
    "CREATE INDEX IF NOT EXISTS tasks_state ON tasks (state, number)",
    "CREATE INDEX IF NOT EXISTS tasks_tile ON tasks (tile, state)",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """One task as recorded. since: seconds since 1970 at which this attempt was asked for; absent: status of arrays
    that were dropped from it because their images are gone, and as `array/period` of single dates.
    """

    job: str
    state: TaskState
    attempt: int
    task: ExportTask
    operation: str
    since: float
    absent: Mapping[str, str]


class Tasks:
    """The tasks of one campaign; safe to use from several threads. Every method that writes is one transaction."""

    def __init__(self, file: LedgerFile) -> None:
        self._file = file

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def salt(self) -> str:
        """A word drawn once per campaign: tasks of different campaigns never have the same identity."""
        with self._file.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO meta VALUES ('task_salt', ?)", (json.dumps(secrets.token_hex(6)),)
            )
            found = connection.execute("SELECT value FROM meta WHERE key = 'task_salt'").fetchone()
            return str(json.loads(found[0]))

    def keep_place(self, url: str) -> None:
        """Note where tasks export to. Raises InputError while tasks are on their way to another place."""
        with self._file.transaction() as connection:
            found = connection.execute("SELECT value FROM meta WHERE key = 'task_place'").fetchone()
            (waiting,) = connection.execute(f"SELECT COUNT(*) FROM tasks WHERE {_waiting}").fetchone()
            if found and json.loads(found[0]) != url and waiting:
                raise InputError(
                    f"{waiting} exports are on their way to {json.loads(found[0])}; {url} was asked for now",
                    hint=f"Finish them first with --bucket {json.loads(found[0])}.",
                )
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('task_place', ?)", (json.dumps(url),))

    # --- planning -----------------------------------------------------------------------------------------------------

    def add(self, tasks: Iterable[ExportTask], *, salt: str) -> None:
        """Tasks to be done, all or none. One that was done or had failed before becomes its next attempt."""
        with self._file.transaction() as connection:
            _insert(connection, tasks, salt)

    def coming(self, tile: str) -> dict[str, frozenset[str]]:
        """Arrays by chip that tasks of a tile will bring, or have brought and nobody has read, or that are known to be
        absent.
        """
        states = (*open_states, TaskState.EXPORTED, TaskState.REPLACED)
        found = self._file.all(f"{_record} WHERE tile = ? AND state IN ({_marks(states)})", (tile, *states))
        arrays: dict[str, frozenset[str]] = {}
        for record in map(_as_record, found):
            known = record.absent if record.state is TaskState.REPLACED else record.task.scenes
            for chip_id, _, _ in record.task.chips:
                arrays[chip_id] = arrays.get(chip_id, frozenset()) | known.keys()
        return arrays

    def gather(self, chips: Iterable[Sequence[tuple[str, str]]]) -> None:
        """Sort chips into tiles, on the disk and for this run only: batches of (tile, chip id)."""
        with self._file.transaction() as connection:
            connection.execute("CREATE TEMP TABLE IF NOT EXISTS gathered (tile TEXT NOT NULL, chip_id TEXT NOT NULL)")
            connection.execute("CREATE INDEX IF NOT EXISTS temp.gathered_tile ON gathered (tile)")
            connection.execute("DELETE FROM gathered")
        for batch in chips:
            with self._file.transaction() as connection:
                connection.executemany("INSERT INTO gathered VALUES (?, ?)", batch)

    def gathered_tiles(self) -> list[str]:
        """Tiles of the gathered chips."""
        return [item[0] for item in self._file.all("SELECT DISTINCT tile FROM gathered ORDER BY tile")]

    def gathered_chips(self, tile: str) -> list[str]:
        """The gathered chips of a tile."""
        return [item[0] for item in self._file.all("SELECT chip_id FROM gathered WHERE tile = ?", (tile,))]

    # --- running ------------------------------------------------------------------------------------------------------

    def next_to_submit(self, limit: int) -> list[TaskRecord]:
        """Up to `limit` tasks to ask for: first those whose asking was cut off, then in order of planning."""
        found = self._file.all(
            f"{_record} WHERE state IN ('submitting', 'planned') ORDER BY state DESC, number LIMIT ?", (limit,)
        )
        return [_as_record(item) for item in found]

    def running(self) -> list[TaskRecord]:
        """Tasks that the service has, in order of planning."""
        return [_as_record(item) for item in self._file.all(f"{_record} WHERE state = 'running' ORDER BY number")]

    def submitting(self, job: str) -> None:
        """The service is about to hear of this attempt."""
        self._update(job, TaskState.SUBMITTING, since=time.time())

    def started(self, job: str, operation: str) -> None:
        """The service has it, by this name."""
        self._update(job, TaskState.RUNNING, operation=operation)

    def exported(self, job: str) -> None:
        """Its files are in the bucket; how long that took joins the totals."""
        with self._file.transaction() as connection:
            connection.execute(
                "INSERT INTO totals SELECT 'task_s', ? - since FROM tasks WHERE job = ? "
                "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
                (time.time(), job),
            )
            connection.execute(
                "INSERT INTO totals VALUES ('tasks', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1"
            )
            connection.execute("UPDATE tasks SET state = 'exported' WHERE job = ?", (job,))

    def try_again(self, job: str, kind: str, reason: str) -> None:
        """This attempt came to nothing; the next one is to be asked for."""
        with self._file.transaction() as connection:
            connection.execute(
                "UPDATE tasks SET state = 'planned', attempt = attempt + 1, operation = '', kind = ?, reason = ? "
                "WHERE job = ?",
                (kind, reason, job),
            )

    def failed(self, job: str, kind: str, reason: str) -> None:
        """It failed for good."""
        self._update(job, TaskState.FAILED, kind=kind, reason=reason)

    def replaced(self, job: str, tasks: Sequence[ExportTask], *, salt: str, absent: Mapping[str, str]) -> None:
        """Other tasks bring what this one can't; what is in `absent` (see TaskRecord) comes with that status and no
        pixels.
        """
        with self._file.transaction() as connection:
            connection.execute(
                "UPDATE tasks SET state = 'replaced', absent = ? WHERE job = ?",
                (json.dumps(absent, sort_keys=True), job),
            )
            _insert(connection, tasks, salt)

    # --- reading ------------------------------------------------------------------------------------------------------

    def complete_tiles(self) -> list[str]:
        """Tiles with something to read and nothing to wait for, in order of planning."""
        found = self._file.all(
            "SELECT tile FROM tasks AS a WHERE state IN ('exported', 'replaced') AND NOT EXISTS (SELECT 1 FROM tasks "
            f"AS b WHERE b.tile = a.tile AND b.state IN ({_marks(open_states)})) GROUP BY tile ORDER BY MIN(number)",
            open_states,
        )
        return [item[0] for item in found]

    def unread(self) -> int:
        """Tasks that the service has or has done and nobody has read."""
        return self._file.number(
            "SELECT COUNT(*) FROM tasks WHERE state IN ('planned', 'submitting', 'running', 'exported', 'replaced')"
        )

    def of_tile(self, tile: str) -> list[TaskRecord]:
        """Tasks of a tile that were exported or replaced, in order of planning."""
        found = self._file.all(
            f"{_record} WHERE tile = ? AND state IN ('exported', 'replaced') ORDER BY number", (tile,)
        )
        return [_as_record(item) for item in found]

    def read(self, tile: str) -> None:
        """Everything of a tile has landed or was given up."""
        with self._file.transaction() as connection:
            connection.execute(
                "UPDATE tasks SET state = 'read' WHERE tile = ? AND state IN ('exported', 'replaced')", (tile,)
            )

    # --- looking ------------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Tasks by state."""
        return dict(self._file.all("SELECT state, COUNT(*) FROM tasks GROUP BY state"))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _update(self, job: str, state: TaskState, **values: Any) -> None:
        columns = "".join(f", {name} = ?" for name in values)
        with self._file.transaction() as connection:
            connection.execute(f"UPDATE tasks SET state = ?{columns} WHERE job = ?", (state, *values.values(), job))


_waiting = "state IN ('submitting', 'running', 'exported')"
_record = "SELECT job, state, attempt, task, operation, since, absent FROM tasks"


def open_tasks(path: Path) -> Tasks:
    """The tasks in the ledger at `path`, which must be there. Raises DamagedError for a damaged file."""
    file = open_file(path)
    try:
        with file.transaction() as connection:
            for statement in task_tables:
                connection.execute(statement)
    except BaseException:
        file.close()
        raise
    return Tasks(file)


def place_with_tasks(file: LedgerFile) -> str:
    """The bucket that exports recorded in this file are on their way to; "" where none are."""
    if not file.number("SELECT COUNT(*) FROM sqlite_master WHERE name = 'tasks'"):
        return ""
    found = file.one("SELECT value FROM meta WHERE key = 'task_place'")
    return str(json.loads(found[0])) if found and file.number(f"SELECT COUNT(*) FROM tasks WHERE {_waiting}") else ""


def describe_tasks(path: Path) -> str:
    """Tasks of the ledger at `path` by state, in words; "" where there never were any. Waits for nobody."""
    file = open_file(path, to_read=True)
    try:
        if not file.number("SELECT COUNT(*) FROM sqlite_master WHERE name = 'tasks'"):
            return ""
        counts = dict(file.all("SELECT state, COUNT(*) FROM tasks GROUP BY state"))
    finally:
        file.close()
    return ", ".join(f"{counts[state]} {state}" for state in TaskState if state in counts)


def _insert(connection: sqlite3.Connection, tasks: Iterable[ExportTask], salt: str) -> None:
    connection.executemany(
        "INSERT INTO tasks (job, tile, state, task) VALUES (?, ?, 'planned', ?) ON CONFLICT (job) DO UPDATE SET "
        "state = 'planned', attempt = attempt + 1, operation = '', kind = '', reason = '', absent = '{}'",
        [(task.job(salt), task.tile, zlib.compress(json.dumps(task.to_json()).encode())) for task in tasks],
    )


def _as_record(item: tuple[Any, ...]) -> TaskRecord:
    job, state, attempt, task, operation, since, absent = item
    return TaskRecord(
        job=job,
        state=TaskState(state),
        attempt=attempt,
        task=ExportTask.from_json(json.loads(zlib.decompress(task))),
        operation=operation,
        since=since,
        absent=json.loads(absent),
    )


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
