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
    asked, unfilled, spare = _replace(lost, reserve, usable, lambda chip: chip.ecoregion)
    if not asked:
        asked, _, _ = _replace(unfilled, spare, usable, lambda chip: chip.biome)
    order = {chip.chip_id: position for position, chip in enumerate(chips)}
    return sorted(asked, key=order.__getitem__)


def _replace(
    lost: Sequence[ReserveRow],
    reserve: Sequence[ReserveRow],
    usable: Mapping[str, bool],
    group_of: Callable[[ReserveRow], int],
) -> tuple[list[str], list[ReserveRow], list[ReserveRow]]:
    """Reserves to ask about, lost chips that stay without one, and reserves that were not needed."""
    waiting: dict[int, list[ReserveRow]] = {}
    for chip in lost:
        waiting.setdefault(group_of(chip), []).append(chip)
    asked, spare = [], []
    for chip in reserve:
        queue = waiting.get(group_of(chip))
        if not queue:
            spare.append(chip)
        elif usable.get(chip.chip_id, True):
            queue.pop(0)
            if chip.chip_id not in usable:
                asked.append(chip.chip_id)
    return asked, [chip for queue in waiting.values() for chip in queue], spare
