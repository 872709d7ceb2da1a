"""Which native pixel lands where: nearest sampling, interpolation, pinned and shifted projections, aggregation,
coordinates.
"""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3etl.emulator.evaluate import Limits, Usage, projections
from m3etl.emulator.model import Grid, Projection
from tests.fakes.ee_in_process import ee, grid
from tests.fakes.known_assets import DEGREES, UTM, UTM20, known
from tests.unit.emulator.evaluating import Session, utm_grid


def test_the_native_grid_is_exact(session: Session) -> None:
    values, valid = session.band(ee.Image("S2/i1").select("B2"), utm_grid(3, 7, 50, 40))
    column, row = np.meshgrid(np.arange(3, 53), np.arange(7, 47))
    assert values.dtype == np.uint16
    assert valid.all()
    np.testing.assert_array_equal(values, known(1, 0, column, row))


def test_outside_of_the_image_is_masked(session: Session) -> None:
    _, valid = session.band(ee.Image("S2/i1").select("B2"), utm_grid(-2, -1, 4, 4))
    assert valid.tolist() == [[False] * 4, *[[False, False, True, True]] * 3]


def test_a_finer_grid_takes_the_pixel_under_its_centre(session: Session) -> None:
    values, _ = session.band(ee.Image("S2/i1").select("B11"), utm_grid(0, 0, 6, 4))
    expected = known(1, 2, np.arange(6) // 2, (np.arange(4) // 2)[:, None])
    np.testing.assert_array_equal(values, expected)


def test_a_coarser_grid_takes_the_pixel_right_and_below_its_centre(session: Session) -> None:
    values, _ = session.band(ee.Image("S2/i1").select("B2"), utm_grid(0, 0, 3, 3, pixel=20.0))
    np.testing.assert_array_equal(values, known(1, 0, 2 * np.arange(3) + 1, (2 * np.arange(3) + 1)[:, None]))


def test_another_coordinate_system_takes_the_pixel_under_the_projected_centre(session: Session) -> None:
    on = utm_grid(20, 20, 150, 120)
    values, valid = session.band(ee.Image("DEM"), on)
    to = pyproj.Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)
    x, y = projections.centre_coordinates(on)
    lon, lat = to.transform(x, y)
    column, row = np.floor((lon - 10.0) / 0.001), np.floor((47.0 - lat) / 0.001)
    assert valid.all()
    np.testing.assert_array_equal(values, known(0, 0, column.astype(int), row.astype(int)))


@given(
    zone=st.integers(1, 60),
    south=st.booleans(),
    easting=st.floats(3e5, 7e5),
    northing=st.floats(5e5, 8e6),
    size=st.integers(20, 400),
    pixel=st.sampled_from([10.0, 20.0, 60.0]),
)
def test_interpolated_centres_are_within_a_thousandth_of_a_pixel(
    zone: int, south: bool, easting: float, northing: float, size: int, pixel: float
) -> None:
    crs = f"EPSG:{32700 + zone if south else 32600 + zone}"
    made = Grid(
        projection=Projection(crs=crs, transform=(pixel, 0, easting, 0, -pixel, northing)),
        width=size,
        height=size // 2 + 1,
    )
    lon, lat = projections.project_centres(made, "EPSG:4326")
    x, y = projections.centre_coordinates(made)
    exact_lon, exact_lat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    metres = 111320.0
    wrapped = (lon - exact_lon + 180) % 360 - 180
    assert np.abs(wrapped * metres * np.cos(np.radians(exact_lat))).max() < 1e-3 * pixel
    assert np.abs((lat - exact_lat) * metres).max() < 1e-3 * pixel


@given(
    st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)),
    st.sampled_from([10.0, 0.1, 1 / 3, 0.00026949458523585647]),
    st.integers(-5000, 5000),
    st.integers(-5000, 5000),
)
def test_shifting_a_projection_by_pixels_is_recognised(
    origin: tuple[float, float], pixel: float, column: int, row: int
) -> None:
    native = Projection(crs="EPSG:32632", transform=(pixel, 0, origin[0], 0, -pixel, origin[1]))
    moved = projections.shifted(native, column, row)
    if max(map(abs, origin)) < 1e7 * pixel:
        assert projections.integer_shift(native, moved) == (column, row)
    half = projections.shifted(native, column + 0.5, row)
    assert projections.integer_shift(native, half) is None


