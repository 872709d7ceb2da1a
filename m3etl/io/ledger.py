"""The ledger: one SQLite file that knows the state of every chip, what its scenes are, where its bytes lie and what
is sealed.

States: planned -> landed | failed; sealing makes landed chips sealed. `unusable` chips have no anchor and get no row.
Every change is one short transaction, counts are kept by triggers so that reading them costs nothing however many
chips there are, and what is in here decides: files that disagree are brought in line with it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from m3etl.errors import DamagedError, InputError
from m3etl.io.segments import Place
from m3etl.spec.budget import Sample
from m3etl.spec.jobs import ArrayStatus, ChipScenes

format_version = "1"


class ChipState(StrEnum):
    """Where a chip stands."""

    UNUSABLE = "unusable"
    PLANNED = "planned"
    LANDED = "landed"
    FAILED = "failed"
    SEALED = "sealed"


_schema = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chips (
    chip_id TEXT PRIMARY KEY, state TEXT NOT NULL, generation INTEGER, row INTEGER, scenes BLOB, origin TEXT NOT NULL
    DEFAULT '', kind TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '', statuses TEXT NOT NULL DEFAULT '{}',
    segment INTEGER, offset INTEGER, length INTEGER) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS chips_row ON chips (row) WHERE row IS NOT NULL;
CREATE INDEX IF NOT EXISTS chips_segment ON chips (segment) WHERE segment IS NOT NULL;
CREATE INDEX IF NOT EXISTS chips_unfixed ON chips (state) WHERE row IS NULL;
CREATE INDEX IF NOT EXISTS chips_failed ON chips (kind, reason) WHERE state = 'failed';
CREATE INDEX IF NOT EXISTS chips_open ON chips (row) WHERE state = 'planned' AND row IS NOT NULL;
CREATE TABLE IF NOT EXISTS counts (state TEXT PRIMARY KEY, chips INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS generations (generation INTEGER PRIMARY KEY, first_row INTEGER NOT NULL, chips INTEGER NOT
NULL); CREATE TABLE IF NOT EXISTS shards (
    shard INTEGER PRIMARY KEY, generation INTEGER NOT NULL, chips INTEGER NOT NULL, final INTEGER NOT NULL DEFAULT 0,
    sealed INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS shards_ready ON shards (shard) WHERE sealed = 0 AND final = chips;
CREATE TABLE IF NOT EXISTS old_rows (row INTEGER PRIMARY KEY, chip_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS totals (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS profiles (
    profile INTEGER PRIMARY KEY, lane TEXT NOT NULL, units REAL NOT NULL, eecu_s REAL NOT NULL, time TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS array_totals (array TEXT PRIMARY KEY, chips INTEGER NOT NULL, valid REAL NOT NULL) WITHOUT
ROWID; CREATE TRIGGER IF NOT EXISTS count_insert AFTER INSERT ON chips BEGIN
    INSERT INTO counts VALUES (new.state, 1) ON CONFLICT (state) DO UPDATE SET chips = chips + 1; END;
CREATE TRIGGER IF NOT EXISTS count_delete AFTER DELETE ON chips BEGIN
    UPDATE counts SET chips = chips - 1 WHERE state = old.state; END;
CREATE TRIGGER IF NOT EXISTS count_update AFTER UPDATE OF state ON chips WHEN old.state <> new.state BEGIN
    UPDATE counts SET chips = chips - 1 WHERE state = old.state;
    INSERT INTO counts VALUES (new.state, 1) ON CONFLICT (state) DO UPDATE SET chips = chips + 1; END;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedChip:
    """The decision about one chip: its scenes, or none when it is unusable. origin: earthengine, archive or planet."""

    chip_id: str
    scenes: ChipScenes | None
    origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LandedChip:
    """A chip whose bytes are durable. statuses: arrays whose outcome differs from the plan; valid: valid fraction per
    array.
    """

    chip_id: str
    place: Place | None
    statuses: Mapping[str, ArrayStatus]
    valid: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipRecord:
    """One chip as the ledger knows it."""

    chip_id: str
    state: ChipState
    row: int
    generation: int
    scenes: ChipScenes
    origin: str
    kind: str
    reason: str
    statuses: Mapping[str, ArrayStatus]
    place: Place | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One shard: its chips, how many of them are final, whether it is sealed."""

    shard: int
    generation: int
    chips: int
    final: int
    sealed: bool


