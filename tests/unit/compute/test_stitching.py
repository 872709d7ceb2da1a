"""Interferograms on a chip's grid: components stay apart, frames become one."""

from __future__ import annotations

import numpy as np
import pytest

from m3etl.compute.grids import PixelGrid, chip_grid
from m3etl.compute.stitching import Interferogram, stitch_interferograms, warp_interferogram
from m3etl.compute.warp import transformer

side = 80
degrees = PixelGrid(crs="EPSG:4326", affine=(1 / 1200, 0, 12.07, 0, -1 / 1200, 47.84), width=side, height=side)
target = chip_grid(epsg=32633, xmin=282_100.0, ymax=5_299_900.0, chip_m=2000.0, pixels=20)


def made(phase: np.ndarray, component: np.ndarray, coherence: float = 0.9) -> Interferogram:
    known = component > 0
    return Interferogram(
        phase=np.where(known, phase, np.nan),
        coherence=np.full(phase.shape, coherence),
        amplitude=np.ones(phase.shape),
        component=np.where(known, component, np.nan),
    )


def test_phases_of_two_components_are_never_averaged() -> None:
    component = np.ones((side, side))
    component[:, side // 2 :] = 2
    warped = warp_interferogram(made(np.where(component == 1, 0.0, 100.0), component), degrees, target)
    assert set(np.unique(warped.component)) == {1.0, 2.0}
    np.testing.assert_allclose(warped.phase, np.where(warped.component == 1, 0.0, 100.0), atol=1e-4)


def test_a_ramp_is_warped_to_its_place() -> None:
    columns, rows = np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5)
    lon, lat = degrees.xy_of(columns, rows)
    ramp = 30.0 * (lon - 12.1) + 50.0 * (lat - 47.8)
    warped = warp_interferogram(made(ramp, np.ones((side, side))), degrees, target)
    columns, rows = np.meshgrid(np.arange(20) + 0.5, np.arange(20) + 0.5)
    lon, lat = transformer("EPSG:32633", "EPSG:4326").transform(*target.xy_of(columns, rows))
    np.testing.assert_allclose(warped.phase, 30.0 * (lon - 12.1) + 50.0 * (lat - 47.8), atol=1e-3)


def frames(overlap: int, *, offset: float) -> tuple[Interferogram, Interferogram, np.ndarray]:
    """Two frames of one smooth phase, whose rows overlap; the second is `offset` away and numbers components anew."""
    y, x = np.indices((30, 20))
    truth = 0.2 * y - 0.1 * x
    component = np.where(x < 10, 1, 2)
    upper = np.where(y < 15 + overlap, component, 0)
    lower = np.where(y >= 15, 3 - component, 0)
    return made(truth, upper), made(truth + offset * component, lower), truth


@pytest.mark.parametrize("offset", [0.0, 40.0, -7.5])
def test_two_frames_become_one_phase(offset: float) -> None:
    first, second, truth = frames(4, offset=offset)
    whole = stitch_interferograms([first, second])
    assert np.isfinite(whole.phase).all()
    assert set(np.unique(whole.component)) == {1.0, 2.0}
    for label in (1, 2):
        members = whole.component == label
        assert np.ptp((whole.phase - truth)[members]) < 1e-9
        assert abs(np.median(whole.phase[members])) < 1e-9


def test_frames_that_do_not_overlap_stay_apart() -> None:
    first, second, _ = frames(0, offset=40.0)
    whole = stitch_interferograms([first, second])
    assert set(np.unique(whole.component)) == {1.0, 2.0, 3.0, 4.0}
    for label in (1, 2, 3, 4):
        assert abs(np.median(whole.phase[whole.component == label])) < 1e-9


def test_a_frame_that_knows_nothing_changes_nothing() -> None:
    first, _, _ = frames(4, offset=0.0)
    empty = made(np.zeros((30, 20)), np.zeros((30, 20)), coherence=np.nan)
    alone, both = stitch_interferograms([first]), stitch_interferograms([first, empty])
    np.testing.assert_array_equal(alone.phase, both.phase)
    np.testing.assert_array_equal(alone.component, both.component)
    turned = stitch_interferograms([empty, first])
    np.testing.assert_array_equal(turned.phase, alone.phase)