def test_resample_interpolates_between_native_pixel_centres(session: Session) -> None:
    values, valid = session.band(ee.Image("S2/i1").select("B11").resample("bilinear"), utm_grid(4, 4, 4, 4))
    # 10 m centres lie a quarter of a 20 m pixel away from its centre; the known values are linear inside tens.
    u = (np.arange(4) + 4 + 0.5) / 2 - 0.5
    expected = 1000 + 200 + u[None, :] + 10 * u[:, None]
    assert values.dtype == np.float32
    assert valid.all()
    np.testing.assert_allclose(values, expected, atol=1e-3)


def test_bicubic_is_exact_on_linear_ramps(session: Session) -> None:
    values, _ = session.band(ee.Image("S2/i1").select("B11").resample("bicubic"), utm_grid(6, 6, 4, 4))
    u = (np.arange(4) + 6 + 0.5) / 2 - 0.5
    np.testing.assert_allclose(values, 1200 + u[None, :] + 10 * u[:, None], atol=1e-3)


def test_resample_on_the_native_lattice_changes_nothing(session: Session) -> None:
    plain, _ = session.band(ee.Image("S2/i1").select("B2"), utm_grid(5, 5))
    smooth, _ = session.band(ee.Image("S2/i1").select("B2").resample("bicubic"), utm_grid(5, 5))
    np.testing.assert_array_equal(plain, smooth)


def test_interpolation_uses_valid_neighbours_and_masks_by_weight(session: Session) -> None:
    # Image 4 has no data west of column 50: at 5 m, columns whose centre is nearer to column 49 are masked.
    on = utm_grid(49, 25, 8, 2, pixel=5.0)
    values, valid = session.band(ee.Image("S2/i4").select("B2").resample("bilinear"), on)
    assert valid[0].tolist() == [False, False, True, True, True, True, True, True]
    # Beside the edge only valid neighbours count: column 50 alone.
    np.testing.assert_allclose(values[0, 2:], 4000 + 47.5 + np.array([0, 0.25, 0.75, 1.25, 1.75, 2.25]))


def test_resample_after_compositing_does_nothing(session: Session) -> None:
    composite = ee.ImageCollection("S2").mosaic().select("B11")
    plain, _ = session.band(composite, utm_grid(60, 4))
    smooth, _ = session.band(composite.resample("bilinear"), utm_grid(60, 4))
    np.testing.assert_array_equal(plain, smooth)
    assert composite.projection().getInfo() == {
        "type": "Projection",
        "crs": "EPSG:4326",
        "transform": [1, 0, 0, 0, 1, 0],
    }


def test_reproject_pins_a_grid(session: Session) -> None:
    pinned = ee.Image("S2/i1").select("B2").reproject("EPSG:32632", list(UTM20.transform))
    values, _ = session.band(pinned, utm_grid(0, 0, 6, 6))
    once = known(1, 0, 2 * np.arange(3) + 1, (2 * np.arange(3) + 1)[:, None])
    np.testing.assert_array_equal(values, np.kron(once, np.ones((2, 2))))


def test_interpolation_happens_on_the_pinned_grid(session: Session) -> None:
    pinned = ee.Image("S2/i1").select("B11").resample("bilinear").reproject("EPSG:32632", list(UTM.transform))
    here, _ = session.band(pinned, utm_grid(4, 4, 4, 4, pixel=5.0))
    there, _ = session.band(ee.Image("S2/i1").select("B11").resample("bilinear"), utm_grid(4, 4, 2, 2))
    np.testing.assert_array_equal(here, np.kron(there, np.ones((2, 2), np.float32)))


