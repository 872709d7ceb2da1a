"""Collections: pushed-down filters, order, joins, composites, aggregates, tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely

from m3etl.emulator.evaluate import Limits
from m3etl.emulator.model import CollectionQuery, ServiceError
from tests.fakes.ee_in_process import ee, expression
from tests.fakes.known_assets import DAY, INSIDE, JUNE_1, KnownAssets, known, make_image
from tests.unit.emulator.evaluating import Session, utm_grid


def indexes(collection: Any) -> list[str]:
    found: list[str] = collection.aggregate_array("system:index").getInfo()
    return found


def s2() -> Any:
    return ee.ImageCollection("S2")


def test_time_region_and_index_reach_the_source(session: Session) -> None:
    chosen = s2().filterDate("2020-06-05", "2020-06-15").filterBounds(ee.Geometry.Point(INSIDE))
    assert indexes(chosen) == ["i1", "i2"]
    (query,) = session.assets.s2.queries
    assert (query.start_ms, query.end_ms) == (JUNE_1 + 4 * DAY, JUNE_1 + 14 * DAY)
    assert query.region.equals(shapely.Point(INSIDE))
    session.assets.s2.queries.clear()
    assert indexes(s2().filter(ee.Filter.eq("system:index", "i3"))) == ["i3"]
    assert indexes(s2().filter(ee.Filter.inList("system:index", ["i3", "i1"]))) == ["i1", "i3"]
    assert session.assets.s2.queries == [CollectionQuery(index=index) for index in ("i3", "i1", "i3")]


def test_ranges_of_time_intersect_and_empty_ones_ask_nothing(session: Session) -> None:
    both = s2().filterDate("2020-06-01", "2020-06-20").filterDate("2020-06-10", "2020-07-20")
    assert indexes(both) == ["i2", "i3"]
    (query,) = session.assets.s2.queries
    assert (query.start_ms, query.end_ms) == (JUNE_1 + 9 * DAY, JUNE_1 + 19 * DAY)
    assert indexes(s2().filterDate("2020-06-01", "2020-06-10").filterDate("2020-06-10", "2020-06-20")) == []
    assert len(session.assets.s2.queries) == 1


def test_a_second_region_is_tested_by_the_evaluator(session: Session) -> None:
    far = ee.Geometry.Point([50, 10])
    assert indexes(s2().filterBounds(ee.Geometry.Point(INSIDE)).filterBounds(far)) == []
    assert indexes(s2().filterBounds(far)) == []


def test_only_what_is_taken_is_made(session: Session) -> None:
    assert s2().first().get("system:index").getInfo() == "i1"
    assert session.assets.s2.produced == 1
    assert s2().limit(2).size().getInfo() == 2
    assert session.assets.s2.produced == 3


ALL = ["i1", "i2", "i3", "i4"]
FILTERS: list[tuple[str, Any, list[str]]] = [
    ("eq", lambda: ee.Filter.eq("CLOUD", 20), ["i2"]),
    ("neq", lambda: ee.Filter.neq("CLOUD", 20), ["i1", "i3", "i4"]),
    ("lt", lambda: ee.Filter.lt("CLOUD", 20), ["i3", "i4"]),
    ("lte", lambda: ee.Filter.lte("CLOUD", 20), ["i2", "i3", "i4"]),
    ("gt", lambda: ee.Filter.gt("CLOUD", 20), ["i1"]),
    ("gte", lambda: ee.Filter.gte("CLOUD", 20), ["i1", "i2"]),
    ("text", lambda: ee.Filter.eq("ORBIT", "ASC"), ["i1", "i3"]),
    ("in list", lambda: ee.Filter.inList("CLOUD", [0, 30]), ["i1", "i4"]),
    ("or", lambda: ee.Filter.Or(ee.Filter.eq("CLOUD", 0), ee.Filter.eq("CLOUD", 30)), ["i1", "i4"]),
    ("and", lambda: ee.Filter.And(ee.Filter.gt("CLOUD", 5), ee.Filter.eq("ORBIT", "ASC")), ["i1", "i3"]),
    ("not", lambda: ee.Filter.gt("CLOUD", 5).Not(), ["i4"]),
    ("not null", lambda: ee.Filter.notNull(["CLOUD"]), ALL),
    ("missing", lambda: ee.Filter.lt("NOTHING", 5), []),
    ("other type", lambda: ee.Filter.lt("ORBIT", 5), []),
    ("starts", lambda: ee.Filter.stringStartsWith("ORBIT", "D"), ["i2", "i4"]),
    ("contains", lambda: ee.Filter.stringContains("ORBIT", "SC"), ALL),
    ("range", lambda: ee.Filter.rangeContains("CLOUD", 10, 20), ["i2", "i3"]),
    ("difference", lambda: ee.Filter.maxDifference(10, "CLOUD", 5), ["i3", "i4"]),
    ("month", lambda: ee.Filter.calendarRange(6, 6, "month"), ALL),
    ("days", lambda: ee.Filter.calendarRange(10, 18, "day_of_month"), ["i2", "i3"]),
    ("wrapped days", lambda: ee.Filter.calendarRange(20, 7, "day_of_month"), ["i1", "i4"]),
    ("date", lambda: ee.Filter.date("2020-06-11", "2020-06-16"), ["i2"]),
    ("day of year", lambda: ee.Filter.dayOfYear(158, 164), ["i1", "i2"]),
    ("time", lambda: ee.Filter.gt("system:time_start", JUNE_1 + 10 * DAY), ["i3", "i4"]),
    ("either time", lambda: ee.Filter.Or(ee.Filter.date("2020-06-06"), ee.Filter.date("2020-06-21")), ["i1", "i4"]),
    ("covers", lambda: ee.Filter.contains(".geo", ee.Geometry.Point(INSIDE)), ALL),
    ("inside", lambda: ee.Filter.isContained(".geo", ee.Geometry.Rectangle([10, 46, 11, 47])), ALL),
    ("is elsewhere", lambda: ee.Filter.disjoint(".geo", ee.Geometry.Point(INSIDE)), []),
    ("near", lambda: ee.Filter.withinDistance(1000, ".geo", ee.Geometry.Point([10.35, 46.9365])), ALL),
]  # fmt: skip


@pytest.mark.parametrize(("make", "expected"), [case[1:] for case in FILTERS], ids=[case[0] for case in FILTERS])
def test_filters(session: Session, make: Any, expected: list[str]) -> None:
    assert indexes(s2().filter(make())) == expected


def test_sorting_and_limits(session: Session) -> None:
    assert indexes(s2().sort("CLOUD")) == ["i4", "i3", "i2", "i1"]
    assert indexes(s2().sort("CLOUD", False).limit(2)) == ["i1", "i2"]
    assert indexes(s2().limit(2, "CLOUD")) == ["i4", "i3"]
    assert s2().toList(2, 1).map(lambda image: ee.Image(image).id()).getInfo() == ["i2", "i3"]


def test_mapping_keeps_the_index(session: Session) -> None:
    doubled = s2().map(lambda image: image.multiply(2).set("N", ee.Number(image.get("CLOUD")).add(1)))
    assert indexes(doubled) == ["i1", "i2", "i3", "i4"]
    assert doubled.aggregate_array("N").getInfo() == [31, 21, 11, 1]
    with pytest.raises(ee.EEException, match="must return a Feature or Image"):
        s2().map(lambda image: image.get("CLOUD")).size().getInfo()
    some = s2().map(lambda image: ee.Algorithms.If(ee.Number(image.get("CLOUD")).gt(15), image), True)
    assert indexes(some) == ["i1", "i2"]


def test_nothing_found_fails_only_when_used(session: Session) -> None:
    nothing = s2().filterDate("2021-01-01", "2021-02-01")
    assert nothing.first().getInfo() is None
    assert nothing.size().getInfo() == 0
    assert nothing.median().bandNames().getInfo() == []
    with pytest.raises(ee.EEException, match=r"^Image.select: Parameter 'input' is required and may not be null\.$"):
        ee.Image(nothing.first()).select("B2").getInfo()
    with pytest.raises(
        ee.EEException, match=r"^Image.select: Band pattern 'B2' was applied to an Image with no bands\.$"
    ):
        nothing.mean().select("B2").getInfo()


def test_collections_of_more_than_the_limit_are_not_returned(session: Session) -> None:
    session.use(session.assets, Limits(collection_elements=3))
    with pytest.raises(ee.EEException, match=r"Collection query aborted after accumulating over 3 elements\."):
        s2().getInfo()
    assert s2().size().getInfo() == 4
    assert len(s2().limit(3).getInfo()["features"]) == 3


def test_a_collection_as_json(session: Session) -> None:
    described = s2().limit(1).getInfo()
    assert described["type"] == "ImageCollection"
    assert described["id"] == "S2"
    assert described["features"][0]["id"] == "S2/i1"
    features = ee.FeatureCollection([ee.Feature(ee.Geometry.Point([1, 2]), {"a": 1})]).getInfo()
    assert features == {
        "type": "FeatureCollection",
        "columns": {"a": "Integer", "system:index": "String"},
        "features": [
            {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "id": "0", "properties": {"a": 1}}
        ],
    }


REDUCTIONS = {
    "mean": lambda stack: stack.mean(axis=0),
    "median": lambda stack: np.median(stack, axis=0),
    "min": lambda stack: stack.min(axis=0),
    "max": lambda stack: stack.max(axis=0),
    "sum": lambda stack: stack.sum(axis=0),
    "product": lambda stack: stack.prod(axis=0),
    "count": lambda stack: np.full(stack.shape[1:], len(stack)),
    "stdDev": lambda stack: stack.std(axis=0),
    "variance": lambda stack: stack.var(axis=0),
    "first": lambda stack: stack[0],
    "last": lambda stack: stack[-1],
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_over_images(session: Session, name: str) -> None:
    on = utm_grid(55, 0, 4, 3)
    stack = np.stack([known(n, 0, np.arange(55, 59), np.arange(3)[:, None]) for n in range(1, 5)]).astype(float)
    reduced = s2().select("B2").reduce(getattr(ee.Reducer, name)())
    values, valid = session.band(reduced, on)
    assert valid.all()
    np.testing.assert_allclose(values, REDUCTIONS[name](stack), rtol=1e-12)
    label = {"stdDev": "stdDev", "variance": "variance"}.get(name, name)
    assert reduced.bandNames().getInfo() == [f"B2_{label}"]
    if hasattr(ee.ImageCollection, name) and name not in ("first",):
        short, _ = session.band(getattr(s2().select("B2"), name)(), on)
        np.testing.assert_array_equal(short, values)
        assert getattr(s2().select("B2"), name)().bandNames().getInfo() == ["B2"]


def test_reductions_skip_masked_pixels(session: Session) -> None:
    on = utm_grid(0, 0, 2, 1)
    assert session.band(s2().select("B2").mean(), on)[0][0].tolist() == [2000, 2001]
    assert session.band(s2().select("B2").count(), on)[0][0].tolist() == [3, 3]
    four = s2().filter(ee.Filter.eq("system:index", "i4")).select("B2")
    _, valid = session.band(four.mean(), on)
    assert not valid.any()
    values, valid = session.band(four.count(), on)
    assert valid.all()
    assert values[0].tolist() == [0, 0]


def test_mode_takes_the_most_common_then_the_smallest(session: Session) -> None:
    images = ee.ImageCollection([ee.Image(value).toUint8() for value in (3, 1, 3, 1, 2)])
    assert session.band(images.mode(), utm_grid(width=1, height=1))[0][0, 0] == 1
    wide = ee.ImageCollection([ee.Image(value) for value in (30000, 5.5, 30000, 7)])
    assert session.band(wide.mode(), utm_grid(width=1, height=1))[0][0, 0] == 30000


def test_percentiles_and_combined_reducers(session: Session) -> None:
    images = ee.ImageCollection([ee.Image(value).rename("b") for value in (1, 2, 3, 4, 10)])
    reducer = ee.Reducer.percentile([0, 25, 50, 100]).combine(ee.Reducer.mean(), sharedInputs=True)
    raster = session.pixels(images.reduce(reducer), utm_grid(width=1, height=1))
    assert {name: float(values[0, 0]) for name, values in raster.bands.items()} == {
        "b_p0": 1,
        "b_p25": 2,
        "b_p50": 3,
        "b_p100": 10,
        "b_mean": 4,
    }
    renamed = images.reduce(ee.Reducer.minMax().setOutputs(["low", None]))
    assert renamed.bandNames().getInfo() == ["b_low"]


def test_reduce_over_the_bands_of_an_image(session: Session) -> None:
    image = ee.Image("S2/i1").select(["B2", "B3"])
    raster = session.pixels(image.reduce(ee.Reducer.mean()), utm_grid(width=1, height=1))
    assert {name: float(values[0, 0]) for name, values in raster.bands.items()} == {"mean": 1050}
    assert image.reduce(ee.Reducer.max(2)).bandNames().getInfo() == ["max", "max1"]


def test_reducers_of_several_inputs_over_images(session: Session) -> None:
    fit = s2().select(["B2", "B3"]).reduce(ee.Reducer.linearFit())
    raster = session.pixels(fit, utm_grid(60, 0, 1, 1))
    assert float(raster.bands["scale"][0, 0]) == pytest.approx(1)
    assert float(raster.bands["offset"][0, 0]) == pytest.approx(100)
    best = s2().select(["B3", "B2"]).reduce(ee.Reducer.max(2))
    raster = session.pixels(best, utm_grid(0, 0, 1, 1))
    assert [int(values[0, 0]) for values in raster.bands.values()] == [3100, 3000]
    with pytest.raises(ee.EEException, match="Need 2 bands"):
        s2().reduce(ee.Reducer.max(2)).bandNames().getInfo()


def test_quality_mosaic_takes_all_bands_of_the_best_image(session: Session) -> None:
    scored = s2().map(
        lambda image: image.select(["B2", "B3"]).addBands(ee.Image.constant(ee.Number(image.get("CLOUD"))).rename("q"))
    )
    raster = session.pixels(scored.qualityMosaic("q"), utm_grid(0, 0, 1, 1))
    assert {name: float(values[0, 0]) for name, values in raster.bands.items()} == {"B2": 1000, "B3": 1100, "q": 30}


def test_to_bands_prefixes_the_index(session: Session) -> None:
    assert s2().limit(2).select(["B2", "SCL"]).toBands().bandNames().getInfo() == ["i1_B2", "i1_SCL", "i2_B2", "i2_SCL"]
    made = ee.ImageCollection([s2().select("B2").mean(), s2().select("B2").max()]).toBands()
    assert made.bandNames().getInfo() == ["0_B2", "1_B2"]


def test_merge_link_and_combine(session: Session) -> None:
    assert indexes(s2().limit(1).merge(s2().filter(ee.Filter.eq("system:index", "i3")))) == ["1_i1", "2_i3"]
    linked = ee.Image("S2/i2").select("B2").linkCollection(s2(), ["SCL"], ["CLOUD"])
    assert linked.bandNames().getInfo() == ["B2", "SCL"]
    assert linked.get("CLOUD").getInfo() == 20
    assert session.assets.s2.queries[-1] == CollectionQuery(index="i2")
    missing = ee.Image("S2/i2").select("B2").linkCollection(s2().filterDate("2000-01-01", "2000-01-02"), ["SCL"])
    raster = session.pixels(missing, utm_grid())
    assert raster.valid["B2"].all()
    assert not raster.valid["SCL"].any()
    combined = s2().select("B2").combine(s2().select("B3"))
    assert combined.first().bandNames().getInfo() == ["B2", "B3"]


def test_iterate_and_aggregates(session: Session) -> None:
    total = s2().iterate(lambda image, sum: ee.Number(sum).add(ee.Number(image.get("CLOUD"))), 0)
    assert total.getInfo() == 60
    assert s2().aggregate_sum("CLOUD").getInfo() == 60
    assert s2().aggregate_mean("CLOUD").getInfo() == 15
    assert s2().aggregate_min("CLOUD").getInfo() == 0
    assert s2().aggregate_max("CLOUD").getInfo() == 30
    assert s2().aggregate_count("CLOUD").getInfo() == 4
    assert s2().aggregate_count_distinct("ORBIT").getInfo() == 2
    assert s2().aggregate_histogram("ORBIT").getInfo() == {"ASC": 2, "DESC": 2}
    assert s2().aggregate_first("ORBIT").getInfo() == "ASC"
    assert s2().aggregate_total_sd("CLOUD").getInfo() == pytest.approx(np.std([0, 10, 20, 30]))
    assert s2().aggregate_stats("CLOUD").getInfo()["sample_var"] == pytest.approx(np.var([0, 10, 20, 30], ddof=1))
    with pytest.raises(ee.EEException, match="must be numeric"):
        s2().aggregate_sum("ORBIT").getInfo()


def test_reduce_columns_distinct_and_random(session: Session) -> None:
    table = s2().reduceColumns(ee.Reducer.toList(2), ["system:index", "CLOUD"]).getInfo()
    assert table == {"list": [["i1", 30], ["i2", 20], ["i3", 10], ["i4", 0]]}
    grouped = s2().reduceColumns(ee.Reducer.mean().group(1, "orbit"), ["CLOUD", "ORBIT"]).getInfo()
    assert grouped == {"groups": [{"orbit": "ASC", "mean": 20}, {"orbit": "DESC", "mean": 10}]}
    repeated = s2().reduceColumns(ee.Reducer.minMax().repeat(2), ["CLOUD", "system:time_start"]).getInfo()
    assert repeated["min"] == [0, JUNE_1 + 5 * DAY]
    assert indexes(s2().distinct("ORBIT")) == ["i1", "i2"]
    numbers = s2().randomColumn("r", 3).aggregate_array("r").getInfo()
    assert numbers == s2().randomColumn("r", 3).aggregate_array("r").getInfo()
    assert all(0 <= number < 1 for number in numbers)
    assert numbers != s2().randomColumn("r", 4).aggregate_array("r").getInfo()


def test_joins(session: Session) -> None:
    ascending = s2().filter(ee.Filter.eq("ORBIT", "ASC"))
    descending = s2().filter(ee.Filter.eq("ORBIT", "DESC"))
    near = ee.Filter.maxDifference(6 * DAY, "system:time_start", None, "system:time_start")
    first = ee.Join.saveFirst("match", "system:time_start", True, "gap").apply(ascending, descending, near)
    matches = first.toList(9).map(lambda image: ee.Image(ee.Image(image).get("match")).id())
    assert matches.getInfo() == ["i2", "i2"]
    assert (
        first.toList(9).map(lambda image: ee.Image(ee.Image(image).get("match")).get("gap")).getInfo() == [5 * DAY] * 2
    )
    every = ee.Join.saveAll("all", "system:time_start", False).apply(ascending, descending, near)
    sizes = every.toList(9).map(
        lambda image: ee.List(ee.Image(image).get("all")).map(lambda other: ee.Image(other).id())
    )
    assert sizes.getInfo() == [["i2"], ["i4", "i2"]]
    best = ee.Join.saveBest("best", "gap").apply(s2(), descending, near)
    assert best.toList(9).map(lambda image: ee.Image(ee.Image(image).get("best")).id()).getInfo() == [
        "i2",
        "i2",
        "i2",
        "i4",
    ]
    same = ee.Filter.equals("system:index", None, "system:index")
    assert indexes(ee.ImageCollection(ee.Join.simple().apply(s2(), ascending, same))) == ["i1", "i3"]
    assert indexes(ee.ImageCollection(ee.Join.inverted().apply(s2(), ascending, same))) == ["i2", "i4"]
    inner = ee.Join.inner("a", "b").apply(s2(), ascending, same)
    pairs = inner.toList(9).map(lambda pair: ee.Image(ee.Feature(pair).get("b")).id())
    assert pairs.getInfo() == ["i1", "i3"]
    outer = ee.Join.saveFirst("match", outer=True).apply(s2(), ascending, same)
    assert outer.size().getInfo() == 4
    with pytest.raises(ee.EEException, match="must produce a measure"):
        ee.Join.saveBest("best", "gap").apply(s2(), s2(), same).size().getInfo()


def test_tables(session: Session) -> None:
    table = ee.FeatureCollection("TABLE")
    assert table.size().getInfo() == 2
    east = table.filterBounds(ee.Geometry.Point([10.7, 46.7]))
    assert east.first().get("NAME").getInfo() == "east"
    assert table.filter(ee.Filter.eq("NUM", 1)).aggregate_array("NAME").getInfo() == ["west"]
    assert table.geometry().area(1).getInfo() == pytest.approx(4.2471e9, rel=1e-4)
    with pytest.raises(ee.EEException, match=r"Collection asset 'NO' not found"):
        ee.FeatureCollection("NO").size().getInfo()
    with pytest.raises(ee.EEException, match=r"ImageCollection asset 'NO' not found"):
        ee.ImageCollection("NO").size().getInfo()


def test_features_and_images_of_requests(session: Session) -> None:
    rows = session.evaluator.features(expression(ee.FeatureCollection("TABLE")))
    assert [row["properties"]["NAME"] for row in rows] == ["west", "east"]
    assert rows.columns == {"NAME": "String", "NUM": "Integer", "system:index": "String"}
    images = session.evaluator.images(expression(s2().limit(1)))
    assert images[0]["name"] == "projects/earthengine-public/assets/S2/i1"
    assert images[0]["startTime"] == "2020-06-06T00:00:00Z"
    assert images[0]["bands"][0]["grid"]["dimensions"] == {"width": 200, "height": 200}
    assert images[0]["bands"][0]["dataType"] == {"precision": "INT", "range": {"min": 0, "max": 65535}}


def test_random_points_lie_inside_and_follow_the_seed(session: Session) -> None:
    region = ee.Geometry.Polygon([[10, 46], [11, 46], [10.5, 47]])
    points = ee.FeatureCollection.randomPoints(region, 200, 7)
    found = points.getInfo()["features"]
    triangle = shapely.Polygon([(10, 46), (11, 46), (10.5, 47)])
    assert len(found) == 200
    assert all(triangle.contains(shapely.Point(feature["geometry"]["coordinates"])) for feature in found)
    assert found == points.getInfo()["features"]
    other = ee.FeatureCollection.randomPoints(region, 200, 8).getInfo()["features"]
    assert found != other


def test_swath_edges_of_a_mosaic(session: Session) -> None:
    assets = KnownAssets()
    west = make_image("S2/w", 7, footprint=shapely.box(10, 46, 10.32, 47))
    assets.s2.images = [west, assets.s2.images[0]]
    session.use(assets)
    values, valid = session.band(s2().select("B2").max(), utm_grid(0, 0, 200, 1))
    assert valid.all()
    assert values[0, 0] == 7000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CLOUD < 20", ["i3", "i4"]),
        ("CLOUD <= 20 and ORBIT == 'DESC'", ["i2", "i4"]),
        ("CLOUD = 0 || (CLOUD > 25 && !(ORBIT != 'ASC'))", ["i1", "i4"]),
        ("system:index == 'i3'", ["i3"]),
        ("NOTHING > 1", []),
    ],
)
def test_filters_written_as_text(session: Session, text: str, expected: list[str]) -> None:
    assert indexes(s2().filter(ee.Filter.expression(text))) == expected


def test_broken_filter_texts_are_refused(session: Session) -> None:
    for text in ("CLOUD <", "CLOUD", "(CLOUD < 1", "CLOUD ; 3"):
        with pytest.raises(ee.EEException, match=r"Filter.expression: .* in '"):
            s2().filter(ee.Filter.expression(text)).size().getInfo()


def test_features_become_pixels(session: Session) -> None:
    half = ee.Geometry.Rectangle([600000, 5199960, 600040, 5200000], "EPSG:32632", False)
    full = ee.Geometry.Rectangle([600000, 5199960, 600080, 5200000], "EPSG:32632", False)
    features = ee.FeatureCollection([ee.Feature(full, {"n": 5}), ee.Feature(half, {"n": 7})])
    on = utm_grid(0, 0, 8, 6)
    counted, valid = session.band(features.reduceToImage(["n"], ee.Reducer.sum()), on)
    assert counted[0].tolist() == [12] * 4 + [5] * 4
    assert valid[:, 0].tolist() == [True] * 4 + [False] * 2
    painted, valid = session.band(ee.Image(0).toByte().paint(features, "n"), on)
    assert painted[0].tolist() == [7] * 4 + [5] * 4
    assert painted[5].tolist() == [0] * 8
    outlined, _ = session.band(ee.Image(0).toByte().paint(features.limit(1), 3, 2), utm_grid(-2, -2, 12, 8))
    assert outlined[4].tolist() == [0, 3, 3, 0, 0, 0, 0, 0, 0, 3, 3, 0]


def test_deep_chains_end_in_an_answer_or_an_error(session: Session) -> None:
    collection = s2().limit(1)
    for _ in range(60):
        collection = collection.merge(s2().limit(1))
    assert collection.size().getInfo() == 61
    assert session.evaluator.value(mapped(100)) == 4
    with pytest.raises(ServiceError, match="nested too deeply"):
        session.evaluator.value(mapped(1500))


def mapped(times: int) -> dict[str, Any]:
    """The size of a collection after mapping it many times, as a graph: the client cannot encode a deep one."""

    def call(name: str, **arguments: Any) -> dict[str, Any]:
        return {"functionInvocationValue": {"functionName": name, "arguments": arguments}}

    values = {
        "same": {"functionDefinitionValue": {"argumentNames": ["x"], "body": "x"}},
        "x": {"argumentReference": "x"},
        "0": call("ImageCollection.load", id={"constantValue": "S2"}),
        "size": call("Collection.size", collection={"valueReference": str(times)}),
    }
    for index in range(1, times + 1):
        inner, function = {"valueReference": str(index - 1)}, {"valueReference": "same"}
        values[str(index)] = call("Collection.map", collection=inner, baseAlgorithm=function)
    return {"result": "size", "values": values}


def test_assets_of_another_kind(session: Session) -> None:
    with pytest.raises(ee.EEException, match="Asset 'S2' is not an Image"):
        ee.Image("S2").bandNames().getInfo()
    with pytest.raises(ee.EEException, match="Asset 'DEM' is not an ImageCollection"):
        ee.ImageCollection("DEM").size().getInfo()
