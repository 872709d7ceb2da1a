"""How many chips each biome and each ecoregion gets: equal over biomes, by area over the ecoregions of a biome."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from m3etl.spec.hashing import hashed_uniform

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def equal_quotas(total: int, biomes: Sequence[int], seed: int) -> dict[int, int]:
    """`total` over the biomes, equal within one; which biomes get the odd ones depends on the seed and the biome alone.

    A larger total never takes a chip from a biome.
    """
    base, odd = divmod(total, len(biomes))
    rank = np.argsort(np.argsort(hashed_uniform(seed, "biome-remainder", np.asarray(biomes)), kind="stable"))
    return {biome: base + int(place < odd) for biome, place in zip(biomes, rank.tolist(), strict=True)}


def quotas_by_area(total: int, areas: Floats, keys: Integers, seed: int) -> Integers:
    """`total` over ecoregions by area, (E,) int64 that adds up to `total`. `keys` name the ecoregions for the seed.

    With at least one chip per ecoregion: largest remainder (Hamilton), at least one each. With fewer: a seeded draw
    in which an ecoregion's expected number is its share (sequential Poisson sampling, Ohlsson 1998); a larger total
    keeps the smaller draw.
    """
    if total < len(areas):
        return _drawn_by_area(total, areas, keys, seed)
    quotas = np.zeros(len(areas), dtype=np.int64)
    small = np.zeros(len(areas), dtype=bool)
    while True:
        ideal = (
            np.where(small, 0.0, areas) * ((total - small.sum()) / areas[~small].sum())
            if not small.all()
            else areas * 0
        )
        below = ~small & (ideal < 1.0)
        if not below.any():
            break
        small |= below
    quotas[small] = 1
    return np.where(small, quotas, largest_remainder(total - int(small.sum()), ideal))


def largest_remainder(total: int, shares: Floats) -> Integers:
    """Whole numbers in proportion to `shares` that add up to `total`; odd ones go to the largest fractions."""
    if total <= 0 or shares.sum() <= 0:
        return np.zeros(len(shares), dtype=np.int64)
    ideal = shares * (total / shares.sum())
    whole = np.floor(ideal + 1e-9).astype(np.int64)
    order = np.argsort(-(ideal - whole), kind="stable")
    whole[order[: total - int(whole.sum())]] += 1
    return np.asarray(whole)


def raised_to(target: Integers, present: Integers, total: int) -> Integers:
    """`total` new chips that bring `present` (N,) as near to `target` (N,) as they can without taking any away.

    The target adds up to at least `total` more than what is present.
    """
    return largest_remainder(total, np.maximum(target - present, 0).astype(np.float64))


def _drawn_by_area(total: int, areas: Floats, keys: Integers, seed: int) -> Integers:
    """The `total` smallest of (k + u) / area over ecoregions and k = 0, 1, ...; u is the ecoregion's own number."""
    start = hashed_uniform(seed, "ecoregion-order", keys)
    places = np.arange(total)
    priority = (places[None, :] + start[:, None]) / areas[:, None]
    chosen = np.argsort(priority, axis=None, kind="stable")[:total] // max(total, 1)
    return np.bincount(chosen, minlength=len(areas)).astype(np.int64)