def test_too_large_an_intermediate_grid_is_refused(session: Session) -> None:
    pinned = ee.Image("S2/i1").select("B2").reproject("EPSG:32632", list(UTM.transform))
    with pytest.raises(Exception, match=r"Reprojection output too large \(\d+x\d+ pixels\)\."):
        session.pixels(pinned, grid("EPSG:32632", (10000.0, 0, 500000, 0, -10000.0, 5250000), 10, 10))


def test_change_proj_moves_pixel_ij_to_pixel_ij(session: Session) -> None:
    target = (7.0, 0.0, 123456.789, 0.0, -7.0, 987654.321)
    moved = (
        ee.Image("S2/i1")
        .select("B2")
        .changeProj(ee.Projection("EPSG:32632", list(UTM.transform)), ee.Projection("EPSG:32633", list(target)))
    )
    shifted = (7.0, 0.0, 123456.789 + 7 * 12, 0.0, -7.0, 987654.321 - 7 * 9)
    values, valid = session.band(moved, grid("EPSG:32633", shifted, 20, 20))
    column, row = np.meshgrid(np.arange(12, 32), np.arange(9, 29))
    assert valid.all()
    np.testing.assert_array_equal(values, known(1, 0, column, row))


def test_reproject_then_change_proj_shows_the_pinned_pixels(session: Session) -> None:
    first = ee.Projection("EPSG:32632", list(UTM20.transform))
    second = ee.Projection("EPSG:4326", [0.01, 0, 20, 0, -0.01, 50])
    moved = ee.Image("S2/i1").select("B2").reproject(first).changeProj(first, second)
    values, _ = session.band(moved, grid("EPSG:4326", (0.01, 0, 20, 0, -0.01, 50), 9, 9))
    np.testing.assert_array_equal(values, known(1, 0, 2 * np.arange(9) + 1, (2 * np.arange(9) + 1)[:, None]))


def test_change_proj_onto_another_coordinate_system_than_the_grid(session: Session) -> None:
    first = ee.Projection("EPSG:32632", list(UTM.transform))
    second = ee.Projection("EPSG:4326", [0.001, 0, 10.3, 0, -0.001, 46.96])
    moved = ee.Image("S2/i1").select("B2").changeProj(first, second)
    on = utm_grid(20, 20, 30, 30)
    values, valid = session.band(moved, on)
    dem, _ = session.band(ee.Image("DEM"), on)
    assert valid.any()
    # Pixel (i, j) of the image now lies on pixel (300 + i, 40 + j) of the DEM, and both have known values.
    np.testing.assert_array_equal(values[valid], dem[valid] + 1000)


def test_reduce_resolution_averages_native_pixels(session: Session) -> None:
    coarse = ee.Image("S2/i1").select("B2").reduceResolution(ee.Reducer.mean(), maxPixels=1024)
    values, valid = session.band(coarse, utm_grid(0, 0, 3, 2, pixel=50.0))
    column, row = np.meshgrid(np.arange(15), np.arange(10))
    full = known(1, 0, column, row)
    expected = full.reshape(2, 5, 3, 5).mean(axis=(1, 3))
    assert valid.all()
    np.testing.assert_allclose(values, expected)


def test_reduce_resolution_refuses_too_many_pixels(session: Session) -> None:
    coarse = ee.Image("S2/i1").select("B2").reduceResolution(ee.Reducer.mean())
    with pytest.raises(Exception, match="Too many input pixels per output pixel"):
        session.pixels(coarse, utm_grid(0, 0, 2, 2, pixel=200.0))
    best = ee.Image("S2/i1").select("B2").reduceResolution(ee.Reducer.mean(), bestEffort=True)
    values, valid = session.band(best, utm_grid(0, 0, 2, 2, pixel=200.0))
    assert valid.all()
    assert 1000 < values.mean() < 1100


