"""Pictures of arrays: bands by name, fill hatched, classes in their own colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from m3etl.compute.colors import render, shown_bands, stretch_of
from m3etl.spec.catalog import arrays


def test_natural_colour_takes_bands_by_name():
    spec = arrays["sentinel2_l1c"]
    stored = np.zeros((13, 8, 8), np.uint16)
    stored[spec.bands.index("B4")] = np.linspace(0, 5000, 64).reshape(8, 8)
    picture = render(spec, stored, stretch_of(spec, stored))
    assert shown_bands(spec) == ("B4", "B3", "B2")
    assert picture[7, 7, 0] == 255
    assert picture[..., 1:].max() == 0


def test_fill_is_hatched_and_never_black():
    spec = arrays["sentinel2_l2a"]
    stored = np.full((12, 16, 16), 65535, np.uint16)
    picture = render(spec, stored, stretch_of(spec, stored))
    assert set(np.unique(picture)) == {150, 225}


def test_classes_have_their_own_colours():
    spec = arrays["worldcover"]
    stored = np.full((1, 4, 4), 80, np.uint8)
    stored[0, 0, 0] = 10
    picture = render(spec, stored, stretch_of(spec, stored))
    assert tuple(picture[0, 0]) == (0x00, 0x64, 0x00)
    assert tuple(picture[3, 3]) == (0x00, 0x64, 0xC8)


def test_backscatter_with_one_polarisation_missing_is_still_a_picture():
    spec = arrays["sentinel1_asc"]
    stored = np.full((4, 8, 8), -32768, np.int16)
    stored[:2] = -1200
    picture = render(spec, stored, stretch_of(spec, stored))
    assert picture.shape == (8, 8, 3)
    assert (picture == picture[0, 0]).all()


def test_ice_acquired_in_hh_and_hv_is_shown():
    spec = arrays["sentinel1_asc"]
    stored = np.full((4, 8, 8), -32768, np.int16)
    stored[2:] = np.linspace(-1800, -200, 64).reshape(8, 8)
    picture = render(spec, stored, stretch_of(spec, stored))
    assert len(np.unique(picture[..., 0])) > 20, "not hatched as if nothing were there"


def test_backscatter_in_linear_power_is_shown_in_decibels():
    decibel = replace(arrays["sentinel1_asc"], bands=("VV", "VH"))
    linear = replace(decibel, dtype="float32", fill=None, units="1", scale=1.0, valid_min=0.0, valid_max=100.0)
    levels = np.linspace(-2500, 0, 128).reshape(2, 8, 8).astype(np.int16)
    power = (10 ** (levels / 1000.0)).astype(np.float32)
    shown = [render(spec, stored, stretch_of(spec, stored)) for spec, stored in ((decibel, levels), (linear, power))]
    assert np.abs(shown[0].astype(int) - shown[1].astype(int)).max() <= 1


def test_snow_is_not_blank_white():
    spec = arrays["sentinel2_l2a"]
    stored = np.tile(np.linspace(6000, 9000, 256).reshape(16, 16), (12, 1, 1)).astype(np.uint16)
    picture = render(spec, stored, stretch_of(spec, stored))
    assert len(np.unique(picture)) > 20


def test_hatching_is_as_coarse_on_a_coarse_array():
    stripes = []
    for name, side in (("aster_slope", 43), ("sentinel2_l2a", 128)):
        spec = arrays[name]
        stored = np.full((len(spec.bands), side, side), spec.fill_value(), spec.dtype)
        first = render(spec, stored, stretch_of(spec, stored))[0, :, 0].astype(int)
        stripes.append(np.count_nonzero(np.diff(first) > 0))
    assert 0.6 < stripes[0] / stripes[1] < 1.7
