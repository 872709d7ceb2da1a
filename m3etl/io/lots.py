"""How chips come into the ledger and get their rows: the plan is copied once, its order is cut into lots, and a lot
whose scenes are decided is fixed as a generation.

Everything streams: what is as large as the plan is sorted by SQLite, on disk where it has to.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from m3etl.io.ledger import ChipState, Chosen, Ledger
from m3etl.io.ledger_records import has_scenes
from m3etl.spec.roworder import LotCut, cut_lots, lots_of_part

scan_chips = 65_536


class PlanRow(NamedTuple):
    """What the plan says about a chip. draw: see spec.roworder; wish_ms: wished moment of the anchor or None.

    A tuple, in the order of the ledger's columns, because millions go through.
    """

    chip_id: str
    draw: int
    reserve: bool
    lon: float
    lat: float
    split: str
    year: int
    biome: int
    ecoregion: int
    wish_ms: int | None


_facts = ", ".join(PlanRow._fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class LotChip:
    """A chip of a lot with the state it is in. number: its key in the ledger; usable: whether it has scenes, None while
    that is not decided.
    """

    number: int
    state: ChipState
    plan: PlanRow
    usable: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lot:
    """A lot that is not fixed yet. generation, first_row: what it will get; size: chips that are no reserve."""

    generation: int
    first_row: int
    size: int
    draw_from: int
    draw_until: int


def load_plan(ledger: Ledger, batches: Iterable[Sequence[PlanRow]], identity: Any) -> None:
    """Copy the plan into the ledger, one transaction. Chips of a lot that is fixed keep what they have; others follow
    the plan, and those that are no longer in it go.
    """
    with ledger.file.transaction() as connection:
        version = 1 + connection.execute("SELECT COALESCE(MAX(seen), 0) FROM chips").fetchone()[0]
        _take_in(connection, batches)
        if connection.execute("SELECT 1 FROM chips LIMIT 1").fetchone() is None:
            _fill_empty(connection, version)
        else:
            _bring_in_line(connection, version)
        connection.execute("DROP TABLE temp.arriving")
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('plan', ?)", (json.dumps(identity),))


def form_lots(ledger: Ledger, *, lot_chips: int, shard_chips: int, wall_to_wall: bool) -> int:
    """Cut the chosen chips that no fixed lot has into lots anew; returns how many these are. Lots of a run that was
    broken off stay as they are where the chips are the same: cut anew, the first would get reserves that fixed lots did
    not need.
    """
    with ledger.file.transaction() as connection:
        lots = list(cut_lots(_candidates(connection, ledger.chosen), lot_chips, wall_to_wall=wall_to_wall))
        if _ends(lots) == _ends(open_lots(ledger)):
            return len(lots)
        connection.execute("DELETE FROM generations WHERE chips IS NULL")
        generation, end = connection.execute(
            "SELECT COALESCE(MAX(generation) + 1, 0), COALESCE(MAX(first_row + size), 0) FROM generations"
        ).fetchone()
        for lot in lots:
            first_row = -(-end // shard_chips) * shard_chips
            connection.execute(
                "INSERT INTO generations (generation, first_row, size, draw_from, draw_until) VALUES (?, ?, ?, ?, ?)",
                (generation, first_row, lot.size, lot.draw_from, lot.draw_until),
            )
            generation, end = generation + 1, first_row + lot.size
    return len(lots)


def _ends(lots: Sequence[Lot | LotCut]) -> list[tuple[int, int]]:
    return [(lot.size, lot.draw_until) for lot in lots]


def keep_part(ledger: Ledger, part: tuple[int, int]) -> int:
    """Forget the chips of other parts' lots; returns how many lots this part has. For a ledger with no fixed lot."""
    lots = open_lots(ledger)
    mine = lots_of_part(len(lots), part)
    kept = [lots[index] for index in mine]
    with ledger.file.transaction() as connection:
        bounds = (kept[0].draw_from, kept[-1].draw_until) if kept else (0, 0)
        connection.execute("DELETE FROM chips WHERE draw < ? OR draw >= ?", bounds)
        names = [(lot.generation,) for index, lot in enumerate(lots) if index not in mine]
        connection.executemany("UPDATE generations SET mine = 0 WHERE generation = ?", names)
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('part', ?)", (json.dumps(list(part)),))
    return len(kept)


def open_lots(ledger: Ledger) -> list[Lot]:
    """Lots that are to be fixed, in order."""
    found = ledger.file.all(
        "SELECT generation, first_row, size, draw_from, draw_until FROM generations WHERE chips IS NULL "
        "AND mine = 1 ORDER BY generation"
    )
    return [
        Lot(generation=item[0], first_row=item[1], size=item[2], draw_from=item[3], draw_until=item[4])
        for item in found
    ]


def chips_of_lot(ledger: Ledger, lot: Lot) -> Iterator[LotChip]:
    """The chosen chips of an open lot, reserves too, in order of their rows."""
    after = (lot.draw_from, -1)
    while True:
        batch = ledger.file.all(
            "SELECT number, state, chip_id, draw, reserve = 1, lon, lat, split, year, biome, ecoregion, wish_ms, "
            f"kind, reason, {has_scenes} FROM chips WHERE generation IS NULL AND (draw, number) > (?, ?) AND draw < ? "
            "ORDER BY draw, number LIMIT ?",
            (*after, lot.draw_until, scan_chips),
        )
        if not batch:
            return
        after = (batch[-1][3], batch[-1][0])
        yield from (_lot_chip(item) for item in ledger.chosen.among(batch, lon=5, kind=12))


