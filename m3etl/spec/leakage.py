"""How close chips of different splits come to each other."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from m3etl.spec.nearness import chord_of_km, km_of_chord, unit_vectors
from m3etl.spec.splits import split_names, test, train, val

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leakage:
    """Pairs of chips of different splits (train, val, test) less than `distance_km` apart, and the closest pair.

    The distance of two chips is that of their centres less a chip's diagonal, at least zero: never more than the
    ground between their footprints, and zero wherever they touch. `pairs`: by the names of both splits. `closest_km`
    and `closest` (positions of the two chips): infinite and (-1, -1) where there is none within reach of the search.
    """

    distance_km: float
    pairs: dict[tuple[str, str], int]
    closest_km: float
    closest: tuple[int, int]

    @property
    def count(self) -> int:
        """All pairs."""
        return sum(self.pairs.values())


def leakage_of(lon: Floats, lat: Floats, split: Codes, *, chip_m: float, distance_km: float) -> Leakage:
    """The leakage between chips from their centres and splits (index into `split_names`), (N,) each."""
    every = np.ones(len(lon), dtype=bool)
    return leakage_of_slice(lon, lat, split, every, chip_m=chip_m, distance_km=distance_km)


def leakage_of_slice(
    lon: Floats, lat: Floats, split: Codes, inside: npt.NDArray[np.bool_], *, chip_m: float, distance_km: float
) -> Leakage:
    """The same, without the pairs of which both chips are not `inside` a slice: those belong to another slice."""
    diagonal_km = float(np.sqrt(2.0)) * chip_m / 1000.0
    reach = chord_of_km(distance_km + diagonal_km)
    members = {code: np.flatnonzero(split == code) for code in (train, val, test)}
    trees = {code: cKDTree(unit_vectors(lon[chosen], lat[chosen])) for code, chosen in members.items()}
    outer = {code: chosen[~inside[chosen]] for code, chosen in members.items()}
    outer_trees = {code: cKDTree(unit_vectors(lon[chosen], lat[chosen])) for code, chosen in outer.items()}
    pairs, closest_km, closest = {}, np.inf, (-1, -1)
    for first, second in combinations((train, val, test), 2):
        count = int(trees[first].count_neighbors(trees[second], reach))
        count -= int(outer_trees[first].count_neighbors(outer_trees[second], reach))
        pairs[split_names[first], split_names[second]] = count
        if not (len(members[first]) and len(members[second])):
            continue
        few, many = sorted((first, second), key=lambda code: len(members[code]))
        chord, nearest = (np.asarray(found) for found in trees[many].query(trees[few].data))
        best = int(np.argmin(chord))
        gap_km = max(float(km_of_chord(chord[best])) - diagonal_km, 0.0)
        if gap_km < closest_km:
            closest_km = gap_km
            closest = (int(members[few][best]), int(members[many][nearest[best]]))
    return Leakage(distance_km=distance_km, pairs=pairs, closest_km=closest_km, closest=closest)


def merged(first: Leakage, second: Leakage) -> Leakage:
    """Leakage of two slices of one plan; positions stay those of the slice that had the closest pair."""
    nearer = first if first.closest_km <= second.closest_km else second
    return Leakage(
        distance_km=first.distance_km,
        pairs={key: count + second.pairs[key] for key, count in first.pairs.items()},
        closest_km=nearer.closest_km,
        closest=nearer.closest,
    )
