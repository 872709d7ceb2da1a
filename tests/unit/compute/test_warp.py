"""Resampling against a brute-force reference: every pixel through PROJ on its own, in float64 and plain Python."""

from __future__ import annotations

import functools
import math

import numpy as np
import pyproj
import pytest
import rasterio
import rasterio.warp
from rasterio.transform import Affine

from m3etl.compute.grids import PixelGrid, PixelWindow, chip_grid
from m3etl.compute.positions import find_positions
from m3etl.compute.warp import Method, margin_of, method_for, resample
from m3etl.spec.catalog import find_array


def lonlat_grid(west, north, step=1e-4, width=400, height=400):
    return PixelGrid(crs="EPSG:4326", affine=(step, 0.0, west, 0.0, -step, north), width=width, height=height)


def utm_grid(epsg, xmin, ymax, size=10.0, side=400):
    return PixelGrid(crs=f"EPSG:{epsg}", affine=(size, 0.0, xmin, 0.0, -size, ymax), width=side, height=side)


def grid_around(target, crs, size, turn_degrees=0.0, side=400):
    """A source grid in `crs` whose middle is the target's."""
    x, y = target.xy_of(target.width / 2, target.height / 2)
    x, y = pyproj.Transformer.from_crs(target.crs, crs, always_xy=True).transform(float(x), float(y))
    cos, sin = size * math.cos(math.radians(turn_degrees)), size * math.sin(math.radians(turn_degrees))
    affine = (cos, sin, x - (cos + sin) * side / 2, sin, -cos, y - (sin - cos) * side / 2)
    return PixelGrid(crs=crs, affine=affine, width=side, height=side)


north = chip_grid(epsg=32632, xmin=500_480.0, ymax=5_540_480.0, chip_m=1280.0, pixels=128)
south = chip_grid(epsg=32733, xmin=166_400.0, ymax=6_250_240.0, chip_m=1280.0, pixels=128)
edge = chip_grid(epsg=32632, xmin=712_960.0, ymax=5_540_480.0, chip_m=1280.0, pixels=128)
polar = chip_grid(epsg=32635, xmin=440_320.0, ymax=9_200_640.0, chip_m=1280.0, pixels=128)
last = chip_grid(epsg=32660, xmin=833_280.0, ymax=10_240.0, chip_m=1280.0, pixels=128)  # crosses 180 degrees
first = chip_grid(epsg=32701, xmin=165_120.0, ymax=9_990_400.0, chip_m=1280.0, pixels=128)
wide = chip_grid(epsg=32632, xmin=501_760.0, ymax=5_541_760.0, chip_m=4480.0, pixels=45)
coarse = chip_grid(epsg=32635, xmin=440_320.0, ymax=9_200_640.0, chip_m=4480.0, pixels=4)

cases = {
    "next zone": (edge, grid_around(edge, "EPSG:32633", 10.0)),
    "next zone, south": (south, grid_around(south, "EPSG:32732", 10.0)),
    "other hemisphere's zone": (north, grid_around(north, "EPSG:32732", 10.0)),
    "longitude and latitude": (north, grid_around(north, "EPSG:4326", 1e-4)),
    "longitude and latitude, far north": (polar, grid_around(polar, "EPSG:4326", 2e-4, side=700)),
    "equal area": (north, grid_around(north, "EPSG:3035", 12.0)),
    "turned": (north, grid_around(north, "EPSG:32632", 10.0, turn_degrees=31.0)),
    "half a pixel off": (north, utm_grid(32632, 500_005.0 - 1000, 5_540_485.0 + 1000)),
    "south up": (
        north,
        PixelGrid(crs="EPSG:32632", affine=(10.0, 0, 499_000.0, 0, 10.0, 5_538_000.0), width=400, height=400),
    ),
    "across 180 degrees from the west": (last, lonlat_grid(179.98, 0.1)),
    "across 180 degrees from the east": (first, lonlat_grid(179.98, -0.07)),
    "coarser source": (north, grid_around(north, "EPSG:4326", 1e-3)),
    "finer source": (wide, grid_around(wide, "EPSG:4326", 4e-4)),
    "much finer source": (coarse, grid_around(coarse, "EPSG:4326", 5e-3)),
}


@functools.cache
def transformer(source, target):
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def exact(source, target, column, row):
    """Position of one point of the target in the source, in source pixels."""
    a, b, c, d, e, f = target.affine
    x, y = a * column + b * row + c, d * column + e * row + f
    x, y = transformer(target.crs, source.crs).transform(x, y)
    a, b, c, d, e, f = source.affine
    if source.crs == "EPSG:4326":
        x += 360 * round((c + a * source.width / 2 - x) / 360)
    return tuple(np.linalg.solve(np.array([[a, b], [d, e]]), np.array([x - c, y - f])))