def waiting_with_rows(ledger: Ledger, after: int, limit: int) -> list[tuple[int, PlanRow]]:
    """Up to `limit` chips that have a row beyond `after` and no decision yet, with their row and in its order."""
    found = ledger.file.all(
        f"SELECT row, {_facts} FROM chips WHERE state = 'waiting' AND row > ? ORDER BY row LIMIT ?", (after, limit)
    )
    return [(item[0], PlanRow._make(item[1:])) for item in found]


def fix_lot(ledger: Ledger, lot: Lot, with_rows: Sequence[int], settled: Sequence[int], *, shard_chips: int) -> None:
    """Make a lot a generation: the chips `with_rows` (numbers, in order) get consecutive rows; `settled` ones, which
    have none, belong to it too. What has landed or failed already is final in its shard at once.
    """
    if len(with_rows) > lot.size:
        raise ValueError(f"{len(with_rows)} chips do not fit into a lot of {lot.size}")
    with ledger.file.transaction() as connection:
        connection.execute("UPDATE generations SET chips = ? WHERE generation = ?", (len(with_rows), lot.generation))
        connection.executemany(
            "UPDATE chips SET generation = ?, row = ?, reserve = 2 * (reserve > 0) WHERE number = ?",
            ((lot.generation, lot.first_row + offset, number) for offset, number in enumerate(with_rows)),
        )
        connection.executemany(
            "UPDATE chips SET generation = ? WHERE number = ?", ((lot.generation, number) for number in settled)
        )
        end = lot.first_row + len(with_rows)
        connection.executemany(
            "INSERT INTO shards (shard, generation, chips, final) VALUES (?1, ?2, ?3, (SELECT COUNT(*) FROM chips "
            "WHERE row >= ?4 AND row < ?4 + ?3 AND state IN ('landed', 'failed')))",
            (
                (shard, lot.generation, min(shard_chips, end - shard * shard_chips), shard * shard_chips)
                for shard in range(lot.first_row // shard_chips, -(-end // shard_chips))
            ),
        )


# --- the plan comes in ------------------------------------------------------------------------------------------------

_state = "CASE reserve WHEN 0 THEN 'waiting' ELSE 'reserve' END"


def _take_in(connection: sqlite3.Connection, batches: Iterable[Sequence[PlanRow]]) -> None:
    connection.execute(f"CREATE TEMP TABLE arriving ({_facts})")
    for batch in batches:
        connection.executemany("INSERT INTO temp.arriving VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", batch)


def _fill_empty(connection: sqlite3.Connection, version: int) -> None:
    """In order of the draw, and indexes afterwards: both are then written from one end to the other."""
    indexes = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND name IN ('chips_id', 'chips_draw')"
    ).fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    connection.execute(
        f"INSERT INTO chips ({_facts}, seen, state) SELECT {_facts}, ?, {_state} FROM temp.arriving "
        "ORDER BY draw, chip_id",
        (version,),
    )
    for _, statement in indexes:
        connection.execute(statement)


def _bring_in_line(connection: sqlite3.Connection, version: int) -> None:
    open_facts = ("reserve", "split", "year", "biome", "ecoregion", "wish_ms")
    taken = ", ".join(f"{name} = iif(generation IS NULL, excluded.{name}, {name})" for name in open_facts[1:])
    connection.execute(
        f"INSERT INTO chips ({_facts}, seen, state) SELECT {_facts}, ?, {_state} FROM temp.arriving WHERE true "
        "ORDER BY draw, chip_id ON CONFLICT (chip_id) DO UPDATE SET seen = excluded.seen, draw = excluded.draw, "
        "lon = excluded.lon, lat = excluded.lat, "
        f"reserve = iif(generation IS NULL AND reserve < 2, excluded.reserve, reserve), {taken}, "
        "state = iif(generation IS NULL AND state IN ('waiting', 'reserve'), excluded.state, state)",
        (version,),
    )
    connection.execute("DELETE FROM chips WHERE seen <> ? AND generation IS NULL", (version,))


def _candidates(connection: sqlite3.Connection, chosen: Chosen) -> Iterator[npt.NDArray[np.int64]]:
    """Draws, ascending, of chips that are no reserve and in no fixed lot."""
    cursor = connection.execute(
        "SELECT draw, lon, lat, kind, reason FROM chips WHERE generation IS NULL AND reserve <> 1 ORDER BY draw"
    )
    while batch := cursor.fetchmany(scan_chips):
        yield np.array([item[0] for item in chosen.among(batch, lon=1, kind=3)], dtype=np.int64)


def _lot_chip(item: tuple[Any, ...]) -> LotChip:
    number, state, chip_id, draw, reserve, lon, lat, split, year, biome, ecoregion, wish_ms, _, _, usable = item
    plan = PlanRow(
        chip_id=chip_id,
        draw=draw,
        reserve=bool(reserve),
        lon=lon,
        lat=lat,
        split=split,
        year=year,
        biome=biome,
        ecoregion=ecoregion,
        wish_ms=wish_ms,
    )
    return LotChip(number=number, state=ChipState(state), plan=plan, usable=None if usable is None else bool(usable))
