"""The ledger: one SQLite file that knows the state of every chip, what its scenes are, where its bytes lie and what
is sealed.

States: waiting (or reserve) -> planned -> landed | failed; sealing makes landed chips sealed. `unusable` chips have no
anchor and get no row. A planned chip may land or fail before its row is given: that it gets one, and which, follows
from the decisions of its lot and not from what was fetched when. Every change is one short transaction, counts are kept
by triggers so that reading them costs nothing however many chips there are, and what is in here decides: files that
disagree are brought in line with it. How chips come in from the plan and get their rows is in `io.lots`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from m3etl.errors import DamagedError
from m3etl.io.ledger_file import LedgerFile, damage, open_file
from m3etl.io.ledger_records import (
    ChipRecord,
    ChipState,
    Chosen,
    Inside,
    LandedChip,
    PlannedChip,
    Row,
    Shard,
    everything,
    has_scenes,
    record_of,
    record_query,
    unpacked,
)
from m3etl.spec.budget import Sample
from m3etl.spec.jobs import ChipScenes

__all__ = [
    "ChipRecord",
    "ChipState",
    "Chosen",
    "Inside",
    "LandedChip",
    "Ledger",
    "PlannedChip",
    "Row",
    "Shard",
    "damage",
    "everything",
    "open_ledger",
]

batch_chips = 4096  # handled in one go where a whole campaign is gone through


class Ledger:
    """One open ledger; safe to use from several threads. Every method that writes is one transaction.

    chosen: the chips that this run is about; it limits what is open to be planned, fetched or taken up again.
    landing_segment: the segment of what landed last; every record in an earlier one is in the ledger. -1 before that.
    """

    def __init__(self, file: LedgerFile) -> None:
        self.file = file
        self.chosen = everything
        self.landing_segment = -1

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    # --- facts about the campaign -------------------------------------------------------------------------------------

    def read_meta(self, key: str) -> Any:
        """A stored fact, None where it was never stored."""
        row = self.file.one("SELECT value FROM meta WHERE key = ?", (key,))
        return None if row is None else json.loads(row[0])

    def write_meta(self, key: str, value: Any) -> None:
        """Store a fact (JSON)."""
        with self.file.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    # --- planning -----------------------------------------------------------------------------------------------------

    def record_planned(self, chips: Iterable[PlannedChip]) -> None:
        """Fix the scenes of chips, or that they have none. A chip that is decided already keeps what it has."""
        decided = tuple(chips)
        with self.file.transaction() as connection:
            for item in decided:
                state = ChipState.UNUSABLE if item.document is None else ChipState.PLANNED
                number = _decide(connection, item.chip_id, state, origin=item.origin)
                if number is not None and item.document is not None:
                    connection.execute("INSERT OR REPLACE INTO scenes VALUES (?, ?)", (number[0], item.document))

    def record_unplannable(self, chip_id: str, kind: str, reason: str) -> None:
        """A chip that the service refuses to answer about; it has no scenes and gets no row."""
        with self.file.transaction() as connection:
            number = _decide(connection, chip_id, ChipState.FAILED, kind=kind, reason=reason)
            if number is not None and number[1] is not None:
                connection.execute(
                    "UPDATE shards SET final = final + 1 WHERE shard = ? / "
                    "(SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'shard_chips')",
                    (number[1],),
                )

    def forget_unused_decisions(self) -> None:
        """Chips that are decided and have no row are to be decided anew, fetched or not: their decisions lack arrays
        added since.
        """
        without_row = f"generation IS NULL AND row IS NULL AND {has_scenes}"
        with self.file.transaction() as connection:
            connection.execute(
                f"UPDATE chips SET state = {_undecided_state}, segment = NULL, offset = NULL, length = NULL "
                f"WHERE {without_row}"
            )
            connection.execute(
                "DELETE FROM scenes WHERE number IN (SELECT number FROM chips WHERE generation IS NULL AND row IS NULL)"
            )

    def states(self, chip_ids: Sequence[str]) -> dict[str, ChipState]:
        """State of those of the chips that are known."""
        return {name: ChipState(state) for name, state in self._named("chip_id, state", chip_ids)}

    def usable(self, chip_ids: Sequence[str]) -> dict[str, bool]:
        """Whether those of the chips that are decided have scenes, whatever became of their pixels since."""
        found = self._named(f"chip_id, {has_scenes}", chip_ids)
        return {name: bool(usable) for name, usable in found if usable is not None}

    def scenes_of(self, chip_id: str) -> ChipScenes | None:
        """What is decided for a chip, None where nothing is."""
        found = self.file.one("SELECT document FROM scenes JOIN chips USING (number) WHERE chip_id = ?", (chip_id,))
        return None if found is None else unpacked(found[0])

    def row_end(self) -> int:
        """One beyond the last row that a chip has."""
        return self.file.number("SELECT COALESCE(MAX(first_row + chips), 0) FROM generations WHERE chips > 0")

    def rows_of(self, chip_ids: Sequence[str]) -> list[tuple[int, int]]:
        """(row, generation) of each chip, (-1, -1) for those without a row."""
        known = {name: (row, generation) for name, row, generation in self._named("chip_id, row, generation", chip_ids)}
        nowhere = (-1, -1)
        found = (known.get(name, nowhere) for name in chip_ids)
        return [nowhere if place[0] is None else place for place in found]

    # --- fetching -----------------------------------------------------------------------------------------------------

    def open_chips(self, chip_ids: Sequence[str]) -> list[ChipRecord]:
        """Those of some chips (500 at most), with a row or without, whose pixels are still to be fetched, in any
        order.
        """
        return self._records(f"state = 'planned' AND chip_id IN ({_marks(chip_ids)})", chip_ids)

    def open_rows(self, after: int, limit: int = 1000, *, until: int = 2**62) -> list[ChipRecord]:
        """Up to `limit` chosen chips whose pixels are still to be fetched, in order of row, beyond row `after` and
        below `until`.
        """
        found: list[ChipRecord] = []
        while len(found) < limit:
            numbers = self._open_numbers(after, max(limit, batch_chips) if self._chooses else limit, until)
            if not numbers:
                break
            after = numbers[-1][1]
            chosen = self.chosen.among(numbers, lon=2, kind=4)[: limit - len(found)]
            for start in range(0, len(chosen), 500):
                part = [item[0] for item in chosen[start : start + 500]]
                found += self._records(f"number IN ({_marks(part)}) ORDER BY row", part)
        return found

    def open_chip(self, chip_id: str) -> ChipRecord | None:
        """A chip, chosen or not, whose pixels are still to be fetched; None where they are not."""
        found = self._records("chip_id = ? AND state = 'planned' AND row IS NOT NULL", (chip_id,))
        return found[0] if found else None

    def open_count(self) -> int:
        """How many chosen chips are still to be fetched."""
        if not self._chooses:
            return self.file.number("SELECT COUNT(*) FROM chips WHERE state = 'planned' AND row IS NOT NULL")
        after, count = -1, 0
        while numbers := self._open_numbers(after, 16 * batch_chips):
            after = numbers[-1][1]
            count += len(self.chosen.among(numbers, lon=2, kind=4))
        return count

    def record_landed(self, chips: Sequence[LandedChip], *, shard_chips: int) -> list[int]:
        """Mark chips whose bytes are durable; returns the shards that became final."""
        with self.file.transaction() as connection:
            for chip in chips:
                place = chip.place
                changed = connection.execute(
                    "UPDATE chips SET state = 'landed', kind = '', reason = '', "
                    "statuses = ?, segment = ?, offset = ?, length = ? "
                    "WHERE chip_id = ? AND state = 'planned' RETURNING row / ?",
                    (
                        json.dumps({name: str(status) for name, status in chip.statuses.items()}, sort_keys=True),
                        *((place.segment, place.offset, place.length) if place else (None, None, None)),
                        chip.chip_id,
                        shard_chips,
                    ),
                ).fetchone()
                if changed is None:
                    raise DamagedError(f"{self.file.path}: chip {chip.chip_id} landed but was not expected")
                connection.execute("UPDATE shards SET final = final + 1 WHERE shard = ?", changed)
                connection.executemany(
                    "INSERT INTO array_totals VALUES (?, 1, ?) "
                    "ON CONFLICT (array) DO UPDATE SET chips = chips + 1, valid = valid + excluded.valid",
                    chip.valid.items(),
                )
            ready = _ready(connection)
        # One thread appends, flushes and records in turn, so all that it has appended is recorded now.
        self.landing_segment = max([self.landing_segment, *(chip.place.segment for chip in chips if chip.place)])
        return ready

    def record_failed(self, chip_id: str, kind: str, reason: str, *, shard_chips: int) -> list[int]:
        """Quarantine a chip with its reason; returns the shards that became final."""
        with self.file.transaction() as connection:
            changed = connection.execute(
                "UPDATE chips SET state = 'failed', kind = ?, reason = ? "
                "WHERE chip_id = ? AND state = 'planned' RETURNING row / ?",
                (kind, reason, chip_id, shard_chips),
            ).fetchone()
            if changed is not None and changed[0] is not None:
                connection.execute("UPDATE shards SET final = final + 1 WHERE shard = ?", changed)
            return _ready(connection)

    def reopen_failed(self, *, shard_chips: int, leave_sealed: bool = False) -> tuple[int, int]:
        """Put chosen failed chips back to where they were before they failed; (taken up, left alone).

        One whose row is already sealed as fill waits for a row in a later generation, or is left
        alone with `leave_sealed`; it is planned anew where arrays were added since. Kind and reason stay until a chip
        lands.
        """
        after, taken, left = 0, 0, 0
        replan = bool(self.read_meta("additions"))
        while True:
            found = self.file.all(
                "SELECT number, chip_id, row, COALESCE(sealed, 0), lon, lat, kind, reason, "
                "EXISTS (SELECT 1 FROM scenes WHERE scenes.number = chips.number) "
                "FROM chips LEFT JOIN shards ON shard = row / ? "
                "WHERE state = 'failed' AND number > ? ORDER BY number LIMIT ?",
                (shard_chips, after, batch_chips),
            )
            if not found:
                return taken, left
            after = found[-1][0]
            wanted = self.chosen.among(found, lon=4, kind=6)
            reopened = [item for item in wanted if not (item[3] and leave_sealed)]
            left += len(wanted) - len(reopened)
            taken += len(reopened)
            with self.file.transaction() as connection:
                for item in reopened:
                    _reopen(connection, item, shard_chips, replan=replan)

    def add_totals(self, amounts: Mapping[str, float]) -> None:
        """Add to the running totals (requests, bytes, retries, seconds ...)."""
        with self.file.transaction() as connection:
            _add_totals(connection, amounts)

    def record_profiles(self, samples: Sequence[Sample], amounts: Mapping[str, float]) -> None:
        """Keep what profiled requests have cost, and add to the running totals, in one transaction."""
        time = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        with self.file.transaction() as connection:
            connection.executemany(
                "INSERT INTO profiles (lane, units, eecu_s, time) VALUES (?, ?, ?, ?)",
                ((sample.lane, sample.units, sample.eecu_s, time) for sample in samples),
            )
            _add_totals(connection, amounts)

    def profiles(self) -> list[Sample]:
        """Every profiled request so far, in order."""
        found = self.file.all("SELECT lane, units, eecu_s FROM profiles ORDER BY profile")
        return [Sample(lane=lane, units=units, eecu_s=eecu_s) for lane, units, eecu_s in found]

    # --- sealing ------------------------------------------------------------------------------------------------------

    def ready_shards(self) -> list[int]:
        """Shards whose chips are all final and which are not sealed, ascending."""
        return [item[0] for item in self.file.all(_ready_query)]

    def shard_records(self, shard: int, *, shard_chips: int) -> list[ChipRecord]:
        """The chips of a shard in order of row."""
        first = shard * shard_chips
        return self._records("row >= ? AND row < ? ORDER BY row", (first, first + shard_chips))

    def old_rows(self, shard: int, *, shard_chips: int) -> list[ChipRecord]:
        """Chips that had a row in this shard and were given another one since, as failed at their old row."""
        first = shard * shard_chips
        found = self.file.all(
            "SELECT old_rows.row, chip_id FROM old_rows WHERE row >= ? AND row < ? ORDER BY row",
            (first, first + shard_chips),
        )
        return [
            replace(record, row=row, state=ChipState.FAILED, place=None)
            for row, chip_id in found
            for record in self._records("chip_id = ?", (chip_id,))
        ]

    def superseded_rows(self, shard: int, *, shard_chips: int) -> list[int]:
        """Old rows of chips whose present row lies in this shard."""
        first = shard * shard_chips
        found = self.file.all(
            "SELECT old_rows.row FROM old_rows JOIN chips USING (chip_id) WHERE chips.row >= ? AND chips.row < ? "
            "ORDER BY old_rows.row",
            (first, first + shard_chips),
        )
        return [int(item[0]) for item in found]

    def old_row_count(self) -> int:
        """How many chips were given another row."""
        return self.file.number("SELECT COUNT(*) FROM old_rows")

    def record_sealed(self, shard: int, *, shard_chips: int) -> None:
        """Mark a shard, and its landed chips, as sealed; their raw bytes are not needed any more."""
        first = shard * shard_chips
        with self.file.transaction() as connection:
            connection.execute("UPDATE shards SET sealed = 1 WHERE shard = ?", (shard,))
            connection.execute(
                "UPDATE chips SET state = 'sealed', segment = NULL, offset = NULL, length = NULL "
                "WHERE row >= ? AND row < ? AND state = 'landed'",
                (first, first + shard_chips),
            )

    def shard(self, shard: int) -> Shard | None:
        """One shard, None where there is no such shard."""
        row = self.file.one("SELECT shard, generation, chips, final, sealed FROM shards WHERE shard = ?", (shard,))
        if row is None:
            return None
        return Shard(shard=row[0], generation=row[1], chips=row[2], final=row[3], sealed=bool(row[4]))

    def shard_counts(self) -> tuple[int, int]:
        """(all shards, sealed shards)."""
        row = self.file.one("SELECT COUNT(*), COALESCE(SUM(sealed), 0) FROM shards")
        return (0, 0) if row is None else (int(row[0]), int(row[1]))

    def segments_in_use(self) -> set[int]:
        """Segments that hold bytes of chips which are not sealed yet."""
        return {int(item[0]) for item in self.file.all("SELECT DISTINCT segment FROM chips WHERE segment IS NOT NULL")}

    # --- looking ------------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Chips by state."""
        return dict(self.file.all("SELECT state, chips FROM counts WHERE chips > 0"))

    def tally(self) -> dict[tuple[int, bool, ChipState], int]:
        """Chips by (biome, from the reserve, state), as far as they lie where the chosen ones do."""
        if self.chosen.inside is None:
            found = self.file.all("SELECT biome, reserve > 0, state, COUNT(*) FROM chips GROUP BY 1, 2, 3")
            return {(biome, bool(reserve), ChipState(state)): chips for biome, reserve, state, chips in found}
        tallied: dict[tuple[int, bool, ChipState], int] = {}
        after = 0
        query = "SELECT number, lon, lat, biome, reserve > 0, state FROM chips WHERE number > ? ORDER BY number LIMIT ?"
        while batch := self.file.all(query, (after, 16 * batch_chips)):
            after = batch[-1][0]
            for item in replace(self.chosen, only="").among(batch, lon=1, kind=0):
                key = (item[3], bool(item[4]), ChipState(item[5]))
                tallied[key] = tallied.get(key, 0) + 1
        return tallied

    def failures(self) -> list[tuple[str, str, int]]:
        """(kind, reason, chips) of failed chips, most frequent first."""
        return list(
            self.file.all(
                "SELECT kind, reason, COUNT(*) FROM chips WHERE state = 'failed' "
                "GROUP BY kind, reason ORDER BY 3 DESC, 1, 2"
            )
        )

    def totals(self) -> dict[str, float]:
        """Running totals of every run so far."""
        return dict(self.file.all("SELECT name, value FROM totals"))

    def valid_fractions(self) -> dict[str, tuple[int, float]]:
        """(landed chips, sum of their valid fractions) per array."""
        found = self.file.all("SELECT array, chips, valid FROM array_totals")
        return {name: (int(chips), float(valid)) for name, chips, valid in found}

    def lot_count(self) -> int:
        """How many lots this ledger has, fixed or not."""
        return self.file.number("SELECT COUNT(*) FROM generations WHERE mine = 1")

    def generation_count(self) -> int:
        """How many generations are fixed."""
        return self.file.number("SELECT COUNT(*) FROM generations WHERE chips IS NOT NULL")

    # --- inside -------------------------------------------------------------------------------------------------------

    def _named(self, columns: str, chip_ids: Sequence[str]) -> Iterator[Row]:
        """Some columns of those of the chips that are known, in any order."""
        for start in range(0, len(chip_ids), 500):
            part = chip_ids[start : start + 500]
            yield from self.file.all(f"SELECT {columns} FROM chips WHERE chip_id IN ({_marks(part)})", part)

    @property
    def _chooses(self) -> bool:
        return self.chosen != everything

    def _open_numbers(self, after: int, limit: int, until: int = 2**62) -> list[Row]:
        return self.file.all(
            "SELECT number, row, lon, lat, kind, reason FROM chips "
            "WHERE state = 'planned' AND row IS NOT NULL AND row > ? AND row < ? ORDER BY row LIMIT ?",
            (after, until, limit),
        )

    def _records(self, condition: str, values: Sequence[Any]) -> list[ChipRecord]:
        return [record_of(item) for item in self.file.all(f"{record_query} WHERE {condition}", values)]