def bilinear(values, column, row):
    """(sum of weight x value, weight) at one position, over observed pixels."""
    left, top = math.floor(column - 0.5), math.floor(row - 0.5)
    share_x, share_y = column - 0.5 - left, row - 0.5 - top
    total = weight = 0.0
    for y, part_y in ((top, 1 - share_y), (top + 1, share_y)):
        for x, part_x in ((left, 1 - share_x), (left + 1, share_x)):
            if 0 <= y < values.shape[0] and 0 <= x < values.shape[1] and math.isfinite(values[y, x]):
                total += part_x * part_y * float(values[y, x])
                weight += part_x * part_y
    return total, weight


def cubic(values, column, row):
    left, top = math.floor(column - 0.5), math.floor(row - 0.5)

    def keys(away):
        away = abs(away)
        if away <= 1:
            return 1.5 * away**3 - 2.5 * away**2 + 1
        return -0.5 * away**3 + 2.5 * away**2 - 4 * away + 2 if away < 2 else 0.0

    if not (1 <= left < values.shape[1] - 2 and 1 <= top < values.shape[0] - 2):
        return bilinear(values, column, row)
    found = sum(
        keys(column - 0.5 - x) * keys(row - 0.5 - y) * float(values[y, x])
        for y in range(top - 1, top + 3)
        for x in range(left - 1, left + 3)
    )
    return (found, 1.0) if math.isfinite(found) else bilinear(values, column, row)


def points(y, x, samples):
    """The sample points of a target pixel: (column, row) in target pixels."""
    down, across = samples
    return [(x + (j + 0.5) / across, y + (i + 0.5) / down) for i in range(down) for j in range(across)]


def reference(source, target, values, pixel, samples, method):
    """One target pixel of one band (y, x)."""
    y, x = pixel
    if method in (Method.NEAREST, Method.MODE):
        found = []
        for point in points(y, x, samples if method is Method.MODE else (1, 1)):
            column, row = (math.floor(part) for part in exact(source, target, *point))
            inside = 0 <= row < values.shape[0] and 0 <= column < values.shape[1]
            found.append(int(values[row, column]) if inside else 255)
        if method is Method.NEAREST:
            return found[0]
        known = [code for code in found if code != 255]
        return min(known, key=lambda code: (-known.count(code), code)) if 2 * len(known) >= len(found) else 255
    sampled = samples if method is Method.AVERAGE else (1, 1)
    at = cubic if method is Method.CUBIC else bilinear
    parts = [at(values, *exact(source, target, *point)) for point in points(y, x, sampled)]
    total, weight = sum(part[0] for part in parts), sum(part[1] for part in parts)
    return total / weight if weight >= 0.5 * len(parts) - 1e-9 else math.nan


def some_pixels(target, count=40):
    rng = np.random.default_rng(3)
    corners = [(0, 0), (0, target.width - 1), (target.height - 1, 0), (target.height - 1, target.width - 1)]
    return corners + [(int(rng.integers(target.height)), int(rng.integers(target.width))) for _ in range(count)]


@pytest.mark.parametrize("name", cases)
def test_positions_are_exact_to_a_hundredth_of_a_pixel(name):
    target, source = cases[name]
    positions = find_positions(source, target)
    down, across = positions.samples
    columns, rows = positions.points(positions.samples)
    assert columns.shape == rows.shape == (target.height * down, target.width * across)
    for y, x in some_pixels(target):
        for number, point in enumerate(points(y, x, positions.samples)[:9]):
            at = y * down + number // across, x * across + number % across
            assert math.dist((columns[at], rows[at]), exact(source, target, *point)) < 0.01


