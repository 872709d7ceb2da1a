"""Small plans in a ledger: rows of the plan by name, and lots fixed without a planner."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from m3etl.io.ledger import ChipState, Ledger, PlannedChip
from m3etl.io.lots import Lot, PlanRow, chips_of_lot, fix_lot, form_lots, load_plan, open_lots
from m3etl.spec.jobs import ArrayScenes, ArrayStatus, ChipScenes
from m3etl.spec.replacement import ReserveRow, chosen_chips


def scenes(chip_id: str) -> ChipScenes:
    array = ArrayScenes(
        status=ArrayStatus.OK, scene_ids=("A/1", "A/2"), time="2020-01-01T00:00:00Z", values=(1.0, None)
    )
    return ChipScenes(
        chip_id=chip_id, year=2020, anchor_id=None, anchor_time="2020-07-01T00:00:00Z", arrays={"x": array}
    )


def planned(chip_id: str) -> PlannedChip:
    return PlannedChip.of(chip_id, scenes(chip_id), "planet")


def plan_row(chip_id: str, draw: int, *, reserve: bool = False, lon: float = 0.0) -> PlanRow:
    return PlanRow(
        chip_id=chip_id,
        draw=draw,
        reserve=reserve,
        lon=lon,
        lat=0.0,
        split="train",
        year=2020,
        biome=draw % 2,
        ecoregion=draw % 4,
        wish_ms=None,
    )


def load(ledger: Ledger, rows: Sequence[PlanRow], identity: int = 0) -> None:
    load_plan(ledger, [rows[: len(rows) // 2], rows[len(rows) // 2 :]], identity)


def decide(ledger: Ledger, names: Iterable[str]) -> None:
    ledger.record_planned(planned(name) for name in names)


def settle(ledger: Ledger, lot: Lot, shard_chips: int) -> None:
    """Fix a lot; chips about which nothing is decided are planned first."""
    chips = {item.plan.chip_id: item for item in chips_of_lot(ledger, lot)}
    decide(ledger, [name for name, item in chips.items() if item.state is ChipState.WAITING])
    usable = ledger.usable(list(chips))
    rows = [
        ReserveRow(chip_id=name, biome=item.plan.biome, ecoregion=item.plan.ecoregion, reserve=item.plan.reserve)
        for name, item in chips.items()
    ]
    with_rows = chosen_chips(rows, usable)
    rest = [
        item.number
        for name, item in chips.items()
        if name not in with_rows and not (item.plan.reserve and usable.get(name, True))
    ]
    fix_lot(ledger, lot, [chips[name].number for name in with_rows], rest, shard_chips=shard_chips)


def fix_everything(ledger: Ledger, *, shard_chips: int, lot_chips: int = 1000) -> None:
    """Rows for all that have none."""
    form_lots(ledger, lot_chips=lot_chips, shard_chips=shard_chips, wall_to_wall=False)
    for lot in open_lots(ledger):
        settle(ledger, lot, shard_chips)


def with_rows(ledger: Ledger, names: str, *, shard_chips: int) -> None:
    """Chips a, b, c ... planned, with rows in this order."""
    load(ledger, [plan_row(name, number) for number, name in enumerate(names)])
    fix_everything(ledger, shard_chips=shard_chips)
