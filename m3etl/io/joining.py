"""The ledgers of a campaign's parts become one. Every lot, its chips and its rows belong to exactly one part."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from m3etl.errors import DamagedError, InputError
from m3etl.io.ledger import Ledger, open_ledger
from m3etl.io.segments import segment_path, sync_directory, unwritable
from m3etl.io.tasks import place_with_tasks, task_columns, task_tables

fixed_facts = ("arrays", "shard_chips", "lot_chips", "s2", "catalogue", "selection")
segments_of_part = 1_000_000  # numbers that the segments of one part may have in the joined campaign
_place_columns = "chip_id, generation, row, draw, lon, lat, split, year, biome, ecoregion, wish_ms"
_chip_columns = (
    "chip_id, state, generation, row, draw, reserve, lon, lat, split, year, biome, ecoregion, wish_ms, seen, origin, "
    "kind, reason, statuses, offset, length"
)


def check_parts_agree(ledgers: Sequence[Ledger]) -> None:
    """DamagedError where parts were cut from different plans, selections or arrays."""
    for other in ledgers[1:]:
        for name in (*fixed_facts, "lots"):
            if _fact(ledgers[0], name) != _fact(other, name):
                raise DamagedError(
                    f"{ledgers[0].file.path.name} and {other.file.path.name} do not belong to the same export: their "
                    f"{name.replace('_', ' ')} differ",
                    hint="Every part needs the same chips.parquet, campaign.toml, region and modalities.",
                )


def join_ledgers(parts: Sequence[tuple[Ledger, Path]], path: Path, raw_path: Path, plan: Any) -> None:
    """Write the ledger at `path` from all parts, each with its raw directory, and link their raw segments into
    `raw_path`. It appears whole or not at all; the parts stay as they are. plan: identity of chips.parquet, None where
    it has to be read again. Raises InputError where parts have exports on their way to different buckets.
    """
    place = _common_place([part for part, _ in parts])
    temporary = path.with_name(f".{path.name}.tmp")
    for suffix in ("", "-wal", "-shm"):
        Path(f"{temporary}{suffix}").unlink(missing_ok=True)
    joined = open_ledger(temporary)
    try:
        for number, (part, part_raw) in enumerate(parts, start=1):
            _link_segments(part, part_raw, raw_path, number * segments_of_part)
            with joined.file.attached(part.file.path), joined.file.transaction() as connection:
                _take_over(connection, number * segments_of_part)
        for name in fixed_facts:
            joined.write_meta(name, parts[0][0].read_meta(name))
        joined.write_meta("parts_joined", len(parts))
        if place:
            joined.write_meta("task_place", place)
        if plan is not None:
            joined.write_meta("plan", plan)
    finally:
        joined.close()
    try:
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise unwritable(path.parent, error) from error


def take_over_rows(ledger: Ledger, base: Path, *, shard_chips: int) -> None:
    """Fill an empty ledger with every chip that has a row in the ledger at `base`, waiting to be planned anew; at once.

    Rows, generations and shards are the same; none is final.
    """
    with ledger.file.attached(base), ledger.file.transaction() as connection:
        connection.execute(
            f"INSERT INTO chips ({_place_columns}, state) SELECT {_place_columns}, 'waiting' FROM other.chips "
            "WHERE row IS NOT NULL ORDER BY row"
        )
        connection.execute("INSERT INTO generations SELECT * FROM other.generations WHERE chips IS NOT NULL")
        connection.execute(  # a chip that has another row since does not count where it was
            "INSERT INTO shards (shard, generation, chips) SELECT row / ? AS shard, generation, COUNT(*) "
            "FROM other.chips WHERE row IS NOT NULL GROUP BY 1, 2",
            (shard_chips,),
        )
        connection.execute("INSERT INTO old_rows SELECT * FROM other.old_rows")
        connection.execute("INSERT INTO meta VALUES ('rows_taken_over', 'true')")


def _fact(ledger: Ledger, name: str) -> Any:
    if name == "lots":
        return ledger.file.all("SELECT generation, first_row, size, draw_from, draw_until FROM generations ORDER BY 1")
    return json.dumps(ledger.read_meta(name), sort_keys=True)


def _link_segments(ledger: Ledger, source: Path, target: Path, first: int) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
        for number in ledger.segments_in_use():
            linked = segment_path(target, first + number)
            linked.unlink(missing_ok=True)
            os.link(segment_path(source, number), linked)
        sync_directory(target)
    except OSError as error:
        raise unwritable(target, error) from error


def _common_place(ledgers: Sequence[Ledger]) -> str:
    """Where exports of these parts are on their way to; "" where none are."""
    places = {ledger.file.path.name: place for ledger in ledgers if (place := place_with_tasks(ledger.file))}
    if len(set(places.values())) > 1:
        found = "; ".join(f"{place} ({name})" for name, place in places.items())
        raise InputError(
            f"parts of this campaign have exports on their way to different buckets: {found}",
            hint="Finish them first, each with its --part I/N and its --bucket.",
        )
    return next(iter(places.values()), "")


def _take_over(connection: sqlite3.Connection, first_segment: int) -> None:
    connection.execute(
        f"INSERT INTO chips ({_chip_columns}, segment) SELECT {_chip_columns}, segment + ? FROM other.chips "
        "ORDER BY draw, number",
        (first_segment,),
    )
    connection.execute(
        "INSERT INTO scenes SELECT main.chips.number, document FROM other.scenes "
        "JOIN other.chips ON other.chips.number = other.scenes.number "
        "JOIN main.chips ON main.chips.chip_id = other.chips.chip_id"
    )
    connection.execute("INSERT INTO generations SELECT * FROM other.generations WHERE mine = 1")
    connection.execute("INSERT INTO shards SELECT * FROM other.shards")
    connection.execute(
        "INSERT INTO profiles (lane, units, eecu_s, time) SELECT lane, units, eecu_s, time FROM other.profiles"
    )
    connection.execute(
        "INSERT INTO totals SELECT * FROM other.totals WHERE true "
        "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
    )
    connection.execute(
        "INSERT INTO array_totals SELECT * FROM other.array_totals WHERE true "
        "ON CONFLICT (array) DO UPDATE SET chips = chips + excluded.chips, valid = valid + excluded.valid"
    )
    if connection.execute("SELECT 1 FROM other.sqlite_master WHERE name = 'tasks'").fetchone():
        for statement in task_tables:
            connection.execute(statement)
        connection.execute(  # their names hold a word of the part's own, so none occurs twice
            f"INSERT INTO tasks ({task_columns}) SELECT {task_columns} FROM other.tasks ORDER BY number"
        )
