"""The ledger's file: SQLite, its tables, one connection for all threads, short transactions, what its errors mean."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from m3etl.errors import DamagedError, InputError

format_version = "2"
cache_kib = 65_536  # of pages in memory; what is larger than that is sorted and joined on disk

# `number` follows the order of `draw` within one reading of the plan, so that lots, rows and shards lie together in the
# file. Scenes lie apart because they are by far the largest and only planning, fetching and sealing read them.
schema = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chips (
    number INTEGER PRIMARY KEY, chip_id TEXT NOT NULL, state TEXT NOT NULL, generation INTEGER, row INTEGER,
    draw INTEGER NOT NULL DEFAULT 0, reserve INTEGER NOT NULL DEFAULT 0, lon REAL, lat REAL,
    split TEXT NOT NULL DEFAULT '', year INTEGER NOT NULL DEFAULT 0, biome INTEGER NOT NULL DEFAULT -1,
    ecoregion INTEGER NOT NULL DEFAULT -1, wish_ms INTEGER, seen INTEGER NOT NULL DEFAULT 0,
    origin TEXT NOT NULL DEFAULT '', kind TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '',
    statuses TEXT NOT NULL DEFAULT '{}', segment INTEGER, offset INTEGER, length INTEGER);
CREATE UNIQUE INDEX IF NOT EXISTS chips_id ON chips (chip_id);
CREATE INDEX IF NOT EXISTS chips_draw ON chips (draw) WHERE generation IS NULL;
CREATE UNIQUE INDEX IF NOT EXISTS chips_row ON chips (row) WHERE row IS NOT NULL;
CREATE INDEX IF NOT EXISTS chips_segment ON chips (segment) WHERE segment IS NOT NULL;
CREATE INDEX IF NOT EXISTS chips_failed ON chips (kind, reason) WHERE state = 'failed';
CREATE INDEX IF NOT EXISTS chips_open ON chips (row) WHERE state = 'planned' AND row IS NOT NULL;
CREATE INDEX IF NOT EXISTS chips_waiting ON chips (row) WHERE state = 'waiting' AND row IS NOT NULL;
CREATE TABLE IF NOT EXISTS scenes (number INTEGER PRIMARY KEY, document BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS counts (state TEXT PRIMARY KEY, chips INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS generations (
    generation INTEGER PRIMARY KEY, first_row INTEGER NOT NULL, size INTEGER NOT NULL, draw_from INTEGER NOT NULL,
    draw_until INTEGER NOT NULL, chips INTEGER, mine INTEGER NOT NULL DEFAULT 1);
CREATE TABLE IF NOT EXISTS shards (
    shard INTEGER PRIMARY KEY, generation INTEGER NOT NULL, chips INTEGER NOT NULL, final INTEGER NOT NULL DEFAULT 0,
    sealed INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS shards_ready ON shards (shard) WHERE sealed = 0 AND final = chips;
CREATE TABLE IF NOT EXISTS old_rows (row INTEGER PRIMARY KEY, chip_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS totals (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS profiles (
    profile INTEGER PRIMARY KEY, lane TEXT NOT NULL, units REAL NOT NULL, eecu_s REAL NOT NULL, time TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS array_totals (array TEXT PRIMARY KEY, chips INTEGER NOT NULL, valid REAL NOT NULL)
    WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS count_insert AFTER INSERT ON chips BEGIN
    INSERT INTO counts VALUES (new.state, 1) ON CONFLICT (state) DO UPDATE SET chips = chips + 1; END;
CREATE TRIGGER IF NOT EXISTS count_delete AFTER DELETE ON chips BEGIN
    UPDATE counts SET chips = chips - 1 WHERE state = old.state; DELETE FROM scenes WHERE number = old.number; END;
CREATE TRIGGER IF NOT EXISTS count_update AFTER UPDATE OF state ON chips WHEN old.state <> new.state BEGIN
    UPDATE counts SET chips = chips - 1 WHERE state = old.state;
    INSERT INTO counts VALUES (new.state, 1) ON CONFLICT (state) DO UPDATE SET chips = chips + 1; END;
"""


class LedgerFile:
    """An open file; safe to use from several threads, one statement or transaction at a time."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; one at a time."""
        with self._lock, damage(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite has rolled back by itself where the disk is full
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def attached(self, path: Path) -> Iterator[None]:
        """Another ledger's tables as `other.*` inside the block."""
        with self._lock, damage(path):
            self._connection.execute("ATTACH DATABASE ? AS other", (str(path),))
        try:
            yield
        finally:
            with self._lock, damage(path):
                self._connection.execute("DETACH DATABASE other")

    def all(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Every row of an answer that is known to be small."""
        with self._lock, damage(self.path):
            return self._connection.execute(query, values).fetchall()

    def one(self, query: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """The first row, None without any."""
        with self._lock, damage(self.path):
            found: tuple[Any, ...] | None = self._connection.execute(query, values).fetchone()
            return found

    def number(self, query: str, values: Sequence[Any] = ()) -> int:
        """The one number that a query answers with; 0 without any row."""
        found = self.one(query, values)
        return 0 if found is None else int(found[0])


def open_file(path: Path, *, to_read: bool = False) -> LedgerFile:
    """The file at `path`, created where there is none; `to_read` never waits for a writer and changes nothing.

    Raises DamagedError for another format or a damaged file, InputError where the disk refuses.
    """
    try:
        address = f"{path.absolute().as_uri()}?mode=ro" if to_read else str(path)
        connection = sqlite3.connect(address, uri=to_read, isolation_level=None, check_same_thread=False, timeout=30.0)
    except sqlite3.Error as error:
        raise InputError(f"cannot open {path}: {error}", hint="Is the directory writable?") from error
    try:
        with damage(path):
            found = _prepare(connection, to_read)
        if found != format_version:
            raise DamagedError(
                f"{path} has ledger format {found}; this m3etl reads {format_version}",
                hint="Use the m3etl that wrote this campaign.",
            )
    except BaseException:
        connection.close()
        raise
    return LedgerFile(connection, path)


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into DamagedError, or InputError where the disk refuses."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if any(word in str(error) for word in ("full", "readonly", "read-only", "unable to open", "disk I/O")):
            raise InputError(
                f"cannot write {path}: {error}",
                hint="Free some space or make the directory writable, then run again; nothing landed is lost.",
            ) from error
        raise DamagedError(
            f"{path}: {error}", hint="Is another process working on it? Otherwise it is damaged."
        ) from error
    except sqlite3.DatabaseError as error:
        raise DamagedError(f"{path} is damaged: {error}", hint="Restore it from a copy.") from error


def _prepare(connection: sqlite3.Connection, to_read: bool) -> Any:
    connection.execute(f"PRAGMA cache_size = -{cache_kib}")
    if not to_read:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
        if known is None:
            stated = f"INSERT OR IGNORE INTO meta VALUES ('format_version', '{json.dumps(format_version)}');"
            connection.executescript(f"BEGIN IMMEDIATE; {schema} {stated} COMMIT;")
    found = connection.execute("SELECT value FROM meta WHERE key = 'format_version'").fetchone()
    return json.loads(found[0]) if found else None
