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


@given(
    names=st.permutations(catalogue["sentinel2_l2a"].bands).flatmap(
        lambda order: st.integers(1, len(order)).map(lambda count: order[:count])
    ),
    crop=st.one_of(st.none(), st.integers(1, side)),
    flips=st.booleans(),
    row=st.integers(0, 10**6),
)
def test_bands_come_by_name_in_the_order_asked_for(names, crop, flips, row):
    spec = catalogue["sentinel2_l2a"]
    made = plan(View(crop_px=crop, random_crop=crop is not None, flips=flips, bands={spec.name: names}), spec)
    stored = np.arange(12 * side * side, dtype=np.uint16).reshape(12, side, side)
    top, left, turn = made.draw(0, 0, np.array([row]))[0].tolist()
    target = np.empty(made.shapes[spec.name], np.uint16)
    made.apply(spec.name, stored, (top, left, turn), target)
    size = crop or side
    for position, name in enumerate(names):
        whole = stored[spec.bands.index(name)][None, top : top + size, left : left + size]
        np.testing.assert_array_equal(target[position], turned(whole, turn)[0])
    assert made.shown[spec.name].bands == tuple(names)
    assert made.shown[spec.name].chip_shape(side * 10.0)[0] == len(names) == target.shape[0]


def test_features_of_vectors_come_by_name_too():
    spec = catalogue["geolocation"]
    wanted = (spec.bands[2], spec.bands[0])
    made = plan(View(bands={spec.name: wanted}), spec, optical)
    target = np.empty(made.shapes[spec.name], np.float32)
    made.apply(spec.name, np.arange(len(spec.bands), dtype=np.float32), (0, 0, 0), target)
    assert target.tolist() == [2.0, 0.0]
    assert made.untouched == {"optical"}


def test_bands_that_cannot_be_are_all_named():
    wrong = {"optical": ["y", "B9"], "nothing": ["x"], "labels": ["x", "x"], "aster_elevation": []}
    with pytest.raises(InputError) as caught:
        plan(View(bands=wrong), optical, labels, coarse)
    for part in ("optical has no band B9; it has y, x", "no array nothing", "bands of labels", "bands of aster_elev"):
        assert part in caught.value.message


@given(crop=st.integers(1, side), top=st.integers(0, side - 1), left=st.integers(0, side - 1), turn=st.integers(0, 7))
def test_a_coarse_layer_is_upsampled_as_a_whole_and_then_cut(crop, top, left, turn):
    top, left = min(top, side - crop), min(left, side - crop)
    stored = np.random.default_rng(crop).integers(-400, 4000, (1, 5, 5)).astype(np.int16)
    stored[0, 1, 3] = coarse.fill
    whole, part = np.empty((1, side, side), np.int16), np.empty((1, crop, crop), np.int16)
    plan(View(upsample=True), coarse).apply(coarse.name, stored, (0, 0, 0), whole)
    plan(View(crop_px=crop, upsample=True, flips=True), coarse).apply(coarse.name, stored, (top, left, turn), part)
    np.testing.assert_array_equal(part, turned(whole[:, top : top + crop, left : left + crop], turn))
