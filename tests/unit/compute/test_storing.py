"""Numbers of a source as stored: every bit where nothing changes, scaled and clamped where it does, fill elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3etl.compute.grids import PixelGrid, chip_grid
from m3etl.compute.positions import find_positions
from m3etl.compute.storing import SourceNumbers, aligned, stored_of, unknown_codes
from m3etl.compute.warp import Method
from m3etl.spec.catalog import find_array
from m3etl.spec.modality import physical_of

reflectance = replace(find_array("sentinel2_l2a"), bands=("B2", "B3"))
backscatter = replace(find_array("sentinel1_asc"), bands=("VV",))
elevation, cover = find_array("aster_elevation"), find_array("worldcover")
floats = replace(elevation, dtype="float32", fill=None)


def numbers(nodata=None, scale=1.0, offset=0.0, bands=1):
    return SourceNumbers(nodata=(nodata,) * bands, scale=scale, offset=offset)


@settings(max_examples=30)
@given(values=st.lists(st.integers(0, 65535), min_size=2, max_size=30), nodata=st.sampled_from([None, 0, 65535, 7]))
def test_integers_in_the_array_s_own_steps_keep_every_bit(values, nodata):
    given_values = np.array([values, values[::-1]], np.uint16)[:, None]
    found = stored_of(reflectance, given_values.copy(), numbers(nodata, scale=1e-4, bands=2))
    for before, after in zip(given_values.ravel().tolist(), found.ravel().tolist(), strict=True):
        assert after == (65535 if before == nodata else min(before, 65534))
    assert found.dtype == np.uint16


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
def test_any_type_of_file_gives_the_same_numbers(dtype):
    values = np.array([[[10, 20, 0, 100]]], dtype)
    found = stored_of(elevation, values, numbers(nodata=0.0))
    assert found.tolist() == [[[10, 20, -32768, 100]]]


def test_physical_values_become_steps_with_half_a_step_of_error():
    values = np.linspace(-90, 70, 1001)[None, None]
    found = stored_of(backscatter, values, numbers())
    back = physical_of(backscatter, found)
    inside = (values >= -80) & (values <= 60)
    assert np.abs(back - values)[inside].max() <= 0.00500001
    assert (found[values < -80] == -8000).all(), "clamped into the declared range"
    assert (found[values > 60] == 6000).all()


def test_scale_and_offset_of_the_file_count():
    values = np.array([[[0, 100, 255]]], np.uint8)
    found = stored_of(elevation, values, numbers(nodata=255.0, scale=2.0, offset=-50.0))
    assert found.tolist() == [[[-50, 150, -32768]]]


def test_missing_is_fill_in_every_kind():
    values = np.array([[[1.5, math.nan, -9999.0, math.inf]]], np.float32)
    covered = np.array([[True, True, True, True]])
    assert stored_of(elevation, values, numbers(-9999.0), covered).tolist() == [[[2, -32768, -32768, -32768]]]
    found = stored_of(floats, values, numbers(-9999.0), covered)
    np.testing.assert_array_equal(found, [[[1.5, np.nan, np.nan, np.nan]]])
    covered[0, 0] = False
    assert stored_of(elevation, values, numbers(-9999.0), covered)[0, 0, 0] == -32768
    assert stored_of(elevation, np.array([[[5, 6, 7, 8]]], np.int16), numbers(), covered)[0, 0].tolist() == [
        -32768,
        6,
        7,
        8,
    ]


def test_classes_are_never_clamped_into_other_classes():
    values = np.array([[[0, 10, 15, 100, 101]]])
    for found in (stored_of(cover, values, numbers()), stored_of(cover, values.astype(float), numbers())):
        assert found.tolist() == [[[255, 10, 15, 100, 255]]]
        assert unknown_codes(cover, found) == [15]
    assert unknown_codes(elevation, values) == []


def on_target(spec, values, meaning, covered=None, method=None):
    """A chip of 64 pixels from 81 pixels half a pixel off, which hold it with a margin of 8."""
    target = chip_grid(epsg=32632, xmin=500_000.0, ymax=5_000_000.0, chip_m=640.0, pixels=64)
    affine = (10.0, 0.0, 500_000.0 - 85, 0.0, -10.0, 5_000_000.0 + 85)
    source = PixelGrid(crs="EPSG:32632", affine=affine, width=81, height=81)
    positions = find_positions(source, target)
    return aligned(spec, values, meaning, covered, window=source.window, positions=positions, method=method)


def test_backscatter_is_averaged_as_power():
    decibels = np.where(np.indices((81, 81)).sum(axis=0) % 2, -5.0, -25.0)[None]
    found = physical_of(backscatter, on_target(backscatter, decibels, numbers()))
    power = (10**-0.5 + 10**-2.5) / 2
    np.testing.assert_allclose(found, 10 * math.log10(power), atol=0.006)
    assert abs(found.mean() - -15) > 6, "the mean of the decibels is another number"


def test_power_that_a_cubic_undershoots_is_the_lowest_value():
    decibels = np.full((1, 81, 81), -80.0)
    decibels[:, 40:] = 20.0
    found = on_target(backscatter, decibels, numbers(), method=Method.CUBIC)
    assert found.min() == -8000
    assert not (found == backscatter.fill).any()


def test_classes_off_the_lattice_stay_classes():
    codes = np.random.default_rng(0).choice([10, 20, 95, 0], (1, 81, 81)).astype(np.uint8)
    found = on_target(cover, codes, numbers(0.0))
    assert set(np.unique(found)) == {10, 20, 95, 255}
    assert unknown_codes(cover, found) == []


def test_a_chip_at_the_edge_of_a_file_is_observed_up_to_it():
    covered = np.zeros((81, 81), bool)
    covered[:, :40] = True
    values = np.full((1, 81, 81), 1234, np.int16)
    found = on_target(elevation, values, numbers(), covered)
    known = found[0] != elevation.fill
    assert (found[0][known] == 1234).all()
    np.testing.assert_array_equal(known.all(axis=0), np.arange(64) < 32)  # 31.5 pixels, the half one counts
