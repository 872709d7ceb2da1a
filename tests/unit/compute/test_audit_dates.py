"""The audit of several dates: the offset of a processing baseline on all of them, scenes outside their season."""

from __future__ import annotations

import numpy as np
import pytest

from m3etl.compute.audit import find_in_chips, find_wrong_seasons
from m3etl.spec.catalog import find_array
from m3etl.spec.scenes import utc_ms

spec = find_array("sentinel2_dates")


def dark_ground(offsets: list[int | None]) -> np.ndarray:
    """One chip of dark ground with this offset on each date; None: not observed."""
    rng = np.random.default_rng(5)
    parts = [
        np.full((12, 16, 16), spec.fill, np.uint16)
        if offset is None
        else (offset + rng.integers(20, 900, (12, 16, 16))).astype(np.uint16)
        for offset in offsets
    ]
    return np.concatenate(parts)[None]


@pytest.mark.parametrize(
    ("offsets", "is_found"),
    [
        ([1000, 1000, 1000, 1000], True),
        ([1000, None, 1000, None], True),
        ([1000, 0, 1000, 1000], False),
        ([1000, None, None, None], False),
        ([0, 0, 0, 0], False),
    ],
)
def test_an_offset_is_told_by_all_dates_together(offsets, is_found):
    found = [item.check for item in find_in_chips(spec, dark_ground(offsets), ["c"], ["ok"])]
    assert ("offset jump" in found) == is_found


def test_a_winter_goes_over_the_new_year():
    right = [("a", "DJF", utc_ms("2019-12-01T00:00:00Z")), ("a", "DJF", utc_ms("2020-02-29T23:00:00Z")),
             ("a", "JJA", utc_ms("2020-06-01T00:00:00Z")), ("a", "07", utc_ms("2020-07-31T23:59:00Z")),
             ("a", "of my own", utc_ms("2020-03-01T00:00:00Z"))]  # fmt: skip
    assert find_wrong_seasons("x", right) == []
    wrong = [("b", "DJF", utc_ms("2020-03-01T00:00:00Z")), ("c", "SON", utc_ms("2020-12-01T00:00:00Z"))]
    (found,) = find_wrong_seasons("x", [*right, *wrong])
    assert (found.check, found.count, found.example) == ("wrong season", 2, "b DJF")