@pytest.mark.parametrize("name", cases)
@pytest.mark.parametrize("method", [Method.BILINEAR, Method.CUBIC, Method.AVERAGE])
def test_continuous_values_equal_the_reference(name, method):
    target, source = cases[name]
    rng = np.random.default_rng(5)
    values = rng.uniform(-1000, 3000, (2, source.height, source.width)).astype(np.float32)
    values[0, rng.random(values.shape[1:]) < 0.02] = np.nan
    values[1, source.height // 2 :] = np.nan
    positions = find_positions(source, target)
    window = positions.window(margin_of(method)).intersection(source.window)
    found = resample(values[:, *source.window.slices(window)], positions, window, method, fill=np.nan)
    assert found.shape == (2, target.height, target.width)
    observed = 0
    for y, x in some_pixels(target, 12):
        for band in range(2):
            wanted = reference(source, target, values[band], (y, x), positions.samples, method)
            if math.isnan(wanted):
                assert math.isnan(found[band, y, x])
            else:
                observed += 1
                # White noise changes by up to 4000 a pixel: 40 is a hundredth of a pixel.
                assert abs(found[band, y, x] - wanted) < 40
    assert observed >= 6


@pytest.mark.parametrize("name", cases)
@pytest.mark.parametrize("method", [Method.NEAREST, Method.MODE])
def test_classes_equal_the_reference(name, method):
    target, source = cases[name]
    values = np.random.default_rng(5).choice([10, 20, 30, 255], (1, source.height, source.width)).astype(np.uint8)
    positions = find_positions(source, target)
    window = positions.window(0).intersection(source.window)
    found = resample(values[:, *source.window.slices(window)], positions, window, method, fill=255)
    pixels = some_pixels(target)
    wanted = [reference(source, target, values[0], pixel, positions.samples, method) for pixel in pixels]
    same = np.mean([found[0, y, x] == code for (y, x), code in zip(pixels, wanted, strict=True)])
    assert found.dtype == np.uint8
    assert same >= 0.9, "all but pixels with a point within 0.01 of an edge, in noise"


def test_a_ramp_tells_the_position_of_every_pixel():
    for name, (target, source) in cases.items():
        ramp = np.stack(np.broadcast_arrays(np.arange(source.width)[None, :], np.arange(source.height)[:, None]))
        positions = find_positions(source, target)
        method = method_for(find_array("aster_elevation"), positions.samples)
        found = resample((ramp + 0.5).astype(np.float32), positions, source.window, method, fill=np.nan)
        for y, x in some_pixels(target):
            wanted = np.mean([exact(source, target, *point) for point in points(y, x, positions.samples)], axis=0)
            assert math.dist(found[:, y, x], wanted) < 0.05, name


@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize("name", ["next zone", "turned", "finer source"])
def test_what_was_not_observed_never_bleeds(name, method):
    target, source = cases[name]
    holes = np.random.default_rng(1).random((source.height, source.width)) < 0.3
    if method in (Method.NEAREST, Method.MODE):
        values, fill = np.where(holes, 255, 5).astype(np.uint8)[None], 255
    else:
        values, fill = np.where(holes, np.nan, 5).astype(np.float32)[None], np.nan
    found = resample(values, find_positions(source, target), source.window, method, fill=fill)
    missing = np.isnan(found) if np.isnan(fill) else found == fill
    assert np.allclose(found[~missing], 5, atol=1e-6)
    assert 0 < missing.mean() < 0.5


def test_whole_factors_on_the_lattice_are_exact_means_and_counts():
    source = utm_grid(32632, 500_480.0, 5_540_480.0, side=126)
    target = chip_grid(epsg=32632, xmin=500_480.0, ymax=5_540_480.0, chip_m=1260.0, pixels=42)
    values = np.random.default_rng(0).integers(0, 1000, (1, 126, 126)).astype(np.float32)
    positions = find_positions(source, target)
    assert positions.samples == (3, 3)
    blocks = values.reshape(1, 42, 3, 42, 3)
    found = resample(values, positions, source.window, Method.AVERAGE, fill=np.nan)
    np.testing.assert_allclose(found, blocks.mean(axis=(2, 4)), rtol=1e-6)
    codes = (values % 4).astype(np.uint8)
    found = resample(codes, positions, source.window, Method.MODE, fill=255)
    counts = np.stack([(codes.reshape(1, 42, 3, 42, 3) == code).sum(axis=(2, 4)) for code in range(4)])
    np.testing.assert_array_equal(found, counts.argmax(axis=0))


def test_gdal_without_its_silent_smoothing_agrees():
    target, source = cases["next zone"]
    values = np.random.default_rng(2).uniform(0, 3000, (1, source.height, source.width)).astype(np.float32)
    wanted = np.full((1, target.height, target.width), np.nan, np.float32)
    rasterio.warp.reproject(
        values,
        wanted,
        src_transform=Affine(*source.affine),
        src_crs=source.crs,
        dst_transform=Affine(*target.affine),
        dst_crs=target.crs,
        resampling=rasterio.warp.Resampling.bilinear,
        tolerance=0,
        XSCALE=1,
        YSCALE=1,
    )
    positions = find_positions(source, target)
    window = positions.window(1)
    found = resample(values[:, *source.window.slices(window)], positions, window, Method.BILINEAR, fill=np.nan)
    assert np.abs(found - wanted).max() < 3, "a thousandth of a pixel of white noise"


def test_methods_follow_from_the_kind():
    same, finer = (1, 1), (3, 3)
    assert method_for(find_array("aster_elevation"), same) is Method.BILINEAR
    assert method_for(find_array("aster_elevation"), finer) is Method.AVERAGE
    assert method_for(find_array("worldcover"), same) is Method.NEAREST
    assert method_for(find_array("worldcover"), finer) is Method.MODE
    assert method_for(find_array("sentinel2_cloud"), finer) is Method.NEAREST, "scores and codes in one array"


def test_means_need_floats():
    target, source = cases["half a pixel off"]
    positions = find_positions(source, target)
    with pytest.raises(ValueError, match="float32 with NaN"):
        resample(np.zeros((1, 400, 400), np.uint16), positions, source.window, Method.BILINEAR, fill=0)


def test_a_place_outside_the_source_s_projection_is_not_observed():
    source = PixelGrid(crs="ESRI:54009", affine=(1000.0, 0, -2e7, 0, -1000.0, 1e7), width=10, height=10)
    target = chip_grid(epsg=32632, xmin=500_480.0, ymax=5_540_480.0, chip_m=1280.0, pixels=8)
    positions = find_positions(source, target)
    window = PixelWindow(column=0, row=0, width=10, height=10)
    assert np.isnan(resample(np.ones((1, 10, 10), np.float32), positions, window, Method.BILINEAR, fill=np.nan)).all()