def test_pixel_coordinates_and_lon_lat(session: Session) -> None:
    on = utm_grid(3, 5, 4, 4)
    raster = session.pixels(ee.Image.pixelCoordinates(ee.Projection("EPSG:32632")), on)
    np.testing.assert_allclose(raster.bands["x"][0], 600035 + 10 * np.arange(4))
    np.testing.assert_allclose(raster.bands["y"][:, 0], 5199945 - 10 * np.arange(4))
    pixels = session.pixels(ee.Image.pixelCoordinates(ee.Projection("EPSG:32632", list(UTM.transform))), on)
    np.testing.assert_allclose(pixels.bands["x"][0], 3.5 + np.arange(4))
    lonlat = session.pixels(ee.Image.pixelLonLat(), on)
    lon, lat = pyproj.Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True).transform(600035, 5199945)
    assert lonlat.bands["longitude"][0, 0] == pytest.approx(lon, abs=1e-9)
    assert lonlat.bands["latitude"][0, 0] == pytest.approx(lat, abs=1e-9)


def test_pixel_area_is_the_area_on_the_ellipsoid(session: Session) -> None:
    values, _ = session.band(ee.Image.pixelArea(), grid("EPSG:4326", (0.01, 0, 10, 0, -0.01, 47), 2, 2))
    exact = pyproj.Geod(ellps="WGS84").polygon_area_perimeter([10, 10.01, 10.01, 10], [46.99, 46.99, 47, 47])[0]
    assert values[0, 0] == pytest.approx(exact, rel=1e-6)


def test_random_is_a_function_of_place_and_seed(session: Session) -> None:
    one, _ = session.band(ee.Image.random(1), utm_grid(0, 0, 50, 50))
    again, _ = session.band(ee.Image.random(1), utm_grid(10, 10, 20, 20))
    other, _ = session.band(ee.Image.random(2), utm_grid(0, 0, 50, 50))
    np.testing.assert_array_equal(one[10:30, 10:30], again)
    assert 0.45 < one.mean() < 0.55
    assert one.min() >= 0
    assert one.max() < 1
    assert not np.array_equal(one, other)


def test_a_big_grid_is_evaluated_in_blocks_with_the_same_pixels(session: Session) -> None:
    image = ee.Terrain.slope(ee.Image("S2/i1").select("B11").resample("bilinear"))
    whole = session.pixels(image, utm_grid(0, 0, 150, 130))
    session.use(session.assets, Limits(block_pixels=40))
    parts = session.pixels(image, utm_grid(0, 0, 150, 130))
    np.testing.assert_array_equal(whole.valid["slope"], parts.valid["slope"])
    np.testing.assert_array_equal(
        whole.bands["slope"][whole.valid["slope"]], parts.bands["slope"][whole.valid["slope"]]
    )


def test_the_grid_of_a_download_is_the_images_own(session: Session) -> None:
    image = ee.Image("S2/i1").select("B11")
    raster = session.pixels(image)
    assert (raster.grid.width, raster.grid.height) == (100, 100)
    assert raster.grid.projection == UTM20
    first = session.evaluator.shape(ee.serializer.encode(image, for_cloud_api=True))
    assert first.grid == raster.grid
    assert first.dtypes == {"B11": np.dtype("uint16")}


def test_crs_and_scale_snap_the_extent_outwards(session: Session) -> None:
    region = ee.Geometry.Rectangle([600014.0, 5199906.0, 600091.0, 5199987.0], "EPSG:32632", False)
    image = ee.Image("S2/i1").select("B2").setDefaultProjection("EPSG:32632", [1, 0, 0, 0, -1, 0])
    cut = ee.ApiFunction.apply_("Image.clipToBoundsAndScale", {"input": image, "geometry": region, "scale": 10})
    raster = session.pixels(cut)
    assert raster.grid.projection.transform == (10, 0, 600010, 0, -10, 5199990)
    assert (raster.grid.width, raster.grid.height) == (9, 9)
    np.testing.assert_array_equal(raster.bands["B2"], known(1, 0, np.arange(1, 10), np.arange(1, 10)[:, None]))


