"""Grids: positions there and back, windows, and when one grid is another one shifted by whole pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3etl.compute.grids import PixelGrid, PixelWindow, chip_grid, same_crs, whole_pixel_offset
from m3etl.errors import InputError

utm32 = PixelGrid(crs="EPSG:32632", affine=(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0), width=600, height=400)
numbers = st.floats(-1e3, 1e3)


@given(a=st.floats(0.1, 50), b=st.floats(-5, 5), d=st.floats(-5, 5), e=st.floats(-50, -6), column=numbers, row=numbers)
def test_positions_there_and_back(a, b, d, e, column, row):
    grid = PixelGrid(crs="EPSG:32632", affine=(a, b, 4e5, d, e, 5e6), width=9, height=9)
    if abs(a * e - b * d) < 1:
        return
    found = grid.pixel_of(*grid.xy_of(column, row))
    assert np.allclose(found, (column, row), atol=1e-4)


@given(column=st.integers(-700, 700), row=st.integers(-700, 700), pixels=st.integers(1, 64))
def test_a_chip_on_the_lattice_is_found_at_its_exact_offset(column, row, pixels):
    chip = chip_grid(
        epsg=32632,
        xmin=500_000.0 + 10 * column,
        ymax=5_000_000.0 - 10 * row,
        chip_m=10.0 * pixels,
        pixels=pixels,
    )
    assert whole_pixel_offset(utm32, chip) == (column, row)


@pytest.mark.parametrize(
    ("crs", "affine"),
    [
        ("EPSG:32633", utm32.affine),
        ("EPSG:32632", (10.0, 0.0, 500_005.0, 0.0, -10.0, 5_000_000.0)),
        ("EPSG:32632", (10.0001, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)),
        ("EPSG:32632", (20.0, 0.0, 500_000.0, 0.0, -20.0, 5_000_000.0)),
        ("EPSG:32632", (10.0, 0.0, 500_000.0, 0.0, 10.0, 5_000_000.0)),
        ("EPSG:32632", (0.0, 10.0, 500_000.0, -10.0, 0.0, 5_000_000.0)),
    ],
)
def test_other_grids_are_no_shift(crs, affine):
    assert whole_pixel_offset(utm32, PixelGrid(crs=crs, affine=affine, width=128, height=128)) is None


def test_a_transposed_grid_shares_a_diagonal_but_is_no_shift():
    source = PixelGrid(crs="EPSG:32632", affine=(10.0, 0.0, 0.0, 0.0, 10.0, 0.0), width=64, height=64)
    target = PixelGrid(crs="EPSG:32632", affine=(0.0, 10.0, 0.0, 10.0, 0.0, 0.0), width=64, height=64)
    assert whole_pixel_offset(source, target) is None


def test_the_same_coordinate_system_written_otherwise():
    import pyproj

    assert same_crs("EPSG:32632", pyproj.CRS.from_epsg(32632).to_wkt("WKT1_GDAL"))
    assert not same_crs("EPSG:32632", "EPSG:32732")
    with pytest.raises(InputError, match="not a coordinate system"):
        same_crs("EPSG:32632", "nonsense")


def test_windows_meet_or_do_not():
    one = PixelWindow(column=-3, row=2, width=10, height=5)
    both = one.intersection(PixelWindow(column=5, row=0, width=9, height=9))
    assert both == PixelWindow(column=5, row=2, width=2, height=5)
    assert one.slices(both) == (slice(0, 5), slice(8, 10))
    assert one.intersection(PixelWindow(column=7, row=2, width=1, height=1)) is None
    with pytest.raises(ValueError, match="at least one pixel"):
        PixelWindow(column=0, row=0, width=0, height=1)


def test_an_affine_without_inverse_is_refused():
    with pytest.raises(InputError, match="no inverse"):
        PixelGrid(crs="EPSG:32632", affine=(10.0, 0.0, 0.0, 0.0, 0.0, 0.0), width=1, height=1)
