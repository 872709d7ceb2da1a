"""Coarse layers on the fine grid: a plane stays a plane, gaps stay gaps, classes are never mixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from m3etl.compute.upsample import upsample_into
from m3etl.spec.catalog import arrays as catalogue

elevation = catalogue["aster_elevation"]
floats = replace(elevation, dtype="float32", fill=None)


def upsampled(spec, stored, side):
    finer = np.empty((stored.shape[0], side, side), stored.dtype)
    upsample_into(spec, stored, finer)
    return finer


@pytest.mark.parametrize(("coarse", "fine"), [(43, 128), (4, 16), (5, 16), (1, 7)])
def test_a_plane_stays_a_plane(coarse, fine):
    centres = (np.arange(coarse) + 0.5) / coarse
    stored = (100 * centres[:, None] + 10 * centres[None, :]).astype(np.float32)[None]
    found = upsampled(floats, stored, fine)[0]
    new = np.clip((np.arange(fine) + 0.5) / fine, centres[0], centres[-1])
    np.testing.assert_allclose(found, 100 * new[:, None] + 10 * new[None, :], atol=1e-3)


@pytest.mark.parametrize("spec", [elevation, floats], ids=["int16", "float32"])
def test_gaps_keep_their_footprint_and_do_not_leak(spec):
    stored = np.full((1, 4, 4), 500, spec.dtype)
    stored[0, 1, 1] = spec.fill_value()
    found = upsampled(spec, stored, 16)[0]
    gap = np.isnan(found) if spec.fill is None else found == spec.fill
    assert gap[4:8, 4:8].all()
    assert gap.sum() == 16
    assert (found[~gap] == 500).all()


def test_integers_are_rounded():
    stored = np.array([[[0, 3]]], np.int16)
    assert upsampled(elevation, np.repeat(stored, 2, axis=1), 4)[0, 0].tolist() == [0, 1, 2, 3]


def test_classes_take_the_pixel_under_the_centre():
    spec = catalogue["worldcover"]
    stored = np.array([[[10, 95], [255, 20]]], np.uint8)
    np.testing.assert_array_equal(upsampled(spec, stored, 6)[0], np.kron(stored[0], np.ones((3, 3), np.uint8)))
    assert set(np.unique(upsampled(spec, np.array([[[10, 95, 20]] * 3], np.uint8), 5))) <= {10, 95, 20}