def test_a_rectangle_in_the_images_own_pixels_is_exact(session: Session) -> None:
    transform = [10, 0, 600030, 0, -10, 5199930]
    image = ee.Image("S2/i1").select("B2").reproject("EPSG:32632", transform)
    box = ee.Geometry.Rectangle([0, 0, 20, 15], image.projection(), False)
    cut = ee.ApiFunction.apply_("Image.clipToBoundsAndScale", {"input": image, "geometry": box})
    raster = session.pixels(cut)
    assert raster.grid.projection.transform == tuple(transform)
    assert (raster.grid.width, raster.grid.height) == (20, 15)
    assert raster.valid["B2"].all()
    np.testing.assert_array_equal(raster.bands["B2"], known(1, 0, np.arange(3, 23), np.arange(7, 22)[:, None]))


def test_width_and_height_divide_the_bounds(session: Session) -> None:
    box = ee.Geometry.Rectangle([600000, 5199000, 601000, 5200000], "EPSG:32632", False)
    parameters = {"input": ee.Image("S2/i1").select("B2"), "geometry": box, "width": 50, "height": 25}
    raster = session.pixels(ee.ApiFunction.apply_("Image.clipToBoundsAndScale", parameters))
    assert raster.grid.projection.transform == (20, 0, 600000, 0, -40, 5200000)
    parameters = {"input": ee.Image("S2/i1").select("B2"), "geometry": box, "maxDimension": 10}
    raster = session.pixels(ee.ApiFunction.apply_("Image.clipToBoundsAndScale", parameters))
    assert (raster.grid.width, raster.grid.height) == (10, 10)


def test_an_unbounded_image_has_no_grid_of_its_own(session: Session) -> None:
    with pytest.raises(Exception, match="unbounded"):
        session.pixels(ee.Image.constant(1))


def test_projections_of_the_client(session: Session) -> None:
    assert ee.Image("S2/i1").select("B2").projection().getInfo() == {
        "type": "Projection",
        "crs": "EPSG:32632",
        "transform": [10, 0, 600000, 0, -10, 5200000],
    }
    assert ee.Image("DEM").projection().nominalScale().getInfo() == pytest.approx(111.31949079327358)
    assert ee.Projection("EPSG:4326").atScale(1000).getInfo()["transform"] == pytest.approx(
        [0.008983152841195215, 0, 0, 0, 0.008983152841195215, 0]
    )
    scaled = ee.Image("S2/i1").select("B2").projection().atScale(20).getInfo()
    assert scaled["transform"] == [20, 0, 600000, 0, -20, 5200000]
    with pytest.raises(ee.EEException, match="different projections"):
        ee.Image("S2/i1").projection().getInfo()
    with pytest.raises(ee.EEException, match="could not be parsed"):
        ee.Projection("EPSG:99999999").nominalScale().getInfo()
    assert DEGREES.crs == "EPSG:4326"


def test_translate_moves_the_image(session: Session) -> None:
    plain, _ = session.band(ee.Image("S2/i1").select("B2"), utm_grid(10, 10))
    moved, _ = session.band(ee.Image("S2/i1").select("B2").translate(50, -30), utm_grid(15, 13))
    np.testing.assert_array_equal(plain, moved)


def test_sources_are_sampled_once_per_projection(session: Session) -> None:
    usage = Usage()
    image = ee.Image("S2/i1")
    both = image.addBands(image.select(["B2", "B3"]).multiply(2).rename(["x", "y"]))
    session.pixels(both, utm_grid(), usage=usage)
    assert sorted(session.assets.s2.images[0].calls) == [("B11", "SCL"), ("B2", "B3")]
    assert (usage.scenes, usage.bands) == (1, 4)


def test_bands_that_are_not_asked_for_are_not_read(session: Session) -> None:
    session.pixels(ee.Image("S2/i1").multiply(2), utm_grid(), band_ids=["B3"])
    assert session.assets.s2.images[0].calls == [("B3",)]


def test_images_away_from_the_grid_are_not_read(session: Session) -> None:
    _, valid = session.band(ee.ImageCollection("S2").mosaic().select("B2"), utm_grid(5000, 5000))
    assert not valid.any()
    assert all(not image.calls for image in session.assets.s2.images)
