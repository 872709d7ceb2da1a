"""Coarse layers on the fine grid: a plane stays a plane, gaps stay gaps, classes are never mixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3etl.compute.upsample import upsample_into
from m3etl.spec.catalog import arrays as catalogue
from m3etl.spec.modality import ArraySpec, Resampling, Values, valid_of

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


def reference(spec: ArraySpec, stored: np.ndarray, side: int) -> np.ndarray:
    """The rule in plain float64, pixel by pixel: neighbours weighted by distance, what was not observed left out."""
    n = stored.shape[-1]
    result = np.empty((stored.shape[0], side, side), stored.dtype)
    valid = valid_of(spec, stored)
    values = stored.astype(np.float64) * spec.scale + spec.offset
    if spec.resampling is Resampling.BILINEAR_LINEAR_POWER:
        values = 10 ** (values / 10)
    for band, i, j in np.ndindex(result.shape):
        under = (2 * i + 1) * n // (2 * side), (2 * j + 1) * n // (2 * side)
        if not valid[band][under]:
            result[band, i, j] = spec.fill_value()
            continue
        if spec.values is Values.CLASSES or spec.resampling is Resampling.NEAREST:
            result[band, i, j] = stored[band][under]
            continue
        y, x = (i + 0.5) * n / side - 0.5, (j + 0.5) * n / side - 0.5
        total = weight = 0.0
        for row in (int(np.floor(y)), int(np.floor(y)) + 1):
            for column in (int(np.floor(x)), int(np.floor(x)) + 1):
                at = min(max(row, 0), n - 1), min(max(column, 0), n - 1)
                if valid[band][at]:
                    share = (1 - abs(y - row)) * (1 - abs(x - column))
                    total, weight = total + share * values[band][at], weight + share
        mean = total / weight
        mean = 10 * np.log10(mean) if spec.resampling is Resampling.BILINEAR_LINEAR_POWER else mean
        result[band, i, j] = (
            (mean - spec.offset) / spec.scale if spec.fill is None else round((mean - spec.offset) / spec.scale)
        )
    return result


kinds = {
    "metres": elevation,
    "float": floats,
    "decibel": replace(catalogue["sentinel1_asc"], bands=("VV",)),
    "nearest": replace(elevation, resampling=Resampling.NEAREST),
    "classes": catalogue["worldcover"],
}


@given(
    kind=st.sampled_from(list(kinds)),
    n=st.integers(1, 6),
    side=st.integers(1, 13),
    missing=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 5),
)
def test_every_kind_follows_its_rule(kind, n, side, missing, seed):
    spec = kinds[kind]
    rng = np.random.default_rng(seed)
    if spec.values is Values.CLASSES:
        stored = rng.choice([item.code for item in spec.classes], (1, n, n)).astype(spec.dtype)
    else:
        stored = rng.integers(-2500, 1000, (1, n, n)).astype(spec.dtype)
    stored[rng.random(stored.shape) < missing] = spec.fill_value()
    found, expected = upsampled(spec, stored, side), reference(spec, stored, side)
    np.testing.assert_array_equal(valid_of(spec, found), valid_of(spec, expected))
    if spec.values is Values.CLASSES or kind == "nearest":
        np.testing.assert_array_equal(found, expected)
    else:
        close = 1 if spec.fill is not None else 1e-3  # rounding may fall either way at halves
        np.testing.assert_allclose(found.astype(float), expected.astype(float), atol=close, rtol=0)
    row, column = side // 3, side // 2
    window = np.empty((1, side - row, side - column), spec.dtype)
    upsample_into(spec, stored, window, side=side, corner=(row, column))
    np.testing.assert_array_equal(window, found[:, row:, column:])


def test_backscatter_is_averaged_as_power():
    spec = kinds["decibel"]
    stored = np.array([[[0, -2000], [0, -2000]]], np.int16)
    middle = upsampled(spec, stored, 3)[0, 1, 1]
    assert middle == round(1000 * np.log10((1 + 0.01) / 2))
