"""Which chips of a plan are to be planned next: every chip first, then reserves in place of those without a usable
anchor.

The answer is a function of what is known about the chips, so an interrupted run goes on to the same choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveRow:
    """One chip of the plan, as far as replacement goes. reserve: it stands in for others only."""

    chip_id: str
    biome: int
    ecoregion: int
    reserve: bool


def next_to_plan(chips: Sequence[ReserveRow], usable: Mapping[str, bool]) -> list[str]:
    """Chips to ask about now, in plan order; empty when the selection is settled. usable: what is known, by chip id.

    A chip without a usable anchor is replaced by the next reserve chip of its ecoregion, and where those run out by the
    next reserve of its biome that no ecoregion needs. No reserve is asked about before it is needed.
    """
    unknown = [chip.chip_id for chip in chips if not chip.reserve and chip.chip_id not in usable]
    if unknown:
        return unknown
    lost = [chip for chip in chips if not chip.reserve and not usable[chip.chip_id]]
    reserve = [chip for chip in chips if chip.reserve]
    taken, unfilled, spare = _replace(lost, reserve, usable, lambda chip: chip.ecoregion)
    asked = {chip.chip_id for chip in taken if chip.chip_id not in usable}
    if not asked:
        taken, _, _ = _replace(unfilled, spare, usable, lambda chip: chip.biome)
        asked = {chip.chip_id for chip in taken if chip.chip_id not in usable}
    return [chip.chip_id for chip in chips if chip.chip_id in asked]


def chosen_chips(chips: Sequence[ReserveRow], usable: Mapping[str, bool]) -> list[str]:
    """The chips of a settled selection, in plan order: the usable ones, and a reserve in place of each lost one as far
    as there are any. Never more than there are chips that are no reserve.
    """
    lost = [chip for chip in chips if not chip.reserve and not usable[chip.chip_id]]
    reserve = [chip for chip in chips if chip.reserve and chip.chip_id in usable]
    near, unfilled, spare = _replace(lost, reserve, usable, lambda chip: chip.ecoregion)
    far, _, _ = _replace(unfilled, spare, usable, lambda chip: chip.biome)
    stand_ins = {chip.chip_id for chip in (*near, *far)}
    return [chip.chip_id for chip in chips if (chip.chip_id in stand_ins if chip.reserve else usable[chip.chip_id])]


def _replace(
    lost: Sequence[ReserveRow],
    reserve: Sequence[ReserveRow],
    usable: Mapping[str, bool],
    group_of: Callable[[ReserveRow], int],
) -> tuple[list[ReserveRow], list[ReserveRow], list[ReserveRow]]:
    """Reserves that are used or to be asked about, lost chips that stay without one, reserves that were not needed."""
    waiting: dict[int, list[ReserveRow]] = {}
    for chip in lost:
        waiting.setdefault(group_of(chip), []).append(chip)
    taken, spare = [], []
    for chip in reserve:
        queue = waiting.get(group_of(chip))
        if not queue:
            spare.append(chip)
        elif usable.get(chip.chip_id, True):
            queue.pop(0)
            taken.append(chip)
    return taken, [chip for queue in waiting.values() for chip in queue], spare
