"""Phase arithmetic against known ramps and constants."""

from __future__ import annotations

import numpy as np
import pytest

from m3etl.compute.interferometry import at_height, correct_phase, line_of_sight_m, mask_phase, on_grid, reference_phase

shape = (30, 40)
y, x = np.indices(shape)


def test_each_component_loses_its_own_constant() -> None:
    truth = 0.02 * x - 0.01 * y
    component = np.where(x < 20, 1, 2)
    phase = truth + np.where(component == 1, 7.0, -31.4)
    referenced = reference_phase(phase, component, np.full(shape, 0.9))
    for label in (1, 2):
        members = component == label
        np.testing.assert_allclose(referenced[members], truth[members] - np.median(truth[members]), atol=1e-12)


def test_the_constant_comes_from_coherent_pixels() -> None:
    phase = np.zeros(shape)
    phase[:, :30] = 100.0  # noise that would move a plain median
    coherence = np.where(x < 30, 0.1, 0.9)
    assert np.allclose(reference_phase(phase, np.ones(shape), coherence)[:, 30:], 0.0)


def test_what_was_not_unwrapped_is_unknown() -> None:
    component = np.ones(shape)
    component[0], component[1], component[2] = 0, -1, np.nan
    coherence = np.full(shape, 0.8)
    coherence[3] = 0.0
    masked = mask_phase(np.ones(shape), component, coherence)
    assert np.isnan(masked[:4]).all()
    assert np.isfinite(masked[4:]).all()


def test_corrections_are_subtracted_and_unknown_ones_leave_nothing() -> None:
    correction = np.full(shape, 0.25)
    correction[0, 0] = np.nan
    corrected = correct_phase(np.ones(shape), {"ionosphere": correction, "tide": 0.5 * np.ones(shape)})
    assert corrected[1, 1] == pytest.approx(0.25)
    assert np.isnan(corrected[0, 0])


def test_a_cube_is_read_at_the_height_of_the_terrain() -> None:
    heights = [-1500.0, 0.0, 3000.0, 9000.0]
    cube = np.array([np.full(shape, 2.0 * height + 5.0) for height in heights])
    elevation = np.linspace(-1500, 9000, shape[0] * shape[1]).reshape(shape)
    np.testing.assert_allclose(at_height(cube, heights, elevation), 2 * elevation + 5)
    assert at_height(cube, heights, np.full(shape, 20_000.0))[0, 0] == 2 * 9000 + 5
    with pytest.raises(ValueError, match="ascending"):
        at_height(cube, heights[::-1], elevation)


def test_a_coarse_field_on_finer_positions_and_outside() -> None:
    lat, lon = np.array([48.0, 47.5, 47.0]), np.array([10.0, 11.0])
    field = 3 * lon[None, :] + 2 * lat[:, None]
    to_lat, to_lon = np.meshgrid([47.9, 47.1], [10.25, 10.75, 12.0], indexing="ij")
    found = on_grid(field, lat, lon, to_lat, to_lon)
    np.testing.assert_allclose(found[:, :2], (3 * to_lon + 2 * to_lat)[:, :2])
    assert np.isnan(found[:, 2]).all()


def test_a_turn_of_phase_is_half_a_wavelength() -> None:
    assert line_of_sight_m(np.array([2 * np.pi]))[0] == pytest.approx(0.05546576 / 2)
