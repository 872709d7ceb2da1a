"""Regions of pixels: reduceRegion and its limits, samples, neighbourhoods, terrain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3etl.emulator.evaluate import Limits, statistics
from tests.fakes.ee_in_process import ee, grid
from tests.fakes.known_assets import INSIDE, known
from tests.unit.emulator.evaluating import Session, utm_grid


def box(west: float, south: float, east: float, north: float) -> Any:
    """A rectangle in 10 m pixels of the known images, counted right and down from their corner."""
    corners = [600000 + 10 * west, 5200000 - 10 * south, 600000 + 10 * east, 5200000 - 10 * north]
    return ee.Geometry.Rectangle(corners, "EPSG:32632", False)


def test_reduce_region_over_whole_pixels(session: Session) -> None:
    image = ee.Image("S2/i1").select(["B2", "B3"])
    pixels = known(1, 0, np.arange(3, 8), np.arange(2, 6)[:, None]).astype(float)
    over = {"geometry": box(3, 6, 8, 2), "scale": 10}
    assert image.reduceRegion(ee.Reducer.mean(), **over).getInfo() == {
        "B2": pytest.approx(pixels.mean()),
        "B3": pytest.approx(pixels.mean() + 100),
    }
    assert image.reduceRegion(ee.Reducer.count(), **over).getInfo() == {"B2": 20, "B3": 20}
    assert image.reduceRegion(ee.Reducer.sum(), **over).getInfo()["B2"] == pytest.approx(pixels.sum())
    assert image.select("B2").reduceRegion(ee.Reducer.minMax(), **over).getInfo() == {
        "B2_min": pixels.min(),
        "B2_max": pixels.max(),
    }
    assert image.select("B2").reduceRegion(ee.Reducer.stdDev(), **over).getInfo()["B2"] == pytest.approx(pixels.std())
    listed = image.select("B2").reduceRegion(ee.Reducer.toList(), **over).getInfo()["B2"]
    assert sorted(listed) == sorted(pixels.ravel().tolist())
    pair = image.reduceRegion(ee.Reducer.linearFit(), **over).getInfo()
    assert pair == {"scale": pytest.approx(1), "offset": pytest.approx(100)}
    both = image.reduceRegion(ee.Reducer.minMax().forEach(["x", "y"]), **over).getInfo()
    assert both["y_max"] == pixels.max() + 100
    frequencies = image.select("B2").gt(1040).reduceRegion(ee.Reducer.frequencyHistogram(), **over).getInfo()
    assert frequencies["B2"] == {"0": pytest.approx(float((pixels <= 1040).sum())), "1": float((pixels > 1040).sum())}


def test_edges_count_by_the_share_of_the_pixel(session: Session) -> None:
    image = ee.Image("S2/i1").select("B2")
    half = {"geometry": box(3, 5, 4.25, 4), "scale": 10}
    # Pixel 3 whole, pixel 4 a quarter; the centre of pixel 4 is outside.
    expected = (1043 + 0.25 * 1044) / 1.25
    assert image.reduceRegion(ee.Reducer.mean(), **half).getInfo()["B2"] == pytest.approx(expected)
    assert image.reduceRegion(ee.Reducer.sum(), **half).getInfo()["B2"] == pytest.approx(1043 + 0.25 * 1044)
    assert image.reduceRegion(ee.Reducer.mean().unweighted(), **half).getInfo()["B2"] == 1043
    assert image.reduceRegion(ee.Reducer.max(), **half).getInfo()["B2"] == 1043
    assert image.reduceRegion(ee.Reducer.count(), **half).getInfo()["B2"] == 1


def test_the_share_of_a_triangle(session: Session) -> None:
    corners = [[600000, 5200000], [600100, 5200000], [600000, 5199900]]
    triangle = ee.Geometry.Polygon([corners], "EPSG:32632", False)
    area = ee.Image(1).reduceRegion(ee.Reducer.sum(), triangle, None, "EPSG:32632", [10, 0, 600000, 0, -10, 5200000])
    assert area.getInfo()["constant"] == pytest.approx(50)


def test_masked_pixels_do_not_count(session: Session) -> None:
    image = ee.Image("S2/i4").select("B2")
    assert image.reduceRegion(ee.Reducer.count(), box(48, 1, 52, 0), 10).getInfo() == {"B2": 2}
    nothing = image.reduceRegion(ee.Reducer.mean(), box(0, 5, 5, 0), 10).getInfo()
    assert nothing == {"B2": None}
    assert image.reduceRegion(ee.Reducer.sum(), box(0, 5, 5, 0), 10).getInfo() == {"B2": 0}


def test_a_point_takes_its_pixel(session: Session) -> None:
    point = ee.Geometry.Point([600035, 5199945], "EPSG:32632")
    assert ee.Image("S2/i1").select("B2").reduceRegion(ee.Reducer.first(), point, 10).getInfo() == {"B2": 1053}
    assert ee.Image("S2/i1").select("B2").reduceRegion(ee.Reducer.mean(), point, 10).getInfo() == {"B2": 1053}


def test_scales_and_projections_of_aggregations(session: Session) -> None:
    image = ee.Image("S2/i1").select("B2")
    region = box(0, 40, 40, 0)
    assert image.reduceRegion(ee.Reducer.count(), region).getInfo() == {"B2": 1600}
    assert image.reduceRegion(ee.Reducer.count(), region, 20).getInfo() == {"B2": 400}
    custom = image.reduceRegion(
        ee.Reducer.count(), region, crs="EPSG:32632", crsTransform=[40, 0, 600000, 0, -40, 5200000]
    )
    assert custom.getInfo() == {"B2": 100}
    with pytest.raises(ee.EEException, match="Only one of scale and crsTransform"):
        image.reduceRegion(ee.Reducer.count(), region, 10, "EPSG:32632", [40, 0, 600000, 0, -40, 5200000]).getInfo()
    composite = ee.ImageCollection("S2").mean()
    with pytest.raises(ee.EEException, match="The default WGS84 projection is invalid for aggregations"):
        composite.reduceRegion(ee.Reducer.mean(), region).getInfo()
    with pytest.raises(ee.EEException, match="Provide 'geometry' parameter when aggregating over an unbounded image"):
        ee.Image(1).reduceRegion(ee.Reducer.mean(), None, 10).getInfo()


def test_the_limit_on_pixels(session: Session) -> None:
    image = ee.Image("S2/i1").select("B2")
    region = box(0, 100, 100, 0)
    with pytest.raises(ee.EEException, match="Found 10000, but maxPixels allows only 5000"):
        image.reduceRegion(ee.Reducer.mean(), region, 10, maxPixels=5000).getInfo()
    best = image.reduceRegion(ee.Reducer.count(), region, 10, maxPixels=5000, bestEffort=True).getInfo()
    assert 2000 <= best["B2"] <= 5100
    with pytest.raises(ee.EEException, match="allows only 10000000"):
        ee.Image(1).reduceRegion(ee.Reducer.count(), ee.Geometry.Rectangle([0, 0, 10, 10]), 100).getInfo()


def test_budgets_of_memory_and_time(session: Session) -> None:
    session.use(session.assets, Limits(memory_bytes=100_000))
    with pytest.raises(ee.EEException, match=r"^User memory limit exceeded\.$"):
        ee.Image("S2/i1").multiply(2).reduceRegion(ee.Reducer.mean(), box(0, 200, 200, 0), 10).getInfo()
    session.use(session.assets, Limits(seconds=0.0))
    with pytest.raises(ee.EEException, match=r"^Computation timed out\.$"):
        ee.Image("S2/i1").select("B2").reduceRegion(ee.Reducer.mean(), box(0, 20, 20, 0), 10).getInfo()


def test_reduce_regions_adds_properties(session: Session) -> None:
    features = ee.FeatureCollection([ee.Feature(box(0, 1, 1, 0), {"n": 1}), ee.Feature(box(5, 6, 6, 5), {"n": 2})])
    single = ee.Image("S2/i1").select("B2").reduceRegions(features, ee.Reducer.mean(), 10)
    assert single.aggregate_array("mean").getInfo() == [1000, 1055]
    several = ee.Image("S2/i1").select(["B2", "B3"]).reduceRegions(features, ee.Reducer.mean(), 10)
    assert several.aggregate_array("B3").getInfo() == [1100, 1155]
    assert several.aggregate_array("n").getInfo() == [1, 2]
    statistics = ee.Image("S2/i1").select(["B2", "B3"]).reduceRegions(features, ee.Reducer.minMax(), 10)
    assert statistics.first().toDictionary(["B2_min", "B3_max"]).getInfo() == {"B2_min": 1000, "B3_max": 1100}


def test_samples_of_pixels(session: Session) -> None:
    image = ee.Image("S2/i1").select("B2")
    sampled = image.sample(box(0, 3, 4, 0), 10, geometries=True).getInfo()["features"]
    assert sorted(feature["properties"]["B2"] for feature in sampled) == sorted(
        known(1, 0, np.arange(4), np.arange(3)[:, None]).ravel().tolist()
    )
    assert sampled[0]["geometry"]["type"] == "Point"
    few = image.sample(box(0, 30, 40, 0), 10, numPixels=50, seed=3)
    assert few.size().getInfo() == 50
    assert ee.Image("S2/i4").select("B2").sample(box(48, 1, 52, 0), 10).size().getInfo() == 2
    features = ee.FeatureCollection([ee.Feature(box(0, 1, 2, 0), {"n": 1})])
    rows = image.sampleRegions(features, ["n"], 10)
    assert rows.aggregate_array("B2").getInfo() == [1000, 1001]
    assert rows.aggregate_array("n").getInfo() == [1, 1]


def test_sample_rectangle(session: Session) -> None:
    sampled = ee.Image("S2/i1").select("B2").sampleRectangle(box(2, 5, 6, 3))
    expected = known(1, 0, np.arange(2, 6), np.arange(3, 5)[:, None]).tolist()
    assert sampled.getInfo()["properties"]["B2"] == expected
    assert sampled.get("CLOUD").getInfo() == 30
    with pytest.raises(ee.EEException, match="masked band 'B2' without default values"):
        ee.Image("S2/i4").select("B2").sampleRectangle(box(48, 1, 52, 0)).getInfo()
    filled = ee.Image("S2/i4").select("B2").sampleRectangle(box(48, 1, 52, 0), defaultValue=-1)
    assert filled.get("B2").getInfo() == [[-1, -1, 4000, 4001]]
    with pytest.raises(ee.EEException, match="Too many pixels"):
        ee.Image("DEM").sampleRectangle(ee.Geometry.Rectangle([10, 46, 11, 47])).getInfo()


def test_get_region_gives_rows(session: Session) -> None:
    point = ee.Geometry.Point([600035, 5199945], "EPSG:32632")
    rows = ee.ImageCollection("S2").select(["B2"]).getRegion(point, 10, "EPSG:32632").getInfo()
    assert rows[0] == ["id", "longitude", "latitude", "time", "B2"]
    assert [(row[0], row[4]) for row in rows[1:]] == [("i1", 1053), ("i2", 2053), ("i3", 3053), ("i4", None)]


def test_focal_filters(session: Session) -> None:
    image = ee.Image("S2/i1").select("B2")
    on = utm_grid(12, 13, 3, 3)
    centre = known(1, 0, np.arange(12, 15), np.arange(13, 16)[:, None])
    maximum, _ = session.band(image.focalMax(1, "square"), on)
    np.testing.assert_array_equal(maximum, centre + 11)
    minimum, _ = session.band(image.focal_min(1, "plus"), on)
    np.testing.assert_array_equal(minimum, centre - 10)
    mean, _ = session.band(image.focalMean(1, "circle"), on)
    np.testing.assert_allclose(mean, centre)
    metres, _ = session.band(image.focalMax(10, "square", "meters"), on)
    np.testing.assert_array_equal(metres, maximum)
    assert image.focalMax(1).bandNames().getInfo() == ["B2"]
    twice, _ = session.band(image.focalMax(1, "square", iterations=2), on)
    np.testing.assert_array_equal(twice, centre + 22)


def test_reduce_neighborhood_and_convolve(session: Session) -> None:
    image = ee.Image("S2/i4").select("B2")
    total = image.reduceNeighborhood(ee.Reducer.sum(), ee.Kernel.square(1, "pixels", False))
    raster = session.pixels(total, utm_grid(49, 13, 3, 1))
    assert list(raster.bands) == ["B2_sum"]
    assert raster.valid["B2_sum"][0].tolist() == [False, True, True]
    assert raster.bands["B2_sum"][0, 2] == 9 * known(4, 0, 51, 13)
    assert raster.bands["B2_sum"][0, 1] == 3 * (known(4, 0, 50, 13) + known(4, 0, 51, 13))
    share = image.reduceNeighborhood(ee.Reducer.sum(), ee.Kernel.square(1))
    assert session.band(share, utm_grid(51, 13, 1, 1))[0][0, 0] == pytest.approx(known(4, 0, 51, 13))
    kernel = ee.Kernel.fixed(3, 3, [[0, 0, 0], [0, 0, 1], [0, 0, 0]])
    shifted, _ = session.band(ee.Image("S2/i1").select("B2").convolve(kernel), utm_grid(12, 13, 3, 1))
    np.testing.assert_array_equal(shifted[0], known(1, 0, np.arange(11, 14), 13))


def plane(east: float, north: float) -> Any:
    """Elevation that rises by `east` and `north` metres per metre."""
    place = ee.Image.pixelCoordinates(ee.Projection("EPSG:32632"))
    return place.select("x").subtract(600000).multiply(east).add(place.select("y").subtract(5200000).multiply(north))


@pytest.mark.parametrize(
    ("east", "north", "slope", "aspect"),
    [(1, 0, 45, 270), (-1, 0, 45, 90), (0, 1, 45, 180), (0, -0.5, 26.565051, 0), (0.3, 0.4, 26.565051, 216.8699)],
)
def test_slope_and_aspect_of_planes(session: Session, east: float, north: float, slope: float, aspect: float) -> None:
    raster = session.pixels(ee.Terrain.products(plane(east, north)), utm_grid(0, 0, 5, 4))
    np.testing.assert_allclose(raster.bands["slope"], slope, rtol=1e-5)
    np.testing.assert_allclose(raster.bands["aspect"], aspect, atol=1e-3)
    assert raster.valid["slope"].all()


def test_slope_on_a_grid_in_degrees(session: Session) -> None:
    north = ee.Image.pixelLonLat().select("latitude").multiply(111319.49079327358)
    on = grid("EPSG:4326", (0.001, 0, 10, 0, -0.001, 47), 3, 3)
    np.testing.assert_allclose(session.band(ee.Terrain.slope(north), on)[0], 45, rtol=1e-5)
    east = ee.Image.pixelLonLat().select("longitude").multiply(111319.49079327358 * np.cos(np.radians(46.9985)))
    np.testing.assert_allclose(session.band(ee.Terrain.slope(east), on)[0], 45, atol=2e-3)


def test_terrain_lacks_neighbours_at_the_edge(session: Session) -> None:
    _, valid = session.band(ee.Terrain.slope(ee.Image("S2/i1").select("B2")), utm_grid(0, 0, 3, 3))
    assert valid.tolist() == [[False] * 3, [False, True, True], [False, True, True]]


def test_hillshade_of_flat_ground(session: Session) -> None:
    values, _ = session.band(ee.Terrain.hillshade(plane(0, 0), 270, 30), utm_grid(0, 0, 2, 2))
    assert values.dtype == np.uint8
    assert int(values[0, 0]) == int(255 * np.sin(np.radians(30)))


@given(
    st.lists(st.tuples(st.integers(-50, 50), st.booleans()), min_size=1, max_size=30),
    st.sampled_from([0.0, 10.0, 25.0, 50.0, 90.0, 100.0]),
)
def test_statistics_equal_numpys(pairs: list[tuple[int, bool]], percentile: float) -> None:
    values = np.array([pair[0] for pair in pairs])[:, None]
    valid = np.array([pair[1] for pair in pairs])[:, None]
    present = values[valid]
    for kind in ("int16", "float64"):
        typed = values.astype(kind)
        found, known_at = statistics.percentiles(typed, valid, None, [percentile])[0]
        assert known_at[0] == (present.size > 0)
        mode, _ = statistics.mode(typed, valid, None)
        if present.size:
            assert found[0] == pytest.approx(np.percentile(present, percentile))
            distinct, counts = np.unique(present, return_counts=True)
            assert mode[0] == distinct[counts.argmax()]
            assert statistics.variance(typed, valid, None)[0][0] == pytest.approx(present.var(), abs=1e-9)
            assert statistics.first(typed, valid, None)[0][0] == present[0]
            assert statistics.last(typed, valid, None)[0][0] == present[-1]
            assert statistics.count_distinct(typed, valid, None)[0][0] == distinct.size


@given(st.lists(st.integers(0, 400), min_size=1, max_size=60))
def test_the_mode_of_many_classes(numbers: list[int]) -> None:
    values = np.array(numbers, dtype=np.uint16)[:, None]
    mode, _ = statistics.mode(values, np.ones(values.shape, bool), None)
    by_sorting, _ = statistics._mode_by_sorting(values, np.ones(values.shape, bool), None)
    distinct, counts = np.unique(values, return_counts=True)
    assert mode[0] == by_sorting[0] == distinct[counts.argmax()]


def test_histograms(session: Session) -> None:
    over = {"geometry": box(0, 10, 10, 0), "scale": 10}
    image = ee.Image("S2/i1").select("B2")
    fixed = image.reduceRegion(ee.Reducer.fixedHistogram(1000, 1100, 4), **over).getInfo()["B2"]
    assert fixed == [[1000, 25], [1025, 25], [1050, 25], [1075, 25]]
    automatic = image.reduceRegion(ee.Reducer.histogram(10), **over).getInfo()["B2"]
    assert sum(automatic["histogram"]) == 100
    assert automatic["bucketMin"] <= 1000
    assert len(automatic["histogram"]) <= 10


def test_region_of_a_lon_lat_buffer(session: Session) -> None:
    circle = ee.Geometry.Point(INSIDE).buffer(200)
    area = ee.Image.pixelArea().reduceRegion(ee.Reducer.sum(), circle, 10, "EPSG:32632").getInfo()["area"]
    assert area == pytest.approx(circle.area(1).getInfo(), rel=1e-3)
    assert area == pytest.approx(np.pi * 200**2, rel=0.01)


def test_stratified_samples_take_as_many_of_each_class(session: Session) -> None:
    image = ee.Image("S2/i1").select("B2").mod(10).lt(3).rename("class").addBands(ee.Image("S2/i1").select("B3"))
    sampled = image.stratifiedSample(5, "class", box(0, 20, 20, 0), 10, seed=2, geometries=True)
    assert sampled.aggregate_histogram("class").getInfo() == {"0": 5, "1": 5}
    uneven = image.stratifiedSample(5, "class", box(0, 20, 20, 0), 10, classValues=[0, 1], classPoints=[1, 3])
    assert uneven.aggregate_histogram("class").getInfo() == {"0": 1, "1": 3}
