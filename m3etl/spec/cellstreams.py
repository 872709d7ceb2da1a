"""Accepted cells of each ecoregion in the order of its own random stream, extended as far as asked for.

An ecoregion's cells depend on its own stream only: a cell counts where its centre lies in the ecoregion, so no two
ecoregions compete for one, and groups of them are drawn side by side in threads without changing the result.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from m3etl.spec.ecoregions import Ecoregions
from m3etl.spec.hashing import hashed_uniform, stream
from m3etl.spec.lattice import Cells, cells_of_lonlat

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

largest_scale = (
    1.002  # largest scale factor of UTM inside its zones (32V at 3E), over which grid metres exceed ground metres
)
_key_bits = 48  # of Cells.key
_attempts_base = 1000
_attempts_per_chip = 30
_group_count = 24  # independent of the number of threads


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRules:
    """What a cell must be, beside lying in its ecoregion and wholly inside its zone.

    `spacing_m`: least distance of two centres; `taken`: sorted keys of cells that are not to be drawn (again);
    `is_excluded`: flags cells that must not be drawn, (N,) for N cells.
    """

    cell_m: int
    seed: int
    spacing_m: float = 0.0
    taken: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    is_excluded: Callable[[Cells], Flags] | None = None

    @property
    def period(self) -> int:
        """Cells from one node of the sub-lattice that keeps the spacing to the next."""
        return max(1, math.ceil(self.spacing_m * largest_scale / self.cell_m))

    def offset(self, axis: int) -> int:
        """Where the sub-lattice starts along columns (0) or rows (1)."""
        return int(hashed_uniform(self.seed, "spacing", axis) * self.period)


class CellStreams:
    """The streams of all ecoregions. `count`: (E,) accepted so far; `exhausted`: (E,) no more can be found."""

    def __init__(
        self, ecoregions: Ecoregions, rules: CellRules, *, threads: int, advance: Callable[[int], None]
    ) -> None:
        self.ecoregions = ecoregions
        self._rules = rules
        self._threads = threads
        self._advance = advance
        self._groups: list[_Group] = []

    @property
    def count(self) -> Integers:
        return self._of_ecoregions([group.count for group in self._groups], np.int64)

    @property
    def exhausted(self) -> Flags:
        return self._of_ecoregions([group.exhausted for group in self._groups], np.bool_).astype(bool)

    @property
    def outcomes(self) -> dict[str, int]:
        """What became of the cells that random points fell into."""
        total: Counter[str] = Counter()
        for group in self._groups:
            total.update(group.outcomes)
        return dict(total)

    def extend(self, target: Integers) -> None:
        """Draw until every ecoregion has `target` (E,) cells or has used up its attempts, which makes it exhausted."""
        if not self._groups:
            self._groups = [_Group(self.ecoregions, self._rules, members) for members in _grouped(target)]
        with ThreadPoolExecutor(self._threads) as pool:
            for done in as_completed([pool.submit(group.extend, target[group.members]) for group in self._groups]):
                self._advance(done.result())

    def selection(self, quota: Integers, reserve: Integers) -> tuple[Cells, Integers, Flags]:
        """The first `quota` + `reserve` (E,) cells of each ecoregion: cells, their ecoregions, which are the reserve.

        Ordered by ecoregion, then by the order of drawing.
        """
        parts = [group.selection(quota[group.members], reserve[group.members]) for group in self._groups]
        cells = Cells(
            cell_m=self._rules.cell_m,
            epsg=np.concatenate([cells.epsg for cells, _, _ in parts]),
            column=np.concatenate([cells.column for cells, _, _ in parts]),
            row=np.concatenate([cells.row for cells, _, _ in parts]),
        )
        return cells, np.concatenate([owner for _, owner, _ in parts]), np.concatenate([flag for _, _, flag in parts])

    def _of_ecoregions(self, parts: list[npt.NDArray[np.generic]], kind: type) -> npt.NDArray[np.int64]:
        return np.concatenate([np.zeros(0, dtype=kind), *parts]) if parts else np.zeros(len(self.ecoregions), kind)


def _grouped(target: Integers) -> list[Integers]:
    """Ecoregions in the order of their ids (neighbours share zones) in groups with about equal targets."""
    share = np.cumsum(target + 1.0)
    group = np.minimum((share - share[0]) / share[-1] * _group_count, _group_count - 1).astype(np.int64)
    return [np.flatnonzero(group == number) for number in np.unique(group).tolist()]


class _Group:
    """The streams of some ecoregions, `members` (M,), drawn together; one thread at a time."""

    def __init__(self, ecoregions: Ecoregions, rules: CellRules, members: Integers) -> None:
        self.members = members
        self.count = np.zeros(len(members), dtype=np.int64)
        self.exhausted = np.zeros(len(members), dtype=bool)
        self.outcomes: Counter[str] = Counter()
        self._ecoregions = ecoregions
        self._rules = rules
        self._attempts = np.zeros(len(members), dtype=np.int64)
        self._met = np.zeros(len(members), dtype=np.int64)
        self._generators = [stream(rules.seed, "cells", int(ecoregions.eco_id[index])) for index in members.tolist()]
        self._accepted: list[tuple[Cells, Integers]] = []
        self._keys = np.zeros(0, dtype=np.int64)

    def extend(self, target: Integers) -> int:
        """Draw until each member has `target` (M,) cells or is exhausted; returns the number of new cells."""
        before = int(self.count.sum())
        while True:
            need = np.where(self.exhausted, 0, target - self.count)
            # Where hardly anything is found (everything is excluded), a large target is no reason to go on for long.
            # Taken cells are met again on the way to new ones, which must not use up the attempts.
            met = self._met
            limit = _attempts_base + _attempts_per_chip * np.minimum(target + met, 5 * (self.count + met + 20))
            self.exhausted |= (need > 0) & (self._attempts >= limit)
            need[self.exhausted] = 0
            active = np.flatnonzero(need > 0)
            if not len(active):
                return int(self.count.sum()) - before
            rate = np.maximum((self.count + met + 1)[active] / (self._attempts[active] + 3), 0.05)
            tries = np.minimum((need[active] / rate * 1.1).astype(np.int64) + 8, (limit - self._attempts)[active])
            self._draw(active, tries)

    def selection(self, quota: Integers, reserve: Integers) -> tuple[Cells, Integers, Flags]:
        cells, position = self._all_accepted()
        order = np.argsort(position, kind="stable")
        position = position[order]
        rank = np.arange(len(position)) - np.searchsorted(position, position, side="left")
        chosen = rank < (quota + reserve)[position]
        return cells[order[chosen]], self.members[position[chosen]], (rank >= quota[position])[chosen]

    def _all_accepted(self) -> tuple[Cells, Integers]:
        none = np.zeros(0, dtype=np.int64)
        cells = Cells(
            cell_m=self._rules.cell_m,
            epsg=np.concatenate([none, *(cells.epsg for cells, _ in self._accepted)]),
            column=np.concatenate([none, *(cells.column for cells, _ in self._accepted)]),
            row=np.concatenate([none, *(cells.row for cells, _ in self._accepted)]),
        )
        return cells, np.concatenate([none, *(position for _, position in self._accepted)])

    def _draw(self, active: Integers, tries: Integers) -> None:
        """Try `tries` more points in each member of `active`; accept the cells that are new and belong to it."""
        uniforms = np.concatenate(
            [
                self._generators[position].random((count, 3))
                for position, count in zip(active.tolist(), tries.tolist(), strict=True)
            ]
        )
        self._attempts[active] += tries
        position = np.repeat(active, tries)
        lon, lat, hit = self._ecoregions.draw(self.members[position], uniforms)
        cells, position = self._snapped(lon[hit], lat[hit], position[hit])
        new = self._first_of_each(cells, position)
        cells, position = cells[new], position[new]
        centre = cells.centre_lonlat
        inside = cells.wholly_inside(self._rules.spacing_m / 2, centre)
        self.outcomes["cells that cross a zone edge"] += int(np.sum(~inside))
        cells, position, lon, lat = cells[inside], position[inside], centre[0][inside], centre[1][inside]
        # The lookup is the costliest test, so it comes last but one.
        found = self._ecoregions.lookup(lon, lat)
        owned = found == self.members[position]
        self.outcomes["cells with their centre in the sea or on ice"] += int(np.sum(found < 0))
        self.outcomes["cells with their centre in another ecoregion"] += int(np.sum(~owned & (found >= 0)))
        self._accept(cells[owned], position[owned])

    def _snapped(self, lon: Floats, lat: Floats, position: Integers) -> tuple[Cells, Integers]:
        """The cell of each point, with a spacing the node of the sub-lattice next to the south-west."""
        cells, reachable = cells_of_lonlat(lon, lat, self._rules.cell_m)
        self.outcomes["points outside 80S-84N"] += int(np.sum(~reachable))
        period = self._rules.period
        if period > 1:
            cells = Cells(
                cell_m=cells.cell_m,
                epsg=cells.epsg,
                column=cells.column // period * period + self._rules.offset(0),
                row=cells.row // period * period + self._rules.offset(1),
            )
        return (cells, position) if reachable.all() else (cells[reachable], position[reachable])

    def _first_of_each(self, cells: Cells, position: Integers) -> Integers:
        """Positions of cells that a member meets for the first time, in order; those of an older plan are left out."""
        key = position << _key_bits | cells.key
        order = np.argsort(key, kind="stable")
        ordered = key[order]
        first = order[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(order) else order
        first = np.sort(first)
        again = is_in(key[first], self._keys)
        planned = is_in(cells.key[first], self._rules.taken)
        self.outcomes["cells drawn already"] += len(key) - len(first) + int(np.sum(again))
        passed = first[planned & ~again]
        self.outcomes["cells of the plan as it was"] += len(passed)
        self._met += np.bincount(position[passed], minlength=len(self.members))
        self._keys = np.sort(np.concatenate([self._keys, key[passed]]))
        return first[~again & ~planned]

    def _accept(self, cells: Cells, position: Integers) -> None:
        # Excluded cells are remembered too: they would only be refused again.
        key = position << _key_bits | cells.key
        self._keys = np.sort(np.concatenate([self._keys, key]))
        if self._rules.is_excluded is not None:
            excluded = self._rules.is_excluded(cells)
            self.outcomes["cells near excluded places"] += int(np.sum(excluded))
            cells, position = cells[~excluded], position[~excluded]
        self.outcomes["accepted"] += len(cells)
        self._accepted.append((cells, position))
        self.count += np.bincount(position, minlength=len(self.members))


def is_in(values: Integers, sorted_values: Integers) -> Flags:
    """np.isin by bisection; numpy's hash table degenerates on these regular keys (40x slower, numpy 2.4)."""
    if not len(sorted_values):
        return np.zeros(len(values), dtype=bool)
    place = np.minimum(np.searchsorted(sorted_values, values), len(sorted_values) - 1)
    return np.asarray(sorted_values[place] == values)
