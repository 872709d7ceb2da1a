"""Clear pixels and fractions: unknown is clear for statistics but never counted as known."""

from __future__ import annotations

import numpy as np
import pytest

from m3etl.compute.quality import clear_of, cloud_fraction, find_cloud_array, fitted, valid_fraction
from m3etl.spec.catalog import arrays as catalogue

cloud = catalogue["sentinel2_cloud"]


def chip(cs_cdf, scl):
    values = np.full((3, 1, len(cs_cdf)), 255, np.uint8)
    values[1, 0], values[2, 0] = cs_cdf, scl
    return values


def test_clear_needs_no_cloud_in_either_source():
    values = chip([60, 59, 255, 100, 255, 100, 100, 0], [4, 4, 4, 3, 255, 8, 11, 255])
    assert clear_of(cloud, values)[0].tolist() == [True, False, True, False, True, False, True, False]
    assert cloud_fraction(cloud, values) == pytest.approx(4 / 7)


@pytest.mark.parametrize(
    ("code", "clear"), [(3, False), (8, False), (9, False), (10, False), (4, True), (6, True), (11, True)]
)
def test_scene_classes(code, clear):
    assert clear_of(cloud, chip([255], [code]))[0, 0] == clear


def test_unknown_cloud_has_no_fraction():
    assert cloud_fraction(cloud, chip([255, 255], [255, 255])) is None
    assert clear_of(cloud, np.stack([chip([255], [255])] * 2)).shape == (2, 1, 1)


def test_valid_fraction_counts_pixels_with_any_band():
    spec = catalogue["sentinel1_asc"]
    values = np.full((4, 2, 2), spec.fill, np.int16)
    values[0, 0] = -1200
    assert valid_fraction(spec, values) == 0.5
    assert valid_fraction(catalogue["month"], np.array([0.5, np.nan], np.float32)) == 0.5
    assert valid_fraction(catalogue["biome"], np.array([255], np.uint8)) == 0.0


def test_cloud_array_is_found_by_its_bands():
    assert find_cloud_array(catalogue.values()) is cloud
    assert find_cloud_array([catalogue["biome"]]) is None


def test_mask_fits_other_pixel_sizes():
    mask = np.zeros((4, 4), np.bool_)
    mask[:2, 2:] = True
    np.testing.assert_array_equal(fitted(mask, (2, 2)), [[False, True], [False, False]])
    np.testing.assert_array_equal(fitted(fitted(mask, (2, 2)), (4, 4)), mask)
    assert fitted(mask, (4, 4)) is mask
    assert fitted(np.array([[False, True, False]] * 3), (1, 1)).tolist() == [[True]]
