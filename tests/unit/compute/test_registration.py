"""Planted sub-pixel shifts come back; unrelated pictures are called so."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import shift as moved

from m3etl.compute.registration import (
    class_edges,
    cross_spectrum,
    detail_of,
    gradient_of,
    measure_shift,
)
from m3etl.spec.catalog import find_array

side = 64
everywhere = np.ones((side, side), dtype=np.bool_)


def fields(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A patchwork of parcels, some pixels wide, softened a little as by a point spread."""
    seeds = rng.uniform(-8, side + 8, (60, 2))
    rows, columns = np.indices((side + 16, side + 16)) - 8
    nearest = np.argmin([(rows - y) ** 2 + (columns - x) ** 2 for y, x in seeds], axis=0)
    values = rng.permutation(60) / 60
    return np.asarray(values[nearest])


def seen_by_optics(ground: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return (0.1 + 0.3 * ground)[8:-8, 8:-8]


def seen_by_radar(
    ground: npt.NDArray[np.float64], by: tuple[float, float], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    # Another order of brightness, and speckle of 4.4 looks.
    backscatter = moved(np.cos(9 * ground), by, order=1, mode="nearest")[8:-8, 8:-8]
    speckle = 10 * np.log10(rng.gamma(4.4, 1 / 4.4, backscatter.shape))
    return np.asarray(-10 + 4 * backscatter + speckle)


def spectra(by: tuple[float, float], chips: int, rng: np.random.Generator) -> npt.NDArray[np.complex64]:
    found = []
    for _ in range(chips):
        ground = fields(rng)
        optical = gradient_of(seen_by_optics(ground), everywhere)
        radar = gradient_of(seen_by_radar(ground, by, rng), everywhere)
        assert optical is not None
        assert radar is not None
        found.append(cross_spectrum(optical, radar))
    return np.array(found)


@pytest.mark.parametrize("by", [(0.0, 0.0), (0.0, 0.7), (-0.7, 0.3), (2.4, -1.5)])
def test_shift_of_speckled_radar_against_optics(by: tuple[float, float]) -> None:
    rng = np.random.default_rng(3)
    shift = measure_shift(spectra(by, 50, rng), side=side, rng=rng)
    assert shift is not None
    assert shift.is_measured
    assert (shift.y_px, shift.x_px) == pytest.approx(by, abs=0.15)
    assert shift.spread_px < 0.2
    assert shift.chips == 50


def test_unrelated_pictures_have_no_measured_shift() -> None:
    rng = np.random.default_rng(4)
    found = []
    for _ in range(50):
        one, other = (
            gradient_of(rng.normal(size=(side, side)), everywhere),
            gradient_of(fields(rng)[8:-8, 8:-8], everywhere),
        )
        assert one is not None
        assert other is not None
        found.append(cross_spectrum(one, other))
    shift = measure_shift(np.array(found), side=side, rng=rng)
    assert shift is not None
    assert not shift.is_measured


def test_few_chips_are_not_enough_to_tell() -> None:
    rng = np.random.default_rng(5)
    shift = measure_shift(spectra((0.0, 0.0), 10, rng), side=side, rng=rng)
    assert shift is not None
    assert not shift.is_measured
    assert measure_shift(np.empty((0, side, side // 2 + 1), np.complex64), side=side, rng=rng) is None


def test_empty_and_flat_chips_have_no_detail() -> None:
    flat = np.full((side, side), 0.2)
    assert gradient_of(flat, everywhere) is None
    assert gradient_of(np.random.default_rng(0).normal(size=(side, side)), ~everywhere) is None
    assert class_edges(np.full((side, side), 3, np.uint8), everywhere) is None


def test_unknown_pixels_have_no_edges() -> None:
    rng = np.random.default_rng(6)
    known = everywhere.copy()
    known[:, :20] = False
    image = np.where(known, rng.normal(size=(side, side)), np.nan)
    detail = gradient_of(image, known)
    assert detail is not None
    assert (detail[:, :21] == 0).all()
    assert (detail[:, 25:] != 0).any()


def test_a_coarse_layer_is_measured_on_the_finer_grid() -> None:
    spec = find_array("aster_elevation")
    rng = np.random.default_rng(7)
    stored = rng.integers(0, 500, spec.chip_shape(1280.0)).astype(spec.dtype)
    detail = detail_of(spec, stored, 128)
    assert detail is not None
    assert detail.shape == (128, 128)
    stored[:] = spec.fill_value()
    assert detail_of(spec, stored, 128) is None