def open_ledger(path: Path, *, to_read: bool = False) -> Ledger:
    """The ledger at `path`, created where there is none; `to_read` never waits for a writer and changes nothing.

    Raises DamagedError for another format or a damaged file, InputError where the disk refuses.
    """
    return Ledger(open_file(path, to_read=to_read))


_undecided_state = "CASE reserve WHEN 1 THEN 'reserve' ELSE 'waiting' END"
_ready_query = "SELECT shard FROM shards WHERE sealed = 0 AND final = chips ORDER BY shard"


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _ready(connection: sqlite3.Connection) -> list[int]:
    return [item[0] for item in connection.execute(_ready_query)]


def _decide(
    connection: sqlite3.Connection,
    chip_id: str,
    state: ChipState,
    *,
    origin: str = "",
    kind: str = "",
    reason: str = "",
) -> tuple[int, int | None] | None:
    """Number and row of a chip whose state this sets; None where it was decided before."""
    found: tuple[int, int | None] | None = connection.execute(
        "INSERT INTO chips (chip_id, state, origin, kind, reason) VALUES (?, ?, ?, ?, ?) ON CONFLICT (chip_id) "
        "DO UPDATE SET state = excluded.state, origin = excluded.origin, kind = excluded.kind, "
        "reason = excluded.reason WHERE chips.state IN ('waiting', 'reserve') RETURNING number, row",
        (chip_id, state, origin, kind, reason),
    ).fetchone()
    return found


def _reopen(connection: sqlite3.Connection, item: Row, shard_chips: int, *, replan: bool) -> None:
    number, chip_id, row, sealed, *_, planned = item
    if sealed and replan:
        connection.execute("DELETE FROM scenes WHERE number = ?", (number,))
        planned = False
    if sealed:
        connection.execute("INSERT OR REPLACE INTO old_rows VALUES (?, ?)", (row, chip_id))
    elif row is not None:
        connection.execute("UPDATE shards SET final = final - 1 WHERE shard = ?", (row // shard_chips,))
    if sealed or row is None:
        connection.execute("UPDATE chips SET row = NULL, generation = NULL WHERE number = ?", (number,))
    state = "'planned'" if planned else _undecided_state
    connection.execute(f"UPDATE chips SET state = {state} WHERE number = ?", (number,))


def _add_totals(connection: sqlite3.Connection, amounts: Mapping[str, float]) -> None:
    connection.executemany(
        "INSERT INTO totals VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        amounts.items(),
    )
