"""Which patches of an image the network must not see: a random set of an exact size per image, a function of the seed,
the step and the image's row in the store, and of nothing else (not of rank, batch or order)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from m3etl.errors import InputError


def hidden_count(patches: int, ratio: float) -> int:
    """How many of `patches` are hidden: ratio x patches, rounded; at least one is hidden and at least one visible."""
    if patches < 2 or not 0 < ratio < 1:
        raise InputError(
            f"cannot mask a share of {ratio} of {patches} patches",
            hint="mask.ratio must lie between 0 and 1, and a crop must hold at least two patches (data.crop_px).",
        )
    return min(max(round(patches * ratio), 1), patches - 1)


def draw_visible(
    rows: Sequence[int] | NDArray[np.int64], *, patches: int, ratio: float, seed: int, step: int
) -> NDArray[np.int64]:
    """Numbers of the visible patches of each image in ascending order, (B, patches - hidden_count) int64.

    Every patch gets a 64-bit number hashed from (seed, step, row, patch); those with the smallest are hidden.
    """
    chosen = np.asarray(rows, dtype=np.uint64)
    hidden = hidden_count(patches, ratio)
    with np.errstate(over="ignore"):
        key = _mixed(np.uint64(seed % 2**64) + _mixed(np.uint64(step)))
        image = _mixed(key ^ _mixed(chosen + np.uint64(1)))
        noise = _mixed(image[:, None] + np.arange(1, patches + 1, dtype=np.uint64) * _golden)
    order = np.argsort(noise, axis=1, kind="stable")
    return np.sort(order[:, hidden:], axis=1).astype(np.int64)


def hidden_of(visible: NDArray[np.int64], patches: int) -> NDArray[np.int64]:
    """The other patches of each image in ascending order, (B, patches - V) int64."""
    shown = np.zeros((len(visible), patches), dtype=bool)
    np.put_along_axis(shown, visible, True, axis=1)
    return np.nonzero(~shown)[1].reshape(len(visible), patches - visible.shape[1])


_golden = np.uint64(0x9E3779B97F4A7C15)


def _mixed(value: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al. 2014): each bit of the result depends on all bits of `value`."""
    mixed = np.asarray(value, dtype=np.uint64) + _golden
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64)
