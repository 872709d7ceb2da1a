"""Views: all arrays cropped and turned alike; draws depend on seed, epoch and row only; what cannot be is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3etl.errors import InputError
from m3etl.learn.view import View, ViewPlan, turned
from m3etl.spec.catalog import arrays as catalogue

side = 16
optical = replace(catalogue["canopy_height"], name="optical", dtype="int16", fill=-1, bands=("y", "x"), valid_max=99)
labels = replace(catalogue["worldcover"], name="labels", dtype="int16", fill=-1, bands=("y", "x"))
coarse = catalogue["aster_elevation"]
vector = catalogue["month"]


def plan(view, *specs):
    return ViewPlan(view, {spec.name: spec for spec in specs}, side * 10.0)


def coordinates():
    """Bands that say their own row and column."""
    return np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij")).astype(np.int16)


@given(
    crop=st.integers(1, side),
    flips=st.booleans(),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
    row=st.integers(0, 10**7),
)
def test_all_arrays_show_the_same_pixels(crop, flips, seed, epoch, row):
    made = plan(View(crop_px=crop, random_crop=True, flips=flips), optical, labels, vector)
    placement = made.draw(seed, epoch, np.array([row]))[0]
    found = {}
    for spec in (optical, labels):
        found[spec.name] = np.empty(made.shapes[spec.name], np.int16)
        made.apply(spec.name, coordinates(), placement.tolist(), found[spec.name])
    np.testing.assert_array_equal(found["optical"], found["labels"])
    assert found["optical"].shape == (2, crop, crop)
    rows, columns = found["optical"]
    for axis in (rows, columns):
        assert axis.max() - axis.min() == crop - 1
        assert axis.min() >= 0
        assert axis.max() < side
    if not flips:
        assert (rows[0, 0], columns[0, 0]) == (placement[0], placement[1])


def test_eight_turns_are_all_different():
    picture = np.arange(4).reshape(1, 2, 2)
    assert len({turned(picture, turn).tobytes() for turn in range(8)}) == 8
    np.testing.assert_array_equal(turned(picture, 1)[0], np.rot90(picture[0]))
    np.testing.assert_array_equal(turned(picture, 4)[0], picture[0][:, ::-1])


def test_draws_do_not_depend_on_company_and_change_with_the_epoch():
    made = plan(View(crop_px=4, random_crop=True, flips=True), optical)
    rows = np.arange(500)
    together = made.draw(1, 2, rows)
    np.testing.assert_array_equal(together[[7, 3]], made.draw(1, 2, np.array([7, 3])))
    assert (made.draw(1, 3, rows) != together).any(axis=1).mean() > 0.9
    assert (made.draw(2, 2, rows) != together).any(axis=1).mean() > 0.9
    assert set(together[:, 0].tolist()) == set(range(side - 4 + 1))
    assert set(together[:, 2].tolist()) == set(range(8))


def test_centre_crop_and_no_view():
    made = plan(View(crop_px=6), optical)
    assert made.draw(0, 0, np.array([5])).tolist() == [[5, 5, 0]]
    whole = plan(None, optical, coarse, vector)
    assert whole.untouched == {"optical", "aster_elevation", "month"}
    assert whole.shapes["aster_elevation"] == (1, 5, 5)


def test_coarse_layers_join_the_crop_when_upsampled():
    made = plan(View(crop_px=8, random_crop=True, flips=True, upsample=True), optical, coarse)
    assert made.shapes == {"optical": (2, 8, 8), "aster_elevation": (1, 8, 8)}
    stored = np.arange(25, dtype=np.int16).reshape(1, 5, 5) * 100
    finer, cropped = np.empty((1, 16, 16), np.int16), np.empty((1, 8, 8), np.int16)
    whole = plan(View(upsample=True), coarse)
    whole.apply("aster_elevation", stored, (0, 0, 0), finer)
    made.apply("aster_elevation", stored, (3, 2, 5), cropped)
    np.testing.assert_array_equal(cropped, turned(finer[:, 3:11, 2:10], 5))


def test_vectors_are_left_alone():
    made = plan(View(crop_px=4, flips=True), vector)
    target = np.empty(2, np.float32)
    made.apply("month", np.array([0.5, -0.5], np.float32), (1, 1, 3), target)
    assert target.tolist() == [0.5, -0.5]


def test_impossible_views():
    with pytest.raises(InputError, match="aster_elevation do not have"):
        plan(View(crop_px=8), optical, coarse)
    with pytest.raises(InputError, match="does not fit chips of 16"):
        plan(View(crop_px=17), optical)
    with pytest.raises(InputError, match="needs crop_px"):
        View(random_crop=True)
    with pytest.raises(InputError, match="at least 1"):
        View(crop_px=0)