class Ledger:
    """One open ledger; safe to use from several threads. Every method that writes is one transaction."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    # --- facts about the campaign -------------------------------------------------------------------------------------

    def read_meta(self, key: str) -> Any:
        """A stored fact, None where it was never stored."""
        row = self._one("SELECT value FROM meta WHERE key = ?", (key,))
        return None if row is None else json.loads(row[0])

    def write_meta(self, key: str, value: Any) -> None:
        """Store a fact (JSON)."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    # --- planning -----------------------------------------------------------------------------------------------------

    def record_planned(self, chips: Iterable[PlannedChip]) -> None:
        """Fix the scenes of chips, or that they have none. A chip that is already known keeps what it has."""
        rows = [
            (
                item.chip_id,
                ChipState.UNUSABLE if item.scenes is None else ChipState.PLANNED,
                None if item.scenes is None else _packed(item.scenes.to_json()),
                item.origin,
            )
            for item in chips
        ]
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO chips (chip_id, state, scenes, origin) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (chip_id) DO NOTHING",
                rows,
            )

    def record_unplannable(self, chip_id: str, kind: str, reason: str) -> None:
        """A chip that the service refuses to answer about; it has no scenes and no row."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO chips (chip_id, state, kind, reason) VALUES (?, 'failed', ?, ?) "
                "ON CONFLICT (chip_id) DO NOTHING",
                (chip_id, kind, reason),
            )

    def states(self) -> dict[str, ChipState]:
        """State of every known chip by id."""
        return {chip_id: ChipState(state) for chip_id, state in self._all("SELECT chip_id, state FROM chips")}

    def unfixed(self) -> list[str]:
        """Planned chips without a row, in order of their id."""
        return [item[0] for item in self._all(f"{_unfixed} ORDER BY chip_id")]

    def fix_generation(self, chip_ids: Sequence[str], *, shard_chips: int) -> int:
        """Give these chips consecutive rows from the next multiple of `shard_chips`, in this order; returns the
        generation's number.
        """
        with self._transaction() as connection:
            number, end = connection.execute(
                "SELECT COALESCE(MAX(generation) + 1, 0), COALESCE(MAX(first_row + chips), 0) FROM generations"
            ).fetchone()
            first = -(-end // shard_chips) * shard_chips
            connection.execute("INSERT INTO generations VALUES (?, ?, ?)", (number, first, len(chip_ids)))
            connection.executemany(
                "UPDATE chips SET generation = ?, row = ? WHERE chip_id = ? AND row IS NULL",
                ((number, first + offset, chip_id) for offset, chip_id in enumerate(chip_ids)),
            )
            shards = range(first // shard_chips, -(-(first + len(chip_ids)) // shard_chips))
            connection.executemany(
                "INSERT INTO shards (shard, generation, chips) VALUES (?, ?, ?)",
                ((shard, number, min(shard_chips, first + len(chip_ids) - shard * shard_chips)) for shard in shards),
            )
        return int(number)

    def rows(self) -> Iterator[tuple[str, int, int]]:
        """(chip_id, row, generation) of every chip with a row."""
        yield from self._all("SELECT chip_id, row, generation FROM chips WHERE row IS NOT NULL ORDER BY row")

    def row_end(self) -> int:
        """One beyond the last row of the last generation."""
        row = self._one("SELECT COALESCE(MAX(first_row + chips), 0) FROM generations")
        return 0 if row is None else int(row[0])

    # --- fetching -----------------------------------------------------------------------------------------------------

    def open_rows(self, after: int, limit: int = 1000) -> list[ChipRecord]:
        """Up to `limit` chips whose pixels are still to be fetched, in order of row, from beyond row `after`."""
        found = self._all(
            f"{_record} WHERE state = 'planned' AND row IS NOT NULL AND row > ? ORDER BY row LIMIT ?", (after, limit)
        )
        return [_as_record(item) for item in found]

    def open_count(self) -> int:
        """How many chips are still to be fetched."""
        row = self._one("SELECT COUNT(*) FROM chips WHERE state = 'planned' AND row IS NOT NULL")
        return 0 if row is None else int(row[0])

    def record_landed(self, chips: Sequence[LandedChip], *, shard_chips: int) -> list[int]:
        """Mark chips whose bytes are durable; returns the shards that became final."""
        with self._transaction() as connection:
            for chip in chips:
                place = chip.place
                changed = connection.execute(
                    "UPDATE chips SET state = 'landed', kind = '', reason = '', "
                    "statuses = ?, segment = ?, offset = ?, length = ? "
                    "WHERE chip_id = ? AND state = 'planned' AND row IS NOT NULL RETURNING row / ?",
                    (
                        json.dumps({name: str(status) for name, status in chip.statuses.items()}, sort_keys=True),
                        *((place.segment, place.offset, place.length) if place else (None, None, None)),
                        chip.chip_id,
                        shard_chips,
                    ),
                ).fetchone()
                if changed is None:
                    raise DamagedError(f"{self._path}: chip {chip.chip_id} landed but was not expected")
                connection.execute("UPDATE shards SET final = final + 1 WHERE shard = ?", changed)
                connection.executemany(
                    "INSERT INTO array_totals VALUES (?, 1, ?) "
                    "ON CONFLICT (array) DO UPDATE SET chips = chips + 1, valid = valid + excluded.valid",
                    chip.valid.items(),
                )
            return self._ready(connection)

    def record_failed(self, chip_id: str, kind: str, reason: str, *, shard_chips: int) -> list[int]:
        """Quarantine a chip with its reason; returns the shards that became final."""
        with self._transaction() as connection:
            changed = connection.execute(
                "UPDATE chips SET state = 'failed', kind = ?, reason = ? "
                "WHERE chip_id = ? AND state = 'planned' RETURNING row / ?",
                (kind, reason, chip_id, shard_chips),
            ).fetchone()
            if changed is not None and changed[0] is not None:
                connection.execute("UPDATE shards SET final = final + 1 WHERE shard = ?", changed)
            return self._ready(connection)

    def reopen_failed(self, *, shard_chips: int, chip_ids: Sequence[str] | None = None) -> int:
        """Put failed chips back to planned; one whose row is already sealed as fill waits for a row in a later
        generation.
        """
        with self._transaction() as connection:
            found = connection.execute(
                "SELECT chip_id, row, row / ?, COALESCE(sealed, 0), scenes IS NULL "
                "FROM chips LEFT JOIN shards ON shard = row / ? "
                "WHERE state = 'failed'",
                (shard_chips, shard_chips),
            ).fetchall()
            wanted = None if chip_ids is None else set(chip_ids)
            chosen = [item for item in found if wanted is None or item[0] in wanted]
            for chip_id, row, shard, sealed, unplanned in chosen:
                if unplanned:
                    connection.execute("DELETE FROM chips WHERE chip_id = ?", (chip_id,))
                    continue
                if sealed:
                    connection.execute("INSERT OR REPLACE INTO old_rows VALUES (?, ?)", (row, chip_id))
                    connection.execute("UPDATE chips SET row = NULL, generation = NULL WHERE chip_id = ?", (chip_id,))
                elif row is not None:
                    connection.execute("UPDATE shards SET final = final - 1 WHERE shard = ?", (shard,))
                connection.execute(
                    "UPDATE chips SET state = 'planned', kind = '', reason = '' WHERE chip_id = ?", (chip_id,)
                )
            return len(chosen)

    def add_totals(self, amounts: Mapping[str, float]) -> None:
        """Add to the running totals (requests, bytes, retries, seconds ...)."""
        with self._transaction() as connection:
            _add_totals(connection, amounts)

    def record_profiles(self, samples: Sequence[Sample], amounts: Mapping[str, float]) -> None:
        """Keep what profiled requests have cost, and add to the running totals, in one transaction."""
        time = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO profiles (lane, units, eecu_s, time) VALUES (?, ?, ?, ?)",
                ((sample.lane, sample.units, sample.eecu_s, time) for sample in samples),
            )
            _add_totals(connection, amounts)

    def profiles(self) -> list[Sample]:
        """Every profiled request so far, in order."""
        found = self._all("SELECT lane, units, eecu_s FROM profiles ORDER BY profile")
        return [Sample(lane=lane, units=units, eecu_s=eecu_s) for lane, units, eecu_s in found]

    # --- sealing ------------------------------------------------------------------------------------------------------

    def ready_shards(self) -> list[int]:
        """Shards whose chips are all final and which are not sealed, ascending."""
        with self._lock:
            return self._ready(self._connection)

    def shard_records(self, shard: int, *, shard_chips: int) -> list[ChipRecord]:
        """The chips of a shard in order of row."""
        first = shard * shard_chips
        found = self._all(f"{_record} WHERE row >= ? AND row < ? ORDER BY row", (first, first + shard_chips))
        return [_as_record(item) for item in found]

    def record_sealed(self, shard: int, *, shard_chips: int) -> None:
        """Mark a shard, and its landed chips, as sealed."""
        first = shard * shard_chips
        with self._transaction() as connection:
            connection.execute("UPDATE shards SET sealed = 1 WHERE shard = ?", (shard,))
            connection.execute(
                "UPDATE chips SET state = 'sealed' WHERE row >= ? AND row < ? AND state = 'landed'",
                (first, first + shard_chips),
            )

    def shard(self, shard: int) -> Shard | None:
        """One shard, None where there is no such shard."""
        row = self._one("SELECT shard, generation, chips, final, sealed FROM shards WHERE shard = ?", (shard,))
        if row is None:
            return None
        return Shard(shard=row[0], generation=row[1], chips=row[2], final=row[3], sealed=bool(row[4]))

    def shard_counts(self) -> tuple[int, int]:
        """(all shards, sealed shards)."""
        row = self._one("SELECT COUNT(*), COALESCE(SUM(sealed), 0) FROM shards")
        return (0, 0) if row is None else (int(row[0]), int(row[1]))

    def segments_in_use(self) -> set[int]:
        """Segments that hold bytes of chips which are not sealed yet."""
        found = self._all("SELECT DISTINCT segment FROM chips WHERE segment IS NOT NULL AND state = 'landed'")
        return {int(item[0]) for item in found}

    # --- looking ------------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Chips by state."""
        return dict(self._all("SELECT state, chips FROM counts WHERE chips > 0"))

    def failures(self) -> list[tuple[str, str, int]]:
        """(kind, reason, chips) of failed chips, most frequent first."""
        return list(
            self._all(
                "SELECT kind, reason, COUNT(*) FROM chips WHERE state = 'failed' "
                "GROUP BY kind, reason ORDER BY 3 DESC, 1, 2"
            )
        )

    def totals(self) -> dict[str, float]:
        """Running totals of every run so far."""
        return dict(self._all("SELECT name, value FROM totals"))

    def valid_fractions(self) -> dict[str, float]:
        """Mean valid fraction per array over the landed chips."""
        return {name: valid / chips for name, chips, valid in self._all("SELECT array, chips, valid FROM array_totals")}

    def generation_count(self) -> int:
        """How many generations are fixed."""
        row = self._one("SELECT COUNT(*) FROM generations")
        return 0 if row is None else int(row[0])

    # --- inside -------------------------------------------------------------------------------------------------------

    @staticmethod
    def _ready(connection: sqlite3.Connection) -> list[int]:
        found = connection.execute("SELECT shard FROM shards WHERE sealed = 0 AND final = chips ORDER BY shard")
        return [item[0] for item in found]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, damage(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite has rolled back by itself where the disk is full
                    self._connection.execute("ROLLBACK")
                raise

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock, damage(self._path):
            return self._connection.execute(query, values).fetchall()

    def _one(self, query: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        with self._lock, damage(self._path):
            found: tuple[Any, ...] | None = self._connection.execute(query, values).fetchone()
            return found


_unfixed = "SELECT chip_id FROM chips WHERE state = 'planned' AND row IS NULL"
_record = (
    "SELECT chip_id, state, row, generation, scenes, origin, kind, reason, statuses, segment, offset, length FROM chips"
)


def open_ledger(path: Path) -> Ledger:
    """The ledger at `path`, created where there is none. Raises DamagedError for another format or a damaged file."""
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
    except sqlite3.Error as error:
        raise InputError(f"cannot open {path}: {error}", hint="Is the directory writable?") from error
    try:
        with damage(path):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_schema)
            connection.execute("INSERT OR IGNORE INTO meta VALUES ('format_version', ?)", (json.dumps(format_version),))
            found = json.loads(connection.execute("SELECT value FROM meta WHERE key = 'format_version'").fetchone()[0])
        if found != format_version:
            raise DamagedError(
                f"{path} has ledger format {found}; this m3etl reads {format_version}",
                hint="Use the m3etl that wrote this campaign.",
            )
    except BaseException:
        connection.close()
        raise
    return Ledger(connection, path)


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


def _add_totals(connection: sqlite3.Connection, amounts: Mapping[str, float]) -> None:
    connection.executemany(
        "INSERT INTO totals VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        amounts.items(),
    )


def _packed(document: Mapping[str, Any]) -> bytes:
    return zlib.compress(json.dumps(document, separators=(",", ":"), sort_keys=True).encode(), 6)


def _as_record(item: tuple[Any, ...]) -> ChipRecord:
    chip_id, state, row, generation, scenes, origin, kind, reason, statuses, segment, offset, length = item
    place = None if segment is None else Place(segment=segment, offset=offset, length=length)
    return ChipRecord(
        chip_id=chip_id,
        state=ChipState(state),
        row=row,
        generation=generation,
        scenes=ChipScenes.from_json(json.loads(zlib.decompress(scenes))),
        origin=origin,
        kind=kind,
        reason=reason,
        statuses={name: ArrayStatus(status) for name, status in json.loads(statuses).items()},
        place=place,
    )
